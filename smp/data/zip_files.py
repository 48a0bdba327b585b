"""Read zip files; refuse, before memory fills, what unpacks to over 100 times its size."""

import lzma
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from smp.data.squad_file import most_unpacked
from smp.files import check_regular

MOST_NAMES = 100_000  # a checkpoint has one for each tensor


@contextmanager
def open_zip(path: Path | str | BinaryIO) -> Iterator[zipfile.ZipFile]:
    """Open a zip, a path or a file opened for reading, for a `with` block.

    Raises FileNotFoundError, or ValueError if it is corrupted (also in the block), encrypted or not
    a zip. A name that leads out of the zip or occurs twice is an error too. No error has the path.
    """
    if isinstance(path, Path | str):
        check_regular(path)
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if len(names) > MOST_NAMES:
                raise ValueError(f"the zip has {len(names):,} files, at most {MOST_NAMES:,} are "
                                 "expected")
            for name in names:
                parts = re.split(r"[/\\]", name)
                if parts[0] == "" or parts[0].endswith(":") or ".." in parts:
                    raise ValueError(f"the zip contains {name!r}, a path that leads out of it")
            if len(set(names)) < len(names):
                twice = Counter(names).most_common(1)[0][0]
                raise ValueError(f"the zip contains {twice!r} twice, expected each file once")
            yield archive
    except FileNotFoundError:
        raise
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError) as e:
        raise ValueError(f"cannot be read as a zip ({e}): expected a complete one") from None


def read_from_zip(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """Return one file's bytes; raise ValueError above `limit` or what `most_unpacked` allows."""
    info = archive.getinfo(name)
    size, limit = info.file_size, min(limit, most_unpacked(info.compress_size))
    if size > limit:
        raise ValueError(f"{name} unpacks to {size:,} bytes, expected at most {limit:,}")
    with archive.open(name) as file:
        return file.read(size + 1)  # a wrong size in the zip ends in a checksum error
