# %% [markdown]
# ## Look at the masks
#
# Six views of a run's snapshots, each a picture and a caption that says in words what is seen.
# `explore` puts them behind a slider over the steps; `still` draws one of them on paper. Two
# moments can be compared, A and B: two steps of a run, or two runs.

# %%
import base64
import html
import io
import os
import textwrap
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

# %%
from smp.pictures import BLUE, INK, ORANGE, RED, tidy_axes

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
    """A heat map, each cell with its value in words where `form` is given. -> the image"""
    image = ax.imshow(table, cmap=colours, norm=norm, aspect="auto")
    for (i, j), value in np.ndenumerate(table) if form else ():
        if not np.isnan(value):
            red, green, blue, _ = image.cmap(image.norm(value))
            dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
            ax.text(j, i, form(value), ha="center", va="center", fontsize=8.5,
                    color="white" if dark else "black")
    tall, wide = table.shape
    ax.hlines(np.arange(tall - 1) + 0.5, -0.5, wide - 0.5, "white", linewidth=1)
    ax.vlines(np.arange(wide - 1) + 0.5, -0.5, tall - 0.5, "white", linewidth=1)
    ax.set_xticks(range(wide), columns)
    ax.set_yticks(range(tall), rows)
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
    tall, wide = max(1.3, 0.2 * layers), 6.9 / parts
    fig = blank_figure(8.6, tall + 1.05)
    norm = change_scale(every, 0.01) if sight.other else Normalize(0, every.max() or 1)
    for number, (matrix, share) in enumerate(shares.items()):
        ax = place_axes(fig, 0.55 + number * wide, 0.6, wide - 0.18, tall)
        image = draw_table(ax, share, range(layers), range(heads), None, norm,
                           "PuOr" if sight.other else "cividis")
        if number:
            ax.set_yticks([])
        tidy_axes(ax, matrix, "head", "" if number else "layer", grid=False)
    bar = place_axes(fig, 0.55 + parts * wide, 0.6, 0.15, tall)
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
    titles = {"rows": "Empty rows: neurons that only give their bias",
              "columns": "Empty columns: inputs that nobody reads"}
    for number, (part, table) in enumerate(tables.items()):
        ax = place_axes(fig, 0.75 + 3.9 * number, 0.7, 3.75, tall)
        norm = change_scale(table, 1) if sight.other else PowerNorm(
            0.5, 0, max(1, max(np.nanmax(t) for t in tables.values())))
        form = (lambda v: f"{v:+.0f}".replace("-", "−")) if sight.other else (lambda v: f"{v:.0f}")
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
def draw_mask(ax, mask, window, title, blocks=128):
    """A mask, bool (out, in), or a window of it, pooled to blocks. -> (image, block's side)"""
    rows, columns = window
    shares, size = pool_mask(mask[window], blocks)
    edges = (columns.start - 0.5, columns.stop - 0.5, rows.stop - 0.5, rows.start - 0.5)
    image = ax.imshow(shares, cmap="cividis", norm=SHARE_SCALE, extent=edges,
                      interpolation="nearest")
    tidy_axes(ax, title, grid=False)
    ax.set_xticks([columns.start, columns.stop - 1])
    ax.set_yticks([rows.start, rows.stop - 1])
    if max(mask[window].shape) <= 64:  # lines between single weights
        ax.hlines(np.arange(rows.start, rows.stop - 1) + 0.5, *edges[:2], "white", linewidth=0.4)
        ax.vlines(np.arange(columns.start, columns.stop - 1) + 0.5, *edges[2:], "white",
                  linewidth=0.4)
    return image, size


def panel_boxes(shapes, left, bottom, width, height, gap=0.55):
    """[(left, bottom, width, height)] in inches of panels side by side, each of its (out, in)."""
    tall = min(height, (width - gap * (len(shapes) - 1)) / sum(wide / out for out, wide in shapes))
    boxes = []
    for out, wide in shapes:
        boxes.append((left, bottom + (height - tall) / 2, tall * wide / out, tall))
        left += tall * wide / out + gap
    return boxes


