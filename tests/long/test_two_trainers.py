"""SMPTrainer in two processes: equal masks on both, and those of one process."""

import numpy as np
import pytest
from test_processes import LAUNCH, ROOT, output_of

SCRIPT = str(ROOT / "tests" / "long" / "two_trainers.py")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return ({"1-0", "2-0", "2-1": results of that process}, the folder of both)."""
    folder = tmp_path_factory.mktemp("trainers")
    for arguments in ([SCRIPT], [*LAUNCH, SCRIPT]):
        printed = output_of(*arguments, folder)
        assert printed.count("SMPTrainer trains") == 1  # of the first process
    return {path.stem: dict(np.load(path)) for path in folder.glob("*.npz")}, folder


def test_both_processes_have_equal_masks_at_each_step(runs):
    first, second = runs[0]["2-0"], runs[0]["2-1"]
    assert first["masks"] == second["masks"]
    for name in ("kept", "scores", "head", "loss"):
        assert np.array_equal(first[name], second[name]), name


def test_two_processes_train_as_one_up_to_rounding(runs):
    one, two = runs[0]["1-0"], runs[0]["2-0"]
    assert one["steps"] == two["steps"] == 6 and one["kept"].sum() == two["kept"].sum()
    np.testing.assert_allclose(one["loss"], two["loss"], atol=1e-4)
    assert (one["kept"] == two["kept"]).mean() > 0.999
    assert (np.abs(one["scores"] - two["scores"]) <= 1e-4).mean() > 0.99


def test_a_checkpoint_of_two_processes_contains_the_scores(runs):
    assert (runs[1] / "trainer/checkpoint-6/scores.safetensors").is_file()
