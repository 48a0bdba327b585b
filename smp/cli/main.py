"""The command line: `python -m smp run | sweep | ask | ship | table`."""

import argparse
import sys
from typing import Any, NoReturn

from smp.cli.parameters import GRID, OF_A_SWEEP, OPTIONS
from smp.cli.paths import NOTEBOOKS, ROOT


def count_from_one(text: str) -> int:
    """Return the whole number from 1 that the text is; raise ValueError, which argparse reports."""
    if int(text) < 1:
        raise ValueError
    return int(text)


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        """Print the message to stderr and exit with 2."""
        self.exit(2, f"{self.prog.split()[-1]}: {message}\n")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs."""
    parser = OneLineParser(prog="python -m smp", description=__doc__, allow_abbrev=False)
    verbs = parser.add_subparsers(dest="verb", required=True, parser_class=OneLineParser)
    runner = verbs.add_parser("run", help="run the three notebooks", allow_abbrev=False)
    runner.add_argument("--only", nargs="+", choices=NOTEBOOKS, help="default: all three")
    sweeper = verbs.add_parser("sweep", help="run a grid", allow_abbrev=False)
    for name, default, text in GRID:
        sweeper.add_argument("--" + name, nargs="+", default=default.split(), metavar="X",
                             help=f"{text} (default: {default})")
    for parser_of_verb in (runner, sweeper):
        parser_of_verb.add_argument("--set", nargs="+", metavar="NAME=VALUE",
                                    help="any other setting, e.g. batch_size=16 head=trained")
        for name, text in OPTIONS.items():
            if parser_of_verb is runner or name not in OF_A_SWEEP:
                option = "--" + name.replace("_", "-")
                parser_of_verb.add_argument(option, metavar=name[0].upper(), help=text)
    asker = verbs.add_parser("ask", help="answer questions about a text", allow_abbrev=False)
    asker.add_argument("--model", required=True, help="a saved model: folder or Hub name; with "
                       "--masks, the base model")
    asker.add_argument("--masks", help="a mask file, its folder, or a Hub name")
    asker.add_argument("--passage", required=True, help="a text file, UTF-8")
    asker.add_argument("--question", nargs="+", help="default: from the terminal, a line each")
    asker.add_argument("--n-best", type=count_from_one, default=1, help="answers to show")
    exporter = verbs.add_parser("ship", help="what a trained run comes to", allow_abbrev=False)
    exporter.add_argument("run", help="a run in results/models/, or its folder")
    exporter.add_argument("--onnx", action="store_true", help="write model.onnx as well")
    exporter.add_argument("--data", help="where its questions are, if not where the record says")
    exporter.add_argument("--base", help="where its base model is, likewise")
    exporter.add_argument("--questions", type=count_from_one, default=200,
                         help="to measure on (default: 200)")
    verbs.add_parser("table", help="print the summary of results/", allow_abbrev=False)
    return parser


def run_verb(options: argparse.Namespace, **parts: Any) -> int:
    """Import what the verb needs and run it; return the exit code."""
    if options.verb == "table":
        from smp.cli.table import sweep_table, table

        results = ROOT / "results"
        return table(results) or sweep_table(results) or sweep_table(results / "tried")
    if options.verb == "run":
        from smp.cli.run import run

        return run(options)
    if options.verb == "sweep":
        from smp.cli.sweep import sweep

        return sweep(options, **parts)
    import datasets

    datasets.disable_progress_bars()
    if options.verb == "ask":
        from smp.cli.ask import ask

        return ask(options)
    from smp.cli.export import export

    return export(options)


def main(arguments: list[str] | None = None, **parts: Any) -> int:
    """Run the verb that the arguments name and return the exit code.

    parts: of a sweep, see `smp.cli.sweep.sweep`. Wrong input is one line, with code 2.
    """
    options = make_parser().parse_args(arguments)
    try:
        return run_verb(options, **parts)
    except (OSError, ValueError) as error:
        print(f"{options.verb}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
