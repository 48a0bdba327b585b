"""`smp run`: execute the three notebooks and print their results."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smp.cli.notebooks import (
    error_line,
    interrupted_kernels,
    prepare_environment,
    record_name,
    run_notebook,
)
from smp.cli.parameters import relative_parameters
from smp.cli.paths import NOTEBOOKS, REFERENCE, minutes_since, notebook_path, shown_path
from smp.cli.report import (
    closing_lines,
    command_name,
    notebook_settings,
    opening_lines,
    read_reference,
    result_text,
)
from smp.cli.screen import INDENT
from smp.files import results_folder
from smp.runs.record import read_record


def read_run(results: Path, notebook: Any) -> dict | None:
    """Return the record that an executed notebook wrote, None if it wrote none."""
    name = record_name(notebook)
    if name is None:
        return None
    try:
        return read_record(results / f"{name}.json")
    except (OSError, ValueError):
        return None


def run_one(path: Path, executed: Path, results: Path, parameters: dict) -> dict | None:
    """Execute one notebook, print its result in two lines, return its record."""
    start = time.monotonic()
    notebook = run_notebook(path, executed, relative_parameters(Path.cwd(), parameters))
    files = [shown_path(executed / path.name)]
    if record := read_run(results, notebook):
        files.insert(0, shown_path(results / f"{record['name']}.json"))
        print(f"{INDENT}{record['label']}: {result_text(record)}, F1 {record['f1']:.3f}, "
              f"{record['n_eval']:,} evaluation questions")
    print(f"{INDENT}{minutes_since(start)}: {', '.join(files)}", flush=True)
    return record


def run_all(paths: list[Path], results: Path, parameters: dict) -> list[dict] | int:
    """Execute the notebooks one after another; return their records, or the exit code."""
    executed, records = results / "executed" / parameters["PROFILE"], []
    for number, path in enumerate(paths, 1):
        print(f"[{number}/{len(paths)}] {path.name}", flush=True)
        failed, signals = executed / f"{path.stem}.failed.ipynb", list[int]()
        try:
            with interrupted_kernels(signals):
                executed.mkdir(parents=True, exist_ok=True)
                records.append(run_one(path, executed, results, parameters))
        except (Exception, KeyboardInterrupt) as error:  # any error is printed as one line
            if signals:
                failed.unlink(missing_ok=True)
                print(f"run: interrupted; {path.name} left no executed copy; the same command "
                      "resumes its training", file=sys.stderr)
                return 128 + signals[0]
            copy = "no executed copy was written"
            if failed.exists():
                copy = f"outputs until then: {shown_path(failed)}"
            print(f"{path.name} failed: {error_line(error)} ({copy})", file=sys.stderr)
            return 1
    return [record for record in records if record]


def run(only: Sequence[str], parameters: dict[str, Any], reference: Path = REFERENCE) -> int:
    """Execute the chosen notebooks in the current folder, print the results, return the exit code.

    only: names of NOTEBOOKS, () for all. parameters: {PARAMETER: value}, with PROFILE. reference:
    folder of the records for comparison. Raises ValueError with one line, before the first
    notebook, for a wrong value or a missing notebook.
    """
    chosen = [name for name in NOTEBOOKS if name in (only or NOTEBOOKS)]
    paths = [notebook_path(name) for name in chosen]
    settings = {name: notebook_settings(name, parameters) for name in chosen}
    results = Path(parameters.get("RESULTS") or results_folder()).absolute()
    expected = read_reference(reference)
    print("\n".join(opening_lines(settings, results, expected, command_name())), flush=True)
    prepare_environment()
    records = run_all(paths, results, parameters)
    if isinstance(records, int):
        return records
    print("\n" + "\n".join(
        closing_lines(records, expected, results, results / "executed" / parameters["PROFILE"],
                      command_name())))
    from smp.cli.table import table  # imported here, because it imports matplotlib

    table(results)
    return 0
