# %% [markdown]
# ## Snapshots: the masks along the way
#
# A mask at the end says what was chosen; how it came about is told by masks on the way. Some two
# dozen of them go into one file while the training runs, closer together where the density falls,
# each with the little that pictures need beside the mask: how many weights every row and column
# keeps, the scores as a histogram, and how many weights are also kept by the snapshot before and
# by size alone. The file is whole at any moment, so it can be looked at while training goes on.

# %%
import json
import math
import os
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

# %%
from smp.maskcode import MOST_WEIGHTS, decode_mask, encode_mask

# %%
from smp.masks import keep_top

# %%
from smp.schedule import density_at

# %%
SNAPSHOT_FORMAT = "smp-snapshots-1"
SCORE_BINS = 64


def snapshot_steps(steps, settings):
    """The steps before which masks are kept, the last one `steps`: settings.n_masks at most.

    Evenly spaced in (share of the density's fall done) + (share of the run done).
    """
    final, fall = settings.density, max(1 - settings.density, 1e-9)
    densities = (density_at(step, steps, final, settings.density_ramp, settings.density_hold)
                 for step in range(steps + 1))
    way = np.array([(1 - v) / fall + step / steps for step, v in enumerate(densities)])
    return set(np.searchsorted(way, np.linspace(way[-1], 0, settings.n_masks)).tolist())

# %%
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
        "largest": int((keep_top(weight.detach().abs(), kept) & mask).sum()),
    }

# %% [markdown]
# One safetensors file holds all of a run. It is written anew for each snapshot, under another name
# first: for BERT-base that is a few hundred MB at the end, seconds in a run of hours.

# %%
class SnapshotKeeper:
    """Writes the snapshots of one run into `path`.

    about: plain values that go into the file (run, model, heads, ...); "heads" is the encoder's
    number of attention heads. A file of another run at that path is replaced.
    """

    def __init__(self, path, **about):
        self.path, self.about = Path(path), about

    def begin(self, steps, settings, done=0):
        """The steps of a run before which masks are to be kept; done: those it goes on after."""
        wanted = snapshot_steps(steps, settings)
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
        for name, _, _, linear in masks.places:
            mask = masks.masks[name].mask
            weight = linear.parametrizations.weight.original
            found.append(mask_numbers(mask, masks.ranking(name), weight))
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
            for name, layer, matrix, _ in masks.places]

def run_snapshots(begun, results, heads=None):
    """The `SnapshotKeeper` of the run whose record was begun: results/snapshots/<name>.safetensors.

    heads: attention heads of the encoder.
    """
    about = {name: begun[name] for name in ("name", "model", "method", "sharing", "density_target")}
    place = Path(results) / "snapshots" / f"{begun['name']}.safetensors"
    return SnapshotKeeper(place, heads=heads, **about)

# %%
class Snapshots:
    """What the file of a `SnapshotKeeper` holds: all but the masks in memory, these when asked for.

    steps: rising; matrices: as `matrix_rows`; about: what the keeper was given. Raises ValueError
    or FileNotFoundError, one line, for a file that is damaged, of something else or not there.
    """

    def __init__(self, path):
        self.path = Path(path)
        try:
            with safe_open(self.path, framework="numpy") as file:
                self.read(file)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{path}: no snapshots there; a training with masks writes them, the first at once"
            ) from None
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError,
                RecursionError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ValueError(f"{path} is not a snapshot file of this project: {reason}") from None

    def read(self, file):
        metadata = file.metadata() or {}
        if SNAPSHOT_FORMAT not in metadata:
            raise ValueError(f"its metadata do not say {SNAPSHOT_FORMAT}")
        told = json.loads(metadata[SNAPSHOT_FORMAT])
        self.about, self.matrices, self.steps = told["about"], told["matrices"], told["steps"]
        whole = isinstance(self.steps, list) and all(type(step) is int for step in self.steps)
        if not whole or not self.steps or self.steps != sorted(set(self.steps)):
            raise ValueError(f"its steps are {str(self.steps)[:40]}, expected rising numbers")
        heads = self.about.get("heads")
        if heads is not None and (type(heads) is not int or heads < 1):
            raise ValueError(f"heads is {str(heads)[:40]}, expected a whole number from 1")
        for row in self.matrices:
            name, layer, matrix, (out, wide) = row
            kinds = [type(part) for part in (name, layer, matrix, out, wide)]
            size = out * wide if kinds == [str, int, str, int, int] and min(out, wide) > 0 else 0
            if not 0 < size <= MOST_WEIGHTS:
                raise ValueError(f"a matrix is {str(row)[:80]}, expected name, layer, type, shape")
        self.names = [row[0] for row in self.matrices]
        self.shapes = {name: tuple(shape) for name, _, _, shape in self.matrices}
        if len(self.shapes) < max(1, len(self.matrices)):
            raise ValueError("it has no matrix, or two of one name")
        self.weights = sum(math.prod(shape) for shape in self.shapes.values())
        self.parts = {step: self.read_numbers(file, step) for step in self.steps}

    def read_numbers(self, file, step):
        """{part: array} of a snapshot, all but the masks; ValueError where a shape is wrong."""
        n, (outs, wides) = len(self.names), np.array(list(self.shapes.values())).T
        wanted = {"rows": (outs.sum(),), "columns": (wides.sum(),), "counts": (n, 2),
                  "scores": (n, SCORE_BINS, 2), "edges": (n, 3)}
        parts = {part: file.get_tensor(f"{step}.{part}") for part in wanted}
        for part, shape in wanted.items():
            kinds = "f" if part == "edges" else "ui"
            if parts[part].shape != shape or parts[part].dtype.kind not in kinds:
                raise ValueError(f"{step}.{part} is {parts[part].dtype} {parts[part].shape}, "
                                 f"expected {tuple(map(int, shape))}")
        if not np.isfinite(parts["edges"]).all() or not (np.diff(parts["edges"][:, :2]) > 0).all():
            raise ValueError(f"{step}.edges are no edges of a histogram")
        for part, sides in (("rows", outs), ("columns", wides)):
            pieces = np.split(parts[part].astype(np.int64), np.cumsum(sides)[:-1])
            parts[part] = dict(zip(self.names, pieces, strict=True))
        parts["kept"] = np.array([rows.sum() for rows in parts["rows"].values()])
        for name, (out, wide) in self.shapes.items():
            rows, columns = parts["rows"][name], parts["columns"][name]
            if rows.max() > wide or columns.max() > out or rows.sum() != columns.sum():
                raise ValueError(f"the rows and columns of {name} at step {step} do not agree")
        return parts

    def mask(self, step, name):
        """bool (out, in); ValueError where it is damaged or not what its row counts say."""
        try:
            with safe_open(self.path, framework="numpy") as file:
                code = file.get_tensor(f"{step}.mask.{name}")
            mask = decode_mask(code, self.shapes[name])
        except (SafetensorError, OSError, ValueError) as error:
            raise ValueError(f"{self.path}: the mask of {name} at step {step}: {error}") from None
        if (mask.sum(1) != self.parts[step]["rows"][name]).any():
            raise ValueError(f"{self.path}: the mask of {name} at step {step} is of another file")
        return mask

    def layers(self, step):
        """[{"layer", "matrix", "kept", "total"}], as `Masks.layers` has them."""
        return [{"layer": layer, "matrix": matrix, "kept": int(kept), "total": math.prod(shape)}
                for (_, layer, matrix, shape), kept in zip(self.matrices, self.parts[step]["kept"])]

    def density(self, step):
        """Share of all masked weights that is kept."""
        return int(self.parts[step]["kept"].sum()) / self.weights
