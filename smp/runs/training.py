"""Prepare the arguments of `fit`: batches, optimizer, schedule and hooks."""


import math
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from transformers import get_linear_schedule_with_warmup, set_seed

from smp.data.windows import endless_batches, make_loader, windows_fingerprint
from smp.model.predict import is_first_process, make_accelerator, pick_precision, shard_batch
from smp.runs.checkpoint import Checkpoints, TrainingState, package_versions
from smp.runs.methods import FINE_TUNED
from smp.runs.settings import Settings
from smp.text import progress_bar

CURVES = ("step", "loss", "density", "lambda", "valid_step", "valid_em", "valid_f1")


class Watch:
    """The hooks of `fit`, and the curves that they record.

    state: the `TrainingState` of the run, which holds the curves. pruning: a `Pruning`, or None to
    fine-tune. validate: model -> {"em", "f1"}, called settings.n_validations times. checkpoints: a
    `Checkpoints`; the run resumes from the newest. snapshots: a `SnapshotWriter` for masks.
    `first_step` is the number of steps that were done before it resumed. The first Ctrl-C or
    SIGTERM of a training with checkpoints ends it after the step, with a checkpoint.
    """

    def __init__(
        self, model: nn.Module, accelerator: Any, steps: int, settings: Settings,
        state: TrainingState, pruning: Any = None,
        validate: Callable | None = None, checkpoints: Checkpoints | None = None,
        snapshots: Any = None,
    ):
        self.model, self.accelerator, self.settings = model, accelerator, settings
        self.pruning, self.validate, self.checkpoints = pruning, validate, checkpoints
        self.steps, self.first = steps, is_first_process()
        self.snapshots = snapshots if pruning is not None and self.first else None
        count = settings.n_validations
        self.validations = {round(steps * (i + 1) / count) for i in range(count)}
        self.state, self.first_step = state, 0
        self.history, self.losses = state.curves["history"], state.curves["losses"]
        if checkpoints is not None:
            self.first_step = self.state.restore(checkpoints)
            if self.first_step and self.first:
                print(f"resuming after step {self.first_step:,} of {steps:,}, "
                      f"from {checkpoints.folder}")
        self.snapshot_steps = self.snapshots.begin(
            steps, pruning.density_at, settings.n_mask_snapshots, self.first_step
        ) if self.snapshots else ()
        self.stopped, self.handlers = False, dict[int, Any]()
        self.began = time.perf_counter() - state.curves["seconds"]
        self.bar = progress_bar(steps, settings.stage, "steps", initial=self.first_step,
                                disable=not self.first)

    def catch_signals(self) -> None:
        """Let the first Ctrl-C or SIGTERM set `stopped`; the second acts as before."""
        def stop(*_: Any) -> None:
            self.stopped = True
            self.release_signals()

        if self.checkpoints and threading.current_thread() is threading.main_thread():
            self.handlers = {number: signal.signal(number, stop)
                             for number in (signal.SIGINT, signal.SIGTERM)}

    def release_signals(self) -> None:
        """Restore the handlers of the signals."""
        while self.handlers:
            signal.signal(*self.handlers.popitem())

    def masked(self, step: int) -> None:
        """Record density and lambda after the masks of a step are chosen; write a snapshot."""
        pruning = self.pruning
        if step == self.first_step:
            self.catch_signals()
        self.history["density"].append(pruning.density if pruning else 1.0)
        self.history["lambda"].append(pruning.weight if pruning else 0.0)
        self.snapshot(step)

    def stepped(self, step: int, loss: torch.Tensor) -> None:
        """Record the loss of a finished step; validate and write a checkpoint when it is time.

        Raises FloatingPointError when the loss or a trained tensor is not finite.
        """
        done = step + 1
        self.losses.append(self.accelerator.reduce(loss, "mean"))
        self.history["step"].append(done)
        if done % 20 == 0 or done == self.steps:  # reading the loss waits for the device
            recent = float(torch.stack(self.losses[-20:]).mean())
            self.check_finite(recent, done)
            self.bar.set_postfix(loss=f"{recent:.2f}", density=f"{self.history['density'][-1]:.0%}")
        if done < self.steps:
            self.validate_at(done)
        stop = self.stopped  # a signal that arrives later ends the next step
        if self.first and self.checkpoints is not None and (stop or self.checkpoints.due()):
            self.check_finite(float(self.losses[-1]), done)
            self.state.save(self.checkpoints, done, time.perf_counter() - self.began)
        self.bar.update()
        if stop:
            raise KeyboardInterrupt(f"stopped after step {done:,}: run it again to resume")

    def finished(self) -> None:
        """Write the last snapshot and validate, after the final masks are chosen."""
        self.release_signals()
        self.snapshot(self.steps)
        self.validate_at(self.steps)
        self.bar.close()
        self.history["loss"] = torch.stack(self.losses).float().cpu().tolist()
        self.seconds = round(time.perf_counter() - self.began, 1)

    def snapshot(self, step: int) -> None:
        """Write the masks to the snapshot file if this step is one of its steps."""
        if self.snapshots and step in self.snapshot_steps:
            self.snapshots.keep(step, self.pruning.masks)

    def validate_at(self, done: int) -> None:
        """Record EM and F1 after `done` steps if a validation is due and was not done before."""
        if self.validate and done in self.validations and done not in self.history["valid_step"]:
            scores = self.validate(self.model)
            for name, value in (("step", done), ("em", scores["em"]), ("f1", scores["f1"])):
                self.history[f"valid_{name}"].append(value)

    def check_finite(self, loss: float, step: int) -> None:
        """Raise FloatingPointError, one line, when the loss or a trained tensor is not finite."""
        sums = torch.stack([part.detach().sum() for part in self.state.trained.values()])
        if not math.isfinite(loss):
            problem = f"the loss is {loss}"
        elif not bool(sums.isfinite().all()):
            problem = "a trained weight or score is not finite"
        else:
            return
        settings = self.settings
        rates = f"({settings.learning_rate:g})"
        if settings.trains_biases_and_norms:
            rates += f", that of biases and LayerNorms ({settings.bias_norm_learning_rate:g})"
        good = self.checkpoints.paths()[:1] if self.checkpoints is not None else []
        raise FloatingPointError(
            f"{problem} at step {step:,}: lower the learning rate {rates}, or set precision to fp32"
            + (f"; the last good checkpoint is {good[0].name}" if good else "")
        )

    def run(self) -> dict:
        """Return the fields of a record that the training measured: curves, time, machine."""
        return {"history": self.history, "steps": self.steps, "seconds": self.seconds,
                **{name: self.state.run["versions"][name]
                   for name in ("device", "precision", "threads", "zeros")}}


