"""Snapshots: the masks along the way.

A mask at the end says what was chosen; how it came about is told by masks on the way. Some two
dozen of them go into one file while the training runs, closer together where the density falls,
each with the little that pictures need beside the mask: how many weights every row and column
keeps, the scores as a histogram, and how many weights are also kept by the snapshot before and
by size alone. The file is whole at any moment, so it can be looked at while training goes on.
"""

import json
import math
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from smp.model.mask_code import MOST_WEIGHTS, decode_mask

SNAPSHOT_FORMAT = "smp-snapshots-1"
SCORE_BINS = 64


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
