"""Packed files.

A few kilobytes can unpack to gigabytes. Text and weights shrink to a fifth, hardly ever to a
hundredth, so a file that unpacks to more than a hundred times its size is refused before it
fills the memory.
"""

import lzma
import os
import re
import zipfile
import zlib
from contextlib import contextmanager

ALWAYS_UNPACKED, NEVER_UNPACKED = 64 * 2**20, 4 * 2**30  # bytes


def most_unpacked(packed):
    """The bytes that `packed` bytes may unpack to: 100 times as many, 64 MiB in any case, and
    4 GiB at most."""
    return min(max(100 * packed, ALWAYS_UNPACKED), NEVER_UNPACKED)


def read_unpacked(opener, path):
    """What is in a file, opened by gzip.open, lzma.open or open. Raises ValueError with one line,
    and with little in memory, where it is more than `most_unpacked` allows."""
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
def open_zip(path):
    """The zip (a path, or a file opened for reading), to read from in a `with` block.

    Raises FileNotFoundError, or ValueError with one line (the caller names the file) where it is
    damaged, encrypted or no zip, also in the block; and where a name in it leads out of the zip
    or occurs twice.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            for name in names:
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


def read_from_zip(archive, name, limit):
    """The bytes of one file in it. Raises ValueError where they are, or unpack to, over `limit`
    or what `most_unpacked` allows."""
    info = archive.getinfo(name)
    size, limit = info.file_size, min(limit, most_unpacked(info.compress_size))
    if size > limit:
        raise ValueError(f"{name} unpacks to {size:,} bytes, expected at most {limit:,}")
    with archive.open(name) as file:
        return file.read(size + 1)  # a size that lies ends in a wrong checksum, not in more bytes
