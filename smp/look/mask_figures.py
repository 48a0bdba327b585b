"""The picture of all masks of a step, for pages in which no script runs."""

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, LogNorm

from smp.look.snapshots import Snapshots
from smp.plotting import INK, ORANGE, View, new_figure, tidy_axes
from smp.text import as_percent

SCALE = ("#8F4700", ORANGE, "#DDDDDD", "#A87FC7", "#4B1279")  # orange to violet


def kept_shares(saved: Snapshots, step: int) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Return ({type: share of its heads or of it (n_layers, heads or 1)}, {name: share}).

    NaN: no such matrix. The names are those of heads if there are any, with the mean over the
    parts of a head.
    """
    counts, names, cells = saved.head_counts(step), dict[str, list](), dict[str, np.ndarray]()
    some = bool(counts)
    for (_, layer, kind, shape), kept in zip(saved.matrices, saved.parts[step]["kept"]):
        size, heads = shape[0] * shape[1], saved.heads_of(kind, shape)
        own = [counts.pop(0) * heads / size for _ in range(heads)] or [kept / size]
        cells.setdefault(kind, np.full((len(saved.layers), len(own)), np.nan))
        cells[kind][saved.layers.index(layer)] = own
        for head, share in enumerate(own):
            if heads or not some:
                name = f"head {head} of layer {layer}" if heads else f"layer {layer}, {kind}"
                names.setdefault(name, []).append(share)
    return cells, {name: float(np.mean(shares)) for name, shares in names.items()}


def plot_overview(saved: Snapshots, step: int | None = None) -> View:
    """Draw the kept share of each matrix and head, divided by the density; default: last step."""
    step = saved.steps[-1] if step is None else step
    density, (cells, names) = saved.density(step), kept_shares(saved, step)
    layers, types = saved.layers, saved.types
    fig, ((ax,),) = new_figure(1, 1, 8.6, max(1.5, 0.34 * len(layers)) + 0.9)
    colours = LinearSegmentedColormap.from_list("ratio", SCALE)
    for place, shares in enumerate(cells.values()):
        image = ax.pcolormesh(np.linspace(place + 0.03, place + 0.97, shares.shape[1] + 1),
                              np.arange(len(layers) + 1),
                              np.maximum(shares / max(density, 1e-9), 1e-9),
                              norm=LogNorm(1 / 4, 4), cmap=colours)
    ax.hlines(range(1, len(layers)), 0, len(types), "white", linewidth=3)
    ax.set(xlim=(0, len(types)), ylim=(len(layers), 0))
    ax.set_yticks(np.arange(len(layers)) + 0.5, [f"layer {layer}" for layer in layers])
    ax.set_xticks(np.arange(len(types)) + 0.5, types, parse_math=False)
    bar = fig.colorbar(image, pad=0.015, ticks=(1 / 4, 1 / 2, 1, 2, 4), format="%.3g")
    bar.set_label("share / density", fontsize=9, color=INK)
    bar.outline.set_visible(False)
    bar.minorticks_off()
    tidy_axes(ax, f"Step {step:,}: kept share, divided by {as_percent(density)}",
              "one stripe is one head" if saved.head_counts(step) else "", grid=False)
    most, least = (best(names, key=lambda name: names[name]) for best in (max, min))
    return View(fig, (
        f"Step {step:,}: the encoder keeps {saved.parts[step]['kept'].sum():,} of "
        f"{saved.weights:,} weights ({as_percent(density)}). {saved.empty(step, 'rows'):,} rows "
        f"and {saved.empty(step, 'columns'):,} columns are empty. {most[0].upper()}{most[1:]} "
        f"keeps most ({as_percent(names[most])}), {least} keeps least "
        f"({as_percent(names[least])})."))
