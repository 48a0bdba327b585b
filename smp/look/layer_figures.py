"""What is seen of the masks.

Six views of a run's snapshots, each a picture and a caption that says in words what is seen. Two
moments can be compared, A and B: two steps of a run, or two runs.
"""

import math

import numpy as np
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure

from smp.look.drawing import (
    SnapshotView,
    as_points,
    blank_figure,
    change_scale,
    colour_bar,
    draw_table,
    place_axes,
)
from smp.look.mask_stats import empty_counts, head_shares, kept_shares
from smp.plotting import INK, tidy_axes
from smp.text import as_percent


def cell_name(table, layers, types, pick) -> str:
    """'layer 3, query': the cell that `pick` (np.nanargmin, np.nanargmax) finds."""
    i, j = np.unravel_index(pick(table), table.shape)
    return f"layer {layers[i]}, {types[j]}"


def layers_figure(sight: SnapshotView) -> tuple[Figure, str]:
    """Share of the weights that each layer keeps of each type of matrix."""
    table, layers, types = kept_shares(sight.saved.layers(sight.spot.step))
    tall = 0.32 * len(layers)
    fig = blank_figure(8.6, tall + 1.15)
    ax, bar = place_axes(fig, 0.75, 0.7, 6.7, tall), place_axes(fig, 7.6, 0.7, 0.15, tall)
    names = [name.replace(" ", "\n") for name in types]
    sides = [f"layer {layer}" for layer in layers]
    if sight.other:
        table = kept_shares(sight.b.saved.layers(sight.other_step))[0] - table
        image = draw_table(ax, table, sides, names, as_points, change_scale(table, 0.01), "PuOr")
        colour_bar(fig, bar, image, "B − A, percentage points", as_points)
        title = "Where B keeps more than A (violet), and where less (orange)"
        words = (
            f"{sight.both}. Percentage points by which B keeps more of a matrix: from "
            f"{as_points(np.nanmin(table))} in {cell_name(table, layers, types, np.nanargmin)} to "
            f"{as_points(np.nanmax(table))} in {cell_name(table, layers, types, np.nanargmax)}."
        )
    else:
        low, high = np.nanmin(table), np.nanmax(table)
        equal = high - low < 5e-4  # k = ⌊v·n⌋ rounds a little differently in each shape
        image = draw_table(ax, table, sides, names, lambda v: f"{100 * v:.1f}%",
                           Normalize(0, 1 if equal else high))
        colour_bar(fig, bar, image, "weights kept")
        title = f"Step {sight.spot.step:,}: {as_percent(sight.density)} of the weights are kept"
        kept = sight.saved.parts[sight.spot.step]["kept"].sum()
        words = f"At step {sight.spot.step:,} the encoder keeps {kept:,} of its "
        words += f"{sight.saved.weights:,} masked weights, {as_percent(sight.density)}. "
        words += "Every matrix keeps the same share." if equal else (
            f"Least is left of {cell_name(table, layers, types, np.nanargmin)} "
            f"({as_percent(low)}), most of {cell_name(table, layers, types, np.nanargmax)} "
            f"({as_percent(high)})."
        )
    tidy_axes(ax, title, grid=False)
    return fig, words


