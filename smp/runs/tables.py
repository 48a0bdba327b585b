"""Results: one file a run, and tables computed from them.

Each run leaves one JSON file in `results/`: what was trained on what, with which settings and
versions, how much of the model is left, and how many questions it answers. The tables are
computed from these files and never typed, so a number in the README can be followed back to
the run it came from.

A run's name ends in six digits of a hash of its settings, its model and its data. The same
settings therefore give the same name, and a rerun replaces its own record and no other. Settings
at their defaults do not count, so that a new one leaves the old names as they are.
"""

import statistics

from smp.runs.names import (
    data_label,
    group_records,
    record_label,
    record_order,
    seedless,
    what_differs,
)
from smp.text import as_millions, as_percent, markdown_table, short_name


def bytes_on_disk(record: dict) -> int | None:
    """What must be on disk for this task: the mask file, where the weights are the base model's;
    else the model. None where it was not measured."""
    masks = record["bytes_mask_file"]
    return record.get("bytes_model") if masks is None else masks


def measured_mean(values: list, form: str) -> str:
    """The mean in that form; "not measured" where one of the runs did not measure it."""
    return "not measured" if None in values else form.format(statistics.fmean(values))


def mean_and_spread(values: list[float]) -> str:
    """0.653 of one value, 0.653 ± 0.004 of several (mean, sample standard deviation)."""
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{statistics.fmean(values):.3f} ± {statistics.stdev(values):.3f}"


def density_missed(runs: list[dict]) -> str:
    """" at 12.6%", the mean, where one of the runs missed the density it aimed at; else ""."""
    reached, target = [run["density"] for run in runs], runs[0]["density_target"]
    missed = any(abs(density - target) > 0.01 * target for density in reached)
    return f" at {as_percent(statistics.fmean(reached))}" if missed else ""


def em_retained(em: float, dense: float | None) -> str:
    """How much of the fine-tuned model's EM is kept, 0.793 of 0.804 -> 98.6%; "—" without one."""
    return f"{100 * em / dense:.1f}%" if dense else "—"


def dense_em(rows: list[list[dict]]) -> float | None:
    """EM of the best fine-tuned row, the mean over its seeds; None where none was fine-tuned to
    the end."""
    return max((statistics.fmean(run["em"] for run in runs) for runs in rows
                if runs[0]["method"] == "fine-tuned" and not runs[0].get("interrupted")),
               default=None)


def marks(record: dict) -> str:
    """" (interrupted)" and the like, for a run that does not count as one of today's commit."""
    words = ["interrupted"] * record["interrupted"]
    words += ["uncommitted changes"] * bool(record["dirty"])
    return f" ({', '.join(words)})" if words else ""


def result_row(runs: list[dict], dense: float | None, differs: str = "") -> list[str]:
    """One row of the table from the records of runs that differ in their seeds only.

    dense: EM of the fine-tuned model of the same table; differs: of `what_differs`.
    """
    first = runs[0]
    total = first["params_total"]
    whole = statistics.fmean(run["remaining_of_model"] for run in runs)
    density = statistics.fmean(run["density"] for run in runs)
    seeds = sorted({run["seed"] for run in runs})
    seeds = ("seed " if len(seeds) == 1 else "seeds ") + ", ".join(map(str, seeds))
    if len(runs) > 1:
        seeds += f" ({len(runs)} runs)"
    epochs = f"{first['epochs']:g} epoch" + "s" * (first["epochs"] != 1)
    minutes = statistics.fmean(run["seconds"] for run in runs) / 60
    return [
        record_label(first) + marks(first),
        f"{as_percent(density)} ({as_percent(whole)} of the model)",
        f"{as_millions(whole * total)} of {as_millions(total)}",
        mean_and_spread([run["em"] for run in runs]),
        mean_and_spread([run["f1"] for run in runs]),
        em_retained(statistics.fmean(run["em"] for run in runs), dense),
        measured_mean([bytes_ / 1e6 if bytes_ is not None else None
                       for bytes_ in map(bytes_on_disk, runs)], "{:.2f} MB"),
        measured_mean([run.get("ms_per_question") for run in runs], "{:.1f}"),
        f"{epochs}, {first['steps']:,} steps, {seeds}" + f", {differs}" * bool(differs),
        f"{minutes:.0f} min, {first['device']} {first['precision']}",
    ]


def group_heading(record: dict) -> str:
    """What the records of one group have in common, as a heading."""
    return (f"### {short_name(record['model'])} on {data_label(record)}: "
            f"{record['n_train']:,} training questions, {record['n_eval']:,} evaluation questions")


def group_markdown(records: list[dict]) -> str:
    """Heading and table of one group of comparable records."""
    first = records[0]
    rows = group_records(sorted(records, key=record_order), seedless)
    dense, apart = dense_em(rows), what_differs(records)
    header = ["Model", "Remaining Weights", "Model Size", "Accuracy (EM)", "F1", "EM Kept",
              "To Ship", "ms/Question", "Trained for", "Training"]
    return "\n\n".join([
        group_heading(first),
        f"Model `{first['model_sha'] or 'unknown'}`, data `{first['data_sha'] or 'unknown'}`.",
        markdown_table(header, [result_row(runs, dense, apart[runs[0]["name"]]) for runs in rows]),
    ])








