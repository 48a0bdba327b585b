"""The options of `smp run` and `smp sweep`, checked before anything runs."""

import os
import re
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from smp.runs.methods import METHODS
from smp.runs.profiles import default_profile
from smp.runs.settings import choose_settings

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
     f"of {', '.join(METHODS)}, each also with +kd"),
    ("densities", "0.5 0.3 0.1 0.03", "shares of the encoder's weights that stay"),
    ("seeds", "0", "of everything drawn at random"),
)
OF_A_SWEEP = {"density": "DENSITIES", "seed": "SEEDS", "sharing": "METHODS"}  # say it instead
NUMBERS = {"n_train": int, "n_valid": int, "n_eval": int, "epochs": float, "density": float,
           "seed": int}
PATHS = ("model", "data", "teacher", "results", "checkpoints")
NOT_SETTINGS = ("profile", "teacher", "results", "checkpoints")
EMBEDDED = ("almanac", "all-MiniLM-L6-v2")


def convert(text: str, *kinds: Callable) -> Any:
    """Return the text as the first of the kinds that takes it, None if none does."""
    for kind in kinds:
        try:
            return kind(text)
        except ValueError:
            pass
    return None


def read_number(name: str, text: str) -> int | float:
    """Return the number of an option; raise ValueError with one line for another text."""
    number = convert(text, int, NUMBERS[name])
    if number is None:
        whole = "whole " if NUMBERS[name] is int else ""
        raise ValueError(f"{name.upper()}={text!r}: expected a {whole}number")
    return number


def read_path(name: str, text: str) -> str:
    """Return a path made absolute, because notebooks run elsewhere, and a Hub name as it is."""
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


def read_changes(words: list[str] | None) -> dict:
    """Return ["learning_rate=0.1", ...] as {"learning_rate": 0.1}: settings without an option.

    The shell may have split the words anywhere: one without = continues the value before it, as in
    "head=label words". Raises ValueError with one line for what is no such setting.
    """
    text, changes = " ".join(" ".join(words or ()).split()), {}
    for word in re.split(r" (?=\S*=)", text) if text else ():
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
        changes[name] = convert(text, int, float, str)
    return changes


def read_parameters(options: Namespace) -> dict:
    """Return {PARAMETER: value} of the options given; raise ValueError that names the parameter."""
    typed = {name: getattr(options, name, None) for name in OPTIONS}
    given: dict[str, Any] = {name: text for name, text in typed.items() if text is not None}
    for name, text in given.items():
        if name in NUMBERS:
            given[name] = read_number(name, text)
        elif name in PATHS:
            given[name] = read_path(name, text)
    values = {name: given[name] for name in given if name not in NOT_SETTINGS}
    more = read_changes(getattr(options, "set", None))
    choose_settings(given.get("profile", "quick"), **values, **more)  # before torch is imported
    given |= {"set": more} if more else {}
    given["profile"] = given.get("profile") or default_profile()
    return {name.upper(): value for name, value in given.items()}


def relative_parameters(folder: Path, parameters: dict) -> dict:
    """Return the parameters with paths relative to the notebook's folder.

    A shared executed copy then contains no path of this machine.
    """
    return {name: os.path.relpath(value, folder) if os.path.isabs(str(value)) else value
            for name, value in parameters.items()}
