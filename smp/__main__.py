"""`python -m smp run` runs the three notebooks, `python -m smp table` prints their results,
`python -m smp sweep` runs a grid of methods, densities and seeds, `python -m smp ask` answers
questions about a text, `python -m smp ship` says what a trained run comes to when it is shipped."""

import argparse
import logging
import os
import re
import shutil
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

from smp.commands import SWEEP_METHODS

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = {
    "finetune": "BERT_FINETUNE_QA.ipynb",
    "smp": "Static_Model_Pruning/BERT_SMP.ipynb",
    "smp_kd": "Static_Model_Pruning/BERT_SMP_KD.ipynb",
}
OPTIONS = {
    "profile": "quick, laptop, minilm, squad, paper, colab (default: squad with a GPU, else quick)",
    "model": "Hub name, folder, or all-MiniLM-L6-v2 (embedded)",
    "data": "Hub name, SQuAD-format file or folder, or almanac (embedded)",
    "n_train": "questions to train on",
    "n_valid": "questions held out of train",
    "n_eval": "questions to evaluate on",
    "epochs": "passes over the training questions",
    "density": "share of the encoder's weights that stays, above 0 and at most 1",
    "teacher": "a fine-tuned model for distillation, also as an archive: folder, .zip or Hub name "
    "(default: the one the first notebook saved)",
    "seed": "of everything drawn at random",
    "sharing": "local (SMP-L) or shared (SMP-S)",
    "results": "folder for records, models and executed notebooks (default: results)",
    "checkpoints": "folder for checkpoints, e.g. on a mounted drive (default: in results)",
}
GRID = (
    ("methods", "smp-l smp-s magnitude movement soft-movement",
     f"of {', '.join(SWEEP_METHODS)}, each also with +kd"),
    ("densities", "0.5 0.3 0.1 0.03", "shares of the encoder's weights that stay"),
    ("seeds", "0", "of everything drawn at random"),
)
OF_A_SWEEP = {"density": "DENSITIES", "seed": "SEEDS", "sharing": "METHODS"}  # say it instead
NUMBERS = {"n_train": int, "n_valid": int, "n_eval": int, "epochs": float, "density": float,
           "seed": int}
PATHS = ("model", "data", "teacher", "results", "checkpoints")
EMBEDDED = ("almanac", "all-MiniLM-L6-v2")


# What the user typed, checked before anything starts


def read_number(name, text):
    """A whole number where the text is one, else a float if the option takes one."""
    for kind in (int, NUMBERS[name]):
        try:
            return kind(text)
        except ValueError:
            pass
    whole = "whole " if NUMBERS[name] is int else ""
    raise ValueError(f"{name.upper()}={text!r}: expected a {whole}number")


def read_path(name, text):
    """A path made absolute, because notebooks run elsewhere; a Hub name as it is."""
    path = os.path.abspath(os.path.expanduser(text))
    if name in ("results", "checkpoints"):
        there = path  # or the folder in which it will be made
        while not os.path.lexists(there):
            there = os.path.dirname(there)
        if not os.path.isdir(there):
            raise ValueError(f"{name.upper()}={text!r}: {there} is no folder; name one to write in")
        if not os.access(there, os.W_OK):
            raise ValueError(f"{name.upper()}={text!r}: cannot write in {there}; name another")
        return path
    if text not in EMBEDDED and os.path.exists(path):
        return path
    # A Hub name is "name" or "owner/name"; anything else was meant as a path.
    if re.match(r"[./~]", text) or text.count("/") > 1 or re.search(r"\.(json|gz|xz|zip)$", text):
        raise ValueError(f"{name.upper()}={text!r}: there is no such file or folder")
    return text


def read_changes(words):
    """["learning_rate=0.1", ...] -> {"learning_rate": 0.1}: settings without an option.

    However the shell split them, or did not. A word without = goes on with the value before it:
    "head=label words".
    """
    changes, whole = {}, []
    for word in " ".join(words or ()).split():
        if "=" in word or not whole:
            whole.append(word)
        else:
            whole[-1] += f" {word}"
    for word in whole:
        name, equals, text = word.partition("=")
        if not equals:
            raise ValueError(f"SET={word!r}: expected NAME=VALUE, e.g. learning_rate=0.1")
        if name in OPTIONS:
            own = f" (in a sweep {OF_A_SWEEP[name]})" if name in OF_A_SWEEP else ""
            raise ValueError(
                f"SET={word!r}: expected {name.upper()}={text}, it has its own option{own}"
            )
        if name in ("task", "method"):
            raise ValueError(f"SET={word!r}: expected another setting, METHODS of a sweep says it")
        for kind in (int, float, str):
            try:
                changes[name] = kind(text)
                break
            except ValueError:
                pass
    return changes