class AdamWHF(torch.optim.AdamW):
    """AdamW of transformers 4.17: it adds eps before the bias correction of v.

    torch adds eps after it. So at step t torch's eps has to be eps / sqrt(1 - beta2^t): for 1e-8,
    3.2e-7 at step 1 and 3.2e-8 at step 100. Source: the authors' code.
    """

    def step(self, closure: Any = None) -> Any:
        """Take step t. It is counted in the state, so a resumed run has the same eps."""
        for group in self.param_groups:
            t = 1 + next((self.state[p]["step"] for p in group["params"] if p in self.state), 0)
            group["eps"] = self.defaults["eps"] / (1 - group["betas"][1] ** float(t)) ** 0.5
        return super().step(closure)


OPTIMIZERS = {"adamw_torch": torch.optim.AdamW, "adamw_hf": AdamWHF}


def parameter_groups(model: nn.Module, settings: Settings) -> list[dict]:
    """Return parameters and rates of scores, weights, biases and LayerNorms, and head."""
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
    optimizer_class: type | None = None,
) -> dict:
    """Return the arguments of `fit` except the loss.

    features: windows with labels (see `featurise`); pruning, validate, checkpoints, snapshots: see
    `Watch`. optimizer_class: None for that of settings.optim. It sets the random state, so call
    `fit` next. Raises ValueError when no window contains an answer or the checkpoints are of
    another run.
    """
    if not any(features["start_positions"]):
        raise ValueError(
            f"none of the {len(features):,} training windows contains its answer: check the data, "
            f"or raise max_length, {settings.max_length}"
        )
    set_seed(settings.seed)  # dropout depends on this run alone
    accelerator = make_accelerator(settings.precision)
    loader = make_loader(features, tokenizer, settings.batch_size, shuffle=True, seed=settings.seed)
    steps = max(1, math.ceil(len(loader) * settings.epochs))
    optimizer = (optimizer_class or OPTIMIZERS[settings.optim])(
        parameter_groups(model, settings), betas=(0.9, 0.999), weight_decay=0.0, fused=True
    )
    rising = int(settings.warmup_fraction * steps)
    schedule = get_linear_schedule_with_warmup(optimizer, rising, steps)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    trained = {names[id(parameter)]: parameter
               for group in optimizer.param_groups for parameter in group["params"]}
    more = checkpoints.about if checkpoints is not None else {}
    about = {
        "settings": asdict(settings), "base": getattr(model, "setup", {}),
        "data": windows_fingerprint(features),
        **{name: value for name, value in more.items() if name != "commit"},
        "versions": {
            **package_versions(), "commit": more.get("commit"), "device": accelerator.device.type,
            "zeros": getattr(pruning and pruning.masks, "zeros", "multiplied"),
            "attention": model.config._attn_implementation,
            "precision": pick_precision(settings.precision),
            "threads": torch.get_num_threads() if accelerator.device.type == "cpu" else None,
            "processes": accelerator.num_processes,
        },
    }
    model, optimizer = accelerator.prepare(model, optimizer)
    curves = {"history": {name: [] for name in CURVES}, "losses": [], "seconds": 0.0}
    state = TrainingState(trained, optimizer, schedule, accelerator.scaler, curves, about)
    watch = Watch(model, accelerator, steps, settings, state, pruning, validate, checkpoints,
                  snapshots)
    batches = (shard_batch(batch, accelerator)
               for batch in endless_batches(loader, watch.first_step))
    return {"model": model, "batches": batches, "optimizer": optimizer, "schedule": schedule,
            "accelerator": accelerator, "steps": steps, "pruning": pruning, "watch": watch}
