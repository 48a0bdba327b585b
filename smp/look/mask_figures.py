"""Figures of one matrix and of the run, also of A and B: each returns the figure and a caption."""

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from smp.look.drawing import (
    LARGEST_SINGLE,
    Selection,
    blank_figure,
    colour_bar,
    compared,
    draw_mask,
    draw_weights,
    place_axes,
)
from smp.look.layer_figures import empty_figure, heads_figure, layers_figure
from smp.look.mask_stats import magnitude_overlap, mask_churn, window_of
from smp.look.snapshots import SCORE_BINS
from smp.plotting import BLUE, FAINT, INK, ORANGE, RED, tidy_axes
from smp.text import as_percent

GREY = "#8C8C8C"


def draw_kinds(title: str, parts: dict, window: tuple[slice, slice]) -> Figure:
    """Draw single weights in one colour for each of the parts, {title: bool (out, in)}."""
    colours = dict(zip(("in neither", *parts), (FAINT, INK, ORANGE, BLUE)))
    kinds = sum(number * part[window] for number, part in enumerate(parts.values(), 1))
    fig = blank_figure(8.6, 4.3)
    ax = place_axes(fig, 0.75, 0.5, 3.3, 3.3)
    draw_weights(ax, kinds, window, ListedColormap(list(colours.values())))
    tidy_axes(ax, title, "input feature (column)", "output neuron (row)", grid=False)
    ax.legend(handles=[Patch(color=colour, label=label) for label, colour in colours.items()],
              loc="upper left", bbox_to_anchor=(1.03, 1), frameon=False, fontsize=9.5,
              labelcolor=INK)
    return fig


def draw_panels(panels: dict, end: str = "") -> tuple[Figure, str]:
    """Draw masks side by side in blocks, {title: (mask, window)}. -> (figure, what a point is)"""
    fig = blank_figure(8.6, 4.3)
    ratios = [mask[window].shape[1] / mask[window].shape[0] for mask, window in panels.values()]
    left, gap = 0.75, 0.55
    tall = min(3.3, (6.6 - gap * (len(panels) - 1)) / sum(ratios))
    for ratio, (title, (mask, window)) in zip(ratios, panels.items()):
        ax = place_axes(fig, left, 0.5 + (3.3 - tall) / 2, tall * ratio, tall)
        left += tall * ratio + gap
        kept = as_percent(mask[window].mean())
        image, size = draw_mask(ax, mask, window, f"{title}: {kept}{end}")
    fig.axes[0].set_ylabel("output neuron (row)", fontsize=9, color=INK)
    fig.axes[0].set_xlabel("input feature (column)", fontsize=9, color=INK)
    block = "one weight a point" if size == 1 else f"kept in a block of {size} × {size}"
    colour_bar(image, (left - gap + 0.2, 0.5, 0.15, 3.3), block)
    return fig, (
        " Every point is one weight: yellow is kept, dark blue is not." if size == 1 else
        f" Every point is a block of {size} × {size} weights, the brighter the more of it.")


def matrix_figure(a: Selection, b: Selection | None = None) -> tuple[Figure, str]:
    """Draw one matrix in blocks, and a window of it down to single weights."""
    mask = a.saved.mask(a.step, a.name)
    window = rows, columns = window_of(mask.shape, a.side, a.row, a.column)
    name = f"{a.matrix} ({mask.shape[0]:,} × {mask.shape[1]:,})"
    if b:
        other = b.saved.mask(b.step, b.name)
        parts = {"kept in both": mask & other, "only in A": mask & ~other,
                 "only in B": other & ~mask}
        counts = {title: int(part[window].sum()) for title, part in parts.items()}
        share = as_percent(counts["kept in both"] / max(1, sum(counts.values())))
        words = (f"{compared(a, b)}. {name}{', in the window' if a.side else ''}: "
                 + ", ".join(f"{count:,} {title}" for title, count in counts.items())
                 + f"; {share} of what either keeps is in both.")
        if a.side and a.side <= LARGEST_SINGLE:
            return (draw_kinds(f"{a.matrix}: single weights", parts, window),
                    words + " Every square is one weight.")
        fig, point = draw_panels({title: (part, window) for title, part in parts.items()})
        return fig, words + point
    empty_rows, empty_columns = ((a.numbers(part) == 0).sum() for part in ("rows", "columns"))
    words = (f"{name} at step {a.step:,}: {mask.sum():,} of {mask.size:,} weights are kept, "
             f"{as_percent(mask.mean())}; {empty_rows:,} rows and {empty_columns:,} columns are "
             "wholly empty.")
    panels = {a.matrix: (mask, window_of(mask.shape, None, 0, 0))}
    if a.side:
        panels[f"the {a.side} × {a.side} window"] = (mask, window)
        words += (f" In the window, rows {rows.start:,} to {rows.stop - 1:,} and columns "
                  f"{columns.start:,} to {columns.stop - 1:,}, {mask[window].sum():,} of "
                  f"{mask[window].size:,}.")
    fig, point = draw_panels(panels, " kept")
    if a.side:
        fig.axes[0].add_patch(Rectangle(
            (columns.start, rows.start), columns.stop - columns.start, rows.stop - rows.start,
            fill=False, edgecolor=ORANGE, linewidth=1.5))
    return fig, words + point


