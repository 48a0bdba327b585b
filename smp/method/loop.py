"""The training loop of all methods, and the loss of the labels."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def span_loss(start_logits: torch.Tensor, end_logits: torch.Tensor, batch: dict) -> torch.Tensor:
    """Return the mean of the cross-entropies of start and end. Logits (batch, length)."""
    start = F.cross_entropy(start_logits, batch["start_positions"])
    end = F.cross_entropy(end_logits, batch["end_positions"])
    return (start + end) / 2


def fit(model: nn.Module, batches: Iterable, loss: Callable, optimizer: Any, schedule: Any,
        accelerator: Any, steps: int, pruning: Any = None, watch: Any = None) -> None:
    """Train the model in place for `steps` optimizer steps.

    batches: (batch, share) pairs; share is the weight of this process's rows in the mean over all
    processes, 1 for one process. loss: (start logits, end logits, batch) -> scalar. schedule: of
    the learning rate. accelerator: Hugging Face's, which prepared model and optimizer. pruning: a
    `Pruning`, None to fine-tune. watch: a resumed run continues at its `first_step`; its `masked`,
    `stepped` and `finished` are called after the masks of a step are chosen, after the step, and
    after the final masks. Raises MemoryError when the GPU is full, ValueError when the batches
    end before the last step.
    """
    trained = [weight for group in optimizer.param_groups for weight in group["params"]]
    done = watch.first_step if watch else 0
    for step, (batch, share) in zip(range(done, steps), batches):
        model.train()
        if pruning:
            pruning.before_forward(step, steps)
        if watch:
            watch.masked(step)
        try:
            out = model(**{name: batch[name] for name in INPUTS if name in batch})
            value = share * loss(out.start_logits.float(), out.end_logits.float(), batch)
            accelerator.backward(value)
        except torch.OutOfMemoryError as error:
            rows, length = batch["input_ids"].shape
            raise MemoryError(
                f"the GPU is full in step {step + 1} with {rows} windows of {length} tokens: lower "
                f"batch_size or max_length ({str(error).splitlines()[0]})"
            ) from None
        accelerator.unscale_gradients()
        if pruning:
            pruning.after_backward(step, steps)
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if watch:
            watch.stepped(step, value.detach())
        done = step + 1
    if done < steps:
        raise ValueError(f"the batches ended after step {done} of {steps}: prepare them again")
    if pruning:
        pruning.finish()
    if watch:
        watch.finished()
    accelerator.unwrap_model(model, keep_fp32_wrapper=False)
