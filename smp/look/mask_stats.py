"""What a mask shows.

Each view of the masks is computed here, as plain arrays and a sentence that says what is seen;
how it is drawn is another matter.

A mask has more weights than a screen has points. So we show blocks: each point is the share of
the weights kept in one square block, which is what a camera from further away would see. Rows
of a matrix are its output neurons, columns its input features; those that stay dark are neurons
and features the task does without.
"""

import math

import numpy as np


def pool_mask(mask: np.ndarray, blocks: int = 64) -> tuple[np.ndarray, int]:
    """(share kept in square blocks, their side b), `blocks` of them along the shorter side.

    (out, in) bool -> (⌈out/b⌉, ⌈in/b⌉) float with b = ⌈min(out, in)/blocks⌉; blocks at the right
    and lower edge may be smaller and are averaged over what they have.
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
    """(rows, columns) of a square window that begins near (row, column), inside the matrix.

    side: None for all of it.
    """
    if side is None:
        return slice(0, shape[0]), slice(0, shape[1])
    return tuple(slice(start := max(0, min(at, n - side)), min(n, start + side))
                 for at, n in zip((row, column), shape, strict=True))


# Layer by layer, and type of matrix by type: what is kept, what is wholly empty, and how the
# heads of the attention fare. Query, key and value have a head's neurons as neighbouring rows; in
# the attention's output the same neurons are the columns.
def by_layer(rows: list, values) -> tuple[np.ndarray, list[int], list[str]]:
    """(values (n_layers, n_types), NaN where there is none; layer numbers; types of matrix).

    rows: (layer, type) of each value.
    """
    layers = sorted({layer for layer, _ in rows})
    types = list(dict.fromkeys(matrix for _, matrix in rows))
    table = np.full((len(layers), len(types)), np.nan)
    for (layer, matrix), value in zip(rows, values, strict=True):
        table[layers.index(layer), types.index(matrix)] = value
    return table, layers, types


def kept_shares(layers: list[dict]) -> tuple[np.ndarray, list[int], list[str]]:
    """`by_layer` of the share that each matrix keeps; layers: as `Masks.layers` has them."""
    return by_layer([(entry["layer"], entry["matrix"]) for entry in layers],
                    [entry["kept"] / entry["total"] for entry in layers])


def empty_counts(saved, step: int, part: str) -> tuple[np.ndarray, list[int], list[str]]:
    """`by_layer` of the number of wholly empty "rows" or "columns" of each matrix."""
    return by_layer([(layer, matrix) for _, layer, matrix, _ in saved.matrices],
                    [int((kept == 0).sum()) for kept in saved.parts[step][part].values()])

HEAD_PARTS = {"query": "rows", "key": "rows", "value": "rows", "attention output": "columns"}


def head_shares(saved, step: int) -> dict[str, np.ndarray]:
    """{type of matrix: share of its weights that each head keeps (n_layers, n_heads)}.

    Empty where the number of heads is unknown or the matrices are not named as in BERT.
    """
    heads, found = saved.about.get("heads"), {}
    for name, _, matrix, shape in saved.matrices if heads else ():
        part = HEAD_PARTS.get(matrix)
        if part is None or shape[part == "columns"] % heads:
            continue
        kept = saved.parts[step][part][name].reshape(heads, -1).sum(1)
        found.setdefault(matrix, []).append(kept * heads / math.prod(shape))
    return {matrix: np.array(shares) for matrix, shares in found.items()}


# Over the run: how many of the kept weights changed from one snapshot to the next, and how many
# of them the size of the weights alone would have chosen.
def mask_churn(saved, name: str | None = None) -> tuple[list[int], np.ndarray, np.ndarray]:
    """(steps, removed, brought back) from each snapshot to the next, of one matrix or of all.

    removed: share of the weights kept before that are gone; brought back: share of the weights
    kept now that were gone before. The steps are those of the later snapshots.
    """
    some = slice(None) if name is None else saved.names.index(name)
    kept = np.array([saved.parts[step]["kept"][some].sum() for step in saved.steps])
    both = np.array([saved.parts[step]["counts"][some, 0].sum() for step in saved.steps])[1:]
    before, now = kept[:-1], kept[1:]
    return (saved.steps[1:], (before - both) / np.maximum(1, before),
            (now - both) / np.maximum(1, now))


def magnitude_overlap(saved, name: str | None = None) -> tuple[list[int], np.ndarray, np.ndarray]:
    """(steps, overlap, by chance): the share of the kept weights that are also among the as many
    largest of their matrix, and what it were if the kept ones were drawn at random."""
    some = slice(None) if name is None else saved.names.index(name)
    sizes = np.array([math.prod(shape) for shape in saved.shapes.values()])[some]
    overlap, chance = [], []
    for step in saved.steps:
        kept = saved.parts[step]["kept"][some]
        total = max(1, kept.sum())
        overlap.append(saved.parts[step]["counts"][some, 1].sum() / total)
        chance.append((kept**2 / sizes).sum() / total)
    return saved.steps, np.array(overlap), np.array(chance)


def compare_masks(a: np.ndarray, b: np.ndarray) -> dict[str, np.ndarray]:
    """{"kept in both", "only in A", "only in B": bool (out, in)} of two masks of one shape."""
    return {"kept in both": a & b, "only in A": a & ~b, "only in B": b & ~a}
