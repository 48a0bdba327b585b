"""Load a saved model, or a base model and a mask file, by name: for answers and for export."""

import os
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from torch import nn

from smp.files import cached_if_offline
from smp.model.load import load_qa_model
from smp.model.question_answerer import QuestionAnswerer
from smp.model.save import head_parts, model_fingerprint
from smp.model.student import load_student
from smp.task.apply import apply_task
from smp.task.mask_file import MASK_FILE
from smp.task.validate import check_task, load_any_masks
from smp.text import first_line


def find_mask_file(name: Path | str) -> Path:
    """Return the path of a mask file, given as a file, its folder, or a repository on the Hub.

    Raises FileNotFoundError with one line if there is none.
    """
    path = Path(os.path.expanduser(name))
    is_folder, text = path.is_dir(), str(name)
    path = path / MASK_FILE if is_folder else path
    if path.is_file():
        return path
    if is_folder or text.startswith((".", "/", "~")) or text.count("/") > 1:
        raise FileNotFoundError(f"{path}: no such mask file")
    try:
        with cached_if_offline():
            return Path(hf_hub_download(text, MASK_FILE))
    except Exception as error:  # the Hub's client and HTTP raise many types
        raise FileNotFoundError(
            f"{name}: no such mask file, no such folder, and no download of {MASK_FILE} from the "
            f"Hub ({first_line(error)})") from None


def load_any_task(base: str, name: Path | str,
                  max_length: int | None = None) -> tuple[nn.Module, Any, dict]:
    """Return (model, tokenizer, about) of a base model and a mask file of any format.

    base: folder or Hub name; name: as in `find_mask_file`; about: as in `load_any_masks`. Raises
    ValueError or FileNotFoundError with one line if one is missing or they do not fit.
    """
    path = find_mask_file(name)
    masks, about = task = load_any_masks(path)
    model, tokenizer, kind = load_student(base, None, max_length, about.get("head", "auto"))
    head = head_parts(model).state_dict() if kind == "trained" else {}
    check_task(path, task, model, base, model_fingerprint(model), model.setup, head)
    apply_task(model, masks, about)
    return model.eval(), tokenizer, about


def load_saved(name: str, max_length: int | None = None) -> tuple[nn.Module, Any]:
    """Return (model, tokenizer) of a saved model, with the head that it was trained with."""
    model, tokenizer, has_head = load_qa_model(name, max_length=max_length)
    if not has_head:  # a model with a label-word head is saved as its masked language model
        model, tokenizer, _ = load_student(name, None, max_length, "label words")
    return model.eval(), tokenizer


def load_answerer(
    model: str, masks: Path | str | None = None, max_length: int | None = None,
    stride: int = 128, precision: str = "fp32",
) -> QuestionAnswerer:
    """Return a `QuestionAnswerer` of a saved model, or of a base model and a mask file.

    model: folder or Hub name; masks: as in `find_mask_file`. Raises ValueError or
    FileNotFoundError with one line if one is missing, or if the model has no trained head.
    """
    if masks is None:
        loaded, tokenizer = load_saved(model, max_length)
    else:
        loaded, tokenizer, _ = load_any_task(model, masks, max_length)
    return QuestionAnswerer(loaded, tokenizer, max_length, stride, precision)
