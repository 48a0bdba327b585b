"""Views of a run's masks: all matrices and heads, the scores of one matrix, and turnover."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure

from smp.look.snapshots import SCORE_BINS, Snapshots
from smp.plotting import BLUE, INK, ORANGE, RED, View, new_figure, tidy_axes
from smp.text import as_percent

GREY, SCALE = "#8C8C8C", ("#8F4700", ORANGE, "#DDDDDD", "#A87FC7", "#4B1279")  # orange to violet


@dataclass(frozen=True)
class Selection:
    """A step and a matrix of a run, and a square window of the matrix (side None: all of it)."""

    saved: Snapshots
    step: int
    name: str = ""
    side: int | None = None
    row: int = 0
    column: int = 0

    @property
    def matrix(self) -> str:
        """The layer and type of the matrix: "Layer 3, query"."""
        _, layer, matrix, _ = self.saved.matrices[self.saved.names.index(self.name)]
        return f"Layer {layer}, {matrix}"

    @property
    def density(self) -> str:
        """The share of all masked weights that is kept, in percent."""
        return as_percent(self.saved.density(self.step))

    def numbers(self, part: str) -> np.ndarray:
        """Return the array, or row of an array, of `Snapshots.parts` at this step and matrix."""
        found = self.saved.parts[self.step][part]
        return found[self.name if isinstance(found, dict) else self.saved.names.index(self.name)]


def compared(a: Selection, b: Selection) -> str:
    """Return "A is step 10 (95% kept), B is step 250 (10% kept)", with the runs if they differ."""
    runs = ("", "") if a.saved.path == b.saved.path else (" of the first run", " of the other run")
    return "A is {}, B is {}".format(*(f"step {one.step:,}{run} ({one.density} kept)"
                                       for one, run in zip((a, b), runs)))


def check_same_matrices(a: Snapshots, b: Snapshots) -> None:
    """Raise ValueError unless both files are of the same matrices."""
    if a.matrices != b.matrices:
        raise ValueError(f"{b.path} is of another encoder than {a.path}: expected the same "
                         "matrices, in shape and name")


def draw_cells(saved: Snapshots, cells: dict[str, np.ndarray], label: str,
               texts: np.ndarray | None) -> Figure:
    """Draw {matrix type: ratios (n_layers, n)}, n stripes in each cell, with optional texts."""
    layers, types = len(saved.layers), len(saved.types)
    fig, ((ax,),) = new_figure(1, 1, 8.6, max(1.5, 0.34 * layers) + 0.9)
    for place, kind in enumerate(saved.types):
        edges = np.linspace(place + 0.03, place + 0.97, cells[kind].shape[1] + 1)
        image = ax.pcolormesh(edges, np.arange(layers + 1), cells[kind], norm=LogNorm(1 / 4, 4),
                              cmap=LinearSegmentedColormap.from_list("ratio", SCALE))
    ax.hlines(range(1, layers), 0, types, "white", linewidth=3)
    for (layer, place), text in () if texts is None else np.ndenumerate(texts):
        ax.text(place + 0.5, layer + 0.5, text, ha="center", va="center", fontsize=8.5, color=INK,
                bbox={"fc": "white", "ec": "none", "pad": 1})
    ax.set(xlim=(0, types), ylim=(layers, 0))
    ax.set_yticks(np.arange(layers) + 0.5, [f"layer {layer}" for layer in saved.layers])
    ax.set_xticks(np.arange(types) + 0.5, saved.types, parse_math=False)
    bar = fig.colorbar(image, pad=0.015, ticks=(1 / 4, 1 / 2, 1, 2, 4), format="%.3g")
    bar.set_label(label, fontsize=9, color=INK)
    bar.outline.set_visible(False)
    bar.minorticks_off()
    return fig


def relative_shares(one: Selection) -> dict[str, np.ndarray]:
    """Return kept shares divided by the density, at least 1e-9, as arrays with one row per layer.

    {matrix type: of its heads or of it (n_layers, heads or 1), "matrices": (n_layers, n_types),
    "heads": mean over the parts of each head (n_layers, heads)}
    """
    table, heads = one.saved.shares(one.step), one.saved.head_shares(one.step)
    shares = {kind: heads.get(kind, table[:, [j]]) for j, kind in enumerate(one.saved.types)}
    shares |= {"matrices": table, "heads": np.mean([*heads.values()] or [table], axis=0)}
    density = max(one.saved.density(one.step), 1e-9)
    return {part: np.maximum(values / density, 1e-9) for part, values in shares.items()}


def extremes(values: np.ndarray, names: list[str], form: Callable) -> str:
    """Return "NAME keeps most (12%), NAME keeps least (3%)" of values in the order of the names."""
    flat = values.ravel()
    most, least = int(np.nanargmax(flat)), int(np.nanargmin(flat))
    return (f"{names[most]} keeps most ({form(flat[most])}), "
            f"{names[least]} keeps least ({form(flat[least])})")


def overview(a: Selection, b: Selection | None = None) -> View:
    """Draw the kept share of each matrix and head divided by the density; for B, relative to A."""
    saved, shares, density = a.saved, relative_shares(a), a.saved.density(a.step)
    if b:
        shares = {part: values / shares[part] for part, values in relative_shares(b).items()}
        title, label = "Kept share of B, divided by that of A", "(B / density) / (A / density)"
        words = f"{compared(a, b)}. The numbers are B / A, each share divided by its density."
    else:
        title, label = f"Step {a.step:,}: kept share, divided by {a.density}", "share / density"
        words = (f"Step {a.step:,}: the encoder keeps {saved.parts[a.step]['kept'].sum():,} of "
                 f"{saved.weights:,} weights ({a.density}).")

    def form(ratio: float) -> str:
        return f"{ratio:.3g} times" if b else as_percent(ratio * density)

    table, texts, heads = shares["matrices"], None, [*saved.head_shares(a.step)]
    if np.nanmax(table) - np.nanmin(table) < 0.01:  # k = ⌊v·n⌋ is rounded for each shape
        words += " Every matrix keeps the same share."
    else:
        texts = np.vectorize(form)(table)
        names = [f"layer {layer}, {kind}" for layer in saved.layers for kind in saved.types]
        words += f" Of the matrices, {extremes(table, names, form)}."
    if not b:
        words += " {:,} rows and {:,} columns are empty.".format(
            *(saved.empty(a.step, part) for part in ("rows", "columns")))
    if heads:
        names = [f"head {head} of layer {layer}" for layer in saved.layers
                 for head in range(saved.about["heads"])]
        words += f" Averaged over {', '.join(heads)}, {extremes(shares['heads'], names, form)}."
    fig = draw_cells(saved, shares, label, texts)
    tidy_axes(fig.axes[0], title, "one stripe is one head" if heads else "", grid=False)
    return View(fig, words)


def plot_overview(saved: Snapshots, step: int | None = None) -> View:
    """Draw the share of kept weights of each matrix and head at a step, by default the last."""
    return overview(Selection(saved, saved.steps[-1] if step is None else step))


def scores(a: Selection, b: Selection | None = None) -> View:
    """Draw the histogram of the scores of one matrix, kept and removed, and the cut."""
    fig, ((ax,),) = new_figure(1, 1, 8.6, 3.3)
    low, high, cut = map(float, a.numbers("edges"))
    removed, kept = a.numbers("scores").T
    edges = np.linspace(low, high, SCORE_BINS + 1)
    ax.stairs(removed + kept, edges, fill=True, color=GREY, alpha=0.6, label="removed")
    ax.stairs(kept, edges, fill=True, color=ORANGE, label="kept")
    ax.axvline(cut, color=INK, linewidth=1.4, label=f"cut, {cut:.3g}")
    words = (f"{a.matrix} at step {a.step:,}: {kept.sum():,} of {removed.sum() + kept.sum():,} "
             f"scores are at least {cut:.3g} (the cut), so their weights are kept. The outermost "
             "bars include all scores beyond them.")
    if b:
        low, high, cut = map(float, b.numbers("edges"))
        ax.stairs(b.numbers("scores").sum(1), np.linspace(low, high, SCORE_BINS + 1), color=BLUE,
                  linewidth=1.6, label="B, all")
        ax.axvline(cut, color=BLUE, linewidth=1.4, linestyle="--", label=f"B, cut, {cut:.3g}")
        words = f"{compared(a, b)}. {words} In B the cut is {cut:.3g}."
    ax.yaxis.set_major_formatter("{x:,.0f}")
    ax.legend(fontsize=8.5, frameon=False, labelcolor=INK)
    tidy_axes(ax, f"{a.matrix}: scores", "score", "weights")
    return View(fig, words)


def turnover(a: Selection, b: Selection | None = None) -> View:
    """Draw how much the masks change between snapshots, and their overlap with magnitude."""
    fig, ((left, right),) = new_figure(1, 2, 8.6, 3.2)
    runs = [("", a.saved, "-")]
    if b and b.saved.path != a.saved.path:
        runs = [("B: ", b.saved, "--"), ("A: ", a.saved, "-")]
    for run, saved, line in runs:
        steps, removed, returned = saved.turnover()
        overlap, chance = saved.magnitude_overlap()
        for ax, x, y, colour, marker, label in (
            (left, steps, removed, RED, "o", "removed (% of those kept before)"),
            (left, steps, returned, BLUE, "s", "returned (% of those kept now)"),
            (right, saved.steps, overlap, BLUE, "o", "also among the largest"),
            (right, saved.steps, chance, GREY, "", "by chance"),
        ):
            ax.plot(x, 100 * y, line, color=colour, marker=marker, markersize=3, label=run + label)
    for ax, top in ((left, None), (right, 104)):
        ax.axvline(a.step, color=INK, linewidth=0.8, linestyle=":")
        ax.set_ylim(0, top)
        ax.legend(fontsize=8.5, edgecolor="none", labelcolor=INK)
    tidy_axes(left, "Exchanged since the snapshot before", "step", "% of weights")
    tidy_axes(right, "Kept weights of largest magnitude", "step", "% of kept weights")
    now, words = a.saved.steps.index(a.step), ""  # the other numbers are those of A, the last run
    if now:
        peak = int(removed[:now].argmax())
        words = (f"Removals are highest at step {steps[peak]:,}: {as_percent(removed[peak])} of "
                 f"the weights kept before. From step {a.saved.steps[now - 1]:,} to {a.step:,}, "
                 f"{as_percent(removed[now - 1])} are removed and {as_percent(returned[now - 1])} "
                 "return. ")
    return View(fig, words + (
        f"At step {a.step:,}, {as_percent(overlap[now])} of the kept weights are among the largest "
        f"of their matrix, which magnitude pruning keeps; by chance: {as_percent(chance[now])}."))


def plot_turnover(saved: Snapshots) -> View:
    """Draw the weights removed and returned over the run, and the overlap with magnitude."""
    return turnover(Selection(saved, saved.steps[-1]))
