"""`smp table`: compute the tables, the pictures and the commands from the records."""

import sys
from collections.abc import Callable
from pathlib import Path

from smp.cli.commands import commands_markdown
from smp.cli.paths import ROOT
from smp.files import replace_text_file, replaced_file
from smp.runs.curves import plot_records
from smp.runs.names import group_records
from smp.runs.published import PUBLISHED
from smp.runs.read import read_records, read_results
from smp.runs.summary import write_summary
from smp.runs.sweep_curves import plot_sweep, sweep_markdown


def draw_group(records: list[dict], draw: Callable, rank: Callable, path: Path) -> None:
    """Draw the group of comparable records that `rank` puts first into the file `path`."""
    chosen = max(group_records(records), key=rank)
    published = PUBLISHED["rows"] if "squad" in chosen[0]["data"] else None
    with replaced_file(path) as draft:
        draw(chosen, published).savefig(draft, dpi=150)


def table(results: Path) -> int:
    """Print the summary of a folder of records; return the exit code.

    It goes into summary.md there, with picture and commands, and, in results/, into the README.
    """
    readme = ROOT / "README.md"
    is_own = results.resolve() == ROOT / "results" and readme.is_file()
    try:
        print(write_summary(results, readme if is_own else None))
        finished = read_records(results)
        if finished:
            replace_text_file(results / "commands.md", commands_markdown(finished))
            draw_group(read_results(results), plot_records,
                       lambda group: (group[0]["n_eval"], group[0]["n_train"]),
                       results / "summary.png")
    except (OSError, ValueError) as error:
        print(f"table: {error}", file=sys.stderr)
        return 1
    return 0


def sweep_table(results: Path) -> int:
    """Print the table of the records in results/sweep/, if any; return the exit code.

    It goes into summary.md there, with picture and commands.
    """
    folder = results / "sweep"
    try:
        if records := read_records(folder):
            text = sweep_markdown(records)
            replace_text_file(folder / "summary.md", text)
            replace_text_file(folder / "commands.md", commands_markdown(records, of_a_sweep=True))
            print(text)
            draw_group(records, plot_sweep, len, folder / "summary.png")
    except (OSError, ValueError) as error:
        print(f"sweep: {error}", file=sys.stderr)
        return 1
    return 0
