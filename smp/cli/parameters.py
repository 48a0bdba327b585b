"""cli.parameters."""

import os
import re

from smp.runs.methods import METHODS

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
    from smp.runs.profiles import default_profile
    from smp.runs.settings import choose_settings

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


def relative_parameters(folder, parameters):
    """The parameters with paths relative to the notebook's folder: an executed copy that is
    shared tells nothing of the machine it ran on."""
    return {name: os.path.relpath(value, folder) if os.path.isabs(str(value)) else value
            for name, value in parameters.items()}
