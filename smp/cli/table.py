"""`smp table`: compute the tables and the pictures from the records."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from smp.cli.parameters import read_path
from smp.cli.paths import REFERENCE, ROOT
from smp.files import replace_text_file, replaced_file, results_folder
from smp.runs.curves import plot_records
from smp.runs.grouping import group_records
from smp.runs.methods import FINE_TUNED
from smp.runs.published import PUBLISHED
from smp.runs.read import read_records
from smp.runs.summary import write_readme, write_summary
from smp.runs.sweep_curves import plot_sweep, sweep_markdown


def draw_group(records: list[dict], draw: Callable, rank: Callable, path: Path) -> None:
    """Draw the group of comparable records that `rank` puts first into the file `path`."""
    chosen = max(group_records(records), key=rank)
    published = PUBLISHED["rows"] if "squad" in chosen[0]["data"] else None
    with replaced_file(path) as draft:
        draw(chosen, published).savefig(draft, format=path.suffix[1:], dpi=150)


def table(results: Path) -> str:
    """Write summary.md and summary.png of a folder of records and return the text.

    A folder with several pruning methods also gets methods.md and methods.png.
    """
    records = read_records(results)
    text = write_summary(records, results)
    if records:
        draw_group(records, plot_records,
                   lambda group: (group[0]["n_eval"], group[0]["n_train"]),
                   results / "summary.png")
    pruned = [record for record in records if record["method"] != FINE_TUNED]
    if len({record["method"] for record in pruned}) > 1:
        replace_text_file(results / "methods.md", sweep_markdown(records))
        draw_group(pruned, plot_sweep, len, results / "methods.png")
    return text


def table_verb(options: Any) -> int:
    """Print the tables of a folder, or write the tables of the reference; return the exit code."""
    results = Path(read_path("results", options.results)) if options.results else results_folder()
    if options.reference and options.results:
        raise ValueError("--reference and --results name two folders: use one of them")
    if not options.reference:
        if not results.is_dir():
            raise ValueError(f"{results}: no such folder; `smp run` creates it")
        print(table(results))
        return 0
    if not REFERENCE.is_dir():
        raise ValueError("--reference: the reference records are in the clone only; run it there")
    for folder in (REFERENCE, REFERENCE / "sweep", REFERENCE / "tried"):
        table(folder)
    write_readme(REFERENCE, ROOT / "README.md")
    print(f"{REFERENCE / 'summary.md'}, methods.md and README.md are computed", file=sys.stderr)
    return 0
