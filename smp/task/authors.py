"""Read and write masks in the format of SMP's authors, who released masks of BERT-base.

A file has one bit a weight and nothing else, 10,616,832 bytes for the 72 matrices of BERT-base.
The matrices are in the order of their names as text, so layer 10 comes before layer 2.
Source: to_mask.py and https://github.com/kongds/SMP/releases/tag/SMP-S.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from torch import nn

from smp.data.zip_files import open_zip
from smp.files import check_regular, replaced_file
from smp.model.student import load_student
from smp.task.apply import matrix_shapes
from smp.task.validate import apply_masks

BYTES_FOR_BERT_BASE = 12 * 12 * 768**2 // 8  # 12 layers of 4 + 4 + 4 times 768 x 768 weights


def in_authors_order(names: Iterable[str]) -> list[str]:
    """Return the names sorted as the authors' `bert.<name>.mask_scores`."""
    return sorted(names, key=lambda name: f"bert.{name}.mask_scores")


def save_authors_masks(masks: dict[str, np.ndarray], path: Path | str) -> int:
    """Write {name: bool array (out, in)} atomically as the authors do; return the file's bytes.

    The file is a uint8 vector of np.save: the bits of all matrices in `in_authors_order`, row by
    row, the first in the highest bit, zeros at the end. Raises ValueError if a mask is not bool.
    """
    for name, mask in masks.items():
        if mask.dtype != bool:
            raise ValueError(f"mask {name} is {mask.dtype}, expected bool")
    flat = [masks[name].reshape(-1) for name in in_authors_order(masks)]
    with replaced_file(path) as draft, open(draft, "wb") as file:  # np.save may rename a path
        np.save(file, np.packbits(np.concatenate(flat)))
    return Path(path).stat().st_size


@contextmanager
def open_npy(path: Path) -> Iterator[IO[bytes]]:
    """Open a .npy file, or the only .npy file in a .zip, for reading."""
    if path.suffix.lower() != ".zip":
        check_regular(path)
        with open(path, "rb") as file:
            yield file
        return
    with open_zip(path) as archive:
        names = [name for name in archive.namelist() if name.lower().endswith(".npy")]
        names = [name for name in names if not name.startswith("__MACOSX/")]  # has no data
        if len(names) != 1:
            raise ValueError(f"the zip contains {len(names)} .npy files, expected one")
        with archive.open(names[0]) as file:
            yield file


def read_packed_bits(file: IO[bytes], size: int) -> np.ndarray:
    """Return the uint8 vector (size,) of an open .npy file; check its header before its data."""
    try:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    except Exception:  # numpy's parsers raise many types for a damaged header
        raise ValueError("its header is not that of np.save") from None
    if dtype != np.uint8 or len(shape) != 1:
        raise ValueError(f"it contains {dtype} of shape {shape}, expected one vector of uint8")
    if shape[0] != size:
        hint = ", the size for BERT-base" if shape[0] == BYTES_FOR_BERT_BASE else ""
        raise ValueError(f"it contains {shape[0]:,} bytes{hint}, expected {size:,} for this model")
    packed = file.read(size + 1)
    if len(packed) != size:
        found = f"{len(packed):,}" if len(packed) < size else "more"
        raise ValueError(f"its header gives {size:,} bytes, it contains {found}: download it again")
    return np.frombuffer(packed, np.uint8)


def load_authors_masks(path: Path | str, model: nn.Module) -> dict[str, np.ndarray]:
    """Return {name: bool array (out, in)} of an authors' .npy file, or of a .zip with one.

    model: an encoder of the masks' shape; the file names neither its task nor its base model.
    Raises FileNotFoundError, or ValueError with one line if the file is damaged, is another kind,
    or does not have exactly one bit for each weight of the model.
    """
    path = Path(os.path.expanduser(path))
    shapes = matrix_shapes(model)
    order = in_authors_order(shapes)
    ends = np.cumsum([int(np.prod(shapes[name])) for name in order])
    total = int(ends[-1])
    try:
        with open_npy(path) as file:
            bits = np.unpackbits(read_packed_bits(file, (total + 7) // 8))
        if bits[total:].any():
            raise ValueError("its last byte has bits after the last weight, expected zeros: it "
                             "belongs to another model")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such mask file") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not a mask file of the authors for this model: {error}"
                         ) from None
    parts = dict(zip(order, np.split(bits[:total].view(bool), ends[:-1]), strict=True))
    return {name: parts[name].reshape(shape) for name, shape in shapes.items()}


def load_authors_student(
    name: str, path: Path | str, max_length: int | None = None
) -> tuple[nn.Module, Any, float]:
    """Return (model, tokenizer, density): the checkpoint `name` pruned by an authors' mask file.

    The head is the frozen label-word head, for which the masks were trained; density is the
    fraction of the encoder's weights that remain. Raises as `load_student` and
    `load_authors_masks`.
    """
    model, tokenizer, head = load_student(name, max_length=max_length)
    if head != "label words":
        raise ValueError(f"model {name!r} has no masked-LM head, for which the authors' masks were "
                         "trained: use bert-base-uncased")
    masks = load_authors_masks(path, model)
    apply_masks(model, masks)
    kept = sum(int(np.count_nonzero(mask)) for mask in masks.values())
    return model.eval(), tokenizer, kept / sum(mask.size for mask in masks.values())
