"""The options of each verb. Each setting is an option, and its comment is the help text."""

import difflib
import inspect
import io
import re
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field, fields, make_dataclass
from typing import Annotated, Any, Literal, Union

import tyro

from smp.runs.settings import Settings

NOTEBOOK = Literal["finetune", "smp", "smp_kd"]
FORMAT = Literal["dense", "csr", "onnx", "openvino-bf16", "openvino-int8"]
Text = Annotated[str | None, tyro.conf.arg(help_behavior_hint="")]  # its help has the default
Number = Annotated[int | None, tyro.conf.arg(help_behavior_hint="")]
# {setting: its comment in the class}
HELP = dict(re.findall(r"^    (\w+): .*?  # (.+)$", inspect.getsource(Settings), re.MULTILINE))
# One option for each setting. None: the value of the profile.
SettingOptions: Any = make_dataclass("SettingOptions", [
    (one.name,
     Annotated[Union[one.type, None],  # noqa: UP007
               tyro.conf.arg(help=HELP[one.name], help_behavior_hint="")],
     field(default=None)) for one in fields(Settings)
])


@dataclass
class Files:
    """Files and folders of a run."""

    teacher: Text = None
    """Fine-tuned model for distillation: folder, .zip or Hub name. Default: the newest that the
    first notebook saved."""
    results: Text = None
    """Folder for records, models and executed notebooks. Default: results."""
    checkpoints: Text = None
    """Folder for checkpoints. Default: in results."""


@dataclass
class Run:
    """Run the three notebooks and show your results and the reference."""

    files: tyro.conf.OmitArgPrefixes[Files]
    settings: tyro.conf.OmitArgPrefixes[SettingOptions]
    only: tuple[NOTEBOOK, ...] = ()
    """Notebooks to run. Default: all three."""
    threads: Number = None
    """Threads on a CPU. Default: one for each core."""


@dataclass
class Sweep:
    """Train a grid of methods, densities and seeds. Runs with a record are not repeated."""

    files: tyro.conf.OmitArgPrefixes[Files]
    settings: tyro.conf.OmitArgPrefixes[SettingOptions]
    methods: tuple[str, ...] = ("fine-tuned", "smp-l", "smp-s", "magnitude", "movement",
                                "soft-movement")
    """fine-tuned, smp-l, smp-s, magnitude, movement, movement-s, soft-movement; each pruning method
    also with +kd (teacher's logits) or +hidden (its hidden states too)."""
    densities: tuple[float, ...] = (0.5, 0.3, 0.1, 0.03)
    """Fractions of the encoder's weights that stay."""
    seeds: tuple[int, ...] = (0,)
    """Random seeds."""
    threads: Number = None
    """Threads on a CPU. Default: one for each core."""


@dataclass
class Ask:
    """Answer questions about a text."""

    model: str
    """Saved model, or with --masks the base model: folder or Hub name."""
    passage: str
    """UTF-8 text file."""
    masks: Text = None
    """Mask file, its folder, or a Hub name."""
    question: tuple[str, ...] = ()
    """Questions. Default: one per line from the terminal or a pipe."""
    top_k: int = 1
    """Number of answers for each question."""


@dataclass
class Export:
    """Export a trained run and benchmark each format."""

    run: tyro.conf.Positional[str]
    """Name of a run in results/models/, or its folder."""
    format: tuple[FORMAT, ...] = ()
    """Formats to write. Default: all that this machine can write."""
    best: tyro.conf.FlagCreatePairsOff[bool] = False
    """Choose the fastest format that keeps its accuracy."""
    most_lost: float = 0.005
    """EM that the chosen format may lose: upper bound of the 95% interval."""
    held_out: int = 1000
    """Number of held-out training questions, for --best and openvino-int8."""
    data: Text = None
    """Questions of the run: file, folder or Hub name. Default: the data in its record."""
    base: Text = None
    """Base model of the run: folder or Hub name. Default: the base in its mask file or record."""
    questions: int = 200
    """Number of evaluation questions for the measurements."""


@dataclass
class Table:
    """Compute the tables and pictures from the records."""

    results: Text = None
    """Folder of records. Default: results."""
    reference: tyro.conf.FlagCreatePairsOff[bool] = False
    """Compute the reference tables of the clone and the tables of its README."""


