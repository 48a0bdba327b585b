"""The summary table: how much of the fine-tuned model's EM each method retains at each density."""

import statistics

from smp.runs.differences import retained_row
from smp.runs.methods import record_methods
from smp.runs.names import group_records, method_label, model_and_data, seedless
from smp.runs.published import PUBLISHED
from smp.runs.tables import dense_em, density_missed, em_retained
from smp.text import as_percent, markdown_table


def retained_of_group(records: list[dict]) -> dict[tuple[int, str, str], dict[float, str]]:
    """Return {`retained_row`: {target density: EM retained}}, of the longest, then best run.

    A run that missed its density counts only if all did.
    """
    rows = group_records(records, seedless)
    dense = dense_em(rows)
    best: dict[tuple[int, str, str], dict] = {}
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
    """Return the table of our groups and the paper's SMP, "" if no group has a fine-tuned model."""
    found: list[tuple[str, dict]] = []
    for group in groups:
        first, rows = group[0], retained_of_group(group)
        where = f"{model_and_data(first)}, {first['n_train']:,} / {first['n_eval']:,}"
        if any(where == other for other, _ in found):  # two encoders or data of one name
            where += f", model {first['model_sha']}, data {first['data_sha']}"
        found += [(where, rows)] * bool(rows)
    if not found:
        return ""
    dense = dense_em([[row] for row in PUBLISHED["rows"]])
    theirs: dict[tuple[int, str, str], dict] = {}
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
                  for name, row in zip(names, sorted(rows))]
    return "\n\n".join([
        "### EM Kept, at each share of the encoder's weights",
        "Of the EM of the fine-tuned model that learned from as many questions (training / "
        "evaluation). A cell is the longest of a method's runs, of equally long ones the best; "
        "lengths and settings differ, see the tables below. Movement and magnitude train the "
        "weights too.",
        markdown_table(["Encoder and questions", "Model", *map(as_percent, densities)], lines),
    ])
