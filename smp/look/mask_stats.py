"""The numbers behind the figures of masks, as plain arrays."""

import math

import numpy as np

from smp.look.snapshots import Snapshots


def pool_mask(mask: np.ndarray, blocks: int = 64) -> tuple[np.ndarray, int]:
    """Return (share kept in square blocks, their side b), `blocks` of them along the shorter side.

    (out, in) bool -> (⌈out/b⌉, ⌈in/b⌉) float with b = ⌈min(out, in)/blocks⌉; blocks at the right
    and lower edge may be smaller and are averaged over the weights they have.
    """
    mask = np.asarray(mask)
    size = math.ceil(min(mask.shape) / blocks)
    if size == 1:
        return mask.astype(float), 1
    rows, columns = (np.arange(0, side, size) for side in mask.shape)
    kept = np.add.reduceat(np.add.reduceat(mask, columns, 1, dtype=np.int32), rows, 0)
    heights, widths = (np.minimum(size, n - s) for s, n in
                       zip((rows, columns), mask.shape, strict=True))
    return kept / np.outer(heights, widths), size


def window_of(shape: tuple, side: int | None, row: int, column: int) -> tuple[slice, slice]:
    """Return (rows, columns) of a square window near (row, column) that is inside the matrix.

    side: None for the whole matrix.
    """
    side = side or max(shape)
    rows, columns = (slice(start := max(0, min(at, length - side)), min(length, start + side))
                     for at, length in zip((row, column), shape, strict=True))
    return rows, columns


def kept_shares(saved: Snapshots, step: int) -> np.ndarray:
    """Return the share of weights that each matrix keeps, (n_layers, n_types)."""
    return saved.by_layer(saved.parts[step]["kept"] / saved.sizes)


def empty_counts(saved: Snapshots, step: int, part: str) -> np.ndarray:
    """Return the number of empty "rows" or "columns" of each matrix, (n_layers, n_types)."""
    return saved.by_layer((kept == 0).sum() for kept in saved.parts[step][part].values())


# a head's neurons are neighbouring rows of query, key and value, and columns of the output
HEAD_PARTS = {"query": "rows", "key": "rows", "value": "rows", "attention output": "columns"}


def head_shares(saved: Snapshots, step: int) -> dict[str, np.ndarray]:
    """Return {matrix type: share of its weights that each head keeps (n_layers, n_heads)}.

    Empty if the number of heads is unknown or the matrices are not named as in BERT.
    """
    heads, found = saved.about.get("heads"), dict[str, list]()
    for name, _, matrix, shape in saved.matrices if heads else ():
        part = HEAD_PARTS.get(matrix)
        if part and shape[part == "columns"] % heads == 0:
            kept = saved.parts[step][part][name].reshape(heads, -1).sum(1)
            found.setdefault(matrix, []).append(kept * heads / math.prod(shape))
    return {matrix: np.array(shares) for matrix, shares in found.items()}


def mask_churn(saved: Snapshots) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Return (steps of the later snapshot, removed, brought back) of successive snapshots.

    removed: share of the weights kept before; brought back: share of the weights kept now.
    """
    kept = np.array([saved.parts[step]["kept"].sum() for step in saved.steps])
    both = np.array([saved.parts[step]["counts"][:, 0].sum() for step in saved.steps])[1:]
    before, now = kept[:-1], kept[1:]
    return (saved.steps[1:], (before - both) / np.maximum(1, before),
            (now - both) / np.maximum(1, now))


def magnitude_overlap(saved: Snapshots) -> tuple[np.ndarray, np.ndarray]:
    """Return (overlap, by chance) at each step, as shares of the kept weights of all matrices.

    overlap: kept weights that magnitude pruning would keep too; by chance: if masks were random.
    """
    kept = np.array([saved.parts[step]["kept"] for step in saved.steps])  # (steps, matrices)
    largest = np.array([saved.parts[step]["counts"][:, 1] for step in saved.steps])
    total = np.maximum(1, kept.sum(1))
    return largest.sum(1) / total, (kept**2 / saved.sizes).sum(1) / total