def read_parameters(options):
    """{PARAMETER: value} of the options given. Raises ValueError, one line naming the parameter."""
    from smp.settings import choose_settings, default_profile

    given = {name: getattr(options, name, None) for name in OPTIONS}
    given = {name: text for name, text in given.items() if text is not None}
    for name in given:
        if name in NUMBERS:
            given[name] = read_number(name, given[name])
        elif name in PATHS:
            given[name] = read_path(name, given[name])
    elsewhere = ("profile", "teacher", "results", "checkpoints")  # not settings of a task
    values = {name: given[name] for name in given if name not in elsewhere}
    more = read_changes(getattr(options, "set", None))
    choose_settings(given.get("profile", "quick"), **values, **more)  # first, it answers at once
    given |= {"set": more} if more else {}
    given["profile"] = given.get("profile") or default_profile()  # imports torch
    return {name.upper(): value for name, value in given.items()}


def seen_from(folder, parameters):
    """The parameters with paths relative to the notebook's folder: an executed copy that is
    shared tells nothing of the machine it ran on."""
    return {name: os.path.relpath(value, folder) if os.path.isabs(str(value)) else value
            for name, value in parameters.items()}


# What the user sees, and what is kept


def terminal_text(text):
    """What a terminal shows in the end of text with carriage returns and cursor-up sequences."""
    lines, row, column = [""], 0, 0
    for piece in re.split(r"(\r|\n|\x1b\[A)", text):
        if piece == "\r":
            column = 0
        elif piece == "\x1b[A":
            row = max(row - 1, 0)
        elif piece == "\n":
            row, column = row + 1, 0
            lines += [""] * (row == len(lines))
        else:
            line = lines[row].ljust(column)
            lines[row] = line[:column] + piece + line[column + len(piece):]
            column += len(piece)
    return "\n".join(line.rstrip(" ") for line in lines)


def tidy_outputs(cell):
    """One stream each for stdout and stderr, progress bars as they looked in the end."""
    kept, streams = [], {}
    for output in cell.outputs:
        if output.output_type != "stream":
            kept.append(output)
        elif output.name in streams:
            streams[output.name].text += output.text
        else:
            streams[output.name] = output
            kept.append(output)
    for stream in streams.values():
        stream.text = terminal_text(stream.text)
    for output in kept:  # a widget lives only as long as its kernel; its picture stays
        output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
    cell.outputs = [output for output in kept if output.get("text", "-").strip()]


class Screen:
    """Forwards what a notebook prints, bars included; in between says where the notebook is.

    Without a terminal: each cell's text when it is done, and now and then a line of a long bar.
    """

    def __init__(self, total):
        self.live, self.total, self.heading = sys.stdout.isatty(), total, ""
        self.status = False  # the line that says where the notebook is stands there
        self.open = ""  # an unfinished line of output, and the stream it belongs to
        self.stream = self.owes = None
        self.told = time.monotonic()

    def stream_named(self, name):
        return SimpleNamespace(write=partial(self.show, stream=name), flush=sys.stdout.flush)

    def show(self, text, stream):
        if self.live:
            self.clear()
            if self.open and stream != self.stream:  # print() beside a bar: the kernel sends them
                sys.stdout.write("\n" if self.open.strip() else "\r")  # one after the other
                self.owes = self.stream
            elif stream == self.owes:
                text, self.owes = text.removeprefix("\n"), None
            sys.stdout.write(text)
            self.open, self.stream = re.split(r"[\r\n]", text)[-1], stream
        elif time.monotonic() - self.told > 20 and (line := terminal_text(text).strip()):
            print(line.split("\n")[-1], flush=True)
            self.told = time.monotonic()

    def clear(self):
        if self.status:
            sys.stdout.write("\r\x1b[K")
        self.status = False

    def cell_started(self, cell, cell_index):
        heading = re.match(r"#+ (.+)", cell.source) if cell.cell_type == "markdown" else None
        self.heading = heading[1] if heading else self.heading
        if self.live:
            self.clear()
            line = f"      cell {cell_index + 1} of {self.total}  {self.heading}"
            line = line[: shutil.get_terminal_size().columns - 1]
            sys.stdout.write("\n" * bool(self.open) + line)
            sys.stdout.flush()
            self.status, self.open, self.owes = True, "", None

    def cell_executed(self, cell, **_):
        if not self.live:
            texts = [o.text for o in cell.outputs if o.output_type == "stream"]
            if shown := terminal_text("".join(texts)).strip("\n"):
                print(shown, flush=True)


