"""Results: one file a run, and tables computed from them.

Each run leaves one JSON file in `results/`: what was trained on what, with which settings and
versions, how much of the model is left, and how many questions it answers. The tables are
computed from these files and never typed, so a number in the README can be followed back to
the run it came from.

A run's name ends in six digits of a hash of its settings, its model and its data. The same
settings therefore give the same name, and a rerun replaces its own record and no other. Settings
at their defaults do not count, so that a new one leaves the old names as they are.
"""

import os
import shutil
from pathlib import Path


def replace_text_file(path: str | Path, text: str) -> Path:
    """Write the text so that the file is the old one or the whole new one, never a part."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def replace_folder(folder, write):
    """write(draft) makes a folder; when it is whole it takes the place of what `folder` held."""
    folder = Path(folder)
    draft, old = folder.with_name(folder.name + ".part"), folder.with_name(folder.name + ".old")
    for leftover in (draft, old):
        shutil.rmtree(leftover, ignore_errors=True)
    write(draft)
    if folder.exists():
        folder.rename(old)
    draft.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
    return folder


def sync_folder(folder):
    """Pushes a rename in the folder to the disk, where the system can."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        except OSError:
            pass  # some mounted drives cannot
        finally:
            os.close(handle)
