"""EM and F1 over remaining weights of all methods of a sweep, as a figure and as a table."""

import numpy as np
from matplotlib.figure import Figure

from smp.plotting import INK, new_figure, tidy_axes
from smp.runs.curves import (
    check_one_group,
    density_axis,
    legend_below,
    method_styles,
    mix_with_white,
)
from smp.runs.differences import changed_settings_of
from smp.runs.grouping import (
    data_notes,
    group_records,
    model_and_data,
    record_order,
    seedless,
    with_defaults,
)
from smp.runs.methods import FINE_TUNED
from smp.runs.retained import dense_runs, density_missed, em_retained
from smp.runs.tables import mean_and_spread
from smp.text import as_percent, markdown_table


def rows_of_methods(records: list[dict]) -> dict[tuple[str, str, str], dict[float, list[dict]]]:
    """Return {(method, label, changed settings): {target density: records}}."""
    rows: dict[tuple[str, str, str], dict[float, list[dict]]] = {}
    changed = changed_settings_of(records)
    for record in records:
        row = record["method"], record["label"], changed[record["name"]]
        rows.setdefault(row, {}).setdefault(record["density_target"], []).append(record)
    return rows


def legends_of(rows: list[tuple[str, str, str]]) -> dict[tuple[str, str, str], str]:
    """Return {row: the name of its line} of one method's rows, as in `rows_of_methods`.

    The name contains changed settings if rows differ in them only; the panel's title shows
    whether there is a teacher.
    """
    labels = {row: row[1].replace(" + KD", "") for row in rows}
    legends = {}
    for row, label in labels.items():
        rivals = {other[2] for other in rows if labels[other] == label}
        legends[row] = label + f", {row[2]}" * (bool(row[2]) and len(rivals) > 1)
    return legends


def plot_sweep(records: list[dict], published: list[dict] | None = None) -> Figure:
    """Return a figure of EM and F1 over density, without and with a teacher, as in SMP's Fig. 1.

    Each method is a line through the means over seeds, with bars from the lowest to the highest
    seed; paler, dashed and half filled if settings were changed. published: rows such as
    PUBLISHED["rows"], drawn hollow and dotted. The records are of one group.
    """
    check_one_group(records)
    fig, axes = new_figure(2, 2, 9.6, 6.6)
    rows, shown = rows_of_methods(records), {}
    styles = method_styles(key[0] for key in rows if key[0] != FINE_TUNED)
    for column, has_teacher in enumerate((False, True)):
        for row, (score, label) in enumerate((("em", "Exact Match"), ("f1", "F1"))):
            ax, densities = axes[row, column], {1.0}
            for name, style in styles.items():
                legends = legends_of([key for key in rows if key[0] == name])
                variants = sorted(set(legends.values()), key=lambda text: (len(text), text))
                for key, legend in legends.items():
                    if (" + KD" in key[1]) != has_teacher:
                        continue
                    points = []
                    for runs in rows[key].values():
                        values = [run[score] for run in runs]
                        density = np.mean([run["density"] for run in runs])
                        points.append((density, np.mean(values), min(values), max(values)))
                    x, mean, low, high = np.array(sorted(points)).T
                    rank = variants.index(legend)
                    shown[legend] = ax.errorbar(
                        x, mean, (mean - low, high - mean), label=legend, linewidth=1.4,
                        markersize=5.5, capsize=3, linestyle="--" if rank else "-",
                        fillstyle="left" if rank else "full",
                        **style | {"color": mix_with_white(style["color"], rank / len(variants))},
                    )
                    densities |= rows[key].keys()
                theirs = sorted((one["density"], one[score]) for one in published or []
                                if (one["method"], one["distill"] != "none") == (name, has_teacher))
                if theirs:
                    ax.plot(*zip(*theirs), linewidth=0.8, linestyle=":", markersize=5,
                            markerfacecolor="none", **style)
                    densities |= {density for density, _ in theirs}
            for dense in {r[score] for r in published or [] if r["method"] == FINE_TUNED}:
                ax.axhline(dense, color=INK, linewidth=0.8, linestyle=":")
            density_axis(ax, densities)
            ax.set_ylim(0, 1)
            title = f"{label}, {'with' if has_teacher else 'without'} a teacher"
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
    """Return a grid for each group of comparable runs: rows are methods, columns densities.

    The fine-tuned model of a group is the first row of its grids, for any number of steps.
    """
    parts = []
    for same_questions in group_records(sorted(records, key=record_order)):
        dense = dense_runs(group_records(same_questions, seedless))
        pruned = [record for record in same_questions if record["method"] != FINE_TUNED]
        for group in group_records(pruned, lambda record: (record["steps"], record["profile"])):
            parts += grid_markdown(group, dense)
    return "\n\n".join([*parts, *data_notes(records)]) + "\n"


def grid_markdown(group: list[dict], dense: list[dict]) -> list[str]:
    """Return heading, note and table of pruned runs of one length; dense: the fine-tuned runs."""
    first, rows = group[0], rows_of_methods(group)
    densities = sorted({density for cells in rows.values() for density in cells}, reverse=True)
    lines = [[label + f" ({changes})" * bool(changes),
              *(sweep_cell(cells.get(density, []), dense) for density in densities)]
             for (_, label, changes), cells in rows.items()]
    if dense:
        text = f"{FINE_TUNED}, {dense[0]['steps']:,} steps: {sweep_cell(dense, [])}"
        lines.insert(0, [text, *[""] * len(densities)])
    return [
        f"### {model_and_data(first)}: {first['n_train']:,} training questions, "
        f"{first['steps']:,} steps of {with_defaults(first['settings'])['batch_size']}, "
        f"{first['n_eval']:,} evaluation questions",
        "EM / F1" + ", EM retained" * bool(dense) + ". ±: see the columns of summary.md; —: not "
        "measured; at: the density reached, where it is not the target.",
        markdown_table(["Model", *map(as_percent, densities)], lines),
    ]


def sweep_cell(runs: list[dict], dense: list[dict]) -> str:
    """Return EM / F1 of the runs of one method at one density."""
    if not runs:
        return "—"
    text = " / ".join(mean_and_spread([run[score] for run in runs]) for score in ("em", "f1"))
    text += f", {em_retained(runs, dense)}" * bool(dense)
    return text + density_missed(runs) + (f" ({len(runs)} runs)" if len(runs) > 1 else "")
