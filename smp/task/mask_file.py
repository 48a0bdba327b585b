"""The mask file: what must be stored of a task if the base model is known.

A safetensors file. It contains the code of each mask (smp/model/mask_code.py), a trained head as
`head:<name>`, and trained biases and LayerNorms as `vector:<name>`. The metadata contain the
shapes, the base model with a hash of its weights, settings, scores, and a checksum of the file.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from smp.files import replaced_file
from smp.model.mask_code import MOST_WEIGHTS, decode_mask, encode_mask
from smp.text import first_line

MASK_FORMAT = "smp-masks-2"
VECTORS_FORMAT = "smp-masks-3"  # with vectors, which readers of smp-masks-2 would ignore
OLD_MASK_FORMAT = "smp-masks-1"  # read only: one bit per weight, no checksum
TRAINED = {"head_weights": "head:", "vectors": "vector:"}  # the prefixes of their tensors' names
CHECKSUM = re.compile(rb'"checksum":"([0-9a-f]{64})"')


def checksum_with(data: bytes) -> tuple[bytes, re.Match]:
    """Return (SHA-256 of the file with zeros in place of its checksum, match of the checksum)."""
    place = CHECKSUM.search(data)
    if place is None:
        raise ValueError("it has no checksum")
    zeroed = data[: place.start(1)] + b"0" * 64 + data[place.end(1) :]
    return hashlib.sha256(zeroed).hexdigest().encode(), place


def current_fields(about: dict) -> dict:
    """Return metadata, or a record, with its label, method and variant under today's names.

    Earlier files have no label, but method "SMP + KD" and sharing "SMP-S" for what is now the
    label "SMP-S + KD" and the method "smp-s".
    """
    if "label" in about or "method" not in about:
        return about
    sharing = about.get("sharing")
    label = about["method"].replace("SMP", sharing) if sharing else about["method"]
    method = label.removesuffix(" + KD").lower().replace(" ", "-")
    kept = {name: value for name, value in about.items() if name != "sharing"}
    variant = (about.get("settings") or {}).get("variant")
    return kept | {"label": label, "method": method, "variant": variant}


def save_masks(
    masks: dict[str, np.ndarray], path: Path | str, head_weights: dict | None = None,
    vectors: dict | None = None, **about: Any,
) -> int:
    """Write {name: bool array (out, in)} to `path` atomically and return the file's bytes.

    head_weights: {name: array} of a trained head; vectors: {name: array} of trained biases and
    LayerNorms; about: JSON values for the metadata (base, density, ...).
    """
    tensors = {name: encode_mask(mask) for name, mask in masks.items()}
    for kind, arrays in (("head_weights", head_weights), ("vectors", vectors)):
        tensors |= {TRAINED[kind] + name: array for name, array in (arrays or {}).items()}
    shapes = {name: list(mask.shape) for name, mask in masks.items()}
    form = VECTORS_FORMAT if vectors else MASK_FORMAT
    metadata = {"format": form, "checksum": "0" * 64, "shapes": json.dumps(shapes)}
    metadata |= {name: json.dumps(value) for name, value in about.items()}
    data = safetensors.numpy.save(tensors, metadata)
    digest, place = checksum_with(data)
    with replaced_file(path) as draft:
        draft.write_bytes(data[: place.start(1)] + digest + data[place.end(1) :])
    return Path(path).stat().st_size


def unpack_mask(name: str, code: np.ndarray, shape: Any, packed_bits: bool) -> np.ndarray:
    """Return the mask, bool (out, in), of a code of `encode_mask` or of packed bits.

    Raises ValueError if the shape is not [out, in], or if the bytes do not have that shape.
    """
    sides = [type(side) for side in shape] if isinstance(shape, list) else []
    if sides != [int, int] or min(shape) < 1 or shape[0] * shape[1] > MOST_WEIGHTS:
        raise ValueError(f"{name} is of shape {str(shape)[:40]}, expected [out, in]")
    size = shape[0] * shape[1]
    expected = f"{(size + 7) // 8} bytes" if packed_bits else "bytes"
    right_length = code.ndim == 1 and (not packed_bits or len(code) == (size + 7) // 8)
    if code.dtype != np.uint8 or not right_length:
        raise ValueError(f"{name} has {code.dtype} of shape {code.shape}, expected {expected}")
    if not packed_bits:
        return decode_mask(code, shape)
    return np.unpackbits(code, count=size).astype(bool).reshape(shape)


def load_masks(path: Path | str) -> tuple[dict[str, np.ndarray], dict]:
    """Return ({name: bool array (out, in)}, about) of a file of `save_masks`.

    about: the values of the metadata, see `current_fields`, and "head_weights" and "vectors" if the
    file has them.
    Raises FileNotFoundError, or ValueError with one line if the file is damaged or another kind.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            form = metadata.pop("format", None)
            if form not in (MASK_FORMAT, VECTORS_FORMAT, OLD_MASK_FORMAT):
                raise ValueError(f"its metadata do not say {MASK_FORMAT} or {VECTORS_FORMAT}")
            if metadata.keys() & TRAINED.keys():
                raise ValueError("its metadata say what only tensors can")
            if form != OLD_MASK_FORMAT and (
                checksum_with(Path(path).read_bytes())[0] != metadata.pop("checksum").encode()
            ):
                raise ValueError("its bytes are not those that were written")
            masks = {
                name: unpack_mask(name, file.get_tensor(name), shape, form == OLD_MASK_FORMAT)
                for name, shape in json.loads(metadata.pop("shapes")).items()
            }
            trained = {
                kind: {name.removeprefix(prefix): file.get_tensor(name)
                       for name in file.keys() if name.startswith(prefix)}
                for kind, prefix in TRAINED.items()
            }
            if bool(trained["vectors"]) != (form == VECTORS_FORMAT):
                raise ValueError(f"tensors {TRAINED['vectors']} make the form {VECTORS_FORMAT}")
        about = current_fields({name: json.loads(value) for name, value in metadata.items()})
        about |= {kind: arrays for kind, arrays in trained.items() if arrays}
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such mask file") from None
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError,
            RecursionError) as error:
        reason = first_line(error)  # it may quote the file and its line breaks
        raise ValueError(f"{path} is not a mask file of this project: {reason}") from None
    return masks, about
