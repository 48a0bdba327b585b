"""Files and folders that are replaced as a whole, and the Hugging Face Hub without a network."""

import ctypes
import functools
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any

HUB_TIMEOUT = 5  # seconds


def check_regular(path: str | Path) -> None:
    """Raise ValueError for a pipe or a device: reading it would block, or never end."""
    path = Path(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ValueError("it is a pipe or a device, expected a file")


@contextmanager
def replaced_file(path: str | Path) -> Iterator[Path]:
    """Yield the path of a draft, which replaces `path` on the disk if the block raises nothing."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")  # no pattern such as *.json finds it
    try:
        yield draft
        with open(draft, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(draft, path)
        sync_folder(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def replace_text_file(path: str | Path, text: str) -> Path:
    """Write the text atomically: the file contains the old text or the complete new text."""
    with replaced_file(path) as draft:
        draft.write_text(text, encoding="utf-8", newline="")
    return Path(path)


def swap(one: Path, other: Path) -> bool:
    """Exchange two paths in one step, with Linux's renameat2; return whether that was possible."""
    rename: Any = getattr(ctypes.CDLL(None) if os.name == "posix" else None, "renameat2", None)
    return rename is not None and not rename(  # -100: AT_FDCWD, 2: RENAME_EXCHANGE
        -100, os.fsencode(one), -100, os.fsencode(other), 2)


def recover_folder(folder: str | Path) -> None:
    """Restore the old folder if a kill between two renames of `replace_folder` left none."""
    folder = Path(folder)
    old = folder.with_name(folder.name + ".old")
    if old.is_dir() and not folder.exists():
        old.rename(folder)


def replace_folder(folder: str | Path, write: Callable[[Path], object]) -> Path:
    """Replace a folder with the one that write(draft) makes, after it is complete on the disk."""
    folder = Path(folder)
    draft, old = folder.with_name(folder.name + ".part"), folder.with_name(folder.name + ".old")
    recover_folder(folder)
    for leftover in (draft, old):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        write(draft)
        for path in [path for path in draft.rglob("*") if path.is_file()]:
            with open(path, "rb+") as file:
                os.fsync(file.fileno())
        sync_folder(draft)
        if not (folder.exists() and swap(draft, folder)):
            if folder.exists():
                folder.rename(old)
            draft.rename(folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    return folder


def sync_folder(folder: str | Path) -> None:
    """Flush a rename in the folder to the disk, if the system supports it."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        with suppress(OSError):  # some mounted drives do not support it
            os.fsync(handle)
        os.close(handle)


@functools.lru_cache(1)
def hub_answers(endpoint: str, minute: float) -> bool:
    """Return whether the Hub answers one request in time; the result is kept for this minute."""
    from huggingface_hub.utils import get_session

    answers: list = []

    def request():
        with suppress(Exception):  # the client and HTTP raise many types
            answers.append(get_session().head(endpoint, timeout=HUB_TIMEOUT))

    thread = Thread(target=request, daemon=True)  # because a look-up of the host has no timeout
    thread.start()
    thread.join(HUB_TIMEOUT)
    return bool(answers)


@contextmanager
def cached_if_offline() -> Iterator[None]:
    """Use only the local cache of the Hub in the block, if the Hub does not answer.

    One request replaces a minute of retries. An OSError in the block then becomes a ConnectionError
    with one line.
    """
    from huggingface_hub import constants  # here, because most users of this file need no Hub

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not hub_answers(constants.ENDPOINT, time.time() // 60)
    try:
        yield
    except OSError as error:
        if constants.HF_HUB_OFFLINE == before:
            raise
        raise ConnectionError(f"{constants.ENDPOINT} does not answer, and the local cache of the "
                              "Hub lacks it; check the network") from error
    finally:
        constants.HF_HUB_OFFLINE = before


def results_folder(start: str | Path = ".") -> Path:
    """Return results/ of the project that is `start` or its parent, else start/results.

    A project folder contains BERT_FINETUNE_QA.ipynb and results/. Nothing is created.
    """
    start = Path(start)
    parent = start / ".." if start.name in ("", "..") else start.parent
    for folder in (start, parent):
        if (folder / "BERT_FINETUNE_QA.ipynb").is_file() and (folder / "results").is_dir():
            return folder / "results"
    return start / "results"
