"""Settings: profiles, presets, changes and wrong values."""

import pytest

from smp.runs.methods import method_names
from smp.runs.profiles import PROFILES
from smp.runs.settings import changed_settings, choose_settings


@pytest.mark.parametrize("profile", list(PROFILES))
@pytest.mark.parametrize("task", ["fine-tune", "smp", "smp-kd"])
def test_every_profile_has_every_task(profile, task):
    settings = choose_settings(profile, task)
    assert (settings.density == 1.0) == (task == "fine-tune")
    assert changed_settings(settings) == {}


def test_none_leaves_the_profiles_value():
    plain = choose_settings("quick", "smp")
    assert choose_settings("quick", "smp", density=None, epochs=None) == plain
    changed = choose_settings("quick", "smp", density=0.25, seed=3)
    assert changed_settings(changed) == {"density": 0.25, "seed": 3}


def test_fine_tuning_has_no_density_but_refuses_a_wrong_one():
    assert choose_settings("quick", "fine-tune", density=0.1).density == 1.0
    with pytest.raises(ValueError, match="DENSITY"):
        choose_settings("quick", "fine-tune", density=7)


@pytest.mark.parametrize("changes, message", [
    ({"density": 0}, "DENSITY=0: expected a number above 0 and at most 1"),
    ({"density": 1.5}, "DENSITY=1.5"),
    ({"density": -0.1}, "DENSITY=-0.1"),
    ({"density": float("nan")}, "DENSITY=nan"),
    ({"density": "half"}, "DENSITY='half'"),
    ({"density": True}, "DENSITY=True"),
    ({"epochs": 0}, "EPOCHS=0"),
    ({"epochs": float("inf")}, "EPOCHS=inf"),
    ({"n_train": 0}, "N_TRAIN=0"),
    ({"n_train": 1.5}, "N_TRAIN=1.5"),
    ({"n_valid": -1}, "N_VALID=-1"),
    ({"batch_size": 0}, "BATCH_SIZE=0"),
    ({"stride": 160}, "STRIDE=160: expected less than MAX_LENGTH=160"),
    ({"sharing": "global"}, "SHARING='global'"),
    ({"head": "new"}, "HEAD='new': expected one of auto, label words"),
    ({"hidden_weight": -1}, "HIDDEN_WEIGHT=-1: expected a number from 0"),
    ({"vector_learning_rate": -1}, "VECTOR_LEARNING_RATE=-1: expected a number from 0"),
    ({"precision": "int8"}, "PRECISION='int8'"),
    ({"model": " "}, "MODEL=' '"),
    ({"kd_weight": 2}, "KD_WEIGHT=2"),
    ({"method": "lottery"}, "METHOD='lottery': expected one of smp, magnitude"),
    ({"regulariser_rule": "linear"}, "REGULARISER_RULE='linear'"),
    ({"density_hold": 0.9}, "DENSITY_HOLD=0.9: expected less than DENSITY_RAMP=0.8"),
    ({"threshold": 1.0}, "THRESHOLD=1.0"),
    ({"weight_learning_rate": -1}, "WEIGHT_LEARNING_RATE=-1"),
    ({"data_seed": -1}, "DATA_SEED=-1"),
    ({"colour": "blue"}, "unknown setting 'colour'"),
])
def test_a_wrong_value_raises_a_one_line_error(changes, message):
    with pytest.raises(ValueError) as error:
        choose_settings("quick", "smp", **changes)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_unknown_profiles_and_tasks():
    with pytest.raises(ValueError, match="PROFILE='fast': expected one of quick, "):
        choose_settings("fast")
    with pytest.raises(ValueError, match="TASK='prune'"):
        choose_settings("quick", "prune")


USUAL, SOON, SLOW = (22_670 / 27_670, 1, 10), (5_000 / 27_670, 1, 10), (
    22_650 / 55_340, 27_660 / 55_340, 20)
AUTHORS = {  # density: (N, T as shares, epochs) and p; without and with a teacher
    0.80: (SOON, 4), 0.70: (SOON, 4), 0.50: (USUAL, 1), 0.30: (USUAL, 1), 0.10: (USUAL, 1),
    0.03: (SLOW, 1),
}


@pytest.mark.parametrize("density", AUTHORS)
@pytest.mark.parametrize("task", ["smp", "smp-kd"])
@pytest.mark.parametrize("sharing", ["local", "shared"])
def test_the_papers_presets(density, task, sharing):
    settings = choose_settings("paper", task, density=density, sharing=sharing)
    times, temperature = AUTHORS[density]
    if (density, task, sharing) == (0.5, "smp", "shared"):  # SMP-S 50% without a teacher
        times, temperature = SOON, 4
    got = settings.density_ramp, settings.regulariser_ramp, settings.epochs
    assert got == times and settings.temperature == temperature
    assert (settings.learning_rate, settings.regulariser, settings.batch_size) == (2e-2, 400, 32)
    assert (settings.max_length, settings.stride, settings.score_start) == (384, 128, 0)


def test_a_profile_beats_the_preset_in_epochs_and_a_change_both():
    short = choose_settings("laptop", "smp", density=0.03)
    assert short.epochs == PROFILES["laptop"]["smp"]["epochs"] and short.regulariser_ramp < 1
    assert choose_settings("laptop", "smp", density=0.03, regulariser_ramp=1.0
                           ).regulariser_ramp == 1


@pytest.mark.parametrize("method", [name for name in method_names() if name != "smp"])
def test_other_methods_train_the_weights_as_fine_tuning_does(method):
    for profile in ("paper", "laptop"):
        settings = choose_settings(profile, "smp", method=method, density=0.1)
        rate = PROFILES[profile]["fine-tune"]["learning_rate"]
        assert settings.weight_learning_rate == rate and settings.sharing == "local"
        assert 0 < settings.density_hold < settings.density_ramp < 1
    assert choose_settings("paper", "smp", method="movement").weight_learning_rate == 3e-5


def test_vector_learning_rate_needs_frozen_matrices():
    rate = dict(vector_learning_rate=0.001)
    assert choose_settings("quick", "fine-tune", **rate) == choose_settings("quick", "fine-tune")
    movement = dict(method="movement", density=0.1)
    assert choose_settings("quick", "smp", **movement, **rate) == choose_settings(
        "quick", "smp", **movement)
    for task in ("smp", "smp-kd"):
        assert choose_settings("quick", task, **rate).vector_learning_rate == 0.001


def test_teacher_settings_have_no_effect_without_a_teacher():
    changes = dict(head="teacher", hidden_weight=3.0)
    for task in ("fine-tune", "smp"):
        assert choose_settings("quick", task, **changes) == choose_settings("quick", task)
    student = choose_settings("quick", "smp-kd", **changes)
    assert (student.head, student.hidden_weight) == ("teacher", 3.0)
    assert choose_settings("quick", "smp", head="trained").head == "trained"
