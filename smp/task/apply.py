r"""Describe a trained task for its mask file, and apply the file to the same base model.

The weights of the base model become $W \odot M$; a trained head and trained biases and LayerNorms
are copied into it. The base model must have the hash of the weights, the config, the tokenizer and
the frozen head that the file names.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from smp.model.encoder import biases_and_norms, encoder_linears
from smp.model.save import head_parts, model_fingerprint
from smp.model.student import load_student
from smp.task.mask_file import read_masks, unpack_masks
from smp.text import short_name


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
        "base_sha": begun["model_sha"], "base_setup": model.setup,
        "density": begun["density_target"], "head": head,
        "em": scores["em"], "f1": scores["f1"], "n_eval": n_eval,
        **{key: begun[key] for key in "name label method variant data data_sha settings".split()},
    }
    if head == "trained":  # it is in the file, so the head of the base model has no effect
        about["head_weights"] = as_arrays(head_parts(model).state_dict())
        about["base_setup"] = {k: v for k, v in model.setup.items() if k != "head"}
    if begun["settings"]["bias_norm_learning_rate"]:
        about["vectors"] = as_arrays(biases_and_norms(model))
    return about


def check_base(path: Path | str, about: dict, base: str, sha: str, setup: dict) -> None:
    """Raise ValueError unless the masks belong to the base model with this hash and setup.

    setup: from `model_setup`. What only one of both describes is not compared, because older files
    have no setup and newer versions of transformers have other fields.
    """
    there = about.get("base_setup", {}) | {"hash": about.get("base_sha")}
    for name, here in ({"hash": sha} | setup).items():
        if there.get(name, here) != here:
            raise ValueError(
                f"{path}: its base model is {about.get('base')!r} with {name} {there[name]!r}, but "
                f"{base!r} has {name} {here!r}; use the base model that the masks were trained on")


def matrix_shapes(model: nn.Module) -> dict[str, list[int]]:
    """Return {name: [out, in]} of the encoder's matrices."""
    return {name: list(linear.weight.shape) for name, *_, linear in encoder_linears(model)}


@torch.no_grad()
def apply_task(model: nn.Module, masks: dict[str, np.ndarray], about: dict) -> None:
    """Apply masks and trained tensors, as `load_masks` returns them, to their base model."""
    for name, *_, linear in encoder_linears(model):
        linear.weight.mul_(torch.from_numpy(masks[name]).to(linear.weight.device))
    tensors = biases_and_norms(model) | head_parts(model).state_dict()
    for name, array in (about.get("vectors", {}) | about.get("head_weights", {})).items():
        tensors[name].copy_(torch.from_numpy(array))


def load_task(base: str, path: Path | str,
              max_length: int | None = None) -> tuple[nn.Module, Any, dict]:
    """Return (model, tokenizer, about) of a base model and a mask file that `save_masks` wrote.

    base: folder or Hub name. Raises ValueError or FileNotFoundError if the model or the file is
    missing or damaged, or if the masks belong to another base model. `load_any_task` also finds
    files on the Hub, reads older formats and validates files from elsewhere.
    """
    codes, about = read_masks(path)
    model, tokenizer, _ = load_student(base, None, max_length, about.get("head", "auto"))
    check_base(path, about, base, model_fingerprint(model), model.setup)
    apply_task(model, unpack_masks(path, codes, matrix_shapes(model)), about)
    return model.eval(), tokenizer, about