def see_matrix(sight: Sight) -> tuple[Figure, str]:
    """One matrix as a picture, pooled to the screen, and a window of it down to single weights."""
    mask, spot = sight.mask(), sight.spot
    window = window_of(mask.shape, spot.side, spot.row, spot.column)
    whole = window_of(mask.shape, None, 0, 0)
    if sight.other:
        panels = {title: (part, window)
                  for title, part in compare_masks(mask, sight.b.mask()).items()}
    else:
        panels = {"the whole matrix": (mask, whole)}
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
    colour_bar(fig, place_axes(fig, 7.6, 0.5, 0.15, 3.3), image, block, ticks=SHARE_TICKS)
    out, wide = mask.shape
    words = f"{sight.matrix} ({out:,} × {wide:,})"
    if sight.other:
        counts = {title: int(part[where].sum()) for title, (part, where) in panels.items()}
        union = max(1, sum(counts.values()))
        words = f"{sight.both}. {words}"
        if spot.side:
            words += ", the window"
        words += ": " + ", ".join(f"{count:,} {title}" for title, count in counts.items())
        words += f"; {as_percent(counts['kept in both'] / union)} of what either keeps is in both."
    else:
        rows, columns = ((sight.numbers(part) == 0).sum() for part in ("rows", "columns"))
        words += (
            f" at step {spot.step:,}: {mask.sum():,} of {mask.size:,} weights are kept, "
            f"{as_percent(mask.mean())}; {rows:,} rows and {columns:,} columns are wholly empty."
        )
        if spot.side:
            kept = mask[window]
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
    words += (f"{as_percent(overlap[now])} of the kept weights are also among the as many largest "
              f"|W| of their matrix, which is what magnitude pruning would keep; by chance it "
              f"would be {as_percent(chance[now])}.")
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


# %% [markdown]
# ### On paper
#
# The picture with its caption below: for those who only read, or have no ipywidgets. And a strip
# of one matrix at several steps.

# %%
def with_caption(fig, words: str):
    """The figure with the caption written below it. -> the figure"""
    wide, tall = fig.get_size_inches()
    lines = textwrap.wrap(words, int(15.5 * wide))
    more = 0.19 * len(lines) + 0.1
    boxes = [(ax, ax.get_position()) for ax in fig.axes]
    fig.set_size_inches(wide, tall + more)
    for ax, box in boxes:
        ax.set_position([box.x0, (box.y0 * tall + more) / (tall + more), box.width,
                         box.height * tall / (tall + more)])
    fig.text(0.1 / wide, (more - 0.08) / (tall + more), "\n".join(lines), va="top", fontsize=9,
             color=INK)
    return fig


def still(saved, view: str = "layers", step: int | None = None, name: str | None = None,
          **window) -> Figure:
    """One of the VIEWS with its caption. saved: `Snapshots`; step: the last one by default; name:
    of the matrix, by default the last layer's first; window: side, row and column of a `Spot`.

    Raises ValueError for a view, step or matrix that is not there.
    """
    last = max(layer for _, layer, _, _ in saved.matrices)
    name = next(row[0] for row in saved.matrices if row[1] == last) if name is None else name
    step = saved.steps[-1] if step is None else step
    for what, value, known in (("view", view, list(VIEWS)), ("step", step, saved.steps),
                               ("matrix", name, saved.names)):
        if value not in known:
            raise ValueError(f"no {what} {value!r}; expected one of: {', '.join(map(str, known))}")
    return with_caption(*VIEWS[view](Sight(saved, Spot(step, name, **window))))

