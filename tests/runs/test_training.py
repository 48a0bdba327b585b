"""The arguments of `fit` that follow from the settings: batches, steps, optimizer, schedule."""

import itertools
import math

import pytest
import torch

from smp.cli.train import attach_pruning
from smp.data.windows import make_loader, windows_fingerprint
from smp.look.snapshot_writer import SnapshotWriter
from smp.runs.checkpoint import Checkpoints, package_versions
from smp.runs.settings import choose_settings
from smp.runs.training import CURVES, parameter_groups, prepare_training


def short(stage="fine-tune", **changes):
    plain = dict(precision="fp32", max_length=96, stride=32, epochs=1, batch_size=8)
    return choose_settings("quick", stage, **plain | changes)


@pytest.mark.parametrize("epochs, steps", [(0.01, 1), (0.2, 2), (1, 6), (1.5, 9), (1.6, 10)])
def test_steps_are_epochs_times_batches_rounded_up(epochs, steps, tiny_qa, windows, tokenizer):
    training = prepare_training(tiny_qa, windows, tokenizer, short(epochs=epochs))
    assert training["steps"] == steps == training["watch"].steps


@pytest.mark.parametrize("seed", [0, 3])
def test_batches_are_those_of_the_seed_in_each_epoch(seed, tiny_qa, windows, tokenizer):
    training = prepare_training(tiny_qa, windows, tokenizer, short(seed=seed))
    assert torch.initial_seed() == seed
    found = [*itertools.islice(training["batches"], 12)]
    loader = make_loader(windows, tokenizer, 8, shuffle=True, seed=seed)
    expected = [batch["row"].tolist() for _ in range(2) for batch in loader]
    assert [batch["row"].tolist() for batch, _ in found] == expected
    assert {share for _, share in found} == {1.0}


def test_the_optimizer_has_published_betas_and_no_weight_decay(tiny_qa, windows, tokenizer):
    settings = short("smp", method="smp-l", density=0.5)
    pruning = attach_pruning(tiny_qa, settings)
    optimizer = prepare_training(tiny_qa, windows, tokenizer, settings, pruning)["optimizer"]
    assert [group["lr"] for group in optimizer.param_groups] == [2e-2, settings.head_learning_rate]
    for group in optimizer.param_groups:
        assert group["betas"] == (0.9, 0.999) and group["weight_decay"] == 0.0


@pytest.mark.parametrize("warmup", [0.0, 0.25, 0.3])
def test_the_learning_rate_rises_and_falls_linearly(warmup, tiny_qa, windows, tokenizer):
    settings = short(epochs=2, warmup_fraction=warmup, learning_rate=1e-3)
    training = prepare_training(tiny_qa, windows, tokenizer, settings)
    rates, rising = [], int(warmup * 12)
    for _ in range(12):
        rates += [group["lr"] for group in training["optimizer"].param_groups]
        training["optimizer"].optimizer.step()
        training["schedule"].step()
    assert rates == pytest.approx([
        1e-3 * (t / rising if t < rising else (12 - t) / (12 - rising)) for t in range(12)])


def test_a_checkpoint_contains_data_settings_and_versions(tiny_qa, windows, tokenizer, tmp_path):
    settings = short("smp", density=0.5)
    pruning = attach_pruning(tiny_qa, settings)
    pruning.masks.zeros = "skipped in a test"
    tiny_qa.setup = {"num_attention_heads": 4}
    training = prepare_training(tiny_qa, windows, tokenizer, settings, pruning,
                                checkpoints=Checkpoints(tmp_path, {"model": "m"}))
    run, state = training["watch"].state.run, training["watch"].state
    assert run["model"] == "m" and run["data"] == windows_fingerprint(windows)
    assert run["base"] == {"num_attention_heads": 4}
    assert run["settings"]["density"] == 0.5 and run["settings"]["seed"] == settings.seed
    device = training["accelerator"].device.type
    assert run["versions"] == package_versions() | {
        "device": device, "precision": "fp32", "zeros": "skipped in a test",
        "attention": "sdpa", "commit": None, "processes": 1,
            "threads": torch.get_num_threads() if device == "cpu" else None}
    assert state.curves == {"history": {name: [] for name in CURVES}, "losses": [], "seconds": 0.0}
    names = dict(tiny_qa.named_parameters())
    trained = [p for group in training["optimizer"].param_groups for p in group["params"]]
    assert [*map(id, state.trained.values())] == [*map(id, trained)]
    assert all(names[name] is parameter for name, parameter in state.trained.items())


def test_the_watch_has_every_part_of_the_run(tiny_qa, windows, tokenizer, tmp_path):
    settings = short("smp", density=0.5, n_validations=2)
    pruning, checkpoints = attach_pruning(tiny_qa, settings), Checkpoints(tmp_path / "run")
    parts = {"validate": lambda model: {"em": 0.0, "f1": 0.0}, "checkpoints": checkpoints,
             "snapshots": SnapshotWriter(tmp_path / "masks")}
    training = prepare_training(tiny_qa, windows, tokenizer, settings, pruning, **parts)
    watch = training["watch"]
    assert all(getattr(watch, name) is part for name, part in parts.items())
    assert watch.model is training["model"] and watch.accelerator is training["accelerator"]
    assert watch.pruning is training["pruning"] is pruning and watch.settings is settings
    assert watch.state.optimizer is training["optimizer"] and watch.first_step == 0
    assert watch.state.decay is training["schedule"]


def test_a_run_without_masks_multiplies_zeros(tiny_qa, windows, tokenizer):
    training = prepare_training(tiny_qa, windows, tokenizer, short())
    assert training["watch"].state.run["versions"]["zeros"] == "multiplied"
    assert training["pruning"] is None and math.isfinite(training["watch"].began)


def test_groups_are_scores_biases_and_norms_and_head(tiny_qa):
    settings = short("smp", density=0.5, bias_norm_learning_rate=7e-4, head_learning_rate=5e-3)
    attach_pruning(tiny_qa, settings)
    scores, vectors, head = parameter_groups(tiny_qa, settings)
    assert [scores["lr"], vectors["lr"], head["lr"]] == [settings.learning_rate, 7e-4, 5e-3]
    of = {id(parameter): name for name, parameter in tiny_qa.named_parameters()}
    names = [[of[id(one)] for one in group["params"]] for group in (scores, vectors, head)]
    assert len(names[0]) == 12 and all(name.endswith(".scores") for name in names[0])
    assert len(names[1]) == 20 and all(one.dim() == 1 for one in vectors["params"])
    assert names[2] == ["qa_outputs.weight", "qa_outputs.bias"]


def test_fine_tuning_has_one_group_at_the_learning_rate(tiny_qa):
    (group,) = parameter_groups(tiny_qa, short(learning_rate=4e-5, weight_learning_rate=9e-4))
    assert group["lr"] == 4e-5 and len(group["params"]) == len([*tiny_qa.parameters()])
