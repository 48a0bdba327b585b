"""Snapshots: the masks along the way.

A mask at the end says what was chosen; how it came about is told by masks on the way. Some two
dozen of them go into one file while the training runs, closer together where the density falls,
each with the little that pictures need beside the mask: how many weights every row and column
keeps, the scores as a histogram, and how many weights are also kept by the snapshot before and
by size alone. The file is whole at any moment, so it can be looked at while training goes on.
"""

import json
import math
import os
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from smp.fast.topk import keep_top_near
from smp.look.snapshots import SCORE_BINS, SNAPSHOT_FORMAT, Snapshots
from smp.model.mask_code import encode_mask


def snapshot_steps(steps, density_at, count):
    """Return at most `count` steps before which masks are written, the last one `steps`.

    density_at: (step, steps) -> v(t). The steps are evenly spaced in (share of the density's fall
    done) + (share of the run done).
    """
    densities = np.array([density_at(step, steps) for step in range(steps + 1)])
    fall = max(1 - densities[-1], 1e-9)
    way = (1 - densities) / fall + np.arange(steps + 1) / steps
    return set(np.searchsorted(way, np.linspace(way[-1], 0, count)).tolist())


@torch.no_grad()
def mask_numbers(mask, ranks, weight):
    """What the pictures need of one matrix beside its mask, as numpy arrays.

    mask: bool (out, in); ranks: what it is chosen by, scores in SMP; weight: W. All three of one
    device. -> {"rows": kept in each (out,), "columns": (in,), "scores": (SCORE_BINS, 2) removed and
    kept weights by score, "edges": (3,) lowest bin's start, highest bin's end, lowest score kept,
    "largest": how many of the kept are among the as many largest |W|}
    The bins end four standard deviations from the mean; the outer two hold what lies beyond.
    """
    ranks = ranks.detach().float()
    if not ranks.sum().isfinite():
        ranks = ranks.nan_to_num(0, 0, 0)  # that a run diverged is told by the loop
    kept, (least, most) = int(mask.sum()), map(float, ranks.aminmax())
    mean, spread = float(ranks.mean()), 4 * float(ranks.std(correction=0))
    cut = float(ranks.masked_fill(~mask, math.inf).min()) if kept else most
    low, high = min(cut, max(least, mean - spread)), max(cut, min(most, mean + spread))
    if high - low < 1e-6 * abs(mean) + 1e-30:  # all scores are equal
        low, high = low - 0.5, high + 0.5
    places = ((ranks - low) * (SCORE_BINS / (high - low))).clamp_(0, SCORE_BINS - 1).byte()
    scores = torch.bincount((2 * places + mask).flatten(), minlength=2 * SCORE_BINS)
    return {
        "rows": mask.sum(1).cpu().numpy(), "columns": mask.sum(0).cpu().numpy(),
        "scores": scores.view(SCORE_BINS, 2).cpu().numpy().astype(np.uint32),
        "edges": np.array([low, high, cut], np.float32),
        "largest": int((keep_top_near(weight.detach().abs().cpu(), kept)[0] & mask.cpu()).sum()),
    }


# One safetensors file holds all of a run. It is written anew for each snapshot, under another name
# first: for BERT-base that is a few hundred MB at the end, seconds in a run of hours.
class SnapshotWriter:
    """Writes the snapshots of one run into `path`.

    about: plain values that go into the file (run, model, heads, ...); "heads" is the encoder's
    number of attention heads. A file of another run at that path is replaced.
    """

    def __init__(self, path, **about):
        self.path, self.about = Path(path), about

    def begin(self, steps, density_at, count, done=0):
        """The steps of a run before which masks are to be kept; done: those it goes on after."""
        wanted = snapshot_steps(steps, density_at, count)
        try:
            there = Snapshots(self.path).steps if done else []
        except (OSError, ValueError):
            there = []
        lost = sorted(step for step in wanted if step < done and step not in there)
        if lost:
            print(f"{self.path} has no masks of the steps {', '.join(map(str, lost))}, which an "
                  "earlier session did: the explorer will lack them", flush=True)
        return wanted

    def keep(self, step, masks):
        """Adds the masks as they are before `step`; what the file has of later steps goes.

        masks: the model's `Masks`. Without space, say, the file stays as it was and training goes
        on: a printed line says so.
        """
        draft = self.path.with_name(self.path.name + ".part")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            before, tensors = self.earlier(step, masks)
            tensors |= {f"{step}.{part}": value
                        for part, value in self.describe(step, masks, before).items()}
            save_file(tensors, draft, self.metadata(tensors, masks))
            with open(draft, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(draft, self.path)
        except (OSError, SafetensorError) as error:
            print(f"no snapshot of the masks at step {step:,}: {error}; training goes on",
                  flush=True)
        finally:
            draft.unlink(missing_ok=True)

    def earlier(self, step, masks):
        """(the snapshot before `step` or None, all tensors of steps before it, as they lie)."""
        if not self.path.exists():
            return None, {}
        try:
            saved = Snapshots(self.path)
        except ValueError as error:
            print(f"{error}; the snapshots begin anew", flush=True)
            return None, {}
        steps = [at for at in saved.steps if at < step]
        if saved.about != self.about or saved.matrices != matrix_rows(masks) or not steps:
            return None, {}
        with safe_open(self.path, framework="numpy") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()
                       if int(key.split(".")[0]) < step}
        return (saved, steps[-1]), tensors

    def describe(self, step, masks, before):
        """{part of the tensors' names: array} of one snapshot."""
        parts, found, counts = {}, [], []
        ranks = masks.rankings()
        for name, _, _, linear in masks.matrices:
            mask = masks.masks[name].mask
            weight = linear.parametrizations.weight.original
            found.append(mask_numbers(mask, ranks[name], weight))
            mask = mask.cpu().numpy()
            parts[f"mask.{name}"] = encode_mask(mask)
            again = int((before[0].mask(before[1], name) & mask).sum()) if before else 0
            counts.append([again, found[-1]["largest"]])
        sides = np.min_scalar_type(max(side for row in matrix_rows(masks) for side in row[3]))
        for part in ("rows", "columns"):
            parts[part] = np.concatenate([numbers[part] for numbers in found]).astype(sides)
        for part in ("scores", "edges"):
            parts[part] = np.stack([numbers[part] for numbers in found])
        return parts | {"counts": np.array(counts, np.int64)}

    def metadata(self, tensors, masks):
        steps = sorted({int(key.split(".")[0]) for key in tensors})
        told = {"steps": steps, "about": self.about, "matrices": matrix_rows(masks)}
        return {SNAPSHOT_FORMAT: json.dumps(told)}  # one entry: the order of several would vary


def matrix_rows(masks):
    """[[name in the base model, layer, reader's name, [out, in]]] of a model's `Masks`."""
    return [[name, layer, matrix, list(masks.masks[name].mask.shape)]
            for name, matrix, layer, _ in masks.matrices]


def run_snapshots(begun, results, heads=None):
    """The `SnapshotKeeper` of the run whose record was begun: results/snapshots/<name>.safetensors.

    heads: attention heads of the encoder.
    """
    about = {name: begun[name] for name in ("name", "model", "method", "sharing", "density_target")}
    place = Path(results) / "snapshots" / f"{begun['name']}.safetensors"
    return SnapshotWriter(place, heads=heads, **about)
