"""A task on disk.

A task is its masks: what the pretrained weights are is known already. The file is a safetensors
file: for each matrix the code of its mask, the weights of a head where one was trained, biases
and LayerNorms where they were, and beside them what they are of: the base model with a hash of
its weights, the settings, what was measured. A checksum over the whole file tells of a single bit
that is not as it was written.
"""

import hashlib
import json
import os
import re
from pathlib import Path

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from smp.model.mask_code import MOST_WEIGHTS, decode_mask, encode_mask

MASK_FORMAT = "smp-masks-2"
VECTORS_FORMAT = "smp-masks-3"  # the same with vectors, which its older readers would pass over
OLD_MASK_FORMAT = "smp-masks-1"  # a bit a weight, no checksum; still read
TRAINED = {"head_weights": "head:", "vectors": "vector:"}  # how the names of these begin
CHECKSUM = re.compile(rb'"checksum":"([0-9a-f]{64})"')


def checksum_with(data):
    """(sha256 of the file's bytes with zeros where its checksum stands, where that is)."""
    place = CHECKSUM.search(data)
    if place is None:
        raise ValueError("it has no checksum")
    digest = hashlib.sha256(data[: place.start(1)])
    digest.update(b"0" * 64)
    digest.update(data[place.end(1) :])
    return digest.hexdigest().encode(), place


def save_masks(masks, path, head_weights=None, vectors=None, **about):
    """Writes {name: bool array (out, in)} to `path`, whole or not at all; returns its bytes.

    head_weights: {name: array} of a head that was trained; vectors: the same of the encoder's
    biases and LayerNorms; about: what the file says of itself (base, density, ...), plain values
    that go into its metadata as JSON strings.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: encode_mask(mask) for name, mask in masks.items()}
    for kind, arrays in (("head_weights", head_weights), ("vectors", vectors)):
        tensors |= {TRAINED[kind] + name: array for name, array in (arrays or {}).items()}
    shapes = {name: list(mask.shape) for name, mask in masks.items()}
    form = VECTORS_FORMAT if vectors else MASK_FORMAT
    metadata = {"format": form, "checksum": "0" * 64, "shapes": json.dumps(shapes)}
    metadata |= {name: json.dumps(value) for name, value in about.items()}
    data = safetensors.numpy.save(tensors, metadata)
    digest, place = checksum_with(data)
    draft = path.with_name(path.name + ".part")
    try:
        draft.write_bytes(data[: place.start(1)] + digest + data[place.end(1) :])
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return path.stat().st_size


def check_mask_shape(name, shape):
    """ValueError unless it is [out, in] of a matrix that can be."""
    sides = [type(side) for side in shape] if isinstance(shape, list) else []
    if sides != [int, int] or min(shape) < 1 or shape[0] * shape[1] > MOST_WEIGHTS:
        raise ValueError(f"{name} is of shape {str(shape)[:40]}, expected [out, in]")


def unpack_mask(name, bits, shape):
    """bool (out, in) of a mask's packed bits; ValueError where they are not of that shape."""
    check_mask_shape(name, shape)
    size = shape[0] * shape[1]
    if bits.dtype != np.uint8 or bits.shape != ((size + 7) // 8,):
        raise ValueError(
            f"{name} has {bits.dtype} of shape {bits.shape}, expected {(size + 7) // 8} bytes"
        )
    return np.unpackbits(bits, count=size).astype(bool).reshape(shape)


def unpack_code(name, code, shape):
    """The same of a mask's code."""
    check_mask_shape(name, shape)
    if code.dtype != np.uint8 or code.ndim != 1:
        raise ValueError(f"{name} has {code.dtype} of shape {code.shape}, expected bytes")
    return decode_mask(code, shape)


def load_masks(path):
    """({name: bool array (out, in)}, about) of a file that `save_masks` wrote.

    about: what it says of itself, with "head_weights" and "vectors" where it holds any. Raises
    ValueError with one line where the file is damaged or something else.
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
            unpack = unpack_mask if form == OLD_MASK_FORMAT else unpack_code
            masks = {
                name: unpack(name, file.get_tensor(name), shape)
                for name, shape in json.loads(metadata.pop("shapes")).items()
            }
            trained = {
                kind: {name.removeprefix(begin): file.get_tensor(name)
                       for name in file.keys() if name.startswith(begin)}
                for kind, begin in TRAINED.items()
            }
            if bool(trained["vectors"]) != (form == VECTORS_FORMAT):
                raise ValueError(f"tensors {TRAINED['vectors']} make the form {VECTORS_FORMAT}")
        about = {name: json.loads(value) for name, value in metadata.items()}
        about |= {kind: arrays for kind, arrays in trained.items() if arrays}
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such mask file") from None
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError,
            RecursionError) as error:
        reason = " ".join(str(error).split())[:300]  # it may quote the file and its line breaks
        raise ValueError(f"{path} is not a mask file of this project: {reason}") from None
    return masks, about
