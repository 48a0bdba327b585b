"""Never lose a run.

Sessions end without warning. Every few minutes the state of a training is written down: what is
trained, the optimiser, the schedule, the random states and the curves so far; not the frozen
weights, which are where they came from. When the same run is begun again, it goes on from there
and ends with the same bits as if nothing had happened.

A checkpoint is whole or not there: it is written under another name, pushed to the disk, and
renamed. Its name ends in a digest of its bytes, so one that was cut or altered is noticed, and
the one before is taken.
"""

import importlib.metadata
import random

import numpy as np
import torch

from smp.runs.settings import SETTING_DEFAULTS


def package_versions():
    return {name: importlib.metadata.version(name)
            for name in ("torch", "transformers", "accelerate", "numpy")}


def check_same_run(saved, now, folder):
    """ValueError, one line with what differs, where a checkpoint is of another run."""
    for name, value in now.items():
        before = saved.get(name)
        if name == "settings" and isinstance(before, dict):
            before = SETTING_DEFAULTS | before  # some settings are newer than the checkpoint
        if name == "teacher" and isinstance(before, dict) and isinstance(value, dict):
            # its EM may be measured anew in each session; older checkpoints do not say its sha
            before, value = ({key: one[key] for key in ("name", "sha") if key in before}
                             for one in (before, value))
        if name == "versions":
            before = value | {"zeros": "multiplied"} | before  # older ones do not say all of it
            for package, version in value.items():
                if before[package] != version:
                    print(f"the checkpoint was made with {package} {before[package]}, this is "
                          f"{version}: the end may differ in its last bits", flush=True)
        elif before != value:
            if isinstance(value, dict) and isinstance(before, dict):
                name, before, value = next(
                    (f"{name} {key}", before.get(key), value.get(key))
                    for key in sorted({*before, *value}) if before.get(key) != value.get(key)
                )
            raise ValueError(
                f"the checkpoints in {folder} are of a run with {name} {before!r}, this one has "
                f"{value!r}: go back to that, or delete the folder to begin anew"
            )


# The state of a training, as tensors and plain values, and back.
def random_states():
    """({name: uint8 tensor}, plain values) of every source of chance a training may use."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    tensors = {"random.torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        for device, state in enumerate(torch.cuda.get_rng_state_all()):
            tensors[f"random.cuda.{device}"] = state
    tensors["random.numpy"] = torch.from_numpy(keys.astype(np.int64))
    version, numbers, following = random.getstate()
    return tensors, {"numpy": [kind, position, has_gauss, gauss],
                     "python": [version, list(numbers), following]}


def restore_random_states(tensors, state):
    kind, *rest = state["numpy"]
    np.random.set_state((kind, tensors["random.numpy"].numpy().astype(np.uint32), *rest))
    version, numbers, following = state["python"]
    random.setstate((version, tuple(numbers), following))
    torch.set_rng_state(tensors["random.torch"])
    for device in range(torch.cuda.device_count()):
        if f"random.cuda.{device}" in tensors:  # else it was made where this one was not
            torch.cuda.set_rng_state(tensors[f"random.cuda.{device}"], device)

ADAM_SLOTS = ("step", "exp_avg", "exp_avg_sq")


class TrainingState:
    """The parts of a training that a checkpoint holds.

    trained: {name: parameter}, in the optimiser's order; optimizer, decay: torch's; scaler: that
    of fp16, or None; curves: {"history", "losses", "seconds"} of `fit`; run: what decides how
    it goes on.
    """

    def __init__(self, trained, optimizer, decay, scaler, curves, run):
        self.trained, self.optimizer, self.decay = trained, optimizer, decay
        self.scaler, self.curves, self.run = scaler, curves, run

    def save(self, checkpoints, step, seconds):
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

    def restore(self, checkpoints):
        """Steps done by the newest whole checkpoint, everything put in place; 0 without one."""
        found = checkpoints.newest()
        if found is None:
            return 0
        tensors, state = found
        check_same_run(state["run"], self.run, checkpoints.folder)
        for name, parameter in self.trained.items():
            parameter.data.copy_(tensors[f"value.{name}"])
            if f"step.{name}" in tensors:  # a weight that no loss reaches has no state
                self.optimizer.state[parameter] = {
                    slot: tensors[f"{slot}.{name}"].to(parameter.device) for slot in ADAM_SLOTS
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