# %%
def plot_masks(saved, name: str, blocks: int = 64, most: int = 5) -> Figure:
    """The mask of one matrix at up to `most` of the snapshots, first and last among them.

    The colours are on a square-root scale, the same in all panels, so that 3% is still told from
    nothing. Raises ValueError for a matrix that is not there.
    """
    if name not in saved.names:
        raise ValueError(f"no matrix {name!r}; expected one of: {', '.join(saved.names)}")
    picked = np.linspace(0, len(saved.steps) - 1, min(most, len(saved.steps))).round().astype(int)
    steps = [saved.steps[i] for i in picked]
    out, wide = saved.shapes[name]
    down = wide >= 2 * out  # wide matrices stand one under the other
    count = len(steps)
    across, tall = (5.4, 5.4 * out / wide) if down else (min(1.75, 3.5 * wide / out), 0)
    tall = tall or across * out / wide
    fig = blank_figure(7.4 if down else 2.0 + count * (across + 0.15),
                       0.9 + (count * (tall + 0.35) if down else tall + 0.35))
    for i, step in enumerate(steps):
        mask = saved.mask(step, name)
        left, bottom = (0.7, 0.55 + (count - 1 - i) * (tall + 0.35)) if down else (
            0.7 + i * (across + 0.15), 0.55)
        ax = place_axes(fig, left, bottom, across, tall)
        kept = f"step {step:,}{': ' if down else chr(10)}{as_percent(mask.mean())} kept"
        image, size = draw_mask(ax, mask, window_of(mask.shape, None, 0, 0), kept, blocks)
        if not down and i:
            ax.set_yticks([])
        if down and i < count - 1:
            ax.set_xticks([])
    ax.set_xlabel("input feature", fontsize=9, color=INK)
    fig.axes[0].set_ylabel("output neuron", fontsize=9, color=INK)
    bar = place_axes(fig, left + across + 0.2, 0.55, 0.12, max(tall, 1.2))
    colour_bar(fig, bar, image, f"kept in a block\nof {size} × {size}", ticks=SHARE_TICKS)
    return fig

# %% [markdown]
# ### The explorer
#
# Widgets from ipywidgets, and the picture as a PNG: that works in JupyterLab, in Notebook 7 and in
# Colab, and what is not moved still shows a picture where a notebook is only read.

# %%
ALL, EACH_STEP = "whole matrix", 700  # milliseconds a step when played
COMPARISONS = ("no comparison", "another step", "the other run")


