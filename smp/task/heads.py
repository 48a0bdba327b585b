"""The encoder, which tasks share, and the head, which each task has, with its pooler."""

from typing import Any

import torch
import transformers
from torch import nn

from smp.model.save import head_parts, tensors_fingerprint
from smp.text import first_line

MASKED = ".parametrizations.weight."  # in the names of a masked matrix, its scores and its mask
TASKS = {  # pipeline tag: ending of the stock classes
    "question-answering": "QuestionAnswering", "text-classification": "SequenceClassification",
    "token-classification": "TokenClassification", "multiple-choice": "MultipleChoice",
}


def encoder_fingerprint(model: nn.Module) -> str:
    """Return `model_fingerprint` of the encoder without its pooler, with or without masks."""
    tensors = {name.replace(f"{MASKED}original", ".weight"): tensor
               for name, tensor in model.base_model.state_dict().items()
               if not name.startswith("pooler.") and not (
                   MASKED in name and name.endswith((".scores", ".mask")))}
    return tensors_fingerprint(tensors)


def task_parts(model: nn.Module) -> nn.ModuleDict:
    """Return the modules of the head: those outside the encoder, and the encoder's pooler."""
    parts = head_parts(model) if model.base_model is not model else nn.ModuleDict()
    if getattr(model.base_model, "pooler", None) is not None:
        parts["pooler"] = model.base_model.pooler
    return parts


def set_part(model: nn.Module, name: str, part: nn.Module | None) -> None:
    """Set a module of the head by its name in `task_parts`."""
    setattr(model.base_model if name == "pooler" and hasattr(model.base_model, "pooler")
            else model, name, part)


def task_of(model: nn.Module) -> str:
    """Return the pipeline tag of a stock model. Raises ValueError for a class without one."""
    for tag, ending in TASKS.items():
        if type(model).__name__.endswith(f"For{ending}"):
            return tag
    raise ValueError(f"{type(model).__name__} has no stock head for {', '.join(TASKS)}: a mask "
                     "file cannot describe it; use merge() and save the model")


def empty_host(base: Any, about: dict) -> nn.Module:
    """Return a stock model of a task whose head is to be loaded, and its encoder to be replaced.

    about: {"task", "labels", "problem_type"} of the mask file. Raises ValueError if there is no
    such head for this encoder.
    """
    task, labels = about.get("task"), about.get("labels")
    if task not in TASKS:
        raise ValueError(f"its task is {str(task)[:40]!r}, expected one of {', '.join(TASKS)}")
    if not isinstance(labels, list) or not all(isinstance(each, str) for each in labels):
        raise ValueError(f"its labels are {str(labels)[:40]!r}, expected a list of texts")
    config = type(base.config).from_dict(base.config.to_dict() | {
        "id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)},
        "problem_type": about.get("problem_type"), "dtype": "float32"})
    config._attn_implementation = base.config._attn_implementation
    try:
        with torch.device("meta"):  # no second encoder in memory
            host = getattr(transformers, f"AutoModelFor{TASKS[task]}").from_config(config)
    except ValueError as error:
        raise ValueError(f"no {task} head for this encoder ({first_line(error)})") from None
    for name, part in task_parts(host).items():
        set_part(host, name, part.to_empty(device="cpu").requires_grad_(False))
    return host.eval()
