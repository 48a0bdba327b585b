"""`smp sweep`: train a grid of methods × densities × seeds with the loop of the notebooks.

Each finished run writes its record into results/. A run that has a record is skipped, and the
current run has checkpoints, so the same command continues a stopped sweep.
"""

import sys
import time
from pathlib import Path
from typing import Any

from smp.cli.grid import Grid
from smp.cli.options import stop_text
from smp.cli.parameters import read_files, read_settings
from smp.cli.paths import minutes_since
from smp.cli.table import table
from smp.cli.train import DEFAULT_PARTS, Parts
from smp.files import results_folder
from smp.model.predict import is_first_process
from smp.runs.grouping import record_group
from smp.runs.methods import FINE_TUNED, METHODS
from smp.runs.read import read_records
from smp.runs.settings import Settings, choose_settings
from smp.runs.sweep_curves import sweep_markdown


def read_method(text: str) -> tuple[str, dict]:
    """Return stage and settings of "smp-s+hidden": ("smp-kd", {"method", "distill"}).

    "+kd" distils the teacher's logits, "+hidden" its hidden states too. Raises ValueError with one
    line for any other word.
    """
    if text == FINE_TUNED:
        return "fine-tune", {}
    name, plus, teacher = text.lower().partition("+")
    distill = {"": "none", "kd": "logits", "hidden": "hidden"}.get(teacher)
    if name not in METHODS or distill is None or plus and not teacher:
        raise ValueError(f"method {text!r}: expected {FINE_TUNED} or one of {', '.join(METHODS)}, "
                         "each also with +kd or +hidden")
    return ("smp-kd" if teacher else "smp"), {"method": name, "distill": distill}


def plan_sweep(profile: str, methods: list[str], densities: list, seeds: list,
               **changes: Any) -> list[Settings]:
    """Return the settings of each run: seed by seed, then by density, then by method.

    changes: arguments of `choose_settings`, the same for every run. The fine-tuned runs come first,
    because the others may need one as their teacher. Raises ValueError for an invalid value.
    """
    runs = [
        choose_settings(profile, stage, **changes | chosen | {"density": density, "seed": seed})
        for seed in seeds for density in densities for stage, chosen in map(read_method, methods)
    ]
    return sorted(dict.fromkeys(runs), key=lambda run: run.method != FINE_TUNED)


def sweep(options: Any, parts: Parts = DEFAULT_PARTS) -> int:
    """Run each run without a record, then print a comparison of the methods; return the exit code.

    options: `smp.cli.options.Sweep`. Raises OSError or ValueError with one line, before the first
    run, for invalid input.
    """
    for name, instead in (("method", "methods"), ("distill", "methods"), ("density", "densities"),
                          ("seed", "seeds")):
        if getattr(options.settings, name) is not None:
            raise ValueError(f"--{name}: a sweep takes --{instead}")
        if not getattr(options, instead):
            raise ValueError(f"--{instead}: expected one or more")
    settings, files = read_settings(options.settings), read_files(options.files)
    results = Path(files.get("results", results_folder()))
    runs = plan_sweep(settings.pop("profile"), options.methods, options.densities, options.seeds,
                      **settings)
    done = {record["name"]: record for record in read_records(results)}
    grid = Grid(runs, results, files.get("teacher"), files.get("checkpoints"), parts)
    first = is_first_process()  # only this process prints, under accelerate's launcher

    def show(line: str) -> None:
        if first:
            print(line, flush=True)

    begin = time.monotonic()
    for number, run in enumerate(grid.runs, 1):
        if run.stage == "smp-kd" and not grid.teacher:
            grid.choose_teacher(None)
        name = grid.begun[run]["name"]
        if name in done:
            before = done[name]["teacher"]
            other = before and before.get("sha") not in (None, grid.teacher["sha"])
            note = ", but with another teacher of this name; remove the record to train it again"
            show(f"[{number}/{len(runs)}] {name}: has a record" + note * bool(other))
            continue
        show(f"[{number}/{len(runs)}] {name}")
        try:
            record = grid.run(run)
        except KeyboardInterrupt:
            print(f"\nsweep: interrupted in {name}; the same command continues it", file=sys.stderr)
            return 130
        except Exception as error:
            if (text := stop_text(error)) is None:
                raise
            print(f"sweep: {name} stopped: {text}", file=sys.stderr)
            return 1
        show(f"      EM {record['em']:.3f}  F1 {record['f1']:.3f}  density "
             f"{record['density']:.1%}, {minutes_since(begin)} so far")
    if first:
        table(results)
        records = read_records(results)
        group = next(record_group(record) for record in records if record["name"] == name)
        print(sweep_markdown([record for record in records if record_group(record) == group]))
    return 0
