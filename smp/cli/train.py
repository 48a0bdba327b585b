"""Assemble a run: attach the masks of the settings to a model, choose the loss, and train.

The notebooks contain these steps in open cells. The sweep, the benchmarks and the tests call them.
"""

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from smp.fast.buffers import reuse_buffers
from smp.fast.skipping import skip_zeros
from smp.fast.topk import KeepTop
from smp.method.distill import CachedTeacher, distilled_loss
from smp.method.hidden import HiddenTeacher
from smp.method.loop import fit, span_loss
from smp.method.masks import competing_share, same_share
from smp.model.encoder import encoder_layers, encoder_linears, freeze_encoder
from smp.model.predict import make_accelerator
from smp.model.teacher import check_layers
from smp.runs.methods import method_of
from smp.runs.settings import Settings
from smp.runs.teaching import run_training


def train(model: nn.Module, features: Any, tokenizer: Any, settings: Settings, pruning: Any = None,
          loss: Callable = span_loss, **watched: Any) -> dict:
    """Train the model in place with the method's loop, see `run_training`."""
    return run_training(
        functools.partial(fit, loss=loss), model, features, tokenizer, settings, pruning, **watched)


@dataclass(frozen=True)
class Parts:
    """Replaceable parts of a run. experiments/ replaces some of them and names the variant.

    masks: model -> class of masks; masks, static_mask and optimizer: None for those of the
    settings. train: see `train`. check: settings -> None, raises ValueError if they do not use
    the replaced parts.
    """

    variant: str = ""
    masks: Callable | None = None
    static_mask: type | None = None
    hidden_teacher: type = HiddenTeacher
    optimizer: type | None = None
    trains_biases_and_norms: bool = True
    train: Callable = train
    check: Callable = lambda settings: None


DEFAULT_PARTS = Parts()


def method_class(name: str) -> Any:
    """Return the class of smp/method/ with the name "file.Class"."""
    file, _, kind = name.partition(".")
    return getattr(importlib.import_module(f"smp.method.{file}"), kind)


def attach_pruning(model: nn.Module, settings: Settings, parts: Parts = DEFAULT_PARTS) -> Any:
    """Attach the masks of settings.method to the model and return its `Pruning`.

    On a CPU the choice, the storage and the product of the masks are those of smp/fast/.
    """
    method = method_of(settings)
    kind = method_class(method.masks)
    if kind.trains_weights == method.freezes_weights:
        raise ValueError(
            f"METHODS: the line of {settings.method!r} has freezes_weights="
            f"{method.freezes_weights}, "
            f"its class {method.masks} has trains_weights={kind.trains_weights}: set one of them"
        )
    linears = encoder_linears(model)
    freeze_encoder(model, settings.trains_biases_and_norms and parts.trains_biases_and_norms)
    if not method.freezes_weights:
        encoder_layers(model).requires_grad_(True)
    share = functools.partial(competing_share, temperature=settings.temperature) \
        if method.competes else same_share
    on_cpu = make_accelerator(settings.precision).device.type == "cpu"
    masks = (parts.masks(model) if parts.masks else kind)(
        linears, share, settings.score_init,
        choose=KeepTop() if on_cpu else None, static_mask=parts.static_mask,
    )
    if parts.static_mask is None:
        reuse_buffers(masks)
        skip_zeros(masks, settings.precision)
    return method_class(method.pruning)(masks, settings)


def teacher_loss(settings: Settings, student: Any, teacher: Any,
                 logits: torch.Tensor | None = None, parts: Parts = DEFAULT_PARTS) -> Callable:
    """Return the loss of a student with a teacher: its cached logits, or its hidden states too.

    logits: (n_windows, length, 2) of the teacher; student and teacher: stock models. If
    settings.distill is "hidden", only the models are used, otherwise only the logits.
    """
    if settings.distill == "hidden":
        check_layers(student.config, teacher.config)
        source = parts.hidden_teacher(
            student, teacher, encoder_layers, make_accelerator(settings.precision))
    else:
        source = CachedTeacher(logits)
    return distilled_loss(span_loss, source, settings.distill_weight, settings.distill_temperature,
                          settings.hidden_distill_weight)
