"""Profiles and the values put in their place."""

import pytest

from smp.settings import PROFILES, changed_settings, choose_settings


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
    ({"head": "new"}, "HEAD='new': expected \"auto\", \"label words\""),
    ({"precision": "int8"}, "PRECISION='int8'"),
    ({"model": " "}, "MODEL=' '"),
    ({"kd_weight": 2}, "KD_WEIGHT=2"),
    ({"colour": "blue"}, "unknown setting 'colour'"),
])
def test_a_wrong_value_gets_one_line(changes, message):
    with pytest.raises(ValueError) as error:
        choose_settings("quick", "smp", **changes)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_unknown_profiles_and_tasks():
    with pytest.raises(ValueError, match="PROFILE='fast': expected one of quick, "):
        choose_settings("fast")
    with pytest.raises(ValueError, match="TASK='prune'"):
        choose_settings("quick", "prune")