def scores_figure(a: Selection, b: Selection | None = None) -> tuple[Figure, str]:
    """Draw the histogram of one matrix's scores, kept and removed, with the cut between them."""
    fig = blank_figure(8.6, 3.6)
    ax = place_axes(fig, 0.85, 0.55, 7.5, 2.65)
    low, high, cut = map(float, a.numbers("edges"))
    removed, kept = a.numbers("scores").T
    edges = np.linspace(low, high, SCORE_BINS + 1)
    ax.stairs(removed + kept, edges, fill=True, color=GREY, alpha=0.6, label="removed")
    ax.stairs(kept, edges, fill=True, color=ORANGE, label="kept")
    ax.axvline(cut, color=INK, linewidth=1.4)
    ax.annotate(f"the cut, {cut:.3g}", (cut, 0.98), xycoords=("data", "axes fraction"),
                xytext=(5, 0), textcoords="offset points", va="top", fontsize=9, color=INK)
    total = removed.sum() + kept.sum()
    words = (
        f"{a.matrix} at step {a.step:,}: {kept.sum():,} of {total:,} weights have a score of at "
        f"least {cut:.3g}, the cut, and are kept ({as_percent(kept.sum() / total)}). The outermost "
        "bars hold all that lies beyond.")
    if b:
        low, high, cut = map(float, b.numbers("edges"))
        ax.stairs(b.numbers("scores").sum(1), np.linspace(low, high, SCORE_BINS + 1),
                  color=BLUE, linewidth=1.6, label="B, all")
        ax.axvline(cut, color=BLUE, linewidth=1.4, linestyle="--", label="B, the cut")
        words = f"{compared(a, b)}. {words} In B the cut is at {cut:.3g}."
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    ax.legend(fontsize=9, frameon=False, labelcolor=INK)
    tidy_axes(ax, f"{a.matrix}: its scores" + " in A, and in B" * bool(b), "score", "weights")
    return fig, words


def run_figure(a: Selection, b: Selection | None = None) -> tuple[Figure, str]:
    """Draw how much the masks change between snapshots, and their overlap with magnitude."""
    fig = blank_figure(8.6, 3.6)
    left, right = (place_axes(fig, at, 0.55, 3.45, 2.5) for at in (0.75, 4.95))
    runs = [("", a.saved, "-")]
    if b and b.saved.path != a.saved.path:
        runs = [("A: ", a.saved, "-"), ("B: ", b.saved, "--")]
    for run, saved, line in runs:
        steps, removed, returned = mask_churn(saved)
        overlap, chance = magnitude_overlap(saved)
        for ax, x, y, colour, marker, label in (
            (left, steps, removed, RED, "o", "removed, of those kept before"),
            (left, steps, returned, BLUE, "s", "brought back, of those kept now"),
            (right, saved.steps, overlap, BLUE, "o", "also among the largest"),
            (right, saved.steps, chance, GREY, None, "by chance: the density"),
        ):
            ax.plot(x, y, line, color=colour, marker=marker, markersize=3, linewidth=1.5,
                    label=run + label)
    _, removed, returned = mask_churn(a.saved)
    overlap, chance = magnitude_overlap(a.saved)
    for ax in (left, right):
        ax.axvline(a.step, color=INK, linewidth=0.8, linestyle=":")
        ax.yaxis.set_major_formatter(lambda value, _: as_percent(value))
        ax.legend(fontsize=8, frameon=False, labelcolor=INK)
    left.set_ylim(0, max(0.01, 1.35 * max([0.0, *removed, *returned])))
    right.set_ylim(0, 1.04)
    tidy_axes(left, "Weights that changed since the last snapshot", "step", "share")
    tidy_axes(right, "Kept weights that size would keep too", "step")
    now = a.saved.steps.index(a.step)
    words = f"At step {a.step:,} (density {as_percent(a.saved.density(a.step))}), "
    if now:
        words += (f"{as_percent(removed[now - 1])} of the weights kept at step "
                  f"{a.saved.steps[now - 1]:,} are gone, and {as_percent(returned[now - 1])} of "
                  "those kept now were not there then. ")
    return fig, words + (
        f"{as_percent(overlap[now])} of the kept weights are also what magnitude pruning would "
        "keep at this density, the largest |W| of their matrix; by chance it would be "
        f"{as_percent(chance[now])}.")


FIGURES = {
    "layers": layers_figure, "one matrix": matrix_figure, "heads": heads_figure,
    "empty rows, columns": empty_figure, "scores": scores_figure, "over the run": run_figure,
}
