"""Views of one mask: in blocks, down to single weights, at several steps, and of two masks."""

import math

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from smp.look.mask_figures import Selection, compared, extremes, overview, scores, turnover
from smp.look.snapshots import HEAD_SIDES, Snapshots
from smp.plotting import INK, ORANGE, View, place_axes, tidy_axes
from smp.text import as_percent


def pool_mask(mask: np.ndarray, blocks: int = 64) -> tuple[np.ndarray, int]:
    """Return (share kept in square blocks, their side b), `blocks` of them along the shorter side.

    (out, in) bool -> (⌈out/b⌉, ⌈in/b⌉) float with b = ⌈min(out, in)/blocks⌉; blocks at the right
    and lower edge may be smaller and are averaged over the weights they have.
    """
    size = math.ceil(min(mask.shape) / blocks)
    rows, columns = (np.arange(0, side, size) for side in mask.shape)
    kept = np.add.reduceat(np.add.reduceat(mask, columns, 1, dtype=np.int32), rows, 0)
    heights, widths = (np.minimum(size, side - starts) for side, starts in
                       zip(mask.shape, (rows, columns)))
    return kept / np.outer(heights, widths), size


def window_of(shape: tuple, side: int | None = None, row: int = 0,
              column: int = 0) -> tuple[slice, slice]:
    """Return (rows, columns) of a square window near (row, column) that is inside the matrix.

    side: None for the whole matrix.
    """
    side = side or max(shape)
    rows, columns = (slice(start := max(0, min(at, length - side)), min(length, start + side))
                     for at, length in zip((row, column), shape, strict=True))
    return rows, columns


def draw_panels(panels: dict[str, tuple], blocks: int = 128) -> tuple[Figure, str]:
    """Draw windows of masks, {title: (mask (out, in), window)}, and return (figure, explanation).

    blocks: number along the shorter side, at most that of weights. Wide matrices are stacked.
    """
    ratio = max((rows.stop - rows.start) / (columns.stop - columns.start)
                for _, (rows, columns) in panels.values())
    n, stacked = len(panels), ratio <= 1 / 2
    wide = 5.6 if stacked else min(3.4, 7 / n - 0.12, 4.2 / ratio)
    tall, right = wide * ratio, 0.7 + (1 if stacked else n) * (wide + 0.12)
    fig = Figure((right + 0.8, 0.6 + (n if stacked else 1) * (tall + 0.45)), dpi=110)
    for i, (title, (mask, (rows, columns))) in enumerate(panels.items()):
        across, below = (0, n - 1 - i) if stacked else (i, 0)
        ax = place_axes(fig, 0.7 + across * (wide + 0.12), 0.5 + below * (tall + 0.45), wide, tall)
        shares, size = pool_mask(mask[rows, columns], blocks)
        edges = (columns.start - 0.5, columns.stop - 0.5, rows.stop - 0.5, rows.start - 0.5)
        image = ax.imshow(shares, cmap="cividis", norm=PowerNorm(0.5, 0, 1), extent=edges,
                          interpolation="nearest")  # square root: 3% differs visibly from 0
        tidy_axes(ax, title, grid=False)
        ax.set(xticks=[columns.start, columns.stop - 1], yticks=[rows.start, rows.stop - 1])
        ax.tick_params(labelleft=across == 0, labelbottom=across + below == 0)
    fig.axes[0].set_ylabel("output neuron (row)", fontsize=9, color=INK)
    fig.axes[-1 if stacked else 0].set_xlabel("input feature (column)", fontsize=9, color=INK)
    bar = fig.colorbar(image, cax=place_axes(fig, right, 0.5, 0.14, max(tall, 1.3)),
                       ticks=(0, 0.03, 0.1, 0.25, 0.5, 1), format=lambda part, _: as_percent(part))
    bar.set_label(f"kept in a block of {size} × {size}" if size > 1 else "kept", fontsize=9)
    bar.outline.set_visible(False)
    return fig, "A point is one weight; kept weights are yellow." if size == 1 else (
        f"A point is a block of {size} × {size} weights, brighter if it keeps more.")


