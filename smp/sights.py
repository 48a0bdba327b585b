# %% [markdown]
# ## What is seen of the masks
#
# Six views of a run's snapshots, each a picture and a caption that says in words what is seen. Two
# moments can be compared, A and B: two steps of a run, or two runs.

# %%
import io
import math
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap, Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

# %%
from smp.pictures import BLUE, FAINT, INK, ORANGE, RED, tidy_axes

# %%
from smp.results import as_percent

# %%
from smp.snapshots import SCORE_BINS, Snapshots

# %%
from smp.views import (
    compare_masks,
    empty_counts,
    head_shares,
    kept_shares,
    magnitude_overlap,
    mask_churn,
    pool_mask,
    window_of,
)

# %%
@dataclass(frozen=True)
class Spot:
    """Where one looks: a step, a matrix, and a square window of it (side None: all of it)."""

    step: int
    name: str
    side: int | None = None
    row: int = 0
    column: int = 0


@dataclass(frozen=True)
class Sight:
    """What is drawn: a run's snapshots at a spot, and, to compare, others at another step."""

    saved: Snapshots
    spot: Spot
    other: Snapshots | None = None
    other_step: int = 0

    @property
    def matrix(self):
        """layer 3, query"""
        _, layer, matrix, _ = self.saved.matrices[self.saved.names.index(self.spot.name)]
        return f"layer {layer}, {matrix}"

    @property
    def b(self):
        """The other one, as a Sight of its own."""
        return Sight(self.other, replace(self.spot, step=self.other_step))

    @property
    def both(self):
        """"A is step 10 (95% kept), B step 250 (10% kept)", with the runs where they differ."""
        names = [""] * 2
        if self.other.path != self.saved.path:
            names = [f" of the {word} run" for word in ("first", "other")]
        a, b = (f"step {sight.spot.step:,}{name} ({as_percent(sight.density)} kept)"
                for sight, name in zip((self, self.b), names))
        return f"A is {a}, B is {b}"

    @property
    def density(self):
        return self.saved.density(self.spot.step)

    def numbers(self, part):
        """Of this step and matrix: an array or row of what `Snapshots.parts` has."""
        found = self.saved.parts[self.spot.step][part]
        return found[self.spot.name if part in ("rows", "columns") else
                     self.saved.names.index(self.spot.name)]

    def mask(self):
        return self.saved.mask(self.spot.step, self.spot.name)

# %% [markdown]
# Figures are drawn without pyplot and without automatic layout: both take longer than the drawing.

# %%
GREY = "#8C8C8C"
SHARE_SCALE = PowerNorm(0.5, 0, 1)  # square root, so that 3% is still told from nothing
SHARE_TICKS = (0, 0.03, 0.1, 0.25, 0.5, 1)


def blank_figure(width: float, height: float) -> Figure:
    """A figure of that many inches, unknown to pyplot, so that nothing is shown twice."""
    fig = Figure(figsize=(width, height), dpi=110)
    FigureCanvasAgg(fig)
    return fig


def place_axes(fig, left, bottom, width, height):
    """Axes with their corner and size in inches."""
    across, down = fig.get_size_inches()
    return fig.add_axes((left / across, bottom / down, width / across, height / down))


def colour_bar(fig, ax, image, label, form=as_percent, ticks=None):
    bar = fig.colorbar(image, cax=ax, ticks=ticks, format=lambda value, _: form(value))
    bar.set_label(label, fontsize=9, color=INK)
    ax.tick_params(labelsize=8.5, colors=INK)
    bar.outline.set_visible(False)


def as_points(difference: float) -> str:
    """-0.123 -> −12.3, in percentage points."""
    return f"{100 * difference:+.1f}".replace("-", "−")

# %% [markdown]
# ### Tables of colours: layers, heads, empty rows and columns

# %%
def draw_table(ax, table, rows, columns, form, norm, colours="cividis"):
    """A heat map with names beside and below, and `form` of each value in its cell. -> the image

    rows, columns: names, "" for none. Plain texts: matplotlib's ticks take four times as long.
    """
    image = ax.imshow(table, cmap=colours, norm=norm, aspect="auto")
    for (i, j), value in np.ndenumerate(table) if form else ():
        if not np.isnan(value) and form(value):
            red, green, blue, _ = image.cmap(image.norm(value))
            dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
            ax.text(j, i, form(value), ha="center", va="center", fontsize=8.5,
                    color="white" if dark else "black")
    tall, wide = table.shape
    ax.hlines(np.arange(tall - 1) + 0.5, -0.5, wide - 0.5, "white", linewidth=1)
    ax.vlines(np.arange(wide - 1) + 0.5, -0.5, tall - 0.5, "white", linewidth=1)
    ax.set(xticks=[], yticks=[])
    across, down = ax.get_position().size * ax.figure.get_size_inches()  # in inches
    for i, name in enumerate(rows):
        ax.text(-0.06 / across, i, name, ha="right", va="center", fontsize=8.5, color=INK,
                transform=ax.get_yaxis_transform())
    for j, name in enumerate(columns):
        ax.text(j, -0.06 / down, name, ha="center", va="top", color=INK,
                fontsize=8.5 if across > 0.8 * wide else 7, transform=ax.get_xaxis_transform())
    return image