def run_notebook(path, folder, parameters):
    """Executes the notebook in its own folder; the executed copy appears in `folder` when done.

    Until then, and after a failure, it is <name>.failed.ipynb; an interruption removes that.
    """
    import nbformat
    import papermill

    # What matters is told below; the other two are the transport, whose closing sockets complain.
    for name in ("papermill", "tornado", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    unfinished = folder / f"{path.stem}.failed.ipynb"
    braces = str.maketrans({"{": "{{", "}": "}}"})  # papermill fills in {names} in paths
    screen = Screen(total=len(nbformat.read(path, as_version=4).cells) + bool(parameters))
    try:
        notebook = papermill.execute_notebook(
            str(path).translate(braces), str(unfinished).translate(braces), parameters,
            cwd=path.parent, kernel_name="python3", progress_bar=False, start_timeout=300,
            stdout_file=screen.stream_named("stdout"), stderr_file=screen.stream_named("stderr"),
            on_cell_start=screen.cell_started, on_cell_executed=screen.cell_executed,
            extra_arguments=["--log-level=50"],  # else the kernel talks about its own transport
        )
    except KeyboardInterrupt:
        unfinished.unlink(missing_ok=True)
        raise
    finally:
        screen.clear()
    for part in (notebook, *notebook.cells):
        part.metadata.pop("papermill", None)  # times and this machine's paths
    for cell in notebook.cells:
        if cell.cell_type == "code":
            tidy_outputs(cell)
    nbformat.write(notebook, unfinished)
    os.replace(unfinished, folder / path.name)


def told_in_a_line(error):
    """"ValueError: …" of whatever stopped a notebook."""
    name, text = getattr(error, "ename", type(error).__name__), getattr(error, "evalue", str(error))
    if name == "DeadKernelError":
        return "its Python process died, perhaps for want of memory; try a smaller N_TRAIN or MODEL"
    return f"{name}: {(text.strip().splitlines() or [''])[-1]}"


def prepare_environment():
    """What the notebooks' Python processes inherit."""
    # The kernel of this Python, whatever else is called python3 in the user's folders.
    own, other = os.path.join(sys.prefix, "share", "jupyter"), os.environ.get("JUPYTER_PATH")
    os.environ["JUPYTER_PATH"] = os.pathsep.join([own, other] if other else [own])
    # tqdm.auto shows widgets in a notebook, unseen here, unless it believes to be in Spyder.
    os.environ["SPYDER_TEXT_BARS"] = "1"
    os.environ["TQDM_NCOLS"] = str(min(shutil.get_terminal_size().columns - 1, 99))
    os.environ["TQDM_NROWS"] = "20"  # a terminal that tells no size would get no bars


def minutes_since(start):
    return f"{(time.monotonic() - start) / 60:.1f} minutes"


# The verbs


def draw_group(records, how, rank, path):
    """Draws the group of comparable records that `rank` puts first into the file `path`."""
    from smp.results import PUBLISHED, group_records

    chosen = max(group_records(records), key=rank)
    published = PUBLISHED["rows"] if "squad" in chosen[0]["data"] else None
    draft = path.with_name(f"{path.stem}.part{path.suffix}")
    how(chosen, published).savefig(draft, dpi=150)
    os.replace(draft, path)


def table(results):
    """Prints the summary; writes it into results/summary.md and the README, with the picture and
    the commands. -> exit code"""
    from smp.commands import commands_markdown
    from smp.curves import plot_records
    from smp.results import read_records, read_results, replace_text_file, write_summary

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


def run(options):
    """Runs the chosen notebooks one after another, then prints the table. -> exit code"""
    chosen = [ROOT / NOTEBOOKS[name] for name in NOTEBOOKS if name in (options.only or NOTEBOOKS)]
    try:
        parameters = read_parameters(options)
        for path in chosen:
            if not path.is_file():
                raise ValueError(f"{path.name} is missing: `make notebooks` builds it")
        results = Path(parameters.get("RESULTS", ROOT / "results"))
        executed = results / "executed" / parameters["PROFILE"]
        executed.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        print(f"run: {error}", file=sys.stderr)
        return 2
    prepare_environment()
    begin = time.monotonic()
    for number, path in enumerate(chosen, 1):
        print(f"[{number}/{len(chosen)}] {path.name}", flush=True)
        start = time.monotonic()
        try:
            run_notebook(path, executed, seen_from(path.parent, parameters))
        except KeyboardInterrupt:
            print(f"\nrun: interrupted; {path.name} left no executed copy", file=sys.stderr)
            return 130
        except Exception as error:  # whatever it is, the user gets one line
            unfinished = os.path.relpath(executed / f"{path.stem}.failed.ipynb")
            print(f"{path.name} stopped: {told_in_a_line(error)} (so far: {unfinished})",
                  file=sys.stderr)
            return 1
        copy = os.path.relpath(executed / path.name)
        print(f"      {minutes_since(start)}, with outputs: {copy}", flush=True)
    print(f"{minutes_since(begin)} in all\n", flush=True)
    return table(results)


def sweep(options):
    """Runs the cells of the grid that have no record yet, then draws them all. -> exit code"""
    from smp.results import read_records
    from smp.sweep import Sweep, plan_sweep
    from smp.train import is_first_process

    try:
        parameters = {name.lower(): value for name, value in read_parameters(options).items()}
        results = Path(parameters.pop("results", ROOT / "results"))
        teacher, profile = parameters.pop("teacher", None), parameters.pop("profile")
        checkpoints, more = parameters.pop("checkpoints", None), parameters.pop("set", {})
        numbers = {"densities": [read_number("density", text) for text in options.densities],
                   "seeds": [read_number("seed", text) for text in options.seeds]}
        cells = plan_sweep(profile, options.methods, **numbers, **parameters | more)
        done = {record["name"]: record for record in read_records(results / "sweep")}
        grid = Sweep(cells, results, teacher, checkpoints)
    except (OSError, ValueError) as error:
        print(f"sweep: {error}", file=sys.stderr)
        return 2
    left = [cell for cell in cells if grid.begun[cell]["name"] not in done]
    first = is_first_process()  # of several, under accelerate's launcher, one speaks

    def say(line):
        if first:
            print(line, flush=True)

    say(f"{len(cells)} cells, {len(cells) - len(left)} of them done before")
    for name in (begun["name"] for begun in grid.begun.values() if begun["name"] in done):
        teacher = done[name]["teacher"]
        if teacher and teacher.get("sha", grid.teacher["sha"]) != grid.teacher["sha"]:
            say(f"{name}: done with another teacher of that name; remove its record to have it "
                "run again")
    begin = time.monotonic()
    for number, cell in enumerate(left, 1):
        name = grid.begun[cell]["name"]
        say(f"[{number}/{len(left)}] {name}")
        try:
            record = grid.run(cell)
        except KeyboardInterrupt:
            print(f"\nsweep: interrupted in {name}; the same command goes on with it",
                  file=sys.stderr)
            return 130
        except (OSError, ValueError, FloatingPointError, MemoryError) as error:
            print(f"sweep: {name} stopped: {error}", file=sys.stderr)
            return 1
        say(f"      EM {record['em']:.3f}  F1 {record['f1']:.3f}  density "
            f"{record['density']:.1%}, {minutes_since(begin)} so far")
    return sweep_table(results) if first else 0


def sweep_table(results):
    """Prints the sweep's table; writes it, the picture and the commands into results/sweep/.
    -> exit code"""
    from smp.commands import commands_markdown
    from smp.curves import plot_sweep, sweep_markdown
    from smp.results import read_records, replace_text_file

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


def count_from_one(text):
    """The whole number from 1 that is written there; ValueError, which argparse tells, else."""
    if int(text) < 1:
        raise ValueError
    return int(text)


class OneLineParser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"{self.prog.split()[-1]}: {message}\n")


