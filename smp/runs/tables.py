"""The table of a group of records: one row for runs that differ in their seeds only."""

import statistics

from smp.runs.differences import what_differs
from smp.runs.grouping import (
    data_notes,
    group_records,
    marks,
    model_and_data,
    record_order,
    seedless,
)
from smp.runs.retained import dense_runs, em_retained
from smp.text import as_millions, as_percent, markdown_table

HEADER = ["Model", "Remaining Weights", "Model Size", "Accuracy (EM)", "F1", "EM retained",
          "Size on disk", "ms per question", "Schedule", "Training time"]


def bytes_on_disk(record: dict) -> int | None:
    """Return bytes of the mask file if the weights are the base model's, else of the model."""
    masks = record["bytes_mask_file"]
    return record["bytes_model"] if masks is None else masks


def measured_mean(values: list, form: str, scale: float = 1) -> str:
    """Return the formatted mean of values / scale, "not measured" if one of them is None."""
    return "not measured" if None in values else form.format(
        statistics.fmean(value / scale for value in values))


def mean_and_spread(values: list[float]) -> str:
    """Return 0.653 of one value, 0.653 ± 0.004 of several (mean, sample standard deviation)."""
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{statistics.fmean(values):.3f} ± {statistics.stdev(values):.3f}"


def result_row(runs: list[dict], dense: list[dict], differs: str = "") -> list[str]:
    """Return one row; dense: the table's fine-tuned runs; differs: from `what_differs`."""
    first = runs[0]
    total = first["params_total"]
    whole = statistics.fmean(run["remaining_of_model"] for run in runs)
    density = statistics.fmean(run["density"] for run in runs)
    seeds = sorted({run["seed"] for run in runs})
    seeds_text = ("seed " if len(seeds) == 1 else "seeds ") + ", ".join(map(str, seeds))
    if len(runs) > 1:
        seeds_text += f" ({len(runs)} runs)"
    epochs = f"{first['epochs']:g} epoch" + "s" * (first["epochs"] != 1)
    minutes = statistics.fmean(run["seconds"] for run in runs) / 60
    return [
        first["label"] + marks(first),
        f"{as_percent(density)} ({as_percent(whole)} of the model)",
        f"{as_millions(whole * total)} of {as_millions(total)}",
        mean_and_spread([run["em"] for run in runs]),
        mean_and_spread([run["f1"] for run in runs]),
        em_retained(runs, dense),
        measured_mean(list(map(bytes_on_disk, runs)), "{:.2f} MB", 1e6),
        measured_mean([run["ms_per_question"] for run in runs], "{:.1f}"),
        f"{epochs}, {first['steps']:,} steps, {seeds_text}" + f", {differs}" * bool(differs),
        f"{minutes:.0f} min, {first['device']} {first['precision']}",
    ]


def group_heading(record: dict) -> str:
    """Return the heading of a group: model, data and numbers of questions."""
    return (f"### {model_and_data(record)}: {record['n_train']:,} training questions, "
            f"{record['n_eval']:,} evaluation questions")


def group_markdown(records: list[dict]) -> str:
    """Return heading and table of one group of comparable records."""
    first, rows = records[0], group_records(sorted(records, key=record_order), seedless)
    dense, differs = dense_runs(rows), what_differs(records)
    return "\n\n".join([
        group_heading(first),
        f"Model `{first['model_sha']}`, data `{first['data_sha']}`.",
        markdown_table(
            HEADER, [result_row(runs, dense, differs[runs[0]["name"]]) for runs in rows]),
        *data_notes(records),
    ])
