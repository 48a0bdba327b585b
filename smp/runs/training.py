"""What `fit` needs for a run with given settings: batches, optimizer, schedule, watch."""

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from transformers import get_linear_schedule_with_warmup, set_seed

from smp.data.windows import endless_batches, make_loader, windows_fingerprint
from smp.model.device import make_accelerator, pick_precision, shard_batch
from smp.runs.checkpoint import Checkpoints
from smp.runs.methods import FINE_TUNED
from smp.runs.settings import Settings
from smp.runs.training_state import TrainingState, package_versions
from smp.runs.watch import CURVES, Watch


def parameter_groups(model: nn.Module, settings: Settings) -> list[dict]:
    """Return what is trained, with learning rates: scores, weights, biases and LayerNorms, head."""
    groups: dict[str, list[nn.Parameter]] = {"scores": [], "weights": [], "vectors": [], "head": []}
    encoder = {id(parameter) for parameter in model.base_model.parameters()}
    fine_tuning = settings.method == FINE_TUNED
    of_encoder = "vectors" if settings.freezes_weights else "weights"
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = ("scores" if name.endswith(".scores")
                    else of_encoder if id(parameter) in encoder else "head")
            groups[part].append(parameter)
    if groups["weights"]:  # then the head is trained at their rate
        groups["weights"] += groups.pop("head")
    rates = {
        "scores": settings.learning_rate, "head": settings.head_learning_rate,
        "vectors": settings.bias_norm_learning_rate,
        "weights": settings.learning_rate if fine_tuning else settings.weight_learning_rate,
    }
    return [{"params": members, "lr": rates[part]} for part, members in groups.items() if members]


def prepare_training(
    model: nn.Module, features: Dataset, tokenizer: Any, settings: Settings, pruning: Any = None,
    validate: Callable | None = None, checkpoints: Checkpoints | None = None, snapshots: Any = None,
    optimizer_class: type = torch.optim.AdamW,
) -> dict:
    """Return the arguments of `fit` except the loss.

    features: windows with labels (see `featurise`); pruning, validate, checkpoints, snapshots: see
    `Watch`. The random state is set here, so call `fit` next. Raises ValueError when no window
    contains an answer or the checkpoints are of another run.
    """
    if not any(features["start_positions"]):
        raise ValueError(
            f"none of the {len(features):,} training windows holds its answer, so there is nothing "
            f"to learn: check the data, or raise max_length, {settings.max_length}"
        )
    set_seed(settings.seed)  # dropout depends on this run alone
    accelerator = make_accelerator(settings.precision)
    loader = make_loader(features, tokenizer, settings.batch_size, shuffle=True, seed=settings.seed)
    steps = max(1, math.ceil(len(loader) * settings.epochs))
    optimizer = optimizer_class(
        parameter_groups(model, settings), betas=(0.9, 0.999), weight_decay=0.0, fused=True
    )
    rising = int(settings.warmup_fraction * steps)
    schedule = get_linear_schedule_with_warmup(optimizer, rising, steps)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    trained = {names[id(parameter)]: parameter
               for group in optimizer.param_groups for parameter in group["params"]}
    model, optimizer = accelerator.prepare(model, optimizer)
    about = {
        "settings": asdict(settings), "data": windows_fingerprint(features),
        **(checkpoints.about if checkpoints is not None else {}),
        "versions": {
            **package_versions(), "device": accelerator.device.type,
            "zeros": getattr(pruning and pruning.masks, "zeros", "multiplied"),
            "precision": pick_precision(settings.precision),
            "threads": torch.get_num_threads() if accelerator.device.type == "cpu" else None,
        },
    }
    curves = {"history": {name: [] for name in CURVES}, "losses": [], "seconds": 0.0}
    state = TrainingState(trained, optimizer, schedule, accelerator.scaler, curves, about)
    watch = Watch(model, accelerator, steps, settings, state, pruning, validate, checkpoints,
                  snapshots)
    batches = (shard_batch(batch, accelerator)
               for batch in endless_batches(loader, watch.first_step))
    return {"model": model, "batches": batches, "optimizer": optimizer, "schedule": schedule,
            "accelerator": accelerator, "steps": steps, "pruning": pruning, "watch": watch}