def heads_figure(sight: SnapshotView) -> tuple[Figure, str]:
    """Share of the weights that each attention head keeps of query, key, value and output."""
    shares = head_shares(sight.saved, sight.spot.step)
    if not shares:
        fig = blank_figure(8.6, 1.0)
        return fig, ("Heads cannot be told apart here: their number is not in the file, or the "
                     "matrices are not named query, key, value and attention output.")
    if sight.other:
        then = head_shares(sight.other, sight.other_step)
        shares = {matrix: then[matrix] - share for matrix, share in shares.items()}
    every = np.array(list(shares.values()))
    parts, layers, heads = every.shape
    tall, wide = max(1.6, 0.22 * layers), 6.85 / parts
    fig = blank_figure(8.6, tall + 1.2)
    norm = change_scale(every, 0.01) if sight.other else Normalize(0, every.max() or 1)
    some = range(0, heads, math.ceil(heads / 6))
    for number, (matrix, share) in enumerate(shares.items()):
        ax = place_axes(fig, 0.75 + number * wide, 0.55, wide - 0.15, tall)
        image = draw_table(ax, share, [] if number else [f"layer {n}" for n in range(layers)],
                           [head if head in some else "" for head in range(heads)], None, norm,
                           "PuOr" if sight.other else "cividis")
        tidy_axes(ax, matrix, grid=False)
        ax.set_xlabel("head", fontsize=9, color=INK, labelpad=14)
    bar = place_axes(fig, 0.75 + parts * wide, 0.55, 0.15, tall)
    mean = every.mean(0)  # the four parts of a head are of one size
    low, high = (np.unravel_index(pick(mean), mean.shape) for pick in (np.argmin, np.argmax))
    named = [f"head {head} of layer {layer}" for layer, head in (low, high)]
    if sight.other:
        colour_bar(fig, bar, image, "B − A, percentage points", as_points)
        words = (f"{sight.both}. Over its {parts} parts together, {named[0]} changes by "
                 f"{as_points(mean[low])} percentage points and {named[1]} by "
                 f"{as_points(mean[high])}.")
    else:
        colour_bar(fig, bar, image, "weights kept")
        gone = int((every.max(0) == 0).sum())
        words = (
            f"Step {sight.spot.step:,}: the {heads} attention heads of each layer, in query, key "
            f"and value (rows of the matrix) and in the attention's output (columns). Of its "
            f"{parts} parts together, {named[0]} keeps least, {as_percent(mean[low])}, and "
            f"{named[1]} most, {as_percent(mean[high])}. "
            f"{gone} of the {layers * heads} heads have lost every weight."
        )
    return fig, words


def as_count(value: float) -> str:
    """3.0 -> 3; nothing for 0, so that what is there stands out."""
    return f"{value:.0f}" if value else ""


def as_change(value: float) -> str:
    return f"{value:+.0f}".replace("-", "−") if value else ""


def empty_figure(sight: SnapshotView) -> tuple[Figure, str]:
    """How many rows and columns of each matrix have lost every weight."""
    tables, sums = {}, {}
    for part in ("rows", "columns"):
        table, layers, types = empty_counts(sight.saved, sight.spot.step, part)
        sums[part] = [int(np.nansum(table))]
        if sight.other:
            then = empty_counts(sight.other, sight.other_step, part)[0]
            sums[part].append(int(np.nansum(then)))
            table = then - table
        tables[part] = table
    tall = 0.32 * len(layers)
    fig = blank_figure(8.6, tall + 1.15)
    titles = {"rows": "empty rows: neurons that only give their bias",
              "columns": "empty columns: inputs that nobody reads"}
    for number, (part, table) in enumerate(tables.items()):
        ax = place_axes(fig, 0.75 + 3.9 * number, 0.7, 3.75, tall)
        norm = change_scale(table, 1) if sight.other else PowerNorm(
            0.5, 0, max(1, max(np.nanmax(t) for t in tables.values())))
        form = as_change if sight.other else as_count
        draw_table(ax, table, [] if number else [f"layer {n}" for n in layers],
                   [name.replace(" ", "\n") for name in types], form, norm,
                   "PuOr" if sight.other else "cividis")
        tidy_axes(ax, titles[part], grid=False)
    sides = np.array(list(sight.saved.shapes.values())).sum(0)
    if sight.other:
        words = (f"{sight.both}. Wholly empty rows: {sums['rows'][0]:,} in A, "
                 f"{sums['rows'][1]:,} in B; columns: {sums['columns'][0]:,} and "
                 f"{sums['columns'][1]:,}. Each cell is B − A.")
    else:
        words = (
            f"Step {sight.spot.step:,}: {sums['rows'][0]:,} of {sides[0]:,} rows of the matrices "
            f"are wholly empty: whatever comes in, such a neuron gives its bias. So are "
            f"{sums['columns'][0]:,} of {sides[1]:,} columns: no neuron of the matrix reads that "
            "input. Both could be cut out of the model without a change to its answers."
        )
    return fig, words
