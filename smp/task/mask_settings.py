"""The settings of masks in a user's own training, their checks, and what is trained."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from smp.model.encoder import encoder_layers
from smp.runs.settings import SETTING_DEFAULTS
from smp.task.heads import task_parts
from smp.text import as_millions, is_number


@dataclass(frozen=True)
class MaskSettings:
    """The settings of masks over a training, for `Pruning` and `SMPTrainer`.

    learning_rate: of the scores, without weight decay. That of the head is in TrainingArguments.
    The others, and all defaults: see `smp.runs.settings.Settings`.
    """

    density: float
    learning_rate: float = SETTING_DEFAULTS["learning_rate"]
    density_ramp_fraction: float = SETTING_DEFAULTS["density_ramp_fraction"]
    density_hold_fraction: float = SETTING_DEFAULTS["density_hold_fraction"]
    regulariser: float = SETTING_DEFAULTS["regulariser"]
    regulariser_ramp_fraction: float = SETTING_DEFAULTS["regulariser_ramp_fraction"]

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
    for name, reason in (
        ("fsdp", "FSDP shards the weights: use `torchrun` or `accelerate launch` without it"),
        ("deepspeed", "DeepSpeed owns the gradients: use `torchrun` without it"),
        ("load_best_model_at_end", "the best step is one with a higher density: set it to False"),
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
    """Freeze the encoder, except scores, the pooler, and the layers if the method trains them."""
    model.base_model.requires_grad_(False)
    if pruning.masks.trains_weights:
        encoder_layers(model).requires_grad_(True)
    for score in pruning.masks.scores:
        score.requires_grad_(True)
    if "pooler" in (parts := task_parts(model)):
        parts["pooler"].requires_grad_(True)


def what_is_trained(model: nn.Module, pruning: Any) -> str:
    """Return the line that SMPTrainer prints: what is trained and what is frozen."""
    head = [f"{name} ({sum(p.numel() for p in part.parameters() if p.requires_grad):,})"
            for name, part in task_parts(model).items() if [*part.parameters()]]
    scores = sum(score.numel() for score in pruning.masks.scores)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    layers = "the weights of the layers, " * pruning.masks.trains_weights
    return (f"SMPTrainer trains {as_millions(scores)} scores of {len(pruning.masks.matrices)} "
            f"matrices, {layers}and the head: {', '.join(head) or 'none'}; "
            f"{as_millions(frozen)} weights are frozen")
