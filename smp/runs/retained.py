"""EM retained: a run's EM divided by that of the fine-tuned model, with its uncertainty."""

import statistics

from smp.runs.differences import retained_row
from smp.runs.grouping import group_records, method_rank, model_and_data, seedless
from smp.runs.methods import FINE_TUNED, method_label
from smp.runs.published import PUBLISHED
from smp.runs.result import FEWEST_QUESTIONS, em_half_interval, mean_em
from smp.text import as_percent, markdown_table


def dense_runs(rows: list[list[dict]]) -> list[dict]:
    """Return the fine-tuned row, a run for each seed, of highest mean EM; [] without one."""
    return max((runs for runs in rows if runs[0]["method"] == FINE_TUNED), key=mean_em, default=[])


def em_retained(runs: list[dict], dense: list[dict]) -> str:
    """Return "98.6% ± 0.4 (seeds)" or, of one run, "98.6% ± 1.2"; "—" without a dense EM.

    The first ± is the sample standard deviation over seeds, the second `em_half_interval`. Both
    are percent of the dense EM.
    """
    if not dense or mean_em(dense) == 0:
        return "—"
    if runs[0]["n_eval"] < FEWEST_QUESTIONS:
        return f"withheld, {runs[0]['n_eval']} questions"
    of, share = mean_em(dense), f"{100 * mean_em(runs) / mean_em(dense):.1f}%"
    if len(runs) > 1:
        spread = statistics.stdev(run["em"] for run in runs)
        return f"{share} ± {100 * spread / of:.1f} (seeds)"
    if runs[0]["name"] in [run["name"] for run in dense]:
        return share
    return f"{share} ± {100 * em_half_interval(runs[0], dense) / of:.1f}"


def published_retained(em: float) -> str:
    """Return the share of the paper's fine-tuned EM: 0.793 of 0.804 -> 98.6%."""
    dense = max(row["em"] for row in PUBLISHED["rows"] if row["method"] == FINE_TUNED)
    return f"{100 * em / dense:.1f}%"


def density_missed(runs: list[dict]) -> str:
    """Return e.g. " at 12.6%", the mean density, if a run missed its target by over 1%, else ""."""
    reached, target = [run["density"] for run in runs], runs[0]["density_target"]
    missed = any(abs(density - target) > 0.01 * target for density in reached)
    return f" at {as_percent(statistics.fmean(reached))}" if missed else ""


def retained_of_group(records: list[dict]) -> dict[tuple, dict[float, str]]:
    """Return {`retained_row`: {target density: EM retained}}, of the longest, then best run.

    A run that missed its density counts only if all did.
    """
    rows = group_records(records, seedless)
    dense = dense_runs(rows)
    best: dict[tuple, dict] = {}
    for runs in rows if dense else ():
        first = runs[0]
        if first["method"] == FINE_TUNED:
            continue
        missed, target = density_missed(runs), first["density_target"]
        cells = best.setdefault(retained_row(first), {})
        this = (not missed, first["epochs"], mean_em(runs), em_retained(runs, dense) + missed)
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
    theirs: dict[tuple, dict] = {}
    for row in PUBLISHED["rows"]:
        if row["method"].startswith("smp"):
            method = row["method"], row["distill"]
            key = (method_rank(*method), method_label(*method), "")
            theirs.setdefault(key, {})[row["density"]] = published_retained(row["em"])
    found.append((f"{PUBLISHED['model']} on {PUBLISHED['data']}, published", theirs))
    densities = sorted({d for _, rows in found for cells in rows.values() for d in cells},
                       reverse=True)
    lines = []
    for where, rows in found:
        names = [where] + [""] * (len(rows) - 1)
        lines += [[name, row[1], *(rows[row].get(density, "—") for density in densities)]
                  for name, row in zip(names, sorted(rows))]
    return "\n\n".join([
        "### EM retained at each share of the encoder's weights",
        "EM retained is EM divided by the EM of the fine-tuned model that was trained on as many "
        "questions (training / evaluation). A cell has the longest runs of a method, and the best "
        "of equally long ones. Lengths and settings differ between cells: see the tables below. "
        "Movement and magnitude also train the weights.",
        markdown_table(["Encoder and questions", "Model", *map(as_percent, densities)], lines),
    ])
