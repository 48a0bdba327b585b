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
def load_masks(path):
    """({name: bool array (out, in)}, metadata) of a file that `save_masks` wrote.

    Raises ValueError with one line where the file is damaged or something else.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != "smp-masks-1":
                raise ValueError("its metadata do not say smp-masks-1")
            masks = {}
            for name, shape in json.loads(metadata["shapes"]).items():
                bits, size = file.get_tensor(name), int(np.prod(shape))
                if bits.size != (size + 7) // 8:
                    raise ValueError(f"{name} has {bits.size} bytes, expected {(size + 7) // 8}")
                masks[name] = np.unpackbits(bits, count=size).astype(bool).reshape(shape)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such mask file") from None
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a mask file of this project: {error}") from None
    about = {k: json.loads(v) for k, v in metadata.items() if k not in ("format", "shapes")}
    return masks, about