class Explorer:
    """The widgets of `explore`; the last line of a cell shows them. panel: the outermost one."""

    def __init__(self, path, other=None):
        import ipywidgets as widgets

        self.widgets, self.path = widgets, path
        self.saved, self.other = Snapshots(path), Snapshots(other) if other else None
        if self.other and self.other.matrices != self.saved.matrices:
            raise ValueError(f"{other} is of another encoder than {path}: expected the same "
                             "matrices, in shape and name")
        self.busy, self.words, self.stamp = False, "", self.file_stamp()
        self.make_widgets()
        self.lay_out()
        for control in self.controls:
            control.observe(self.draw, "value")
        self.draw()

    def file_stamp(self):
        return os.stat(self.path).st_mtime_ns

    def make_widgets(self):
        w, saved = self.widgets, self.saved
        wide, narrow = w.Layout(width="26em"), w.Layout(width="15em")
        layers = sorted({layer for _, layer, _, _ in saved.matrices})
        types = list(dict.fromkeys(matrix for _, _, matrix, _ in saved.matrices))
        self.view = w.ToggleButtons(options=list(VIEWS), style={"button_width": "auto"})
        self.step = w.SelectionSlider(options=self.step_options(saved), description="step",
                                      index=len(saved.steps) - 1, layout=wide)
        self.play = w.Play(min=0, max=len(saved.steps) - 1, value=len(saved.steps) - 1,
                           interval=EACH_STEP, show_repeat=False)
        self.layer = w.Dropdown(options=[(f"layer {n}", n) for n in layers], value=layers[-1],
                                layout=narrow)
        self.matrix = w.Dropdown(options=types, layout=narrow)
        ways = COMPARISONS if self.other else COMPARISONS[:2]
        self.compare = w.Dropdown(options=ways, layout=narrow)
        self.other_step = w.SelectionSlider(options=self.step_options(self.other or saved),
                                            description="B is step", layout=wide)
        self.zoom = w.Dropdown(options=[(ALL, None)] + [(f"{n} × {n} weights", n) for n in
                                                        (256, 128, 64, 32, 16)], layout=narrow)
        self.row, self.column = (w.IntSlider(0, 0, 0, description=side, layout=wide)
                                 for side in ("from row", "from column"))
        self.picture = w.Image(format="png", layout=w.Layout(max_width="100%"))
        self.caption = w.HTML()
        w.link((self.play, "value"), (self.step, "index"))
        self.controls = (self.view, self.step, self.layer, self.matrix, self.compare,
                         self.other_step, self.zoom, self.row, self.column)
        for name in ("view", "step", "play", "layer", "matrix", "compare", "other_step", "zoom",
                     "row", "column", "picture", "caption"):
            getattr(self, name).add_class("smp-" + name.replace("_", "-"))

    def lay_out(self):
        w = self.widgets
        self.where = w.HBox([self.layer, self.matrix, self.zoom])
        self.window = w.HBox([self.row, self.column])
        self.comparing = w.HBox([self.compare, self.other_step])
        for box in (self.where, self.window, self.comparing):
            box.layout.flex_flow = "row wrap"
        self.panel = w.VBox([self.view, w.HBox([self.play, self.step]), self.where, self.window,
                             self.comparing, self.picture, self.caption])
        self.panel.add_class("smp-explorer")

    @staticmethod
    def step_options(saved):
        return [(f"{step:,}", step) for step in saved.steps]

    @property
    def name(self):
        """Of the matrix that is picked."""
        picked = [row[0] for row in self.saved.matrices
                  if row[1:3] == [self.layer.value, self.matrix.value]]
        return picked[0] if picked else self.saved.names[0]

    def sight(self):
        """What the controls say."""
        spot = Spot(self.step.value, self.name, self.zoom.value, self.row.value, self.column.value)
        compared = self.compare.value
        if compared == COMPARISONS[0]:
            return Sight(self.saved, spot)
        other = self.other if compared == COMPARISONS[2] else self.saved
        step = self.other_step.value
        return Sight(self.saved, spot, other, step if step in other.steps else other.steps[-1])

    def read_again(self):
        """New snapshots, where training has written some since."""
        if self.stamp != self.file_stamp():
            self.saved, self.stamp, step = Snapshots(self.path), self.file_stamp(), self.step.value
            steps = self.saved.steps
            self.step.options = self.step_options(self.saved)
            self.step.value, self.play.max = (step if step in steps else steps[-1]), len(steps) - 1
            self.offer_steps()

    def offer_steps(self):
        """The steps of the run that is compared with, for B."""
        other = self.other if self.compare.value == COMPARISONS[2] else self.saved
        options, step = self.step_options(other), self.other_step.value
        if tuple(options) != tuple(self.other_step.options):
            self.other_step.options = options
            self.other_step.value = step if step in other.steps else other.steps[-1]

    def show_controls(self):
        """Hides what the view has no use for, and keeps the window inside the matrix."""
        view, shape = self.view.value, self.saved.shapes[self.name]
        at_matrix, zoomed = view == "one matrix", self.zoom.value is not None
        for control, useful in (
            (self.where, view in ("one matrix", "scores")), (self.zoom, at_matrix),
            (self.window, at_matrix and zoomed),
            (self.other_step, self.compare.value != COMPARISONS[0]),
        ):
            control.layout.display = None if useful else "none"
        for slider, side in zip((self.row, self.column), shape):
            slider.max = max(0, side - (self.zoom.value or side))

    def draw(self, change=None):
        """Draws what the controls say; what cannot be read is told in the caption."""
        if self.busy:
            return  # a control that was moved by what follows
        self.busy = True
        try:
            self.read_again()
            self.offer_steps()
            self.show_controls()
            sight = self.sight()
            figure, words = VIEWS[self.view.value](sight)
            self.picture.value, self.words = png_bytes(figure), words
        except (OSError, ValueError) as error:
            self.words = str(error)
        finally:
            self.busy = False
        self.caption.value = f'<div style="max-width:60em">{html.escape(self.words)}</div>'

    def _repr_mimebundle_(self, **_):
        """Widgets where they live, and the picture of the moment where a page is only read."""
        figure = with_caption(*VIEWS[self.view.value](self.sight()))
        return self.panel._repr_mimebundle_() | {
            "image/png": base64.b64encode(png_bytes(figure)).decode(), "text/plain": self.words}


def explore(path, other=None):
    """The masks of a run, to look through: its snapshot file, and another one to compare it with.

    Put it on the last line of a cell. Training may still be writing the file, or have been stopped:
    what is there is shown, and what comes when a control is moved. Without ipywidgets it is a
    picture. Raises ValueError or FileNotFoundError, one line, where a file is not of snapshots.
    """
    try:
        import ipywidgets  # noqa: F401
    except ImportError:
        print("The explorer needs ipywidgets: pip install ipywidgets, then restart the kernel.")
        return still(Snapshots(path))
    return Explorer(path, other)