def main(arguments=None):
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
            if parser_of_verb is runner or name not in ("density", "seed", "sharing"):
                option = "--" + name.replace("_", "-")
                parser_of_verb.add_argument(option, metavar=name[0].upper(), help=text)
    asker = verbs.add_parser("ask", help="answer questions about a text", allow_abbrev=False)
    asker.add_argument("--model", required=True, help="a saved model: folder or Hub name; with "
                       "--masks, the base model")
    asker.add_argument("--masks", help="a mask file, its folder, or a Hub name")
    asker.add_argument("--passage", required=True, help="a text file, UTF-8")
    asker.add_argument("--question", nargs="+", help="default: from the terminal, a line each")
    asker.add_argument("--n-best", type=count_from_one, default=1, help="answers to show")
    shipper = verbs.add_parser("ship", help="what a trained run comes to", allow_abbrev=False)
    shipper.add_argument("run", help="a run in results/models/, or its folder")
    shipper.add_argument("--onnx", action="store_true", help="write model.onnx as well")
    shipper.add_argument("--data", help="where its questions are, if not where the record says")
    shipper.add_argument("--base", help="where its base model is, likewise")
    shipper.add_argument("--questions", type=count_from_one, default=200,
                         help="to measure on (default: 200)")
    verbs.add_parser("table", help="print the summary of results/", allow_abbrev=False)
    options = parser.parse_args(arguments)
    if options.verb == "table":
        results = ROOT / "results"
        return table(results) or sweep_table(results) or sweep_table(results / "tried")
    if options.verb in ("ask", "ship"):
        import datasets

        from smp.terminal import ask_verb, ship_verb

        datasets.disable_progress_bars()
        return ask_verb(options) if options.verb == "ask" else ship_verb(options, ROOT / "results")
    return {"run": run, "sweep": sweep}[options.verb](options)


if __name__ == "__main__":
    sys.exit(main())
