"""Print the table of three tasks: the runs of three_tasks.py, and records of SQuAD.

    python -m experiments.three_tasks_table RUNS.json ... RECORD.json ...

A difference is from the fine-tuned model of the same encoder and task. Its ± is half of the 95%
interval of a paired bootstrap over the texts.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from experiments.three_tasks import f1_of
from smp.runs.methods import method_label
from smp.runs.result import matches_of
from smp.text import as_percent, markdown_table

TASKS = {"squad": "SQuAD, EM", "sst2": "SST-2, accuracy", "wnut17": "WNUT-17, entity F1"}
RESAMPLES = 2_000


def runs_of(path):
    """Return [(encoder, method, density, task, counts)] of a file of runs or a record."""
    found = json.loads(Path(path).read_text("utf-8"))
    if "runs" in found:
        return [(found["settings"]["model"], run["method"], run["density"], run["task"],
                 run["counts"]) for run in found["runs"]]
    counts = [(int(right), 1, 1) for right in matches_of(found)]
    return [(found["model"], found["method"], found["density_target"], "squad", counts)]


def bootstrap_half_interval(counts, dense):
    """Return half of the 95% interval of the difference; the same texts are drawn for both."""
    counts, dense = np.array(counts), np.array(dense)
    draws = np.random.default_rng(0).integers(len(counts), size=(RESAMPLES, len(counts)))
    low, high = np.percentile(f1_of(counts[draws]) - f1_of(dense[draws]), (2.5, 97.5))
    return (high - low) / 2


def table(paths):
    """Return the Markdown table of all runs in the files."""
    runs = {run[:4]: run[4] for path in paths for run in runs_of(path)}
    rows = []
    for encoder, method, density in dict.fromkeys(key[:3] for key in runs):
        cells = []
        for task in TASKS:
            counts = runs.get((encoder, method, density, task))
            dense = runs.get((encoder, "fine-tuned", 1.0, task))
            if counts is None:
                cells.append("not measured")
            elif method == "fine-tuned" or dense is None:
                cells.append(f"{f1_of(counts):.3f}")
            else:
                difference = f1_of(counts) - f1_of(dense)
                cells.append(f"{f1_of(counts):.3f} ({difference:+.3f} ± "
                             f"{bootstrap_half_interval(counts, dense):.3f})")
        rows.append([encoder, method_label(method), as_percent(density), *cells])
    return markdown_table(["Encoder", "Method", "Remaining", *TASKS.values()], rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="+", metavar="FILE")
    print(table(parser.parse_args().files))
