"""The mask file: what must be stored of a task if the base model is known.

A safetensors file. It contains the code of each mask (smp/model/mask_code.py), a trained head as
`head:<name>`, and trained biases and LayerNorms as `vector:<name>`. The metadata contain the
shapes, the base model with a hash of its weights and its setup (config, tokenizer, frozen head),
settings, scores, and a checksum of the file.
"""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from smp.files import check_regular, replaced_file
from smp.model.mask_code import decode_mask, encode_mask
from smp.text import first_line

MASK_FILE = "masks.safetensors"  # its name in a folder or on the Hub
MASK_FORMAT = "smp-masks-3"
TRAINED = {"head_weights": "head:", "vectors": "vector:"}  # the prefixes of their tensors' names
CHECKSUM = re.compile(rb'"checksum":"([0-9a-f]{64})"')


def with_checksum(data: bytes) -> bytes:
    """Return a mask file's bytes with their checksum: the SHA-256 with zeros in its place."""
    place = CHECKSUM.search(data)
    if place is None:
        raise ValueError("it has no checksum")
    before, after = data[: place.start(1)], data[place.end(1) :]
    return before + hashlib.sha256(before + b"0" * 64 + after).hexdigest().encode() + after


def save_masks(
    masks: dict[str, np.ndarray], path: Path | str, head_weights: dict | None = None,
    vectors: dict | None = None, **about: Any,
) -> int:
    """Write {name: bool array (out, in)} to `path` atomically and return the file's bytes.

    Equal arguments give equal bytes, also in another order or process.
    head_weights: {name: array} of a trained head; vectors: {name: array} of trained biases and
    LayerNorms; about: JSON values for the metadata (base, density, ...).
    """
    tensors = {name: encode_mask(mask) for name, mask in masks.items()}
    for kind, arrays in (("head_weights", head_weights), ("vectors", vectors)):
        tensors |= {TRAINED[kind] + name: array for name, array in (arrays or {}).items()}
    about["shapes"] = {name: list(mask.shape) for name, mask in masks.items()}
    metadata = {"format": MASK_FORMAT, "checksum": "0" * 64}
    metadata |= {name: json.dumps(value, sort_keys=True) for name, value in about.items()}
    data = safetensors.numpy.save(tensors, metadata)  # with the metadata in varying order
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":"),
                        ensure_ascii=False).encode()
    with replaced_file(path) as draft:
        draft.write_bytes(with_checksum(data[:8] + header.ljust(end - 8) + data[end:]))
    return Path(path).stat().st_size


def check_format(path: Path | str, metadata: dict, tensors: dict) -> None:
    """Remove format and checksum from the metadata. Raises ValueError if one is wrong."""
    form, data = metadata.pop("format", None), Path(path).read_bytes()
    if form != MASK_FORMAT:
        raise ValueError(f"its format is {form!r}, expected {MASK_FORMAT!r}")
    if with_checksum(data) != data:
        raise ValueError("its bytes differ from those that were written; copy it again")
    del metadata["checksum"]


def read_masks(path: Path | str, check: Callable = check_format) -> tuple[dict, dict]:
    """Return ({name: (code, [out, in])} for `unpack_masks`, about) of a file of `save_masks`.

    about: the values of the metadata, and "head_weights" and "vectors" if the file has them; check:
    see `check_format`. Raises FileNotFoundError, or ValueError if the file is damaged or another
    kind. `read_any_masks` also reads older formats and validates files from elsewhere.
    """
    try:
        check_regular(path)
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        check(path, metadata, tensors)
        about = {name: json.loads(value) for name, value in metadata.items()}
        codes = {name: (tensors[name], shape) for name, shape in about.pop("shapes").items()}
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such mask file") from None
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError,
            RecursionError) as error:
        reason = first_line(error)  # it may quote the file and its line breaks
        raise ValueError(f"{path} is not a mask file of this project: {reason}") from None
    for kind, prefix in TRAINED.items():
        arrays = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()
                  if name.startswith(prefix)}
        about |= {kind: arrays} if arrays else {}
    return codes, about


def unpack_masks(path: Path | str, codes: dict, shapes: dict[str, Any]) -> dict:
    """Return {name: bool array (out, in)} of the codes of a file; shapes: {name: [out, in]}.

    Raises ValueError for other names or shapes, before a mask fills memory.
    """
    try:
        for name in sorted(codes.keys() | shapes.keys()):
            if (found := codes.get(name, (0, "none"))[1]) != shapes.get(name, "none"):
                raise ValueError(f"{name} has shape {found}, expected {shapes.get(name, 'none')}")
        return {name: decode_mask(code, shapes[name]) for name, (code, _) in codes.items()}
    except ValueError as error:
        raise ValueError(f"{path} is not a mask file of this project: {error}") from None
