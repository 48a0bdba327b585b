"""The result of a run, compared with the fine-tuned model, the reference and the paper."""

import math
import statistics
from pathlib import Path

import numpy as np

from smp.runs.methods import FINE_TUNED, method_label
from smp.runs.record import read_record
from smp.text import as_millions, as_percent, markdown_table

FEWEST_QUESTIONS = 400  # below, EM retained is withheld


def half_interval(share: float, n: int) -> float:
    """Return half the 95% interval of a share of n questions: 1.96 sqrt(p (1 - p) / n)."""
    return 1.96 * math.sqrt(share * (1 - share) / n)


def mean_em(runs: list[dict]) -> float:
    """Return the mean EM of the runs."""
    return statistics.fmean(run["em"] for run in runs)


def matches_of(run: dict) -> np.ndarray:
    """Return 1.0 or 0.0 for each evaluation question of a run."""
    packed = np.frombuffer(bytes.fromhex(run["exact_matches"]), np.uint8)
    return np.unpackbits(packed, count=run["n_eval"]).astype(float)


def em_half_interval(run: dict, dense: list[dict]) -> float:
    """Return half the 95% interval of a run's EM minus the mean of the dense runs', by question.

    The difference is paired if all records contain each question's result. Otherwise the two EM
    are treated as independent, which gives a wider interval.
    """
    if not all(one["exact_matches"] for one in [run, *dense]):
        return math.hypot(*(half_interval(em, run["n_eval"]) for em in (run["em"], mean_em(dense))))
    difference = matches_of(run) - np.mean([matches_of(one) for one in dense], axis=0)
    return 1.96 * math.sqrt(float(difference.var()) / run["n_eval"])


def em_text(record: dict) -> str:
    """Return "EM 0.880 ± 0.032", the 95% interval."""
    return f"EM {record['em']:.3f} ± {half_interval(record['em'], record['n_eval']):.3f}"


def dense_line(record: dict, dense: dict) -> str:
    """Return the EM of the fine-tuned model and the share of it that the run retains."""
    if dense["data_sha"] != record["data_sha"] or not dense["em"]:
        return f"EM {dense['em']:.3f}   other evaluation questions"
    if record["n_eval"] < FEWEST_QUESTIONS:
        return f"{em_text(dense)}   EM retained withheld below {FEWEST_QUESTIONS} questions"
    share, error = record["em"] / dense["em"], em_half_interval(record, [dense]) / dense["em"]
    return f"{em_text(dense)}   same questions; EM retained {share:.1%} ± {error:.1%}"


def without_teacher(record: dict, results: Path) -> dict | None:
    """Return the record in `results` of the same run without a teacher, or None."""
    same = "method density_target model_sha data_sha n_train epochs seed variant".split()
    for path in sorted(results.glob("*.json")):
        try:
            other = read_record(path)
        except (OSError, ValueError, RecursionError):
            continue  # `smp table` reports damaged records
        if not other["teacher"] and all(other[name] == record[name] for name in same):
            return other
    return None


def published_line(record: dict, rows: list[dict]) -> tuple[str, str]:
    """Return (name, text) of the published result of the method that is nearest in density."""
    row = min((row for row in rows if row["method"] == record["method"]),
              key=lambda row: abs(math.log(row["density"] / record["density_target"])))
    return f"paper, {method_label(row['method'], row['distill'])}", (
        f"EM {row['em']:.3f}           BERT-base, SQuAD v1.1 dev, {as_percent(row['density'])} "
        "remaining weights" + "; other data, not comparable" * ("squad" not in record["data"]))


def show_result(record: dict, results: Path | str, reference: dict, dense: dict | None = None
                ) -> None:
    """Print the run's result and the values to compare it with, one line each.

    reference: {"runs": {profile: {"em", "seeds", "on"}}, "paper": rows with method, distill,
    density and em} of this notebook; dense: the record of the fine-tuned model, or the teacher's.
    """
    size = (f"{as_percent(record['density'])} remaining weights   "
            f"{record['bytes_mask_file'] / 1e6:.2f} MB mask file" if record["layers"]
            else f"{as_millions(record['params_total'])} parameters")
    lines = [("this run", f"{em_text(record)}   F1 {record['f1']:.3f}   {size}"
              + f"   variant {record['variant']}" * bool(record["variant"]))]
    if teacher := record["teacher"]:
        lines.append(("teacher", dense_line(record, dense) if dense else
                      f"EM {teacher['em']:.3f}   same questions"))
    elif dense:
        lines.append((FINE_TUNED, dense_line(record, dense)))
    if record["teacher"] and (plain := without_teacher(record, Path(results))):
        lines.append(("without a teacher", f"{em_text(plain)}   same questions"))
    if known := reference["runs"].get(record["profile"]):
        values, seeds = (", ".join(format(v, form) for v in known[name])
                         for name, form in (("em", ".3f"), ("seeds", "d")))
        lines.append(("reference", f"EM {values}   profile {record['profile']}, unchanged; "
                      f"seed {seeds}; {known['on']}"))
    lines.append(published_line(record, reference["paper"]))
    for name, text in lines:
        print(f"{name:18} {text}")


def show_records(results: Path | str) -> None:
    """Print Model, Remaining Weights, Model Size and Accuracy (EM) of all records in `results`."""
    rows = []
    for path in sorted(Path(results).glob("*.json")):
        record = read_record(path)
        rows.append([record["label"], as_percent(record["density"]),
                     as_millions(record["params_total"]), em_text(record)[3:]])
    print(markdown_table(["Model", "Remaining Weights", "Model Size", "Accuracy (EM)"], rows))
