"""Two processes with accelerate's launcher give the results of one process."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = str(ROOT / "tests" / "long" / "two_processes.py")
# --multi_gpu starts several processes; the environment keeps them on the CPU.
LAUNCH = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1",
          "--num_processes", "2", "--mixed_precision", "no", "--dynamo_backend", "no",
          "--main_process_port", "0"]


def output_of(*arguments):
    """Run Python on the CPU with the clone's smp; return what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
                   "HF_HUB_OFFLINE": "1", "GLOO_SOCKET_IFNAME": "lo",
                   "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run([sys.executable, *map(str, arguments)], env=environment,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with the files of both trainings, in one process and in two."""
    folder = tmp_path_factory.mktemp("processes")
    for arguments in ([SCRIPT, folder / "one"], [*LAUNCH, SCRIPT, folder / "two"]):
        arguments[-1].mkdir()
        printed = output_of(*arguments)
        assert printed.count("SMPTrainer trains") == 1  # of the first process
    return folder


@pytest.fixture(scope="module")
def runs(folder):
    """Return {"1-0", "2-0", "2-1": results of that process} of the project's own loop."""
    return {path.stem: dict(np.load(path)) for path in folder.glob("*/*.npz")}


@pytest.fixture(scope="module")
def trainers(folder):
    """Return the same of SMPTrainer."""
    return {path.stem: dict(np.load(path)) for path in folder.glob("*/trainers/*.npz")}


def test_all_processes_have_the_same_mask_at_each_step(runs):
    assert runs["2-0"]["masks"] == runs["2-1"]["masks"]
    assert np.array_equal(runs["2-0"]["scores"], runs["2-1"]["scores"])


def test_masks_of_two_processes_equal_those_of_one(runs):
    """Compare masks and scores, except for a few scores.

    Sums of gradients are rounded in another order. A gradient near zero may change its sign, and
    Adam's first steps turn this into a whole step of the score.
    """
    one, two = runs["1-0"], runs["2-0"]
    assert one["kept"].sum() == two["kept"].sum()
    assert (one["kept"] == two["kept"]).mean() >= 0.9999
    far = np.abs(one["scores"] - two["scores"])
    assert np.median(far) <= 1e-6 and (far <= 1e-6).mean() >= 0.99
    np.testing.assert_allclose(one["loss"], two["loss"], atol=1e-5)


def test_each_question_is_evaluated_once(runs):
    one, both = runs["1-0"], (runs["2-0"], runs["2-1"])
    for two in both:
        assert np.array_equal(np.isinf(one["start"]), np.isinf(two["start"]))
        for side in ("start", "end"):  # the loss does not depend on the head's bias
            above = [run[side] - run[side].max(axis=1, keepdims=True) for run in (one, two)]
            np.testing.assert_allclose(*above, atol=1e-3)
        assert len(two["answers"]) == 21 and (one["answers"] == two["answers"]).mean() > 0.9
    assert both[0]["em"] == both[1]["em"] and both[0]["f1"] == both[1]["f1"]


def test_only_one_process_writes_checkpoints(folder):
    assert len([*(folder / "two/checkpoints").iterdir()]) == 2


def test_both_trainers_have_equal_masks_at_each_step(trainers):
    first, second = trainers["2-0"], trainers["2-1"]
    assert first["masks"] == second["masks"]
    for name in ("kept", "scores", "head", "loss"):
        assert np.array_equal(first[name], second[name]), name


def test_two_trainers_train_as_one_up_to_rounding(trainers):
    one, two = trainers["1-0"], trainers["2-0"]
    assert one["steps"] == two["steps"] == 6 and one["kept"].sum() == two["kept"].sum()
    np.testing.assert_allclose(one["loss"], two["loss"], atol=1e-4)
    assert (one["kept"] == two["kept"]).mean() > 0.999
    assert (np.abs(one["scores"] - two["scores"]) <= 1e-4).mean() > 0.99


def test_a_checkpoint_of_two_trainers_contains_the_scores(folder):
    assert (folder / "two/trainers/trainer/checkpoint-6/scores.safetensors").is_file()
