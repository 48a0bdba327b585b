"""Distillation of hidden states: each layer of the student approaches the teacher's.

H is the mean over the layers of sum_t |h_student - h_teacher|^2 / sum_t |h_teacher|^2, over the
tokens t that are not padding. SMP has no such term; TinyBERT (Jiao et al. 2020) has a similar one.
Hidden states are too large to store, so the teacher runs on every batch.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from smp.method.loop import INPUTS


def hidden_distance(student: Sequence, teacher: Sequence,
                    attention_mask: torch.Tensor) -> torch.Tensor:
    """Return H. student, teacher: (batch, length, hidden) per layer; padding is excluded."""
    real = attention_mask.bool().unsqueeze(-1)
    ratios = []
    for ours, theirs in zip(student, teacher, strict=True):
        gap = (ours.float() - theirs.float()).masked_fill(~real, 0).square().sum()
        ratios.append(gap / theirs.float().masked_fill(~real, 0).square().sum())
    return torch.stack(ratios).mean()


def record_layers(model: nn.Module, layers: Iterable[nn.Module],
                  with_gradients: bool) -> tuple[list, list]:
    """Return a list that holds the outputs of the layers in the last forward, and the hooks.

    with_gradients: record only forwards with gradients enabled (training) or only those without.
    A layer that runs several times (ALBERT) is recorded each time.
    """
    outputs: list = []

    def record(layer, inputs, output):
        if torch.is_grad_enabled() == with_gradients:
            outputs.append(output[0] if isinstance(output, tuple) else output)

    hooks = [layer.register_forward_hook(record) for layer in layers]
    hooks.append(model.base_model.register_forward_pre_hook(lambda *_: outputs.clear()))
    return outputs, hooks


class HiddenTeacher:
    """A teacher that runs on every batch: its logits, and H between the layers of both models.

    student, teacher: stock models with as many layers of one width; the student may have masks.
    layers_of: model -> its encoder layers; accelerator: for device and precision.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, layers_of: Callable,
                 accelerator: Any):
        self.accelerator, self.layers_of = accelerator, layers_of
        self.teacher = teacher.to(accelerator.device).eval()
        self.ours, _ = record_layers(student, layers_of(student), with_gradients=True)

    def read(self, batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (logits (batch, length, 2), H) after the student's forward of the same batch."""
        layers = self.layers_of(self.teacher)
        theirs, hooks = record_layers(self.teacher, layers, with_gradients=False)
        with torch.no_grad(), self.accelerator.autocast():
            out = self.teacher(**{name: batch[name] for name in INPUTS if name in batch})
        for hook in hooks:
            hook.remove()
        distance = hidden_distance(self.ours, theirs, batch["attention_mask"])
        self.ours.clear()
        return torch.stack([out.start_logits, out.end_logits], dim=-1).float(), distance
