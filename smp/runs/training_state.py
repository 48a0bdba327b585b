"""The state of a training, without the frozen weights: a resumed run equals a whole one."""

import importlib.metadata
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from smp.runs.checkpoint import Checkpoints


def package_versions() -> dict[str, str]:
    """Return {package: version} of the packages that compute a training step."""
    return {name: importlib.metadata.version(name)
            for name in ("torch", "transformers", "accelerate", "numpy")}


def check_same_run(saved: dict, now: dict, folder: str | Path) -> None:
    """Raise ValueError, one line with the difference, if a checkpoint is of another run.

    Versions that differ only print a line. A teacher's EM may differ: it can be measured again.
    """
    for name, value in now.items():
        if name == "versions":
            for package, version in value.items():
                there = saved[name].get(package, version)
                if there != version:
                    print(f"the checkpoint was made with {package} {there}, this is {version}: "
                          "the end may differ in its last bits", flush=True)
            continue
        before = saved.get(name)
        pairs = {name: (before, value)}
        if isinstance(value, dict) and isinstance(before, dict):
            pairs = {f"{name} {key}": (before.get(key), value.get(key))
                     for key in sorted({*before, *value}) if (name, key) != ("teacher", "em")}
        for what, (there, here) in pairs.items():
            if there != here:
                raise ValueError(
                    f"the checkpoints in {folder} are of a run with {what} {there!r}, this one has "
                    f"{here!r}: go back to that, or delete the folder to begin anew"
                )


def random_states() -> tuple[dict[str, torch.Tensor], dict]:
    """Return ({name: tensor}, plain values) of every random generator that a training may use."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    tensors = {"random.torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        for device, state in enumerate(torch.cuda.get_rng_state_all()):
            tensors[f"random.cuda.{device}"] = state
    tensors["random.numpy"] = torch.from_numpy(np.asarray(keys, np.int64))
    version, numbers, following = random.getstate()
    return tensors, {"numpy": [kind, position, has_gauss, gauss],
                     "python": [version, list(numbers), following]}


def restore_random_states(tensors: dict[str, torch.Tensor], state: dict) -> None:
    """Set every random generator to a state of `random_states`."""
    kind, *rest = state["numpy"]
    np.random.set_state((kind, tensors["random.numpy"].numpy().astype(np.uint32), *rest))
    version, numbers, following = state["python"]
    random.setstate((version, tuple(numbers), following))
    torch.set_rng_state(tensors["random.torch"])
    for device in range(torch.cuda.device_count()):
        if f"random.cuda.{device}" in tensors:  # not in a checkpoint made without this GPU
            torch.cuda.set_rng_state(tensors[f"random.cuda.{device}"], device)


class TrainingState:
    """The parts of a training that a checkpoint contains.

    trained: {name: parameter}, in the optimizer's order; decay: the learning rates' schedule;
    scaler: that of fp16, or None; curves: {"history", "losses", "seconds"}, see `Watch`; run: what
    decides how the training continues, compared by `check_same_run`.
    """

    def __init__(self, trained: dict[str, torch.nn.Parameter], optimizer: Any, decay: Any,
                 scaler: Any, curves: dict, run: dict):
        self.trained, self.optimizer, self.decay = trained, optimizer, decay
        self.scaler, self.curves, self.run = scaler, curves, run

    def save(self, checkpoints: Checkpoints, step: int, seconds: float) -> None:
        """Write a checkpoint after `step` steps, which took `seconds` in all."""
        tensors, chance = random_states()
        for name, parameter in self.trained.items():
            tensors[f"value.{name}"] = parameter
            for slot, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"{slot}.{name}"] = value
        checkpoints.keep(step, tensors, {
            "run": self.run, "chance": chance, "seconds": seconds,
            "rates": [[group["lr"], group["initial_lr"]] for group in self.optimizer.param_groups],
            "decay": {k: v for k, v in self.decay.state_dict().items() if k != "lr_lambdas"},
            "scaler": self.scaler.state_dict() if self.scaler else None,
            "history": self.curves["history"],
            "losses": torch.stack(self.curves["losses"]).float().tolist(),
        })

    def restore(self, checkpoints: Checkpoints) -> int:
        """Restore everything from the newest whole checkpoint; return its steps, 0 without one."""
        found = checkpoints.newest()
        if found is None:
            return 0
        tensors, state = found
        check_same_run(state["run"], self.run, checkpoints.folder)
        for name, parameter in self.trained.items():
            parameter.data.copy_(tensors[f"value.{name}"])
            if f"step.{name}" in tensors:  # a weight without gradient has no state
                self.optimizer.state[parameter] = {
                    slot: tensors[f"{slot}.{name}"].to(parameter.device)
                    for slot in ("step", "exp_avg", "exp_avg_sq")
                }
        for group, (rate, initial) in zip(self.optimizer.param_groups, state["rates"], strict=True):
            group["lr"], group["initial_lr"] = rate, initial
        self.decay.load_state_dict(state["decay"] | {"lr_lambdas": [None] * len(state["rates"])})
        if self.scaler and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        device = next(iter(self.trained.values())).device
        self.curves["losses"][:] = torch.tensor(state["losses"], device=device).unbind()
        self.curves["history"].update(state["history"])
        self.curves["seconds"] = state["seconds"]
        restore_random_states(tensors, state["chance"])
        return state["step"]
