"""Files and folders that are replaced as a whole, so that an interruption leaves no half of one."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replaced_file(path: str | Path) -> Iterator[Path]:
    """Yield the path of a draft, which replaces `path` on the disk if the block raises nothing."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.stem}.part{path.suffix}")
    try:
        yield draft
        with open(draft, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(draft, path)
        sync_folder(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def replace_text_file(path: str | Path, text: str) -> Path:
    """Write the text atomically: the file holds the old text or the whole new one."""
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


def replace_folder(folder: str | Path, write: Callable[[Path], object]) -> Path:
    """Replace a folder by the one that write(draft) makes, once that is complete."""
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


def sync_folder(folder: str | Path) -> None:
    """Flush a rename in the folder to the disk, where the system can."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        except OSError:
            pass  # some mounted drives cannot
        finally:
            os.close(handle)
