"""The settings of masks in a user's own training, their checks, and which parameters are trained."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from smp.model.encoder import encoder_layers
from smp.task.heads import task_parts
from smp.text import as_millions, is_number


@dataclass(frozen=True)
class MaskSettings:
    """The settings of masks over a training, for `Pruning` and `SMPTrainer`.

    density: fraction of the encoder's weights that stay; learning_rate: of the scores, without
    weight decay; the others: see `smp.runs.settings.Settings`. The learning rate of the head is
    that of TrainingArguments.
    """

    density: float
    learning_rate: float = 2e-2
    density_ramp_fraction: float = 22_670 / 27_670
    density_hold_fraction: float = 0.0
    regulariser: float = 400.0
    regulariser_ramp_fraction: float = 1.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            most = 1e9 if name in ("learning_rate", "regulariser") else 1
            may_be_zero = name in ("density_hold_fraction", "regulariser")
            if not is_number(value, 0, most) or not (value or may_be_zero):
                raise ValueError(f"{name} is {value!r}: expected a number "
                                 f"{'from' if may_be_zero else 'above'} 0, at most {most:g}")
        if self.density_hold_fraction >= self.density_ramp_fraction:
            raise ValueError(f"density_hold_fraction is {self.density_hold_fraction}: expected "
                             f"less than density_ramp_fraction, {self.density_ramp_fraction:g}")


def check_trainer_arguments(args: Any, options: dict) -> None:
    """Raise ValueError for arguments of Trainer that masks do not support."""
    alone = "start the script with `accelerate launch` or `torchrun` without them"
    for name, reason in (
        ("fsdp", f"FSDP shards the weights, and a mask needs whole matrices: {alone}"),
        ("deepspeed", f"DeepSpeed owns the optimizer and the gradients: {alone}"),
        ("load_best_model_at_end", "the best step is one before the density has fallen: set it to "
         "False, the masks of the last step have the density"),
    ):
        if getattr(args, name, None):
            raise ValueError(f"{name} is set in TrainingArguments, but {reason}")
    if getattr(args, "n_gpu", 1) > 1:
        raise ValueError(f"{args.n_gpu} GPUs in one process: start the script with `torchrun "
                         f"--nproc-per-node {args.n_gpu}`, or set CUDA_VISIBLE_DEVICES to one")
    if options.get("model_init"):
        raise ValueError("model_init makes a model without masks: pass model, with its masks")


def check_masked(model: nn.Module, pruning: Any) -> None:
    """Raise ValueError unless these are masks of this model, in fp32 and on one device."""
    modules = set(model.modules())
    for name, _, _, linear in pruning.masks.matrices:
        if linear not in modules or pruning.masks.masks[name] not in modules:
            raise ValueError(f"the masks are not those of this {type(model).__name__} ({name}), or "
                             "they are merged: create them from encoder_linears(model)")
    for name, weight in model.named_parameters():
        if weight.dtype != torch.float32:
            raise ValueError(f"{name} is {weight.dtype}: load the model with dtype=torch.float32; "
                             "bf16=True in TrainingArguments computes in bfloat16")
    devices = {weight.device for weight in model.parameters()}
    if len(devices) > 1 or devices == {torch.device("meta")} or hasattr(model, "hf_device_map"):
        raise ValueError("the weights are sharded or offloaded: load the model without device_map")
    least = min(mask.mask.numel() for mask in pruning.masks.masks.values())
    if pruning.settings.density * least < 1:
        raise ValueError(f"density {pruning.settings.density:g} leaves a matrix of {least:,} "
                         f"weights empty: set it to {1 / least:.2g} or more")


def freeze_shared(model: nn.Module, pruning: Any) -> None:
    """Freeze the encoder except its scores, and the layers' weights of a method that trains them.

    Embeddings are always frozen; a pooler is part of the head and trained.
    """
    model.base_model.requires_grad_(False)
    if pruning.masks.trains_weights:
        encoder_layers(model).requires_grad_(True)
    for score in pruning.masks.scores:
        score.requires_grad_(True)
    if "pooler" in (parts := task_parts(model)):
        parts["pooler"].requires_grad_(True)


def what_is_trained(model: nn.Module, pruning: Any) -> str:
    """Return the line that SMPTrainer prints: what is trained and what is frozen."""
    count = {name: (sum(p.numel() for p in part.parameters() if p.requires_grad),
                    sum(p.numel() for p in part.parameters()))
             for name, part in [("model", model), *task_parts(model).items()]}
    trained, every = count.pop("model")
    scores = sum(score.numel() for score in pruning.masks.scores)
    layers = trained - scores - sum(head for head, _ in count.values())
    named = [f"{name} ({head:,})" if head else f"{name} (frozen)"
             for name, (head, parameters) in count.items() if parameters]
    layer = f"{as_millions(layers)} weights of the layers, " if layers else ""
    return (f"SMPTrainer trains {as_millions(scores)} scores of {len(pruning.masks.matrices)} "
            f"matrices, {layer}and the head: {', '.join(named) or 'none'}; "
            f"{as_millions(every - trained)} weights are frozen")
