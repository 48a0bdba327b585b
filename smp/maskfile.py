# %% [markdown]
# ## Masks on disk
#
# A task is its masks: one bit a weight. The file is a safetensors file, readable without any code
# of this project: for each matrix its bits, packed row by row, with the shape beside them.

# %%
import json
import os
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

# %%
def save_masks(masks, path, **about):
    """Writes {name: bool array (out, in)} to `path`, whole or not at all; returns its bytes.

    `about` (model, density, ...) goes into the file's metadata as JSON strings.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    bits = {name: np.packbits(mask, axis=None) for name, mask in masks.items()}
    shapes = {name: list(mask.shape) for name, mask in masks.items()}
    metadata = {"format": "smp-masks-1", "shapes": json.dumps(shapes)}
    metadata |= {name: json.dumps(value) for name, value in about.items()}
    draft = path.with_name(path.name + ".part")
    try:
        save_file(bits, draft, metadata)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return path.stat().st_size

# %%
def unpack_mask(name, bits, shape):
    """bool (out, in) of a mask's packed bits; ValueError where they are not of that shape."""
    sides = [type(side) for side in shape] if isinstance(shape, list) else []
    if sides != [int, int] or min(shape) < 1:
        raise ValueError(f"{name} is of shape {str(shape)[:40]}, expected [out, in]")
    size = shape[0] * shape[1]
    if bits.dtype != np.uint8 or bits.shape != ((size + 7) // 8,):
        raise ValueError(
            f"{name} has {bits.dtype} of shape {bits.shape}, expected {(size + 7) // 8} bytes"
        )
    return np.unpackbits(bits, count=size).astype(bool).reshape(shape)


def load_masks(path):
    """({name: bool array (out, in)}, metadata) of a file that `save_masks` wrote.

    Raises ValueError with one line where the file is damaged or something else.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != "smp-masks-1":
                raise ValueError("its metadata do not say smp-masks-1")
            masks = {
                name: unpack_mask(name, file.get_tensor(name), shape)
                for name, shape in json.loads(metadata["shapes"]).items()
            }
        about = {k: json.loads(v) for k, v in metadata.items() if k not in ("format", "shapes")}
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such mask file") from None
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError,
            RecursionError) as error:
        raise ValueError(f"{path} is not a mask file of this project: {error}") from None
    return masks, about
