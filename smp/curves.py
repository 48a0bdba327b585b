# %% [markdown]
# ## Many records at once
#
# EM and F1 over the remaining weights, as pictures and as a table; `python -m smp table` and
# `python -m smp sweep` make them.

# %%
import math
from collections import Counter
from dataclasses import asdict

import numpy as np
from matplotlib.colors import to_rgb

# %%
from smp.pictures import BLUE, GREEN, INK, ORANGE, RED, new_figure, tidy_axes

# %%
from smp.settings import PROFILES, choose_settings

# %%
from smp.results import (
    as_percent,
    data_label,
    density_missed,
    disagreeing,
    group_records,
    markdown_table,
    mean_and_spread,
    method_label,
    record_group,
    record_label,
    record_order,
    setting_text,
    short_name,
    told_settings,
    what_differs,
    with_defaults,
)

# %%
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

# %%
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

# %% [markdown]
# A sweep: the shape of the paper's Fig. 1, and the same as a table.

# %%
def usual_settings(record):
    """{setting: value} of the record's cell in a sweep where nothing else is changed; the defaults,
    where its profile is no more. What competes belongs to a cell of SMP-L or SMP-S alone."""
    cell = ("task", "method", "density", "seed", *["sharing"] * bool(record["sharing"]))
    chosen = {name: record["settings"][name] for name in cell if name in record["settings"]}
    if record["profile"] not in PROFILES:
        return with_defaults(chosen)
    return asdict(choose_settings(record["profile"], **chosen))


TOLD_ABOVE = {  # what the heading of a table says, or decides
    "model", "data", "n_train", "n_valid", "n_eval", "longest_passage", "batch_size", "epochs",
}


def told_apart(records):
    """{name of the record: what was changed for it}, mostly "".

    Settings that go with the density (see the presets), and the seed, do not count; those of
    TOLD_ABOVE, and all of a profile that is no more, only where its method has several values.
    """
    labels = {}
    for group in group_records(records, lambda record: (record["method"], record["sharing"])):
        kept = [told_settings(record) for record in group]
        differing = disagreeing(kept)
        for record, one in zip(group, kept, strict=True):
            usual = usual_settings(record)
            known = record["profile"] in PROFILES  # else what is usual in it is not
            telling = differing | (record["settings"].keys() - TOLD_ABOVE if known else set())
            labels[record["name"]] = ", ".join(
                setting_text(name, one[name])
                for name in sorted(telling) if name in one and one[name] != usual.get(name)
            )
    return labels


def mean_and_ends(points):
    """{cell: [(density, value)]} -> arrays x, mean, lowest, highest; one entry a cell."""
    rows = []
    for runs in points.values():
        values = [value for _, value in runs]
        rows.append((np.mean([x for x, _ in runs]), np.mean(values), min(values), max(values)))
    return np.array(sorted(rows)).T


