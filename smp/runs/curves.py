"""Many records at once.

EM and F1 over the remaining weights, as pictures and as a table; `python -m smp table` and
`python -m smp sweep` make them.
"""

import math
from collections import Counter

import numpy as np

from smp.plotting import BLUE, GREEN, INK, ORANGE, RED, mix_with_white, new_figure, tidy_axes
from smp.runs.names import record_group, record_label, what_differs
from smp.text import as_percent, short_name

METHOD_STYLES = {  # of a sweep's picture; baselines look the same in both
    "SMP-L": dict(color=ORANGE, marker="o"),
    "SMP-S": dict(color=BLUE, marker="s"),
    "movement": dict(color=GREEN, marker="^"),
    "soft movement": dict(color=RED, marker="v"),
    "magnitude": dict(color=INK, marker="D"),
}


def row_style(row):
    """Colour and marker of a record or of a published row: SMP's colour says whether a teacher was
    listened to, its marker what competes."""
    if row["method"] in ("SMP", "SMP + KD"):
        colour = ORANGE if row["method"] == "SMP" else BLUE
        return colour, {"SMP-L": "o", "SMP-S": "s"}.get(row["sharing"], "P")
    if row["method"] == "fine-tuned":
        return INK, "*"
    style = METHOD_STYLES[row["method"].removesuffix(" + KD")]
    return style["color"], style["marker"]


def plot_records(records: list[dict], published: list[dict] | None = None):
    """EM over remaining weights of the records of one group. -> Figure

    A line leads through the longest runs of a method and its settings; small and pale are their
    seeds, where there are several, and shorter runs. published: rows such as PUBLISHED["rows"],
    drawn as hollow markers. Raises ValueError when the records are not of one `record_group`, or
    when there is none.
    """
    if len({record_group(record) for record in records}) != 1:
        raise ValueError("expected records of one model, data and number of questions; pick one "
                         "group (record_group) and draw it alone")
    fig, axes = new_figure(1, 1, 7.2, 3.6)
    ax = axes[0, 0]
    dense = [record["em"] for record in records if record["method"] == "fine-tuned"]
    if dense:
        ax.axhline(np.mean(dense), color=INK, linewidth=1.2, linestyle="--",
                   label=f"fine-tuned, {np.mean(dense):.3f}")
    series, differs = {}, what_differs(records)
    for record in records:
        if record["method"] != "fine-tuned":
            apart = differs[record["name"]]
            label = record_label(record) + f", {apart}" * bool(apart)
            density = float(f"{record['density']:.3g}")  # k = ⌊v·n⌋ leaves 0.0999998 for 0.1
            runs = series.setdefault((label, *row_style(record)), {}).setdefault(density, {})
            runs.setdefault(record["steps"], []).append(record["em"])
    alike, drawn = Counter(key[1:] for key in series), Counter()  # how many share a style
    for (label, colour, marker), points in sorted(
        series.items(), key=lambda item: (len(item[0][0]), str(item[0]))
    ):
        paler = drawn[colour, marker] / alike[colour, marker]
        drawn[colour, marker] += 1
        style = {"color": mix_with_white(colour, paler), "markersize": 6, "marker": marker,
                 "zorder": 3 - paler}  # the first lies on top
        densities = sorted(points)
        longest = [points[d][max(points[d])] for d in densities]
        ax.plot(densities, list(map(np.mean, longest)), linewidth=1.4, label=label, **style)
        pairs = [(d, em) for d, ems in zip(densities, longest, strict=True)
                 for em in ems if len(ems) > 1]
        pairs += [(d, np.mean(ems)) for d in densities for steps, ems in points[d].items()
                  if steps < max(points[d])]
        ax.plot(*zip(*pairs, strict=True) if pairs else ([], []), linestyle="", alpha=0.35,
                **style | {"markersize": 4})
    published = [row for row in published or []  # of SMP; a sweep's picture has the others too
                 if row["method"] in ("SMP", "SMP + KD", "fine-tuned")]
    for row in published:
        colour, marker = row_style(row)
        ax.plot(row["density"], row["em"], markerfacecolor="none", linestyle="", markersize=6,
                marker=marker, color=colour)
    if published:
        ax.plot([], [], linestyle="", marker="o", markerfacecolor="none", color=INK,
                label="published, BERT-base")
    ax.set_xscale("log")
    ticks = sorted({d for key in series for d in series[key]} |
                   {row["density"] for row in published} | {1.0})
    ax.set_xticks(ticks, [as_percent(tick) for tick in ticks])
    ax.set_xticks([], minor=True)
    ax.set_xlim(min(ticks) / 1.25, 1.25)
    ax.set_ylim(0, min(1.0, 1.25 * max([0.1, *ax.dataLim.intervaly])))
    handles, labels = ax.get_legend_handles_labels()
    columns = 2 if max(map(len, labels), default=0) < 50 else 1  # as wide as the figure
    fig.set_figheight(fig.get_figheight() + 0.2 * math.ceil(len(handles) / columns))
    fig.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=8.5,
               frameon=False, labelcolor=INK)
    first = records[0]
    title = (f"{short_name(first['model'])} on {short_name(first['data'])}, "
             f"{first['n_train']:,} training, {first['n_eval']:,} evaluation questions")
    tidy_axes(ax, title, "remaining weights of the masked matrices", "exact match (EM), fraction")
    return fig
