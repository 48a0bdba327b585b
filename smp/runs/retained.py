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

from smp.runs.methods import record_methods
from smp.runs.names import (
    data_label,
    group_records,
    identifying_settings,
    method_label,
    record_label,
    seedless,
    shown_settings,
)
from smp.runs.published import PUBLISHED
from smp.runs.tables import dense_em, density_missed, em_retained, marks
from smp.text import as_percent, markdown_table, short_name


def retained_row(record: dict) -> tuple[int, str, str]:
    """The row of `kept_markdown` that a record belongs to: (its place, what it says, its teacher's
    whole name)."""
    shown = shown_settings(record)
    also = [f", {name} {shown[name]}" for name in ("teacher", "variant") if name in shown]
    return (record_methods().index(record["method"]),
            "".join([record_label(record), *also, marks(record)]),
            identifying_settings(record).get("teacher", ""))


def retained_of_group(records: list[dict]) -> dict[tuple[int, str, str], dict[float, str]]:
    """{`kept_row`: {density aimed at: EM kept}}, of several runs by the longest, of equally long
    ones the best; one that missed its density counts only where all did."""
    rows = group_records(records, seedless)
    dense, best = dense_em(rows), {}
    for runs in rows if dense else ():
        first, em = runs[0], statistics.fmean(run["em"] for run in runs)
        if first["method"] == "fine-tuned":
            continue
        missed, target = density_missed(runs), first["density_target"]
        cells = best.setdefault(retained_row(first), {})
        this = (not missed, first["epochs"], em, em_retained(em, dense) + missed)
        cells[target] = max(cells.get(target, ()), this)
    return {row: {d: cell[-1] for d, cell in cells.items()} for row, cells in best.items()}


def retained_markdown(groups: list[list[dict]]) -> str:
    """What each method keeps at each density, ours and the paper's SMP, as one small table; ""
    where nothing of ours has both a fine-tuned model and a pruned one."""
    found = []
    for group in groups:
        first, rows = group[0], retained_of_group(group)
        where = (f"{short_name(first['model'])} on {data_label(first)}, "
                 f"{first['n_train']:,} / {first['n_eval']:,}")
        if any(where == other for other, _ in found):  # two encoders or data of one name
            where += f", model {first['model_sha']}, data {first['data_sha']}"
        found += [(where, rows)] * bool(rows)
    if not found:
        return ""
    theirs, dense = {}, dense_em([[row] for row in PUBLISHED["rows"]])
    for row in PUBLISHED["rows"]:
        if row["method"] in ("SMP", "SMP + KD"):
            label = method_label(row["method"], row["sharing"])
            cells = theirs.setdefault((record_methods().index(row["method"]), label, ""), {})
            cells[row["density"]] = em_retained(row["em"], dense)
    found.append((f"{PUBLISHED['model']} on {PUBLISHED['data']}, published", theirs))
    densities = sorted({d for _, rows in found for cells in rows.values() for d in cells},
                       reverse=True)
    lines = []
    for where, rows in found:
        names = [where] + [""] * (len(rows) - 1)
        lines += [[name, row[1], *(rows[row].get(density, "—") for density in densities)]
                  for name, row in zip(names, sorted(rows), strict=True)]
    return "\n\n".join([
        "### EM Kept, at each share of the encoder's weights",
        "Of the EM of the fine-tuned model that learned from as many questions (training / "
        "evaluation). A cell is the longest of a method's runs, of equally long ones the best; "
        "lengths and settings differ, see the tables below. Movement and magnitude train the "
        "weights too.",
        markdown_table(["Encoder and questions", "Model", *map(as_percent, densities)], lines),
    ])
