"""What is seen of the masks.

Six views of a run's snapshots, each a picture and a caption that says in words what is seen. Two
moments can be compared, A and B: two steps of a run, or two runs.
"""

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from smp.look.drawing import (
    GREY,
    LARGEST_SINGLE,
    SHARE_TICKS,
    SnapshotView,
    blank_figure,
    colour_bar,
    draw_mask,
    draw_weights,
    panel_boxes,
    place_axes,
)
from smp.look.layer_figures import empty_figure, heads_figure, layers_figure
from smp.look.mask_stats import compare_masks, magnitude_overlap, mask_churn, window_of
from smp.look.snapshots import SCORE_BINS
from smp.plotting import BLUE, FAINT, INK, ORANGE, RED, tidy_axes
from smp.text import as_percent


def overlap_caption(sight, parts, window) -> str:
    """How many of the matrix's weights, or of a window of it, are in both, only in A, only in B."""
    counts = {title: int(part[window].sum()) for title, part in parts.items()}
    share = counts["kept in both"] / max(1, sum(counts.values()))
    out, wide = sight.saved.shapes[sight.spot.name]
    where = ", in the window" if sight.spot.side else ""
    return (f"{sight.both}. {sight.matrix} ({out:,} × {wide:,}){where}: "
            + ", ".join(f"{count:,} {title}" for title, count in counts.items())
            + f"; {as_percent(share)} of what either keeps is in both.")


def difference_figure(sight, parts, window) -> tuple[Figure, str]:
    """Single weights of two masks in four colours; parts: as `compare_masks` gives them."""
    colours = dict(zip(("in neither", *parts), (FAINT, INK, ORANGE, BLUE)))
    kinds = sum(number * part[window] for number, part in enumerate(parts.values(), 1))
    fig = blank_figure(8.6, 4.3)
    ax = place_axes(fig, 0.75, 0.5, 3.3, 3.3)
    draw_weights(ax, kinds, window, ListedColormap(list(colours.values())))
    tidy_axes(ax, f"{sight.matrix}: single weights", "input feature (column)",
              "output neuron (row)", grid=False)
    ax.legend(handles=[Patch(color=colour, label=title) for title, colour in colours.items()],
              loc="upper left", bbox_to_anchor=(1.03, 1), frameon=False, fontsize=9.5,
              labelcolor=INK)
    return fig, overlap_caption(sight, parts, window) + " Every square is one weight."


def matrix_figure(sight: SnapshotView) -> tuple[Figure, str]:
    """One matrix as a picture, pooled to the screen, and a window of it down to single weights."""
    mask, spot = sight.mask(), sight.spot
    window = window_of(mask.shape, spot.side, spot.row, spot.column)
    whole = window_of(mask.shape, None, 0, 0)
    if sight.other:
        parts = compare_masks(mask, sight.b.mask())
        if spot.side and spot.side <= LARGEST_SINGLE:
            return difference_figure(sight, parts, window)
        panels = {title: (part, window) for title, part in parts.items()}
    else:
        panels = {sight.matrix: (mask, whole)}
        if spot.side:
            panels[f"the {spot.side} × {spot.side} window"] = (mask, window)
    shapes = [part[where].shape for part, where in panels.values()]
    fig = blank_figure(8.6, 4.3)
    boxes = panel_boxes(shapes, 0.75, 0.5, 6.6, 3.3)
    for box, (title, (part, where)) in zip(boxes, panels.items()):
        ax = place_axes(fig, *box)
        kept = f": {as_percent(part[where].mean())}" + " kept" * (not sight.other)
        image, size = draw_mask(ax, part, where, title + kept)
        if where is whole and spot.side:
            rows, columns = window
            ax.add_patch(Rectangle(
                (columns.start, rows.start), columns.stop - columns.start, rows.stop - rows.start,
                fill=False, edgecolor=ORANGE, linewidth=1.5))
    fig.axes[0].set_ylabel("output neuron (row)", fontsize=9, color=INK)
    fig.axes[0].set_xlabel("input feature (column)", fontsize=9, color=INK)
    block = "one weight a point" if size == 1 else f"kept in a block of {size} × {size}"
    left, _, width, _ = boxes[-1]
    beside = place_axes(fig, left + width + 0.2, 0.5, 0.15, 3.3)
    colour_bar(fig, beside, image, block, ticks=SHARE_TICKS)
    if sight.other:
        words = overlap_caption(sight, parts, window)
    else:
        (out, wide), kept = mask.shape, mask[window]
        rows, columns = ((sight.numbers(part) == 0).sum() for part in ("rows", "columns"))
        words = (
            f"{sight.matrix} ({out:,} × {wide:,}) at step {spot.step:,}: {mask.sum():,} of "
            f"{mask.size:,} weights are kept, {as_percent(mask.mean())}; {rows:,} rows and "
            f"{columns:,} columns are wholly empty."
        )
        if spot.side:
            words += (f" In the window, rows {window[0].start:,} to {window[0].stop - 1:,} and "
                      f"columns {window[1].start:,} to {window[1].stop - 1:,}, {kept.sum():,} of "
                      f"{kept.size:,}.")
    words += (" Every point is one weight: yellow is kept, dark blue is not." if size == 1 else
              f" Every point is a block of {size} × {size} weights, the brighter the more of it.")
    return fig, words


