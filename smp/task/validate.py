"""Read mask files of every format and from anywhere, and check them against a model.

`read_masks` and `load_task` read the files that this version writes; the functions here also
read the formats smp-masks-1 (packed bits, no checksum) and smp-masks-2 (no biases, no LayerNorms).
"""

import json
import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from smp.model.encoder import biases_and_norms, encoder_linears
from smp.model.mask_code import BITS, MOST_WEIGHTS
from smp.model.student import STUDENT_HEADS
from smp.task.apply import apply_task, check_base, matrix_shapes
from smp.task.mask_file import MASK_FORMAT, TRAINED, check_format, read_masks, unpack_masks

PER_BYTE, ALWAYS = 512, 2**26  # weights that a byte of a file, and each file, may describe


def check_code(name: str, code: np.ndarray, shape: Any) -> None:
    """Raise ValueError unless it is uint8 (m,) of a mask of [out, in] weights, not too many."""
    sides = [type(side) for side in shape] if isinstance(shape, list) else []
    if sides != [int, int] or min(shape) < 1 or shape[0] * shape[1] > MOST_WEIGHTS:
        raise ValueError(f"{name} has shape {str(shape)[:40]}, expected [out, in]")
    if code.dtype != np.uint8 or code.ndim != 1:
        raise ValueError(f"{name} is {code.dtype} of shape {code.shape}, expected uint8 (m,)")


def check_any_format(path: Path | str, metadata: dict, tensors: dict) -> None:
    """Validate a file of any format as `check_format` does, and convert it to today's, in place."""
    if wrong := metadata.keys() & TRAINED.keys():
        raise ValueError(f"its metadata contain {min(wrong)}, expected tensors only")
    if metadata.get("format") == "smp-masks-2":
        metadata["format"] = MASK_FORMAT
        if any(name.startswith(TRAINED["vectors"]) for name in tensors):
            raise ValueError(f"it contains biases or LayerNorms, expected format {MASK_FORMAT!r}")
    packed = metadata.get("format") == "smp-masks-1" and "checksum" not in metadata
    if packed:
        del metadata["format"]
    else:
        check_format(path, metadata, tensors)
    for name, shape in json.loads(metadata["shapes"]).items():
        check_code(name, tensors[name], shape)
        if packed:
            code = zlib.compress(bytes([BITS]) + tensors[name].tobytes(), 0)
            tensors[name] = np.frombuffer(code, np.uint8)
    if not isinstance(setup := json.loads(metadata.get("base_setup", "{}")), dict):
        raise ValueError(f"its base_setup is {str(setup)[:40]!r}, expected a dict")
    head = json.loads(metadata.get("head", '"trained"'))
    if head not in STUDENT_HEADS:
        raise ValueError(f"its head is {str(head)[:40]!r}, expected {' or '.join(STUDENT_HEADS)}")


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


def read_any_masks(path: Path | str) -> tuple[dict, dict]:
    """Return what `read_masks` returns, of a file of any format; about: see `current_fields`.

    Raises FileNotFoundError, or ValueError with one line if the file is damaged or another kind.
    """
    codes, about = read_masks(path, check_any_format)
    return codes, current_fields(about)


def load_masks(path: Path | str, read: Callable = read_masks) -> tuple[dict, dict]:
    """Return ({name: bool array (out, in)}, about) of a file without its base model.

    read: `read_masks` or `read_any_masks`, with their errors. Raises ValueError also for more
    weights than a file of this size can describe.
    """
    codes, about = read(path)
    try:
        for name, (code, shape) in codes.items():
            check_code(name, code, shape)
        shapes = {name: shape for name, (_, shape) in codes.items()}
        size = Path(path).stat().st_size
        if (weights := sum(map(math.prod, shapes.values()))) > PER_BYTE * size + ALWAYS:
            raise ValueError(f"it describes {weights:,} weights in {size:,} bytes; load it with "
                             "its base model")
    except ValueError as error:
        raise ValueError(f"{path} is not a mask file of this project: {error}") from None
    return unpack_masks(path, codes, shapes), about


def load_any_masks(path: Path | str) -> tuple[dict, dict]:
    """Return what `load_masks` returns, of a file of any format."""
    return load_masks(path, read_any_masks)


def check_arrays(arrays: dict, tensors: dict, kind: str, what: str) -> None:
    """Raise ValueError unless {name: array} are finite, of this kind, and shaped as the tensors."""
    for name in sorted(arrays.keys() | tensors.keys()):
        found, expected = "missing", "none"
        if name in tensors:
            expected = f"{kind} of shape {tuple(tensors[name].shape)}"
        if name in arrays:
            found = f"{arrays[name].dtype} of shape {arrays[name].shape}"
            found = found if np.isfinite(arrays[name]).all() else "not finite"
        if found != expected:
            raise ValueError(f"{what} {name} is {found}, expected {expected}")


def check_task(path: Path | str, task: tuple[dict, dict], model: nn.Module, base: str, sha: str,
               setup: dict, head: dict) -> dict[str, np.ndarray]:
    """Return the masks of a mask file, (codes, about). Raises ValueError unless it fits the model.

    base, sha, setup: see `check_base`; head: {name: tensor} of a trained head, else empty.
    """
    codes, about = task
    check_base(path, about, base, sha, setup)
    check_arrays(about.get("head_weights", {}), head, "float32", f"{path}: head")
    if "vectors" in about:
        check_arrays(about["vectors"], biases_and_norms(model), "float32",
                     f"{path}: bias or LayerNorm")
    return unpack_masks(path, codes, matrix_shapes(model))


def apply_masks(model: nn.Module, masks: dict[str, np.ndarray]) -> None:
    """Multiply the encoder's weights by the masks {name: bool array (out, in)}, in place.

    Raises ValueError and changes nothing if names, shapes or types do not fit.
    """
    weights = {name: linear.weight for name, *_, linear in encoder_linears(model)}
    check_arrays(masks, weights, "bool", "mask")
    apply_task(model, masks, {})
