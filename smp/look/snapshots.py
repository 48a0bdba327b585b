"""The snapshot file: the masks of a run at some of its steps, read and validated.

For each step and matrix it contains the mask (see smp/model/mask_code.py), the kept weights of each
row and column, the shares of 32 x 32 blocks, and a histogram of the scores. It also contains the
numbers of kept weights that the last snapshot and magnitude pruning also keep.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from smp.files import check_regular
from smp.model.mask_code import decode_mask
from smp.text import as_percent, first_line, is_number

SNAPSHOT_FORMAT = "smp-snapshots-2"
SCORE_BINS, GRID = 64, 32
LARGEST_SHOWN = 2**26  # weights of a matrix; in a mask file it may have more, MOST_WEIGHTS
# the neurons of a head are neighbouring rows of query, key and value, and columns of the output
HEAD_SIDES = {"query": "rows", "key": "rows", "value": "rows", "attention output": "columns"}


class Snapshots:
    """The file of a `SnapshotWriter`, in memory except for the masks, which `mask` reads.

    steps: rising; matrices: see `matrix_rows`; about: the writer's values; parts: {step: {part:
    array}}. Raises ValueError for a damaged or foreign file, FileNotFoundError for a missing one.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        try:
            check_regular(self.path)
            with safe_open(self.path, framework="numpy") as file:
                self.read_file(file)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{path}: no snapshots there; a training with masks writes them, the first at once"
            ) from None
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError,
                RecursionError) as error:
            raise ValueError(
                f"{path} is not a snapshot file of this project: {first_line(error)}") from None

    def read_file(self, file: Any) -> None:
        """Read everything except the masks. Raises ValueError (and others) for invalid content."""
        metadata = file.metadata() or {}
        if SNAPSHOT_FORMAT not in metadata:
            raise ValueError(f"its format is not {SNAPSHOT_FORMAT}")
        held = json.loads(metadata[SNAPSHOT_FORMAT])
        self.about, self.matrices, self.steps = held["about"], held["matrices"], held["steps"]
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
            if not 0 < size <= LARGEST_SHOWN:
                raise ValueError(f"a matrix is {str(row)[:80]}, expected name, layer, type, shape")
        self.names = [row[0] for row in self.matrices]
        self.layers = sorted({layer for _, layer, _, _ in self.matrices})
        self.types = list(dict.fromkeys(matrix for _, _, matrix, _ in self.matrices))
        self.shapes = {name: tuple(shape) for name, _, _, shape in self.matrices}
        if len(self.shapes) < max(1, len(self.matrices)):
            raise ValueError("it has no matrix, or two of one name")
        self.sizes = np.array([math.prod(shape) for shape in self.shapes.values()])
        self.weights = int(self.sizes.sum())
        self.parts = {step: self.read_step(file, step) for step in self.steps}

    def read_step(self, file: Any, step: int) -> dict:
        """Return {part: array} of a snapshot without its masks. Raises ValueError."""
        n, (outs, wides) = len(self.names), np.array(list(self.shapes.values())).T
        shapes = {"rows": (outs.sum(),), "columns": (wides.sum(),), "counts": (n, 2),
                  "scores": (n, SCORE_BINS, 2), "edges": (n, 3), "grid": (n, GRID, GRID)}
        parts = {part: file.get_tensor(f"{step}.{part}") for part in shapes}
        for part, shape in shapes.items():
            kinds = "f" if part == "edges" else "ui"
            if parts[part].shape != shape or parts[part].dtype.kind not in kinds:
                raise ValueError(f"{step}.{part} is {parts[part].dtype} {parts[part].shape}, "
                                 f"expected {tuple(map(int, shape))}")
        if not np.isfinite(parts["edges"]).all() or not (np.diff(parts["edges"][:, :2]) > 0).all():
            raise ValueError(f"{step}.edges are not the edges of a histogram")
        for part, sides in (("rows", outs), ("columns", wides)):
            pieces = np.split(parts[part].astype(np.int64), np.cumsum(sides)[:-1])
            parts[part] = dict(zip(self.names, pieces, strict=True))
        for name, (out, wide) in self.shapes.items():
            rows, columns = parts["rows"][name], parts["columns"][name]
            if rows.max() > wide or columns.max() > out or rows.sum() != columns.sum():
                raise ValueError(f"the rows and columns of {name} at step {step} do not agree")
        parts["kept"] = np.array([rows.sum() for rows in parts["rows"].values()])
        return parts

    def mask(self, step: int, name: str) -> np.ndarray:
        """Return a mask, bool (out, in). Raises ValueError unless it fits its row counts."""
        try:
            with safe_open(self.path, framework="numpy") as file:
                code = file.get_tensor(f"{step}.mask.{name}")
            mask = decode_mask(code, self.shapes[name])
        except (SafetensorError, OSError, ValueError) as error:
            raise ValueError(f"{self.path}: the mask of {name} at step {step}: {error}") from None
        if (mask.sum(1) != self.parts[step]["rows"][name]).any():
            raise ValueError(f"{self.path}: the mask of {name} at step {step} is of another file")
        return mask

    def density(self, step: int) -> float:
        """Return the share of all masked weights that is kept."""
        return int(self.parts[step]["kept"].sum()) / self.weights

    def empty(self, step: int, part: str) -> int:
        """Return the number of empty "rows" or "columns" of all matrices."""
        return sum(int((kept == 0).sum()) for kept in self.parts[step][part].values())

    def heads_of(self, kind: str, shape: tuple[int, int]) -> int:
        """Return the number of heads of a matrix; 0 if it has none, or if they are unknown."""
        heads, side = self.about.get("heads") or 0, HEAD_SIDES.get(kind)
        return heads if heads and side and shape[side == "columns"] % heads == 0 else 0

    def head_counts(self, step: int) -> list[int]:
        """Return the kept weights of all heads, in the order of matrices and heads."""
        counts = []
        for name, _, kind, shape in self.matrices:
            if heads := self.heads_of(kind, shape):
                kept = self.parts[step][HEAD_SIDES[kind]][name]
                counts += kept.reshape(heads, -1).sum(1).tolist()
        return counts

    @property
    def title(self) -> str:
        """The run in words: "all-MiniLM-L6-v2, SMP-L, 10%"."""
        words = (self.about.get("model"), self.about.get("label"), self.about.get("density_target"))
        return ", ".join(as_percent(word) if is_number(word) else str(word)
                         for word in words if word is not None) or self.path.name