# ### Scores and the cut; the masks over the run
def scores_figure(sight: SnapshotView) -> tuple[Figure, str]:
    """The scores of one matrix as a histogram, kept and removed, with the cut between."""
    fig = blank_figure(8.6, 3.6)
    ax = place_axes(fig, 0.85, 0.55, 7.5, 2.65)
    low, high, cut = map(float, sight.numbers("edges"))
    removed, kept = sight.numbers("scores").T
    edges = np.linspace(low, high, SCORE_BINS + 1)
    ax.stairs(removed + kept, edges, fill=True, color=GREY, alpha=0.6, label="removed")
    ax.stairs(kept, edges, fill=True, color=ORANGE, label="kept")
    ax.axvline(cut, color=INK, linewidth=1.4)
    ax.annotate(f"the cut, {cut:.3g}", (cut, 0.98), xycoords=("data", "axes fraction"),
                xytext=(5, 0), textcoords="offset points", va="top", fontsize=9, color=INK)
    if sight.other:
        b_low, b_high, b_cut = map(float, sight.b.numbers("edges"))
        ax.stairs(sight.b.numbers("scores").sum(1), np.linspace(b_low, b_high, SCORE_BINS + 1),
                  color=BLUE, linewidth=1.6, label="B, all")
        ax.axvline(b_cut, color=BLUE, linewidth=1.4, linestyle="--", label="B, the cut")
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    ax.legend(fontsize=9, frameon=False, labelcolor=INK)
    tidy_axes(ax, f"{sight.matrix}: its scores" + " in A, and in B" * bool(sight.other),
              "score", "weights")
    total = removed.sum() + kept.sum()
    words = (
        f"{sight.matrix} at step {sight.spot.step:,}: {kept.sum():,} of {total:,} weights have a "
        f"score of at least {cut:.3g}, the cut, and are kept ({as_percent(kept.sum() / total)}). "
        "The outermost bars hold all that lies beyond."
    )
    if sight.other:
        words = f"{sight.both}. {words} In B the cut is at {b_cut:.3g}."
    return fig, words


def run_figure(sight: SnapshotView) -> tuple[Figure, str]:
    """How much the masks change between snapshots, and how far size alone would have done."""
    fig = blank_figure(8.6, 3.6)
    left, right = (place_axes(fig, at, 0.55, 3.45, 2.5) for at in (0.75, 4.95))
    runs = [("", sight.saved, "-")]
    if sight.other and sight.other.path != sight.saved.path:
        runs = [("A: ", sight.saved, "-"), ("B: ", sight.other, "--")]
    for run, saved, line in runs:
        steps, removed, returned = mask_churn(saved)
        left.plot(steps, removed, line, color=RED, marker="o", markersize=3, linewidth=1.5,
                  label=f"{run}removed, of those kept before")
        left.plot(steps, returned, line, color=BLUE, marker="s", markersize=3, linewidth=1.5,
                  label=f"{run}brought back, of those kept now")
        steps, overlap, chance = magnitude_overlap(saved)
        right.plot(steps, overlap, line, color=BLUE, marker="o", markersize=3, linewidth=1.5,
                   label=f"{run}also among the largest")
        right.plot(steps, chance, line, color=GREY, linewidth=1.5,
                   label=f"{run}by chance: the density")
    steps, removed, returned = mask_churn(sight.saved)
    for ax in (left, right):
        ax.axvline(sight.spot.step, color=INK, linewidth=0.8, linestyle=":")
        ax.yaxis.set_major_formatter(lambda value, _: as_percent(value))
        ax.legend(fontsize=8, frameon=False, labelcolor=INK)
    left.set_ylim(0, max(0.01, 1.35 * max([0.0, *removed, *returned])))
    right.set_ylim(0, 1.04)
    tidy_axes(left, "Weights that changed since the last snapshot", "step", "share")
    tidy_axes(right, "Kept weights that size would keep too", "step")
    _, overlap, chance = magnitude_overlap(sight.saved)
    now = sight.saved.steps.index(sight.spot.step)
    words = f"At step {sight.spot.step:,} (density {as_percent(sight.density)}), "
    if now:
        words += (f"{as_percent(removed[now - 1])} of the weights kept at step "
                  f"{sight.saved.steps[now - 1]:,} are gone, and {as_percent(returned[now - 1])} "
                  "of those kept now were not there then. ")
    words += (f"{as_percent(overlap[now])} of the kept weights are also what magnitude pruning "
              "would keep at this density, the largest |W| of their matrix; by chance it would be "
              f"{as_percent(chance[now])}.")
    return fig, words

FIGURES = {
    "layers": layers_figure, "one matrix": matrix_figure, "heads": heads_figure,
    "empty rows, columns": empty_figure, "scores": scores_figure, "over the run": run_figure,
}
