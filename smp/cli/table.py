"""cli.table."""

import os
import sys
from pathlib import Path

from smp.cli.parameters import OPTIONS
from smp.cli.run import ROOT


# The verbs
def draw_group(records, how, rank, path):
    """Draws the group of comparable records that `rank` puts first into the file `path`."""
    from smp.runs.names import group_records
    from smp.runs.published import PUBLISHED

    chosen = max(group_records(records), key=rank)
    published = PUBLISHED["rows"] if "squad" in chosen[0]["data"] else None
    draft = path.with_name(f"{path.stem}.part{path.suffix}")
    how(chosen, published).savefig(draft, dpi=150)
    os.replace(draft, path)


def table(results):
    """Prints the summary; writes it into results/summary.md and the README, with the picture and
    the commands. -> exit code"""
    from smp.cli.commands import commands_markdown
    from smp.files import replace_text_file
    from smp.runs.curves import plot_records
    from smp.runs.read import read_records, read_results
    from smp.runs.summary import write_summary

    readme = ROOT / "README.md"
    ours = Path(results).resolve() == ROOT / "results" and readme.is_file()
    try:
        print(write_summary(results, readme if ours else None))
        finished = [record for record in read_records(results) if not record["interrupted"]]
        if finished:
            text = commands_markdown(finished, OPTIONS)  # a sweep's stand beside its records
            replace_text_file(Path(results) / "commands.md", text)

            def most_questions(group):
                return group[0]["n_eval"], group[0]["n_train"]

            shown = [record for record in read_results(results) if not record["interrupted"]]
            draw_group(shown, plot_records, most_questions, Path(results) / "summary.png")
    except (OSError, ValueError) as error:
        print(f"table: {error}", file=sys.stderr)
        return 1
    return 0


def sweep_table(results):
    """Prints the sweep's table; writes it, the picture and the commands into results/sweep/.
    -> exit code"""
    from smp.cli.commands import commands_markdown
    from smp.files import replace_text_file
    from smp.runs.read import read_records
    from smp.runs.sweep_curves import plot_sweep, sweep_markdown

    folder = Path(results) / "sweep"
    try:
        if records := read_records(folder):
            text = sweep_markdown(records)
            replace_text_file(folder / "summary.md", text)
            replace_text_file(folder / "commands.md", commands_markdown(records, OPTIONS, True))
            print(text)
            draw_group(records, plot_sweep, len, folder / "summary.png")
    except (OSError, ValueError) as error:
        print(f"sweep: {error}", file=sys.stderr)
        return 1
    return 0
