"""Settings: profiles, presets, changes and wrong values."""

import dataclasses

import pytest

from smp.cli.sweep import read_method
from smp.runs.grouping import method_rank
from smp.runs.methods import FINE_TUNED, METHODS, method_label
from smp.runs.profiles import PROFILES
from smp.runs.settings import changed_settings, check_settings, choose_settings

STAGES = ["fine-tune", "smp", "smp-kd"]


@pytest.mark.parametrize("profile", list(PROFILES))
@pytest.mark.parametrize("stage", STAGES)
def test_every_profile_has_every_stage(profile, stage):
    settings = choose_settings(profile, stage)
    assert (settings.density == 1.0) == (stage == "fine-tune")
    assert settings.stage == stage and changed_settings(settings) == {}
    assert (settings.method == FINE_TUNED) == (stage == "fine-tune")
    assert settings.distill == ("logits" if stage == "smp-kd" else "none")


@pytest.mark.parametrize("available", [False, True])
def test_the_default_profile_is_quick_with_and_without_a_gpu(available, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: available)
    for stage in STAGES:
        assert choose_settings(stage=stage) == choose_settings("quick", stage)
    assert choose_settings("quick", "fine-tune").data == "synthetic"
    assert [choose_settings("quick", stage).epochs for stage in STAGES] == [2, 3, 3]


def test_none_keeps_the_profiles_value():
    plain = choose_settings("quick", "smp")
    assert choose_settings("quick", "smp", density=None, epochs=None) == plain
    changed = choose_settings("quick", "smp", density=0.25, seed=3)
    assert changed_settings(changed) == {"density": 0.25, "seed": 3}


def test_fine_tuning_ignores_density_but_a_wrong_one_raises():
    assert choose_settings("quick", "fine-tune", density=0.1).density == 1.0
    with pytest.raises(ValueError, match="density is 7: expected a number above 0 and at most 1"):
        choose_settings("quick", "fine-tune", density=7)


@pytest.mark.parametrize("changes, message", [
    ({"density": 0}, "density is 0: expected a number above 0 and at most 1"),
    ({"density": 1.5}, "density is 1.5: expected"),
    ({"density": -0.1}, "density is -0.1: expected"),
    ({"density": float("nan")}, "density is nan: expected"),
    ({"density": "half"}, "density is 'half': expected"),
    ({"density": True}, "density is True: expected"),
    ({"epochs": 0}, "epochs is 0: expected a number above 0"),
    ({"epochs": float("inf")}, "epochs is inf: expected"),
    ({"n_train": 0}, "n_train is 0: expected a whole number from 1"),
    ({"n_train": 1.5}, "n_train is 1.5: expected"),
    ({"n_valid": -1}, "n_valid is -1: expected a whole number from 0"),
    ({"n_validations": 1001}, "n_validations is 1001: expected a whole number from 0 to 1000"),
    ({"n_mask_snapshots": 0}, "n_mask_snapshots is 0: expected a whole number from 1 to 1000"),
    ({"batch_size": 0}, "batch_size is 0: expected a whole number from 1"),
    ({"max_length": 0}, "max_length is 0: expected a whole number from 1"),
    ({"stride": 160}, "stride is 160: expected less than max_length, 160"),
    ({"distill": "global"}, "distill is 'global': expected one of none, logits, hidden"),
    ({"head": "new"}, "head is 'new': expected one of auto, label words"),
    ({"head": "teacher"}, "head is 'teacher': expected one of auto, label words"),
    ({"init_head_from_teacher": 1}, "init_head_from_teacher is 1: expected False, or True with"),
    ({"init_head_from_teacher": True, "head": "label words"},
     "init_head_from_teacher is True: expected False, or True with the head auto or trained"),
    ({"hidden_distill_weight": -1}, "hidden_distill_weight is -1: expected a number from 0"),
    ({"bias_norm_learning_rate": -1}, "bias_norm_learning_rate is -1: expected a number from 0"),
    ({"precision": "int8"}, "precision is 'int8': expected"),
    ({"optim": "adamw"}, "optim is 'adamw': expected adamw_torch or adamw_hf"),
    ({"model": " "}, "model is ' ': expected a name or a path, as text"),
    ({"distill_weight": 2}, "distill_weight is 2: expected a number from 0 to 1"),
    ({"distill_temperature": 0}, "distill_temperature is 0: expected a number above 0"),
    ({"score_init": -1}, "score_init is -1: expected a number from 0"),
    ({"warmup_fraction": 1}, "warmup_fraction is 1: expected a number from 0 and below 1"),
    ({"method": "lottery"}, "method is 'lottery': expected one of smp-l, smp-s, magnitude"),
    ({"method": "fine-tuned"}, "method is 'fine-tuned': expected one of smp-l, smp-s, magnitude"),
    ({"density_hold_fraction": 0.9},
     "density_hold_fraction is 0.9: expected less than density_ramp_fraction, 0.819"),
    ({"density_ramp_fraction": 0}, "density_ramp_fraction is 0: expected a number above 0"),
    ({"regulariser_ramp_fraction": 2}, "regulariser_ramp_fraction is 2: expected a number above 0"),
    ({"threshold": 1.0}, "threshold is 1.0: expected"),
    ({"weight_learning_rate": -1}, "weight_learning_rate is -1: expected"),
    ({"seed": 2**32}, "seed is 4294967296: expected a number below 4294967296"),
    ({"data_seed": -1}, "data_seed is -1: expected"),
    ({"colour": "blue"}, "unknown setting 'colour': did you mean"),
    ({"kd_weight": 1}, "unknown setting 'kd_weight': did you mean distill_weight?"),
    ({"sharing": "shared"}, "unknown setting 'sharing': did you mean"),
])
def test_a_wrong_value_raises_a_one_line_error(changes, message):
    for stage in ("smp", "smp-kd"):
        with pytest.raises(ValueError) as error:
            choose_settings("quick", stage, **changes)
        assert message in str(error.value) and "\n" not in str(error.value)


