"""EM over remaining weights of the records of one group, as one figure."""

import math
from collections import Counter
from collections.abc import Iterable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from smp.plotting import BLUE, GREEN, INK, ORANGE, RED, new_figure, tidy_axes
from smp.runs.differences import what_differs
from smp.runs.grouping import record_group
from smp.runs.methods import FINE_TUNED, METHODS
from smp.text import as_percent, short_name

METHOD_STYLES = {
    "smp-l": dict(color=ORANGE, marker="o"),
    "smp-s": dict(color=BLUE, marker="s"),
    "movement": dict(color=GREEN, marker="^"),
    "movement-s": dict(color=GREEN, marker="<"),
    "soft-movement": dict(color=RED, marker="v"),
    "magnitude": dict(color=INK, marker="D"),
}
NEW_METHOD_COLOURS = ("#56B4E9", "#CC79A7", "#F0E442")  # Okabe & Ito, not used above


def mix_with_white(colour: str, share: float) -> tuple[float, ...]:
    """Return the RGB values (0 to 1) of a colour mixed with white; share: that of the white."""
    return tuple(1 - (1 - part) * (1 - share) for part in to_rgb(colour))


def method_styles(removed: Iterable[str] = ()) -> dict[str, dict]:
    """Return {method: colour and marker}, also of methods that were added, or removed since."""
    others = [name for name in dict.fromkeys([*METHODS, *removed]) if name not in METHOD_STYLES]
    return METHOD_STYLES | {
        name: dict(color=NEW_METHOD_COLOURS[i % len(NEW_METHOD_COLOURS)], marker="Xp<>"[i % 4])
        for i, name in enumerate(others)
    }


def row_style(row: dict) -> tuple[str, str]:
    """Return colour (in SMP: with a teacher or not) and marker of a record or published row."""
    if row["method"] == FINE_TUNED:
        return INK, "*"
    style = method_styles([row["method"]])[row["method"]]
    if row["method"].startswith("smp"):
        distilled = row.get("settings", row)["distill"] != "none"
        return BLUE if distilled else ORANGE, style["marker"]
    return style["color"], style["marker"]


def check_one_group(records: list[dict]) -> None:
    """Raise ValueError unless the records are of one `record_group`."""
    if len({record_group(record) for record in records}) != 1:
        raise ValueError("expected records of one model, data and number of questions; pick one "
                         "group (record_group) and draw it alone")


def density_axis(ax: Axes, densities: set[float]) -> None:
    """Give the panel a logarithmic x axis with ticks at these densities."""
    ticks = sorted(densities)
    ax.set_xscale("log")
    ax.set_xticks(ticks, [as_percent(tick) for tick in ticks])
    ax.set_xticks([], minor=True)
    ax.set_xlim(ticks[0] / 1.25, 1.25)


def legend_below(fig: Figure, handles: list, columns: int) -> None:
    """Add a legend below the panels and make the figure higher by its lines."""
    fig.set_figheight(fig.get_figheight() + 0.2 * math.ceil(len(handles) / columns))
    fig.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=8.5,
               frameon=False, labelcolor=INK)


def plot_records(records: list[dict], published: list[dict] | None = None) -> Figure:
    """Return a figure of EM over remaining weights of the records of one group.

    A line connects the longest runs of a method and its settings; several seeds and shorter runs
    are small and pale. published: rows such as PUBLISHED["rows"], drawn as hollow markers.
    """
    check_one_group(records)
    fig, axes = new_figure(1, 1, 7.2, 3.6)
    ax = axes[0, 0]
    dense = [record["em"] for record in records if record["method"] == FINE_TUNED]
    if dense:
        ax.axhline(np.mean(dense), color=INK, linewidth=1.2, linestyle="--",
                   label=f"fine-tuned, {np.mean(dense):.3f}")
    series: dict[tuple[str, str, str], dict] = {}  # style: {density: {steps: [EM]}}
    differs = what_differs(records)
    for record in records:
        if record["method"] != FINE_TUNED:
            apart = differs[record["name"]]
            label = record["label"] + f", {apart}" * bool(apart)
            density = float(f"{record['density']:.3g}")  # k = ⌊v·n⌋ leaves 0.0999998 for 0.1
            runs = series.setdefault((label, *row_style(record)), {}).setdefault(density, {})
            runs.setdefault(record["steps"], []).append(record["em"])
    alike = Counter(key[1:] for key in series)  # how many share colour and marker
    drawn: Counter[tuple] = Counter()
    for (label, colour, marker), points in sorted(
        series.items(), key=lambda item: (len(item[0][0]), item[0])
    ):
        paler = drawn[colour, marker] / alike[colour, marker]
        drawn[colour, marker] += 1
        style = {"color": mix_with_white(colour, paler), "markersize": 6, "marker": marker,
                 "zorder": 3 - paler}  # the first is on top
        longest = {d: points[d][max(points[d])] for d in sorted(points)}
        ax.plot(list(longest), list(map(np.mean, longest.values())), linewidth=1.4, label=label,
                **style)
        pairs = [(d, em) for d, ems in longest.items() for em in ems if len(ems) > 1]
        pairs += [(d, np.mean(ems)) for d in longest for steps, ems in points[d].items()
                  if steps < max(points[d])]
        ax.plot(*zip(*pairs) if pairs else ([], []), linestyle="", alpha=0.35,
                **style | {"markersize": 4})
    published = [row for row in published or []  # other methods are in a sweep's figure
                 if row["method"] in ("smp-l", "smp-s", FINE_TUNED)]
    for row in published:
        colour, marker = row_style(row)
        ax.plot(row["density"], row["em"], markerfacecolor="none", linestyle="", markersize=6,
                marker=marker, color=colour)
    if published:
        ax.plot([], [], linestyle="", marker="o", markerfacecolor="none", color=INK,
                label="published, BERT-base")
    densities = {d for points in series.values() for d in points}
    density_axis(ax, densities | {row["density"] for row in published} | {1.0})
    ax.set_ylim(0, min(1.0, 1.25 * max([0.1, *ax.dataLim.intervaly])))
    handles, labels = ax.get_legend_handles_labels()
    legend_below(fig, handles, 2 if max(map(len, labels), default=0) < 50 else 1)
    first = records[0]
    title = (f"{short_name(first['model'])} on {short_name(first['data'])}, "
             f"{first['n_train']:,} training, {first['n_eval']:,} evaluation questions")
    tidy_axes(ax, title, "remaining weights of the masked matrices", "exact match (EM), fraction")
    return fig
