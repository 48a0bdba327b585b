"""The snapshot file equals plain counts over the masks; incomplete files are refused."""

import json
import os
import resource
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import attach_masks, tiny_config
from records import make_record
from smp.look.snapshot_writer import (
    SnapshotWriter,
    mask_numbers,
    run_snapshots,
    snapshot_steps,
)
from smp.look.snapshots import SCORE_BINS, Snapshots
from smp.method.schedule import Pruning
from smp.runs.settings import choose_settings


def small_masks(seed=0):
    from transformers import BertForQuestionAnswering

    torch.manual_seed(seed)
    return attach_masks(BertForQuestionAnswering(tiny_config(num_hidden_layers=1)), start=1.0)


def density_of(settings):
    """Return (step, steps) -> v(t) of the settings."""
    return Pruning(None, settings).density_at


# Steps


@settings(deadline=None)
@given(st.integers(1, 400), st.integers(1, 40), st.floats(0.01, 1), st.floats(0.05, 1))
def test_steps_end_with_the_last_and_are_at_most_count(steps, n, density, ramp):
    chosen = choose_settings("quick", "smp", density=density, density_ramp_fraction=ramp,
                             n_mask_snapshots=n)
    found = snapshot_steps(steps, density_of(chosen), n)
    assert len(found) <= n and all(0 <= step <= steps for step in found)
    assert steps in found and (0 in found) == (n > 1)


def test_steps_are_closer_where_the_density_falls():
    chosen = choose_settings("quick", "smp", density=0.1)
    steps = sorted(snapshot_steps(10_000, density_of(chosen), chosen.n_mask_snapshots))
    assert len(steps) == chosen.n_mask_snapshots == 24
    gaps = np.diff(steps)
    assert (np.diff(gaps) >= -2).all() and gaps[-1] > 3 * gaps[0]
    densities = [density_of(chosen)(step, 10_000) for step in steps]
    assert max(-np.diff(densities)) < 0.08  # no large step between two of them
    dense = density_of(choose_settings("quick", "smp", density=1.0))
    even = sorted(snapshot_steps(10_000, dense, 24))
    assert max(np.diff(even)) - min(np.diff(even)) <= 1


# Content


def test_masks_and_counts_equal_those_written(kept_masks):
    path, kept = kept_masks
    saved = Snapshots(path)
    assert saved.steps == list(kept) and saved.about["heads"] == 4
    assert saved.weights == sum(mask.size for mask, _, _ in kept[0].values())
    before = None
    for step, matrices in kept.items():
        assert list(matrices) == saved.names
        parts = saved.parts[step]
        for i, (name, (mask, scores, size)) in enumerate(matrices.items()):
            assert np.array_equal(saved.mask(step, name), mask)
            assert parts["rows"][name].tolist() == [sum(row) for row in mask.tolist()]
            assert parts["columns"][name].tolist() == [sum(row) for row in mask.T.tolist()]
            assert parts["kept"][i] == mask.sum()
            again = (mask & kept[before][name][0]).sum() if before is not None else 0
            largest = np.argsort(-size, axis=None, kind="stable")[: mask.sum()]
            assert parts["counts"][i].tolist() == [again, mask.ravel()[largest].sum()]
            low, high, cut = parts["edges"][i]
            assert cut == scores[mask].min() and (scores[~mask] <= cut).all()
            places = np.floor((scores - low) / (high - low) * SCORE_BINS).clip(0, SCORE_BINS - 1)
            for group, wanted in enumerate((~mask, mask)):
                counted = np.bincount(places[wanted].astype(int), minlength=SCORE_BINS)
                off = np.abs(counted.cumsum() - parts["scores"][i][:, group].cumsum())
                assert off.max() <= 2  # in single precision, some scores are at an edge
                assert parts["scores"][i][:, group].sum() == wanted.sum()
        before = step
        total = sum(mask.sum() for mask, _, _ in matrices.values())
        assert saved.density(step) == total / saved.weights
        assert saved.parts[step]["kept"].sum() == total


@pytest.mark.parametrize("scores", [torch.zeros(4, 6), torch.full((4, 6), 7.0),
                                    torch.tensor([[float("nan"), float("inf"), 1.0, -1.0]])])
def test_equal_or_non_finite_scores_have_a_histogram(scores):
    mask = torch.zeros_like(scores, dtype=torch.bool)
    mask[0, :2] = True
    found = mask_numbers(mask, scores, scores.nan_to_num(0, 0, 0))
    assert found["scores"].sum(0).tolist() == [scores.numel() - 2, 2]
    assert found["edges"][0] < found["edges"][1] and np.isfinite(found["edges"]).all()
    nothing = mask_numbers(torch.zeros_like(mask), scores, scores.nan_to_num(0, 0, 0))
    assert nothing["scores"].sum(0).tolist() == [scores.numel(), 0] and nothing["largest"] == 0


def test_a_snapshot_takes_at_most_about_a_bit_per_weight(tmp_path):
    masks, sizes = small_masks(), {}
    for density in (1.0, 0.5, 0.1):
        path = tmp_path / f"{density}.safetensors"
        masks.refresh(density)
        SnapshotWriter(path).keep(0, masks)
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        sizes[density] = sum(entry["data_offsets"][1] - entry["data_offsets"][0]
                             for name, entry in header.items() if ".mask." in name)
    bits = Snapshots(path).weights / 8
    assert sizes[1.0] < 0.1 * bits and sizes[0.1] < 0.7 * bits  # tiny matrices: large overhead
    assert sizes[0.5] < 1.15 * bits