def head_sentence(one: Selection) -> str:
    """Return a sentence about the heads of an attention matrix that keep most and least, or ""."""
    _, layer, kind, shape = one.saved.matrices[one.saved.names.index(one.name)]
    if kind not in (shares := one.saved.head_shares(one.step)):
        return ""
    own = shares[kind][one.saved.layers.index(layer)]
    size = shape[HEAD_SIDES[kind] == "columns"] // len(own)
    names = [f"head {head} ({HEAD_SIDES[kind]} {head * size:,} to {(head + 1) * size - 1:,})"
             for head in range(len(own))]
    return f" At step {one.step:,}, {extremes(own, names, as_percent)}."


def plot_strip(saved: Snapshots, name: str, blocks: int = 64, most: int = 5) -> View:
    """Draw one matrix at up to `most` steps, first and last included. Raises ValueError."""
    if name not in saved.names:
        raise ValueError(f"no matrix {name!r}; expected one of: {', '.join(saved.names)}")
    places = np.linspace(0, len(saved.steps) - 1, min(most, len(saved.steps))).round().astype(int)
    masks = {saved.steps[place]: saved.mask(saved.steps[place], name) for place in places}
    last, shape = Selection(saved, saved.steps[-1], name), saved.shapes[name]
    fig, point = draw_panels({f"step {step:,}\n{as_percent(mask.mean())}": (mask, window_of(shape))
                              for step, mask in masks.items()}, blocks)
    return View(fig, (
        f"{last.matrix} ({shape[0]:,} × {shape[1]:,}) keeps "
        f"{', '.join(as_percent(mask.mean()) for mask in masks.values())} of its weights at these "
        f"steps. {point}{head_sentence(last)}"))


def matrix(a: Selection, b: Selection | None = None) -> View:
    """Draw one matrix, and a window of it down to single weights; with B, the weights of both."""
    mask = a.saved.mask(a.step, a.name)
    rows, columns = window = window_of(mask.shape, a.side, a.row, a.column)
    place = (f"rows {rows.start:,} to {rows.stop - 1:,} and columns {columns.start:,} to "
             f"{columns.stop - 1:,}")
    if b:
        other = b.saved.mask(b.step, b.name)
        parts = {"in A and B": mask & other, "only in A": mask & ~other, "only in B": other & ~mask}
        fig, point = draw_panels({f"kept {title}": (part, window) for title, part in parts.items()})
        counts = ", ".join(f"{title} {part[window].sum():,}" for title, part in parts.items())
        return View(fig, f"{compared(a, b)}. {a.matrix}, {place}: weights kept {counts}. {point}")
    empty = [f"{(a.numbers(side) == 0).sum():,} {side}" for side in ("rows", "columns")]
    words = (f"{a.matrix} ({mask.shape[0]:,} × {mask.shape[1]:,}) at step {a.step:,}: "
             f"{mask.sum():,} of {mask.size:,} weights are kept ({as_percent(mask.mean())}); "
             f"{' and '.join(empty)} are empty.")
    panels = {f"{a.matrix}, step {a.step:,}": (mask, window_of(mask.shape))}
    if a.side:
        panels[place.replace(" and ", "\n")] = (mask, window)
        words += f" In {place}, {mask[window].sum():,} of {mask[window].size:,} are kept."
    fig, point = draw_panels(panels)
    if a.side:
        fig.axes[0].add_patch(Rectangle(
            (columns.start, rows.start), columns.stop - columns.start, rows.stop - rows.start,
            fill=False, edgecolor=ORANGE, linewidth=1.5))
    return View(fig, f"{words} {point}")


VIEWS = {"overview": overview, "one matrix": matrix, "scores": scores, "over the run": turnover}