def change_scale(change, least):
    """Symmetric around 0, so that white is no change."""
    far = max(least, float(np.nanmax(np.abs(change))))
    return Normalize(-far, far)


def cell_name(table, layers, types, pick) -> str:
    """'layer 3, query': the cell that `pick` (np.nanargmin, np.nanargmax) finds."""
    i, j = np.unravel_index(pick(table), table.shape)
    return f"layer {layers[i]}, {types[j]}"


def see_layers(sight: Sight) -> tuple[Figure, str]:
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


# %%
def see_heads(sight: Sight) -> tuple[Figure, str]:
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


# %%
def as_count(value: float) -> str:
    """3.0 -> 3; nothing for 0, so that what is there stands out."""
    return f"{value:.0f}" if value else ""


def as_change(value: float) -> str:
    return f"{value:+.0f}".replace("-", "−") if value else ""


def see_empty(sight: Sight) -> tuple[Figure, str]:
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

# %% [markdown]
# ### One matrix, down to single weights

# %%
SINGLE = 128  # points along a picture's shorter side; a window no larger shows single weights


def draw_weights(ax, values, window, colours, norm=None):
    """An array over a window of a matrix, with the window's numbers as ticks. -> the image"""
    rows, columns = window
    edges = (columns.start - 0.5, columns.stop - 0.5, rows.stop - 0.5, rows.start - 0.5)
    image = ax.imshow(values, cmap=colours, norm=norm, extent=edges, interpolation="nearest")
    ax.set(xticks=[columns.start, columns.stop - 1], yticks=[rows.start, rows.stop - 1])
    if max(values.shape) <= 32:  # lines between single weights
        ax.hlines(np.arange(rows.start, rows.stop - 1) + 0.5, *edges[:2], "white", linewidth=0.6)
        ax.vlines(np.arange(columns.start, columns.stop - 1) + 0.5, *edges[2:], "white",
                  linewidth=0.6)
    return image


def draw_mask(ax, mask, window, title, blocks=SINGLE):
    """A mask, bool (out, in), or a window of it, pooled to blocks. -> (image, block's side)"""
    shares, size = pool_mask(mask[window], blocks)
    image = draw_weights(ax, shares, window, "cividis", SHARE_SCALE)
    tidy_axes(ax, title, grid=False)
    return image, size


def panel_boxes(shapes, left, bottom, width, height, gap=0.55):
    """[(left, bottom, width, height)] in inches of panels side by side, each of its (out, in)."""
    tall = min(height, (width - gap * (len(shapes) - 1)) / sum(wide / out for out, wide in shapes))
    boxes = []
    for out, wide in shapes:
        boxes.append((left, bottom + (height - tall) / 2, tall * wide / out, tall))
        left += tall * wide / out + gap
    return boxes


def in_words(sight, parts, window) -> str:
    """How many of the matrix's weights, or of a window of it, are in both, only in A, only in B."""
    counts = {title: int(part[window].sum()) for title, part in parts.items()}
    share = counts["kept in both"] / max(1, sum(counts.values()))
    out, wide = sight.saved.shapes[sight.spot.name]
    where = ", in the window" if sight.spot.side else ""
    return (f"{sight.both}. {sight.matrix} ({out:,} × {wide:,}){where}: "
            + ", ".join(f"{count:,} {title}" for title, count in counts.items())
            + f"; {as_percent(share)} of what either keeps is in both.")


def see_difference(sight, parts, window) -> tuple[Figure, str]:
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
    return fig, in_words(sight, parts, window) + " Every square is one weight."


def see_matrix(sight: Sight) -> tuple[Figure, str]:
    """One matrix as a picture, pooled to the screen, and a window of it down to single weights."""
    mask, spot = sight.mask(), sight.spot
    window = window_of(mask.shape, spot.side, spot.row, spot.column)
    whole = window_of(mask.shape, None, 0, 0)
    if sight.other:
        parts = compare_masks(mask, sight.b.mask())
        if spot.side and spot.side <= SINGLE:
            return see_difference(sight, parts, window)
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
        words = in_words(sight, parts, window)
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

# %% [markdown]
# ### Scores and the cut; the masks over the run

# %%
def see_scores(sight: Sight) -> tuple[Figure, str]:
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


# %%
def see_run(sight: Sight) -> tuple[Figure, str]:
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

# %%
VIEWS = {
    "layers": see_layers, "one matrix": see_matrix, "heads": see_heads,
    "empty rows, columns": see_empty, "scores": see_scores, "over the run": see_run,
}


def png_bytes(fig) -> bytes:
    file = io.BytesIO()
    fig.savefig(file, format="png", pil_kwargs={"compress_level": 1})
    return file.getvalue()
