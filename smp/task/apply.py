r"""Apply a mask file to the base model that its masks were learned on.

The weights of the base model become $W \odot M$; a trained head and trained biases and LayerNorms
are copied into it. The hash of the base model's weights in the file must be that of the model.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import hf_hub_download
from torch import nn

from smp.files import cached_if_offline
from smp.model.encoder import biases_and_norms, encoder_linears
from smp.model.load import load_qa_model, load_student
from smp.model.question_answerer import QuestionAnswerer
from smp.model.save import head_parts, model_fingerprint
from smp.task.mask_file import load_masks
from smp.text import first_line, short_name

MASK_FILE = "masks.safetensors"  # in a folder, or on the Hub
VECTORS = "biases and LayerNorms"


def head_tensors(parts: dict[str, nn.Module]) -> dict[str, torch.Tensor]:
    """Return {name: tensor} of a head's modules, as `head_parts` returns them."""
    return {f"{part}.{name}": tensor for part, module in parts.items()
            for name, tensor in module.state_dict().items()}


def as_arrays(tensors: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Return the tensors as float32 arrays, which share the memory of float32 CPU tensors."""
    return {name: tensor.detach().float().cpu().numpy() for name, tensor in tensors.items()}


def describe_task(
    begun: dict, model: nn.Module, base: str, revision: str | None, head: str, scores: dict,
    n_eval: int,
) -> dict:
    """Return the metadata and trained tensors of a mask file, as `save_masks` takes them.

    begun: the record before training; model: the trained student; base: the name it was loaded by;
    revision: its commit on the Hub, or None.
    """
    about = {
        "base": begun["model"] if os.path.isdir(os.path.expanduser(base)) else short_name(base),
        "base_revision": revision,
        "base_sha": begun["model_sha"], "density": begun["density_target"], "head": head,
        "em": scores["em"], "f1": scores["f1"], "n_eval": n_eval,
        **{key: begun[key] for key in "name label method variant data data_sha settings".split()},
    }
    if head == "trained":
        about["head_weights"] = as_arrays(head_tensors(head_parts(model)))
    if begun["settings"]["bias_norm_learning_rate"]:
        about["vectors"] = as_arrays(biases_and_norms(model))
    return about


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
            f"{name}: neither a mask file nor a folder with {MASK_FILE} in it, nor a repository "
            f"that the Hub would give ({first_line(error)})"
        ) from None


def read_task(name: Path | str) -> tuple[Path, dict[str, np.ndarray], dict, str]:
    """Return (path, masks, about, head for `load_student`) of the file that `find_mask_file` finds.

    Raises FileNotFoundError, or ValueError with one line if the file or its head is unknown.
    """
    path = find_mask_file(name)
    masks, about = load_masks(path)
    head = about.get("head", "auto")  # smp-masks-1 has no head
    if head not in ("auto", "label words", "embedding rows", "trained"):
        raise ValueError(f"{path}: its head is {str(head)[:40]!r}, of a kind not known here")
    return path, masks, about, head


def check_task(task: tuple, model: nn.Module, head: str, sha: str, base: str) -> None:
    """Raise ValueError unless a task of `read_task` fits the model, its head and its hash `sha`."""
    path, masks, about, _ = task
    if about.get("base_sha") != sha:
        raise ValueError(
            f"{path}: its masks belong to {about.get('base')!r} with weights "
            f"{about.get('base_sha')!r}, {base!r} has {sha!r}: name the base they were learned on"
        )
    if "head" not in about and head == "trained":
        raise ValueError(
            f"{path}: is of an older form, without its trained head: load the model that was saved "
            "beside it, or run again"
        )
    if "head" in about and ("head_weights" in about) != (about["head"] == "trained"):
        raise ValueError(f"{path}: its head is {about['head']!r}, which does not fit its tensors")
    check_masks(model, masks)
    if vectors := about.get("vectors"):
        check_arrays(biases_and_norms(model), vectors, path, VECTORS)


def check_masks(model: nn.Module, masks: dict[str, np.ndarray]) -> dict[str, nn.Linear]:
    """Return {name: nn.Linear} of the encoder; raise ValueError unless each has its bool mask."""
    linears = {name: linear for name, *_, linear in encoder_linears(model)}
    odd = sorted(linears.keys() ^ masks.keys())
    if odd:
        whose = "model" if odd[0] in linears else "masks"
        raise ValueError(f"only the {whose} has {odd[0]}: expected one mask for each matrix")
    for name, linear in linears.items():
        found = f"{masks[name].dtype} of shape {masks[name].shape}"
        expected = f"bool of shape {tuple(linear.weight.shape)}"
        if found != expected:
            raise ValueError(f"the mask {name} is {found}, expected {expected}")
    return linears


@torch.no_grad()
def apply_masks(model: nn.Module, masks: dict[str, np.ndarray]) -> None:
    """Multiply the encoder's weights by the masks {name: bool array (out, in)}, in place.

    Raises ValueError and changes nothing if names, shapes or types do not fit.
    """
    for name, linear in check_masks(model, masks).items():
        linear.weight.mul_(torch.from_numpy(masks[name]).to(linear.weight.device))


def check_arrays(tensors: dict, arrays: dict, path: Path, what: str) -> None:
    """Raise ValueError unless {name: array} are finite float32 of the shapes in {name: tensor}."""
    here = {name: f"float32 of shape {tuple(t.shape)}" for name, t in tensors.items()}
    found = {name: f"{array.dtype} of shape {array.shape}" for name, array in arrays.items()}
    for name in sorted(here.keys() | found.keys()):
        its, ours = found.get(name, "nothing"), here.get(name, "nothing")
        if its.startswith("float32") and not np.isfinite(arrays[name]).all():
            its = "not finite"
        if its != ours:
            raise ValueError(f"{path}: of its {what}, {name} is {its}; this model has {ours}")


@torch.no_grad()
def fill(tensors: dict, arrays: dict | None, path: Path, what: str) -> None:
    """Copy {name: array}, if there are any, into {name: tensor} after `check_arrays`."""
    if arrays:
        check_arrays(tensors, arrays, path, what)
        for name, tensor in tensors.items():
            tensor.copy_(torch.from_numpy(arrays[name]))


def load_task(
    base: str, path: Path | str, max_length: int | None = None
) -> tuple[nn.Module, Any, dict]:
    """Return (model, tokenizer, about) of a base model and a mask file.

    base: folder or Hub name; path: as in `find_mask_file`; about: as in `load_masks`. Raises
    ValueError or FileNotFoundError with one line if one is missing or they do not fit.
    """
    path, masks, about, head = task = read_task(path)
    model, tokenizer, head = load_student(base, max_length=max_length, head=head)
    check_task(task, model, head, model_fingerprint(model), base)
    apply_masks(model, masks)
    fill(biases_and_norms(model), about.get("vectors"), path, VECTORS)
    fill(head_tensors(head_parts(model)), about.get("head_weights"), path, "head")
    return model.eval(), tokenizer, about


def load_saved(name: str, max_length: int | None = None) -> tuple[nn.Module, Any]:
    """Return (model, tokenizer) of a saved model, with the head that it was trained with."""
    model, tokenizer, has_head = load_qa_model(name, max_length=max_length)
    if not has_head:  # a run with a label-word head is saved as its masked language model
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
        loaded, tokenizer, _ = load_task(model, masks, max_length)
    return QuestionAnswerer(loaded, tokenizer, max_length, stride, precision)