def test_without_max_length_any_stride_is_valid():
    free = dataclasses.replace(choose_settings("quick"), max_length=None, stride=9999)
    assert check_settings(free) is free


def test_unknown_profiles_and_stages_raise():
    with pytest.raises(ValueError, match="profile is 'fast': expected one of quick, "):
        choose_settings("fast")
    with pytest.raises(ValueError, match="stage is 'prune': expected one of fine-tune, smp, "):
        choose_settings("quick", "prune")


USUAL, SOON, SLOW = (22_670 / 27_670, 1, 10), (5_000 / 27_670, 1, 10), (
    22_650 / 55_340, 27_660 / 55_340, 20)
AUTHORS = {  # density: (N, T as shares, epochs) and p; without and with a teacher
    0.80: (SOON, 4), 0.70: (SOON, 4), 0.50: (USUAL, 1), 0.30: (USUAL, 1), 0.10: (USUAL, 1),
    0.03: (SLOW, 1),
}


@pytest.mark.parametrize("density", AUTHORS)
@pytest.mark.parametrize("stage", ["smp", "smp-kd"])
@pytest.mark.parametrize("method", ["smp-l", "smp-s"])
def test_presets_equal_the_authors_scripts(density, stage, method):
    settings = choose_settings("paper", stage, density=density, method=method)
    times, temperature = AUTHORS[density]
    if (density, stage, method) == (0.5, "smp", "smp-s"):  # SMP-S 50% without a teacher
        times, temperature = SOON, 4
    got = settings.density_ramp_fraction, settings.regulariser_ramp_fraction, settings.epochs
    assert got == times and settings.temperature == temperature and settings.method == method
    assert (settings.learning_rate, settings.regulariser, settings.batch_size) == (2e-2, 400, 32)
    assert (settings.max_length, settings.stride, settings.score_init) == (384, 128, 0)
    assert (settings.distill_weight, settings.distill_temperature) == (0.5, 2.0)
    assert settings.warmup_fraction == settings.density_hold_fraction == 0


def test_profile_epochs_override_the_preset_and_changes_both():
    short = choose_settings("laptop", "smp", density=0.03)
    assert short.epochs == PROFILES["laptop"]["smp"]["epochs"]
    assert short.regulariser_ramp_fraction < 1
    changed = choose_settings("laptop", "smp", density=0.03, regulariser_ramp_fraction=1.0)
    assert changed.regulariser_ramp_fraction == 1


@pytest.mark.parametrize("method", [name for name, one in METHODS.items()
                                    if not one.freezes_weights])
