"""The command line: `smp run | sweep | ask | export | table | repeat | authors`."""

import os
import sys
from typing import Any

from smp.cli.options import escaped, parse, stop_text


def limit_threads(count: int) -> None:
    """Let torch, which is imported later, and the notebooks use `count` CPU threads."""
    if count < 1:
        raise ValueError(f"--threads {count}: expected 1 or more")
    os.environ["OMP_NUM_THREADS"] = str(count)


def run_verb(verb: str, options: Any, **parts: Any) -> int:
    """Import what the verb needs and run it; return the exit code."""
    if getattr(options, "threads", None) is not None:
        limit_threads(options.threads)
    if verb == "run":
        from smp.cli.parameters import notebook_parameters, read_files, read_settings
        from smp.cli.run import run

        parameters = notebook_parameters(read_settings(options.settings), read_files(options.files))
        return run(options.only, parameters)
    if verb == "table":
        from smp.cli.table import table_verb

        return table_verb(options)
    if verb == "sweep":
        from smp.cli.sweep import sweep

        return sweep(options, **parts)
    import datasets

    datasets.disable_progress_bars()
    if verb == "ask":
        from smp.cli.ask import ask

        return ask(options)
    if verb == "export":
        from smp.cli.export import export

        return export(options)
    if verb == "repeat":
        from smp.cli.repeat import repeat

        return repeat(options)
    from smp.cli.authors import authors

    return authors(options)


def main(arguments: list[str] | None = None, **parts: Any) -> int:
    """Run the verb that the arguments name and return the exit code.

    parts: the argument of `smp.cli.sweep.sweep`. Wrong input prints one line and returns 2.
    """
    verb = "smp"
    try:
        verb, options = parse(sys.argv[1:] if arguments is None else arguments)
        return run_verb(verb, options, **parts)
    except BrokenPipeError:  # `smp table | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if (text := stop_text(error)) is None:
            raise
        print(escaped(f"{verb}: {text}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