def plot_sweep(records: list[dict], published: list[dict] | None = None):
    """EM and F1 over density, without and with a teacher: the shape of SMP's Fig. 1. -> Figure

    records: of one model and one set of data; each method is a line through the means over seeds,
    paler and dashed, its markers half filled, where something was changed (see `told_apart`); the
    bars reach from the lowest to the highest seed. published: rows such as PUBLISHED["rows"], drawn
    hollow and dotted. Raises ValueError for records that do not compare.
    """
    if len({record_group(record) for record in records}) != 1:
        raise ValueError("expected records of one model, data and number of questions")
    fig, axes = new_figure(2, 2, 9.6, 6.6)
    apart, shown, changed = told_apart(records), {}, {}  # changed: of each method, both columns
    for record in records:
        name = method_label(record["method"], record["sharing"]).removesuffix(" + KD")
        changed.setdefault(name, set()).add(apart[record["name"]])
    for column, suffix in enumerate(("", " + KD")):
        for row, (score, label) in enumerate((("em", "Exact Match"), ("f1", "F1"))):
            ax, ticks = axes[row, column], {1.0}
            for name, style in METHOD_STYLES.items():
                ours, theirs = {}, []  # ours: what was set apart -> {density aimed at: runs}
                for record in records:
                    if method_label(record["method"], record["sharing"]) == name + suffix:
                        line = ours.setdefault(apart[record["name"]], {})
                        runs = line.setdefault(record["density_target"], [])
                        runs.append((record["density"], record[score]))
                for one in published or []:
                    if method_label(one["method"], one["sharing"]) == name + suffix:
                        theirs.append((one["density"], one[score]))
                ticks |= {target for line in ours.values() for target in line}
                ticks |= {x for x, _ in theirs}
                variants = sorted(changed.get(name, ()))  # "" is the usual one
                for changes, line in ours.items():
                    x, mean, low, high = mean_and_ends(line)
                    beside = changes and len(variants) > 1  # one of several ways
                    paler = variants.index(changes) / len(variants) if beside else 0
                    legend = f"{name}, {changes}" if beside else name
                    shown[legend] = ax.errorbar(
                        x, mean, (mean - low, high - mean), label=legend, linewidth=1.4,
                        markersize=5.5, capsize=3, linestyle="--" if changes else "-",
                        fillstyle="left" if beside else "full",
                        **style | {"color": mix_with_white(style["color"], paler)},
                    )
                if theirs:
                    ax.plot(*zip(*sorted(theirs), strict=True), linewidth=0.8, linestyle=":",
                            markersize=5, markerfacecolor="none", **style)
            for dense in {r[score] for r in published or [] if r["method"] == "fine-tuned"}:
                ax.axhline(dense, color=INK, linewidth=0.8, linestyle=":")
            ax.set_xscale("log")
            ax.set_xticks(sorted(ticks), [as_percent(tick) for tick in sorted(ticks)])
            ax.set_xticks([], minor=True)
            ax.set_xlim(min(ticks) / 1.25, 1.25)
            ax.set_ylim(0, 1)
            title = f"{label}, {'with' if suffix else 'without'} a teacher"
            tidy_axes(ax, title, "remaining weights of the masked matrices" if row else "")
    if published:
        shown["published"] = ax.plot(
            [], [], linestyle=":", marker="o", markerfacecolor="none", color=INK,
            label="published: BERT-base, all of SQuAD, ten epochs",
        )[0]
    longest = max((len(line.get_label()) for line in shown.values()), default=1)
    columns = max(1, min(4, 200 // (longest + 10)))  # 200 letters are about the figure's width
    fig.set_figheight(fig.get_figheight() + 0.2 * math.ceil(len(shown) / columns))
    fig.legend(handles=list(shown.values()), loc="outside lower center", ncols=columns,
               fontsize=8.5, frameon=False, labelcolor=INK)
    return fig


def mix_with_white(colour, share):
    return tuple(1 - (1 - part) * (1 - share) for part in to_rgb(colour))

# %%
def sweep_markdown(records: list[dict]) -> str:
    """A grid for each group of comparable records: a row a method, a column a density, EM / F1."""
    def key(record):
        return (*record_group(record), record["steps"], record["profile"])

    parts = []
    for group in group_records(sorted(records, key=record_order), key):
        first, cells, apart = group[0], {}, told_apart(group)
        for record in group:
            label = method_label(record["method"], record["sharing"])
            label += f" ({apart[record['name']]})" if apart[record["name"]] else ""
            cells.setdefault(label, {}).setdefault(record["density_target"], []).append(record)
        densities = sorted({target for row in cells.values() for target in row}, reverse=True)
        rows = [[label, *(sweep_cell(row.get(density, [])) for density in densities)]
                for label, row in cells.items()]
        parts += [
            f"### {short_name(first['model'])} on {data_label(first)}: "
            f"{first['n_train']:,} training questions, {first['steps']:,} steps of "
            f"{first['settings'].get('batch_size', '?')}, {first['n_eval']:,} evaluation questions",
            "EM / F1; ± is the sample standard deviation over the runs of a cell, — has not been "
            "run; where the density reached is not the one asked for, it is told.",
            markdown_table(["Model", *map(as_percent, densities)], rows),
        ]
    return "\n\n".join(parts) + "\n"


def sweep_cell(runs: list[dict]) -> str:
    """EM / F1 of the runs of one method at one density."""
    if not runs:
        return "—"
    text = " / ".join(mean_and_spread([run[score] for run in runs]) for score in ("em", "f1"))
    return text + density_missed(runs) + (f" ({len(runs)} runs)" if len(runs) > 1 else "")
