"""`smp run`: execute the three notebooks and print the table."""

import os
import sys
import time
from argparse import Namespace
from pathlib import Path

from smp.cli.notebooks import error_line, prepare_environment, run_notebook
from smp.cli.parameters import read_parameters, relative_parameters
from smp.cli.paths import NOTEBOOKS, ROOT, minutes_since


def run(options: Namespace) -> int:
    """Execute the chosen notebooks one after another, then print the table; return the exit code.

    Raises ValueError with one line, before anything runs, for a wrong value or a missing notebook.
    """
    chosen = [ROOT / NOTEBOOKS[name] for name in NOTEBOOKS if name in (options.only or NOTEBOOKS)]
    parameters = read_parameters(options)
    for path in chosen:
        if not path.is_file():
            raise ValueError(f"{path.name} is missing: `make notebooks` builds it")
    results = Path(parameters.get("RESULTS", ROOT / "results"))
    executed = results / "executed" / parameters["PROFILE"]
    executed.mkdir(parents=True, exist_ok=True)
    prepare_environment()
    begin = time.monotonic()
    for number, path in enumerate(chosen, 1):
        print(f"[{number}/{len(chosen)}] {path.name}", flush=True)
        start = time.monotonic()
        try:
            run_notebook(path, executed, relative_parameters(path.parent, parameters))
        except KeyboardInterrupt:
            print(f"\nrun: interrupted; {path.name} left no executed copy", file=sys.stderr)
            return 130
        except Exception as error:  # of any kind: a notebook's errors reach the user as one line
            unfinished = os.path.relpath(executed / f"{path.stem}.failed.ipynb")
            print(f"{path.name} stopped: {error_line(error)} (so far: {unfinished})",
                  file=sys.stderr)
            return 1
        copy = os.path.relpath(executed / path.name)
        print(f"      {minutes_since(start)}, with outputs: {copy}", flush=True)
    print(f"{minutes_since(begin)} in all\n", flush=True)
    from smp.cli.table import table  # late, because it imports matplotlib

    return table(results)
