"""EM and F1 over remaining weights of all methods of a sweep, as a picture and as a table."""

import numpy as np
from matplotlib.figure import Figure

from smp.plotting import INK, mix_with_white, new_figure, tidy_axes
from smp.runs.curves import check_one_group, density_axis, legend_below, method_styles
from smp.runs.differences import changed_settings_of
from smp.runs.names import group_records, method_label, model_and_data, record_group, record_order
from smp.runs.tables import density_missed, mean_and_spread
from smp.text import as_percent, markdown_table


def rows_of_methods(records: list[dict]) -> dict[tuple[str, str], dict[float, list[dict]]]:
    """Return {(method, changed settings): {target density: records}}."""
    rows: dict[tuple[str, str], dict[float, list[dict]]] = {}
    changed = changed_settings_of(records)
    for record in records:
        row = method_label(record["method"], record["sharing"]), changed[record["name"]]
        rows.setdefault(row, {}).setdefault(record["density_target"], []).append(record)
    return rows


def plot_sweep(records: list[dict], published: list[dict] | None = None) -> Figure:
    """Return a figure of EM and F1 over density, without and with a teacher, as in SMP's Fig. 1.

    Each method is a line through the means over seeds, with bars from the lowest to the highest
    seed; paler, dashed and half filled if settings were changed. published: rows such as
    PUBLISHED["rows"], drawn hollow and dotted. The records are of one group.
    """
    check_one_group(records)
    fig, axes = new_figure(2, 2, 9.6, 6.6)
    rows, shown = rows_of_methods(records), {}
    for column, suffix in enumerate(("", " + KD")):
        for row, (score, label) in enumerate((("em", "Exact Match"), ("f1", "F1"))):
            ax, densities = axes[row, column], {1.0}
            for name, style in method_styles().items():
                variants = sorted({changes for method, changes in rows  # with and without a teacher
                                   if method.removesuffix(" + KD") == name})
                for (method, changes), cells in rows.items():
                    if method != name + suffix:
                        continue
                    points = []
                    for runs in cells.values():
                        values = [run[score] for run in runs]
                        density = np.mean([run["density"] for run in runs])
                        points.append((density, np.mean(values), min(values), max(values)))
                    x, mean, low, high = np.array(sorted(points)).T
                    special = changes and len(variants) > 1
                    paler = variants.index(changes) / len(variants) if special else 0
                    legend = f"{name}, {changes}" if special else name
                    shown[legend] = ax.errorbar(
                        x, mean, (mean - low, high - mean), label=legend, linewidth=1.4,
                        markersize=5.5, capsize=3, linestyle="--" if changes else "-",
                        fillstyle="left" if special else "full",
                        **style | {"color": mix_with_white(style["color"], paler)},
                    )
                    densities |= cells.keys()
                theirs = sorted((one["density"], one[score]) for one in published or []
                                if method_label(one["method"], one["sharing"]) == name + suffix)
                if theirs:
                    ax.plot(*zip(*theirs), linewidth=0.8, linestyle=":", markersize=5,
                            markerfacecolor="none", **style)
                    densities |= {density for density, _ in theirs}
            for dense in {r[score] for r in published or [] if r["method"] == "fine-tuned"}:
                ax.axhline(dense, color=INK, linewidth=0.8, linestyle=":")
            density_axis(ax, densities)
            ax.set_ylim(0, 1)
            title = f"{label}, {'with' if suffix else 'without'} a teacher"
            tidy_axes(ax, title, "remaining weights of the masked matrices" if row else "")
    if published:
        shown["published"] = ax.plot(
            [], [], linestyle=":", marker="o", markerfacecolor="none", color=INK,
            label="published: BERT-base, all of SQuAD, ten epochs",
        )[0]
    longest = max((len(line.get_label()) for line in shown.values()), default=1)
    legend_below(fig, list(shown.values()), max(1, min(4, 200 // (longest + 10))))
    return fig


def sweep_markdown(records: list[dict]) -> str:
    """Return a grid for each group of comparable records: a row a method, a column a density."""
    def key(record: dict) -> tuple:
        return (*record_group(record), record["steps"], record["profile"])

    parts = []
    for group in group_records(sorted(records, key=record_order), key):
        first, rows = group[0], rows_of_methods(group)
        densities = sorted({density for cells in rows.values() for density in cells}, reverse=True)
        parts += [
            f"### {model_and_data(first)}: {first['n_train']:,} training questions, "
            f"{first['steps']:,} steps of {first['settings']['batch_size']}, "
            f"{first['n_eval']:,} evaluation questions",
            "EM / F1; ± is the sample standard deviation over the runs of a cell, — has not been "
            "run; where the density reached is not the one asked for, it is told.",
            markdown_table(["Model", *map(as_percent, densities)], [
                [method + f" ({changes})" * bool(changes),
                 *(sweep_cell(cells.get(density, [])) for density in densities)]
                for (method, changes), cells in rows.items()
            ]),
        ]
    return "\n\n".join(parts) + "\n"


def sweep_cell(runs: list[dict]) -> str:
    """Return EM / F1 of the runs of one method at one density."""
    if not runs:
        return "—"
    text = " / ".join(mean_and_spread([run[score] for run in runs]) for score in ("em", "f1"))
    return text + density_missed(runs) + (f" ({len(runs)} runs)" if len(runs) > 1 else "")