# Safe writing


def test_a_resumed_run_drops_later_steps_and_repeats_bytes(tmp_path):
    masks, path = small_masks(), tmp_path / "deep" / "s.safetensors"
    keeper = SnapshotWriter(path, name="a")
    held = {}
    for step, density in ((0, 1.0), (5, 0.5), (9, 0.2)):
        masks.refresh(density)
        keeper.keep(step, masks)
        held[step] = path.read_bytes()
        assert Snapshots(path).steps == [s for s in (0, 5, 9) if s <= step]
        assert os.listdir(path.parent) == [path.name]
    masks.refresh(0.5)
    keeper.keep(5, masks)
    assert path.read_bytes() == held[5]
    masks.refresh(0.2)
    keeper.keep(9, masks)
    assert path.read_bytes() == held[9]


def test_a_foreign_or_damaged_file_is_replaced(tmp_path, capsys):
    masks, path = small_masks(), tmp_path / "s.safetensors"
    SnapshotWriter(path, name="a").keep(3, masks)
    SnapshotWriter(path, name="b").keep(7, masks)
    assert Snapshots(path).steps == [7] and Snapshots(path).about == {"name": "b"}
    path.write_bytes(path.read_bytes()[:-5])
    SnapshotWriter(path, name="b").keep(9, masks)
    assert "not a snapshot file of this project" in capsys.readouterr().out
    assert Snapshots(path).steps == [9]


def test_a_full_disk_loses_one_snapshot_only(tmp_path, capsys):
    masks, path = small_masks(), tmp_path / "s.safetensors"
    keeper = SnapshotWriter(path)
    keeper.keep(0, masks)
    before, (soft, hard) = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    masks.refresh(0.5)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        keeper.keep(1, masks)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    printed = capsys.readouterr().out
    assert printed.startswith("no snapshot of the masks at step 1: ") and printed.count("\n") == 1
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]
    keeper.keep(2, masks)
    assert Snapshots(path).steps == [0, 2]


def test_the_snapshots_of_a_run_have_its_name_and_label(tmp_path):
    keeper = run_snapshots(make_record("smp-s", density=0.1), tmp_path, heads=4)
    name = keeper.about["name"]
    assert keeper.path == tmp_path / "snapshots" / f"{name}.safetensors"
    assert keeper.about == {"name": name, "model": "all-MiniLM-L6-v2", "label": "SMP-S + KD",
                            "density_target": 0.1, "heads": 4}


def test_a_run_resumed_elsewhere_prints_missing_steps(tmp_path, capsys):
    chosen = choose_settings("quick", "smp", density=0.5, n_mask_snapshots=3)
    keeper = SnapshotWriter(tmp_path / "s.safetensors")
    wanted = keeper.begin(10, density_of(chosen), 3)
    assert wanted == snapshot_steps(10, density_of(chosen), 3) and capsys.readouterr().out == ""
    early = ", ".join(map(str, sorted(wanted)[:2]))
    assert keeper.begin(10, density_of(chosen), 3, done=9) == wanted
    assert f"has no masks of the steps {early}, which" in capsys.readouterr().out


# Damaged and foreign files


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_damaged_file_never_returns_another_mask(kept_masks, tmp_path_factory, data):
    path, kept = kept_masks
    raw = bytearray(path.read_bytes())
    (length,) = struct.unpack("<Q", raw[:8])
    place = data.draw(st.integers(0, 8 + length - 1) | st.integers(8 + length, len(raw) - 1))
    if data.draw(st.booleans()):
        raw = raw[:place]
    else:
        raw[place] ^= data.draw(st.integers(1, 255))
    harmed = tmp_path_factory.mktemp("harmed") / "x.safetensors"
    harmed.write_bytes(raw)
    try:
        saved = Snapshots(harmed)
        for step in saved.steps:
            for name in saved.names:
                assert np.array_equal(saved.mask(step, name), kept[step][name][0])
    except (ValueError, KeyError) as error:
        assert isinstance(error, ValueError) or place < 8 + length  # a name was changed
        assert "\n" not in str(error) and str(harmed) in str(error) or place < 8 + length


def test_other_files_raise_one_line(tmp_path, kept_masks):
    with pytest.raises(FileNotFoundError, match="no snapshots there"):
        Snapshots(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="is not a snapshot file of this project"):
        Snapshots(tmp_path)
    saved = Snapshots(kept_masks[0])
    with pytest.raises(ValueError, match="the mask of nothing at step 0"):
        saved.shapes = saved.shapes | {"nothing": (2, 2)}
        saved.mask(0, "nothing")


def test_swapped_masks_raise(tmp_path, kept_masks):
    from safetensors.numpy import load_file, save_file

    tensors = load_file(kept_masks[0])
    one, other = (f"{step}.mask.{Snapshots(kept_masks[0]).names[0]}" for step in (10, 20))
    tensors[one], tensors[other] = tensors[other], tensors[one]
    from safetensors import safe_open

    with safe_open(kept_masks[0], framework="numpy") as file:
        metadata = file.metadata()
    save_file(tensors, tmp_path / "s.safetensors", metadata)
    with pytest.raises(ValueError, match="is of another file"):
        Snapshots(tmp_path / "s.safetensors").mask(10, Snapshots(kept_masks[0]).names[0])
