"""Knowledge distillation: the student imitates the logits of a fine-tuned teacher.

L = (1 - alpha) CE + alpha tau^2 KL(teacher || student) + beta H + lambda R. H is the distance
between the hidden states of the two models (see hidden.py); beta is 0 in SMP.
Source: SMP, section 4; the direction of the KL is that of the authors' code.
"""

from collections.abc import Callable
from typing import Any

import torch


def distillation_loss(student: torch.Tensor, teacher: torch.Tensor, attention_mask: torch.Tensor,
                      temperature: float) -> torch.Tensor:
    """Return tau^2 KL(teacher || student), the mean over start and end and over the batch.

    student, teacher: logits (batch, length, 2). attention_mask (batch, length): both
    distributions exclude padding (the authors' code includes it).
    """
    padding = (attention_mask == 0).unsqueeze(-1)
    student = (student / temperature).masked_fill(padding, -torch.inf).log_softmax(dim=1)
    teacher = (teacher / temperature).masked_fill(padding, -torch.inf).log_softmax(dim=1)
    gap = (teacher - student).masked_fill(padding, 0)  # -inf minus -inf at padding
    return temperature**2 * (teacher.exp() * gap).sum(dim=1).mean()


class CachedTeacher:
    """A teacher whose logits were computed once per window; every epoch uses them again.

    logits: (n_windows, length, 2). The data is not augmented, so they never change.
    """

    def __init__(self, logits: torch.Tensor):
        self.logits = logits

    def read(self, batch: dict) -> tuple[torch.Tensor, float]:
        """Return (logits (batch, length, 2), hidden distance 0)."""
        return self.logits[batch["row"], : batch["input_ids"].shape[1]], 0.0


def distilled_loss(answer_loss: Callable, teacher: Any, weight: float, temperature: float,
                   hidden_weight: float = 0.0) -> Callable:
    """Return the distillation loss for `fit`: (start logits, end logits, batch) -> scalar.

    answer_loss: the loss of the labels, of the same form. teacher: has read(batch) -> (logits,
    hidden distance), see `CachedTeacher` and `HiddenTeacher`. weight: alpha; hidden_weight: beta.
    """
    def loss(start_logits, end_logits, batch):
        logits, distance = teacher.read(batch)
        student = torch.stack([start_logits, end_logits], dim=-1)
        kd = distillation_loss(student, logits.to(student), batch["attention_mask"], temperature)
        answers = answer_loss(start_logits, end_logits, batch)
        return (1 - weight) * answers + weight * kd + hidden_weight * distance

    return loss
