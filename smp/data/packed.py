"""Read packed files; refuse, before memory fills, what unpacks to over 100 times its size."""

import lzma
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

ALWAYS_UNPACKED, NEVER_UNPACKED = 64 * 2**20, 4 * 2**30  # bytes


def most_unpacked(packed: int) -> int:
    """Return the bytes that `packed` bytes may unpack to: 100 times as many, 64 MiB to 4 GiB."""
    return min(max(100 * packed, ALWAYS_UNPACKED), NEVER_UNPACKED)


def read_unpacked(opener: Callable, path: Path | str) -> bytes:
    """Return the content of a file, opened by gzip.open, lzma.open or open.

    Raises ValueError when it is more than `most_unpacked` allows; no more is held in memory.
    """
    most, size, pieces = most_unpacked(os.path.getsize(path)), 0, []
    with opener(path, "rb") as file:
        while piece := file.read(2**20):
            size += len(piece)
            if size > most:
                raise ValueError(
                    f"{path}: unpacks to more than {most:,} bytes, so it may be made to fill the "
                    "memory; if it is not, unpack it yourself"
                )
            pieces.append(piece)
    return b"".join(pieces)


@contextmanager
def open_zip(path: Path | str | BinaryIO) -> Iterator[zipfile.ZipFile]:
    """Open a zip, a path or a file opened for reading, for a `with` block.

    Raises FileNotFoundError, or ValueError without the path when it is damaged (also in the block),
    encrypted or not a zip, or when a name in it leads out of the zip or occurs twice.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for name in (names := archive.namelist()):
                parts = re.split(r"[/\\]", name)
                if parts[0] == "" or parts[0].endswith(":") or ".." in parts:
                    raise ValueError(f"the zip holds {name!r}, a path that leads out of it")
            if len(set(names)) < len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise ValueError(f"the zip holds {twice!r} twice, expected each file once")
            yield archive
    except FileNotFoundError:
        raise
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError) as e:
        raise ValueError(f"cannot be read as a zip ({e}): expected a whole one") from None


def read_from_zip(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """Return one file's bytes; raise ValueError above `limit` or what `most_unpacked` allows."""
    info = archive.getinfo(name)
    size, limit = info.file_size, min(limit, most_unpacked(info.compress_size))
    if size > limit:
        raise ValueError(f"{name} unpacks to {size:,} bytes, expected at most {limit:,}")
    with archive.open(name) as file:
        return file.read(size + 1)  # a wrong size in the zip ends in a checksum error