def test_other_methods_train_weights_at_the_fine_tuning_rate(method):
    for profile in ("paper", "laptop"):
        settings = choose_settings(profile, "smp", method=method, density=0.1)
        rate = PROFILES[profile]["fine-tune"]["learning_rate"]
        assert settings.weight_learning_rate == rate and settings.method == method
        assert not settings.freezes_weights
        assert 0 < settings.density_hold_fraction < settings.density_ramp_fraction < 1
    assert choose_settings("paper", "smp", method="movement").weight_learning_rate == 3e-5


def test_only_smp_freezes_the_weights():
    freezing = [name for name in METHODS
                if choose_settings("quick", "smp", method=name).freezes_weights]
    assert freezing == ["smp-l", "smp-s"]
    assert not choose_settings("quick", "fine-tune").freezes_weights


def test_bias_norm_learning_rate_needs_frozen_matrices():
    rate = dict(bias_norm_learning_rate=0.001)
    assert choose_settings("quick", "fine-tune", **rate) == choose_settings("quick", "fine-tune")
    movement = dict(method="movement", density=0.1)
    assert choose_settings("quick", "smp", **movement, **rate) == choose_settings(
        "quick", "smp", **movement)
    for stage in ("smp", "smp-kd"):
        settings = choose_settings("quick", stage, **rate)
        assert settings.bias_norm_learning_rate == 0.001 and settings.trains_biases_and_norms
        assert not choose_settings("quick", stage).trains_biases_and_norms


def test_teacher_settings_have_no_effect_without_a_teacher():
    changes = dict(distill="hidden", init_head_from_teacher=True, hidden_distill_weight=3.0)
    for stage in ("fine-tune", "smp"):
        assert choose_settings("quick", stage, **changes) == choose_settings("quick", stage)
    student = choose_settings("quick", "smp-kd", **changes)
    assert (student.distill, student.hidden_distill_weight) == ("hidden", 3.0)
    assert (student.init_head_from_teacher, student.student_head) == (True, "trained")
    assert choose_settings("quick", "smp-kd").student_head == "auto"
    assert choose_settings("quick", "smp", head="trained").head == "trained"


def test_hidden_weight_is_100_and_smp_kd_needs_a_distillation():
    assert choose_settings("quick", "smp-kd", distill="hidden").hidden_distill_weight == 100
    with pytest.raises(ValueError, match="distill is 'none': expected logits or hidden in a run"):
        choose_settings("quick", "smp-kd", distill="none")


# The methods' names


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("plus, distill", [("", "none"), ("+kd", "logits"), ("+hidden", "hidden")])
def test_a_method_name_gives_its_stage_and_settings(method, plus, distill):
    stage, chosen = read_method(method + plus)
    assert chosen == {"method": method, "distill": distill}
    settings = choose_settings("quick", stage, **chosen)
    assert (settings.stage, settings.method, settings.distill) == (stage, method, distill)
    assert read_method((method + plus).upper()) == (stage, chosen)


def test_fine_tuned_gives_the_stage_fine_tune():
    assert read_method("fine-tuned") == ("fine-tune", {})


@pytest.mark.parametrize("text", ["", "+kd", "smp", "smp-l+", "smp-l+none", "smp-l+KD+kd",
                                  "smp-l kd", "fine-tuned+kd", "soft movement"])
def test_an_unknown_method_raises_a_one_line_error(text):
    with pytest.raises(ValueError) as error:
        read_method(text)
    assert str(error.value).startswith(f"method {text!r}: expected fine-tuned or one of smp-l, ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("arguments, label", [
    (("fine-tuned",), "fine-tuned"), (("smp-l", "none"), "SMP-L"), (("movement-s",), "movement-S"),
    (("smp-s", "logits"), "SMP-S + KD"), (("smp-s", "hidden"), "SMP-S + KD + hidden states"),
    (("soft-movement", "logits"), "soft movement + KD"),
    (("smp-l", "hidden", True), "SMP-L + KD + hidden states + biases, LayerNorms"),
])
def test_the_label_of_a_method(arguments, label):
    assert method_label(*arguments) == label


def test_methods_are_ranked_as_listed_and_a_removed_one_is_last():
    order = [(method, distill) for method in (FINE_TUNED, *METHODS, "removed")
             for distill in ("none", "logits", "hidden")]
    assert sorted(reversed(order), key=lambda one: method_rank(*one)) == order
