"""Figures of all matrices at one step A, or of B − A: each returns the figure and its caption."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from smp.look.drawing import Selection, blank_figure, colour_bar, compared, place_axes
from smp.look.mask_stats import empty_counts, head_shares, kept_shares
from smp.plotting import INK, tidy_axes
from smp.text import as_percent


def as_points(difference: float) -> str:
    """Format a difference of shares in percentage points: -0.123 -> −12.3."""
    return f"{100 * difference:+.1f}".replace("-", "−")


def change_scale(change: np.ndarray, least: float) -> Normalize:
    """Return a scale that is symmetric around 0, so that white is no change."""
    far = max(least, float(np.nanmax(np.abs(change))))
    return Normalize(-far, far)


def draw_table(ax: Any, table: np.ndarray, layers: Sequence[int], columns: Sequence, norm: Any,
               form: Callable[[float], str] = lambda value: "") -> AxesImage:
    """Draw a heat map with form(value) in each cell; a scale with negatives is orange to violet."""
    image = ax.imshow(table, cmap="PuOr" if norm.vmin < 0 else "cividis", norm=norm, aspect="auto")
    for (i, j), value in np.ndenumerate(table):
        if not np.isnan(value) and form(value):
            red, green, blue, _ = image.cmap(norm(value))
            dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
            ax.text(j, i, form(value), ha="center", va="center", fontsize=8.5,
                    color="white" if dark else "black")
    tall, wide = table.shape
    ax.hlines(np.arange(tall - 1) + 0.5, -0.5, wide - 0.5, "white", linewidth=1)
    ax.vlines(np.arange(wide - 1) + 0.5, -0.5, tall - 0.5, "white", linewidth=1)
    ax.set(xticks=[], yticks=[])  # plain texts instead: ticks take four times as long
    across, down = ax.get_position().size * ax.figure.get_size_inches()
    for i, layer in enumerate(layers):
        ax.text(-0.06 / across, i, f"layer {layer}", ha="right", va="center", fontsize=8.5,
                color=INK, transform=ax.get_yaxis_transform())
    for j, name in enumerate(columns):
        ax.text(j, -0.06 / down, str(name).replace(" ", "\n"), ha="center", va="top", color=INK,
                fontsize=8.5 if across > 0.8 * wide else 7, transform=ax.get_xaxis_transform())
    return image


def layers_figure(a: Selection, b: Selection | None = None) -> tuple[Figure, str]:
    """Draw the share of the weights that each layer keeps of each matrix type."""
    layers, types, table = a.saved.layers, a.saved.types, kept_shares(a.saved, a.step)
    if b:
        table = kept_shares(b.saved, b.step) - table
    low, high = np.nanmin(table), np.nanmax(table)
    least, most = (f"layer {layers[cell // len(types)]}, {types[cell % len(types)]}"
                   for cell in (np.nanargmin(table), np.nanargmax(table)))
    tall = 0.32 * len(layers)
    fig = blank_figure(8.6, tall + 1.15)
    ax, box = place_axes(fig, 0.75, 0.7, 6.7, tall), (7.6, 0.7, 0.15, tall)
    if b:
        image = draw_table(ax, table, layers, types, change_scale(table, 0.01), as_points)
        colour_bar(image, box, "B − A, percentage points", as_points)
        title = "Where B keeps more than A (violet), and where less (orange)"
        words = (f"{compared(a, b)}. Percentage points by which B keeps more of a matrix: from "
                 f"{as_points(low)} in {least} to {as_points(high)} in {most}.")
    else:
        equal = high - low < 5e-4  # k = ⌊v·n⌋ rounds a little differently in each shape
        image = draw_table(ax, table, layers, types, Normalize(0, 1 if equal else high),
                           lambda share: f"{100 * share:.1f}%")
        colour_bar(image, box, "weights kept")
        kept, density = a.saved.parts[a.step]["kept"].sum(), as_percent(a.saved.density(a.step))
        title = f"Step {a.step:,}: {density} of the weights are kept"
        words = (f"At step {a.step:,} the encoder keeps {kept:,} of its {a.saved.weights:,} masked "
                 f"weights, {density}. ")
        words += "Every matrix keeps the same share." if equal else (
            f"Least is left of {least} ({as_percent(low)}), most of {most} ({as_percent(high)}).")
    tidy_axes(ax, title, grid=False)
    return fig, words


def heads_figure(a: Selection, b: Selection | None = None) -> tuple[Figure, str]:
    """Draw the share of the weights that each head keeps of query, key, value and output."""
    shares = head_shares(a.saved, a.step)
    if not shares:
        return blank_figure(8.6, 1.0), (
            "Heads cannot be told apart here: their number is not in the file, or the matrices "
            "are not named query, key, value and attention output.")
    if b:
        then = head_shares(b.saved, b.step)
        shares = {matrix: then[matrix] - share for matrix, share in shares.items()}
    every = np.array(list(shares.values()))
    parts, layers, heads = every.shape
    tall, wide = max(1.6, 0.22 * layers), 6.85 / parts
    fig = blank_figure(8.6, tall + 1.2)
    norm = change_scale(every, 0.01) if b else Normalize(0, every.max() or 1)
    step = math.ceil(heads / 6)
    for number, (matrix, share) in enumerate(shares.items()):
        ax = place_axes(fig, 0.75 + number * wide, 0.55, wide - 0.15, tall)
        image = draw_table(ax, share, [] if number else range(layers),
                           ["" if head % step else head for head in range(heads)], norm)
        tidy_axes(ax, matrix, grid=False)
        ax.set_xlabel("head", fontsize=9, color=INK, labelpad=14)
    mean = every.mean(0)  # the four parts of a head are of one size
    low, high = (divmod(int(cell), heads) for cell in (mean.argmin(), mean.argmax()))
    least, most = (f"head {head} of layer {layer}" for layer, head in (low, high))
    colour_bar(image, (0.75 + parts * wide, 0.55, 0.15, tall),
               *(("B − A, percentage points", as_points) if b else ("weights kept",)))
    if b:
        return fig, (
            f"{compared(a, b)}. Over its {parts} parts together, {least} changes by "
            f"{as_points(mean[low])} percentage points and {most} by {as_points(mean[high])}.")
    return fig, (
        f"Step {a.step:,}: the {heads} attention heads of each layer, in query, key and value "
        f"(rows of the matrix) and in the attention's output (columns). Of its {parts} parts "
        f"together, {least} keeps least, {as_percent(mean[low])}, and {most} most, "
        f"{as_percent(mean[high])}. {int((every.max(0) == 0).sum())} of the {layers * heads} heads "
        "have lost every weight.")


def empty_figure(a: Selection, b: Selection | None = None) -> tuple[Figure, str]:
    """Draw how many rows and columns of each matrix have lost every weight."""
    parts = ("rows", "columns")
    tables = [empty_counts(a.saved, a.step, part) for part in parts]
    sums = [int(np.nansum(table)) for table in tables]
    if b:
        then = [empty_counts(b.saved, b.step, part) for part in parts]
        then_sums = [int(np.nansum(table)) for table in then]
        tables = [after - table for after, table in zip(then, tables)]
    most, sign = max(1, *map(np.nanmax, tables)), "+" if b else ""
    tall = 0.32 * len(a.saved.layers)
    fig = blank_figure(8.6, tall + 1.15)
    for number, (table, title) in enumerate(zip(tables, (
            "empty rows: neurons that only give their bias",
            "empty columns: inputs that nobody reads"))):
        ax = place_axes(fig, 0.75 + 3.9 * number, 0.7, 3.75, tall)
        draw_table(ax, table, [] if number else a.saved.layers, a.saved.types,
                   change_scale(table, 1) if b else PowerNorm(0.5, 0, most),
                   lambda count: f"{count:{sign}.0f}".replace("-", "−") if count else "")
        tidy_axes(ax, title, grid=False)
    if b:
        return fig, (
            f"{compared(a, b)}. Wholly empty rows: {sums[0]:,} in A, {then_sums[0]:,} in B; "
            f"columns: {sums[1]:,} and {then_sums[1]:,}. Each cell is B − A.")
    rows, columns = np.array(list(a.saved.shapes.values())).sum(0)
    return fig, (
        f"Step {a.step:,}: {sums[0]:,} of {rows:,} rows of the matrices are wholly empty: whatever "
        f"comes in, such a neuron gives its bias. So are {sums[1]:,} of {columns:,} columns: no "
        "neuron of the matrix reads that input. Both could be cut out of the model without a "
        "change to its answers.")
