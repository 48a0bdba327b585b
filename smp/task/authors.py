"""The authors' masks.

The authors of SMP [released](https://github.com/kongds/SMP/releases/tag/SMP-S) their masks of
BERT-base: one bit a weight and nothing else, 10,616,832 bytes for its 72 matrices. Which bits
belong to which matrix, the file does not say: the model does. The matrices follow one another
in the order of their names *as text*, so layer 10 comes before layer 2.
"""

import os
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from smp.data.packed import open_zip
from smp.model.encoder import encoder_linears
from smp.model.load import load_student
from smp.task.task import apply_masks

BYTES_FOR_BERT_BASE = 12 * 12 * 768**2 // 8  # 12 layers of 4 + 4 + 4 times 768 x 768 weights


def in_authors_order(names):
    """The names, sorted as the authors' `bert.<name>.mask_scores` sort."""
    return sorted(names, key=lambda name: f"bert.{name}.mask_scores")


def save_authors_masks(masks, path):
    """Writes {name: bool array (out, in)} as the authors' code reads it; returns its bytes.

    A vector of uint8 by np.save: the bits of all matrices row by row, in `in_authors_order`, the
    first in a byte's highest bit; what is left of the last byte is 0. It has no place for biases
    and LayerNorms that were trained beside the masks. The file is there whole or not at all. Names
    are those of `Masks.numpy()`. Raises ValueError where a mask is not bool. Source: the authors'
    to_mask.py.
    """
    for name, mask in masks.items():
        if mask.dtype != bool:
            raise ValueError(f"the mask {name} is of {mask.dtype}, expected bool")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    flat = [masks[name].reshape(-1) for name in in_authors_order(masks)]
    draft = path.with_name(path.name + ".part")
    try:
        with open(draft, "wb") as file:  # given a name, np.save would end it in .npy
            np.save(file, np.packbits(np.concatenate(flat)))
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return path.stat().st_size


# The released files are zipped, one in each zip; they are read as they are. The size a file must
# have follows from the model, and a file that says another one is refused before it is read.
@contextmanager
def open_npy(path):
    """The .npy file, or the only .npy in a .zip, opened for reading."""
    if path.suffix.lower() != ".zip":
        with open(path, "rb") as file:
            yield file
        return
    with open_zip(path) as archive:
        names = [name for name in archive.namelist() if name.lower().endswith(".npy")]
        names = [name for name in names if not name.startswith("__MACOSX/")]  # no data in there
        if len(names) != 1:
            raise ValueError(f"the zip holds {len(names)} .npy files, expected one")
        with archive.open(names[0]) as file:
            yield file


def read_packed_bits(file, size):
    """uint8 (size,) of an opened .npy file that holds just that; ValueError, before it is read."""
    try:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    except Exception:  # of a damaged header numpy raises whatever its parser did
        raise ValueError("its first bytes are not those that np.save writes") from None
    if dtype != np.uint8 or len(shape) != 1:
        raise ValueError(f"it holds {dtype} of shape {shape}, expected one vector of uint8")
    if shape[0] != size:
        hint = ", which fits BERT-base" if shape[0] == BYTES_FOR_BERT_BASE else ""
        raise ValueError(f"it holds {shape[0]:,} bytes{hint}; this model's masks have {size:,}")
    packed = file.read(size + 1)
    if len(packed) != size:
        more = "more follow" if len(packed) > size else f"only {len(packed):,} are there"
        raise ValueError(f"it says {size:,} bytes, but {more}: download it again")
    return np.frombuffer(packed, np.uint8)


def load_authors_masks(path, model):
    """{name: bool array (out, in)} of a .npy file in the authors' form, or of a .zip with one.

    model: of the shape that the masks are for; the names are those of `Masks.numpy()`. Nothing in
    the file tells its task or its base model, so masks for MNLI are read as well as for SQuAD.
    Raises FileNotFoundError, or ValueError with one line where the file is something else, is
    damaged, fits another model, or has a 1 after the last weight's bit.
    """
    path = Path(os.path.expanduser(path))
    shapes = {name: tuple(linear.weight.shape) for name, *_, linear in encoder_linears(model)}
    total = sum(rows * columns for rows, columns in shapes.values())
    try:
        with open_npy(path) as file:
            bits = np.unpackbits(read_packed_bits(file, (total + 7) // 8))
        if bits[total:].any():
            raise ValueError("its last byte goes on after the last weight: made for another model")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such mask file") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} holds no masks of the authors for this model: {error}") from None
    masks, first = dict.fromkeys(shapes), 0
    for name in in_authors_order(shapes):
        rows, columns = shapes[name]
        masks[name] = bits[first : first + rows * columns].astype(bool).reshape(rows, columns)
        first += rows * columns
    return masks


def load_authors_student(name, path, max_length=None):
    """(model, tokenizer, density): the checkpoint `name` pruned by the authors' mask file `path`.

    The head is the frozen label-word head, for which the masks were learned; density is the share
    of the encoder's weights that the file keeps. Raises ValueError where the checkpoint has no
    masked-LM head, and as `load_student` and `load_authors_masks` do.
    """
    model, tokenizer, head = load_student(name, max_length=max_length)
    if head != "label words":
        raise ValueError(
            f"MODEL={name!r} has no masked-LM head, and the authors' masks were learned for one: "
            "name bert-base-uncased"
        )
    masks = load_authors_masks(path, model)
    apply_masks(model, masks)
    kept = sum(int(np.count_nonzero(mask)) for mask in masks.values())
    return model.eval(), tokenizer, kept / sum(mask.size for mask in masks.values())