@dataclass
class Repeat:
    """Train the run of a record again with the current code and compare."""

    record: tyro.conf.Positional[str]
    """Record, a .json file."""
    files: tyro.conf.OmitArgPrefixes[Files]
    data: Text = None
    """Questions of the record: file or folder. Default: the Hub name in the record."""
    model: Text = None
    """Encoder of the record: folder. Default: the Hub name in the record."""


@dataclass
class Authors:
    """Evaluate masks that the authors of SMP released."""

    masks: tyro.conf.Positional[str]
    """File of the release SMP-S, for example squad_0.10_kd_mag.npy.zip."""
    model: str = "bert-base-uncased"
    """Base model of the masks: folder or Hub name."""
    data: str = "rajpurkar/squad"
    """Evaluation questions: Hub name, SQuAD-format file or folder."""
    n_eval: Number = None
    """Number of evaluation questions. Default: all."""


VERBS = {"run": Run, "sweep": Sweep, "ask": Ask, "export": Export, "table": Table,
         "repeat": Repeat, "authors": Authors}


NO_MEMORY = "allocate memory|bad_alloc|out of memory|MemoryError"  # of C, C++, CUDA and Python
OUT_OF_MEMORY = ("out of memory; stop other programs, reduce n_train or the batch size, or use a "
                 "smaller model")


def escaped(line: str) -> str:
    """Return a line for stderr with newlines and invalid characters as escapes."""
    return line.encode("utf-8", "backslashreplace").decode().replace("\n", "\\n")


def stop_text(error: Exception) -> str | None:
    """Return the text for an error of input, disk or memory, and None for any other error."""
    if isinstance(error, MemoryError) or re.search(NO_MEMORY, str(error)):
        return OUT_OF_MEMORY
    known = isinstance(error, OSError | ValueError | FloatingPointError)
    return str(error) if known or type(error).__name__ == "SafetensorError" else None


def plain_text(box: str) -> str:
    """Return the text in tyro's boxes, without borders and colours."""
    lines = re.sub(r"\x1b\[[\d;]*m", "", box).splitlines()
    return "\n".join(line.strip("│ ") for line in lines if line.startswith(("│", "  ")))


def one_line(verb: str, given: Sequence[str], message: str) -> str:
    """Return one line for wrong options: the unknown option and the nearest, or tyro's text."""
    listed = io.StringIO()
    with redirect_stdout(listed), suppress(SystemExit):
        tyro.cli(VERBS[verb], args=["--help"], config=(tyro.conf.DisallowNone,))
    options = plain_text(listed.getvalue())
    known = re.findall(r"--?[a-z][\w-]*", options)
    for word in given:
        name = word.partition("=")[0].replace("_", "-")
        if re.match(r"--?[a-zA-Z]", word) and name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"`smp {verb} --help` lists the options"
            return f"{verb}: unknown option {name}: {hint}"
    text = plain_text(message).replace("\n", " ")
    if wrong := re.search(r"Error parsing (--[\w-]+): .*?\[('.*?')\]", text):
        expected = re.search(rf"^{wrong[1]} \W*(\w+)", options, re.MULTILINE)
        kinds = {"FLOAT": "a number", "INT": "a whole number"}
        what = kinds.get(expected[1] if expected else "", "another value")
        values = " ".join(re.findall("'(.*?)'", wrong[2]))
        return f"{verb}: {wrong[1]} {values}: expected {what}"
    return f"{verb}: {re.split(r' [─-]{5,}', text)[0]}"


def parse(arguments: Sequence[str]) -> tuple[str, Any]:
    """Return the verb and its options; for wrong ones print one line and raise SystemExit."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("Usage: smp VERB [options]; `smp VERB --help` lists the options.\n")
        for verb, kind in VERBS.items():
            print(f"  {verb:8} {kind.__doc__}")
        raise SystemExit(0 if arguments else 2)
    verb, *rest = arguments
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, 1, 0)[0]
        print(f"smp: unknown verb {verb!r}: did you mean {near}? Known: {', '.join(VERBS)}",
              file=sys.stderr)
        raise SystemExit(2)
    caught = io.StringIO()
    try:
        with redirect_stderr(caught):
            return verb, tyro.cli(VERBS[verb], prog=f"smp {verb}", args=rest,
                                  config=(tyro.conf.DisallowNone,))
    except SystemExit as end:
        if end.code:
            print(escaped(one_line(verb, rest, caught.getvalue())), file=sys.stderr)
        raise
