"""Check the values of the command line and convert them to settings and notebook parameters."""

import os
import re
from pathlib import Path
from typing import Any

from smp.runs.profiles import DEFAULT_PROFILE
from smp.runs.settings import STAGES, choose_settings

EMBEDDED = ("synthetic", "all-MiniLM-L6-v2")
HUB_NAME = r"[\w.-]{1,96}(/[\w.-]{1,96})?"
PARAMETERS = (  # of the notebooks' parameters cell; every other setting is in its SET
    "profile model data n_train n_valid n_eval epochs method distill density seed"
).split()


def read_path(name: str, text: str) -> str:
    """Return a path as an absolute path, because notebooks may run in another folder.

    A Hub name stays unchanged. Raises ValueError with one line for a path that does not exist or a
    folder that is not writable.
    """
    if not text:
        raise ValueError(f"--{name} is empty: expected a path or a name")
    path = os.path.abspath(os.path.expanduser(text))
    if name in ("results", "checkpoints"):
        there = path  # or the folder in which it will be created
        while not os.path.lexists(there):
            there = os.path.dirname(there)
        if not os.path.isdir(there):
            raise ValueError(f"--{name} {text}: {there} is not a folder; name a writable folder")
        if not os.access(there, os.W_OK):
            raise ValueError(f"--{name} {text}: cannot write in {there}; name a writable folder")
        return path
    if text not in EMBEDDED and os.path.exists(path):
        return path
    # A Hub name is "name" or "owner/name"; any other text is a path.
    if re.search(r"^\.|\.(json|gz|xz|zip)$", text) or not re.fullmatch(HUB_NAME, text, re.ASCII):
        raise ValueError(f"--{name} {text}: no such file or folder")
    return text


def read_settings(options: Any) -> dict:
    """Return {setting: value} of the given options, always with "profile".

    Raises ValueError with one line for a value that no notebook accepts.
    """
    given = {name: value for name, value in vars(options).items() if value is not None}
    for name in ("model", "data"):
        if name in given:
            given[name] = read_path(name, given[name])
    if given.get("method", "smp-l") not in ("smp-l", "smp-s"):
        raise ValueError(f"--method {given['method']}: the notebooks run smp-l and smp-s, "
                         "`smp sweep --methods` runs the others")
    given["profile"] = given.get("profile", DEFAULT_PROFILE)
    for stage in STAGES:
        choose_settings(stage=stage, **given)
    return given


def read_files(options: Any) -> dict:
    """Return {"teacher", "results", "checkpoints": path} of the given options."""
    return {name: read_path(name, value) for name, value in vars(options).items()
            if value is not None}


def notebook_parameters(settings: dict, files: dict) -> dict:
    """Return {PARAMETER: value} for the notebooks' parameters cell."""
    own = {name.upper(): value for name, value in settings.items() if name in PARAMETERS}
    more = {name: value for name, value in settings.items() if name not in PARAMETERS}
    return own | {name.upper(): value for name, value in files.items()} | (
        {"SET": more} if more else {})


def relative_parameters(folder: Path, parameters: dict) -> dict:
    """Return the parameters with paths relative to the notebook's folder.

    A shared executed copy then contains no path of this machine.
    """
    return {name: os.path.relpath(value, folder) if os.path.isabs(str(value)) else value
            for name, value in parameters.items()}
