"""Write the masks of a run into its snapshot file while the run trains.

The steps are closer together where the density falls. Each snapshot writes the whole file again
under another name and renames it: for BERT-base a few hundred MB at the end, which takes seconds.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from smp.files import replaced_file
from smp.look.snapshots import GRID, SCORE_BINS, SNAPSHOT_FORMAT, Snapshots
from smp.model.mask_code import encode_mask


def snapshot_steps(steps: int, density_at: Callable[[int, int], float], count: int) -> set[int]:
    """Return at most `count` steps before which masks are written, the last one `steps`.

    density_at: (step, steps) -> v(t). The steps are evenly spaced in the sum of the fractions of
    the density's fall and of the run that are done.
    """
    densities = np.array([density_at(step, steps) for step in range(steps + 1)])
    fall = max(1 - densities[-1], 1e-9)
    way = (1 - densities) / fall + np.arange(steps + 1) / steps
    return set(np.searchsorted(way, np.linspace(way[-1], 0, count)).tolist())


def keep_largest(sizes: np.ndarray, k: int) -> np.ndarray:
    """Return the bool mask (n,) of the k largest; of equal sizes the lower index is kept."""
    cut = np.partition(sizes, -k)[-k] if k else np.inf
    mask = sizes > cut
    mask[np.flatnonzero(sizes == cut)[: k - np.count_nonzero(mask)]] = True
    return mask


def coarse_mask(mask: np.ndarray) -> np.ndarray:
    """Return 255 √(kept share) of GRID x GRID blocks, uint8, of a mask, bool (out, in)."""
    starts = [np.arange(GRID + 1) * side // GRID for side in mask.shape]
    sums = np.add.reduceat(np.add.reduceat(mask, starts[1][:-1], 1, dtype=np.int32),
                           starts[0][:-1], 0)  # a side below GRID repeats its rows or columns
    sizes = np.outer(*(np.maximum(1, np.diff(start)) for start in starts))
    return np.rint(255 * np.sqrt(sums / sizes)).astype(np.uint8)


@torch.no_grad()
def mask_numbers(mask: torch.Tensor, ranks: torch.Tensor, weight: torch.Tensor) -> dict:
    """Return the numbers, as numpy arrays, that the figures of one matrix show.

    mask: bool (out, in); ranks: the values that choose it, in SMP the scores. -> {"rows":
    kept weights per row (out,), "columns": per column (in,), "scores": removed and kept weights
    per bin (SCORE_BINS, 2), "edges": (start of the lowest bin, end of the highest, lowest score
    kept), "largest": kept weights that magnitude also keeps}. The bins end four standard
    deviations from the mean; the outer two include what is beyond.
    """
    ranks = ranks.detach().float().nan_to_num(0, 0, 0)  # the loop reports a run that diverged
    kept, (least, most) = int(mask.sum()), map(float, ranks.aminmax())
    mean, spread = float(ranks.mean()), 4 * float(ranks.std(correction=0))
    cut = float(ranks.masked_fill(~mask, math.inf).min()) if kept else most
    low, high = min(cut, max(least, mean - spread)), max(cut, min(most, mean + spread))
    if high - low < 1e-6 * abs(mean) + 1e-30:  # all scores are equal
        low, high = low - 0.5, high + 0.5
    places = ((ranks - low) * (SCORE_BINS / (high - low))).clamp_(0, SCORE_BINS - 1).byte()
    scores = torch.bincount((2 * places + mask).flatten(), minlength=2 * SCORE_BINS)
    largest = keep_largest(weight.detach().abs().flatten().float().cpu().numpy(), kept)
    return {
        "rows": mask.sum(1).cpu().numpy(), "columns": mask.sum(0).cpu().numpy(),
        "scores": scores.view(SCORE_BINS, 2).cpu().numpy().astype(np.uint32),
        "edges": np.array([low, high, cut], np.float32),
        "largest": int(np.count_nonzero(largest & mask.flatten().cpu().numpy())),
    }


class SnapshotWriter:
    """The snapshots of one run, written to `path`, where the file of another run is replaced.

    about: plain values for the file (run, model, ...); "heads": attention heads of the encoder.
    """

    def __init__(self, path: Path | str, **about: Any):
        self.path, self.about = Path(path), about

    def begin(self, steps: int, density_at: Callable[[int, int], float], count: int,
              done: int = 0) -> set[int]:
        """Return the `snapshot_steps` of a run; done: the steps after which it resumes."""
        wanted = snapshot_steps(steps, density_at, count)
        try:
            there = Snapshots(self.path).steps if done else []
        except (OSError, ValueError):
            there = []
        if lost := sorted(step for step in wanted if step < done and step not in there):
            print(f"{self.path} has no masks of the steps {', '.join(map(str, lost))}, which an "
                  "earlier session trained: the explorer will not show them", flush=True)
        return wanted

    def keep(self, step: int, masks: Any) -> None:
        """Add the current masks as those before `step` and drop the snapshots of later steps.

        masks: the model's `Masks`. If writing fails, the old file remains and a line is printed.
        """
        try:
            before, tensors = self.earlier(step, masks)
            tensors |= {f"{step}.{part}": value
                        for part, value in self.describe(masks, before).items()}
            steps = sorted({int(key.split(".")[0]) for key in tensors})
            held = {"steps": steps, "about": self.about, "matrices": matrix_rows(masks)}
            # one entry, because safetensors writes several in varying order
            with replaced_file(self.path) as draft:
                save_file(tensors, draft, {SNAPSHOT_FORMAT: json.dumps(held)})
        except (OSError, ValueError, SafetensorError) as error:
            print(f"no snapshot of the masks at step {step:,}: {error}; training continues",
                  flush=True)

    def earlier(self, step: int, masks: Any) -> tuple[tuple[Snapshots, int] | None, dict]:
        """Return ((file, last step before `step`) or None, all tensors of the steps before it)."""
        if not self.path.exists():
            return None, {}
        try:
            saved = Snapshots(self.path)
        except ValueError as error:
            print(f"{error}; the file is replaced", flush=True)
            return None, {}
        steps = [at for at in saved.steps if at < step]
        if saved.about != self.about or saved.matrices != matrix_rows(masks) or not steps:
            return None, {}
        with safe_open(self.path, framework="numpy") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()
                       if int(key.split(".")[0]) < step}
        return (saved, steps[-1]), tensors

    def describe(self, masks: Any, before: tuple[Snapshots, int] | None) -> dict:
        """Return {part of the tensors' names: array} of one snapshot; before: see `earlier`."""
        parts, found, ranks = {}, [], masks.rankings()
        for name, _, _, linear in masks.matrices:
            mask = masks.masks[name].mask
            numbers = mask_numbers(mask, ranks[name], linear.parametrizations.weight.original)
            mask = mask.cpu().numpy()
            parts[f"mask.{name}"] = encode_mask(mask)
            numbers["grid"] = coarse_mask(mask)
            again = int((before[0].mask(before[1], name) & mask).sum()) if before else 0
            found.append(numbers | {"counts": np.array([again, numbers["largest"]], np.int64)})
        sides = np.min_scalar_type(max(side for row in matrix_rows(masks) for side in row[3]))
        for part in ("rows", "columns"):
            parts[part] = np.concatenate([numbers[part] for numbers in found]).astype(sides)
        for part in ("scores", "edges", "counts", "grid"):
            parts[part] = np.stack([numbers[part] for numbers in found])
        return parts


def matrix_rows(masks: Any) -> list[list]:
    """Return [[name in the base model, layer, type, [out, in]]] of a model's `Masks`."""
    return [[name, layer, matrix, list(masks.masks[name].mask.shape)]
            for name, matrix, layer, _ in masks.matrices]


def run_snapshots(begun: dict, results: Path | str, heads: int | None = None) -> SnapshotWriter:
    """Return the writer of a run whose record was begun: results/snapshots/<name>.safetensors."""
    about = {name: begun[name] for name in ("name", "model", "label", "density_target")}
    path = Path(results) / "snapshots" / f"{begun['name']}.safetensors"
    return SnapshotWriter(path, heads=heads, **about)
