"""Many records at once.

EM and F1 over the remaining weights, as pictures and as a table; `python -m smp table` and
`python -m smp sweep` make them.
"""

import math
from dataclasses import asdict

import numpy as np

from smp.plotting import INK, mix_with_white, new_figure, tidy_axes
from smp.runs.curves import METHOD_STYLES
from smp.runs.names import (
    data_label,
    disagreeing,
    group_records,
    identifying_settings,
    method_label,
    record_group,
    record_order,
    setting_text,
    with_defaults,
)
from smp.runs.profiles import PROFILES
from smp.runs.settings import choose_settings
from smp.runs.tables import density_missed, mean_and_spread
from smp.text import as_percent, markdown_table, short_name


def usual_settings(record):
    """{setting: value} of the record's cell in a sweep where nothing else is changed; the defaults,
    where its profile is no more. What competes belongs to a cell of SMP-L or SMP-S alone."""
    cell = ("task", "method", "density", "seed", *["sharing"] * bool(record["sharing"]))
    chosen = {name: record["settings"][name] for name in cell if name in record["settings"]}
    if record["profile"] not in PROFILES:
        return with_defaults(chosen)
    return asdict(choose_settings(record["profile"], **chosen))

SHOWN_ABOVE = {  # what the heading of a table says, or decides
    "model", "data", "n_train", "n_valid", "n_eval", "longest_passage", "batch_size", "epochs",
}


def changed_settings_of(records):
    """{name of the record: what was changed for it}, mostly "".

    Settings that go with the density (see the presets), and the seed, do not count; those of
    TOLD_ABOVE, and all of a profile that is no more, only where its method has several values.
    """
    labels = {}
    for group in group_records(records, lambda record: (record["method"], record["sharing"])):
        kept = [identifying_settings(record) for record in group]
        differing = disagreeing(kept)
        for record, one in zip(group, kept, strict=True):
            usual = usual_settings(record)
            known = record["profile"] in PROFILES  # else what is usual in it is not
            telling = differing | (record["settings"].keys() - SHOWN_ABOVE if known else set())
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
    apart, shown, changed = changed_settings_of(records), {}, {}  # changed: of each method, both columns
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


def sweep_markdown(records: list[dict]) -> str:
    """A grid for each group of comparable records: a row a method, a column a density, EM / F1."""
    def key(record):
        return (*record_group(record), record["steps"], record["profile"])

    parts = []
    for group in group_records(sorted(records, key=record_order), key):
        first, cells, apart = group[0], {}, changed_settings_of(group)
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
