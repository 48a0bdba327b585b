# %% [markdown]
# ## Never lose a run
#
# Sessions end without warning. Every few minutes the state of a training is written down: what is
# trained, the optimiser, the schedule, the random states and the curves so far; not the frozen
# weights, which are where they came from. When the same run is begun again, it goes on from there
# and ends with the same bits as if nothing had happened.
#
# A checkpoint is whole or not there: it is written under another name, pushed to the disk, and
# renamed. Its name ends in a digest of its bytes, so one that was cut or altered is noticed, and
# the one before is taken.

# %%
import hashlib
import importlib.metadata
import json
import os
import random
import shutil
import time
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

# %%
from smp.settings import SETTING_DEFAULTS

# %%
CHECKPOINT_FORMAT = "smp-checkpoint-1"


class Checkpoints:
    """The last two checkpoints of one run, in `folder`.

    about: what else decides the run (hashes of model and data): told apart when it goes on.
    minutes: at least so long from one to the next, and never more than 2% of the time; 0 writes one
    after every step.
    """

    def __init__(self, folder, about=None, minutes=5.0):
        self.folder, self.about, self.minutes = Path(folder), about or {}, minutes
        self.last, self.cost = time.monotonic(), 0.0

    def due(self):
        """Whether it is time to write one."""
        wait = max(60 * self.minutes, 50 * self.cost) if self.minutes else 0
        return time.monotonic() - self.last >= wait

    def keep(self, step, tensors, state):
        """Writes a checkpoint after `step` steps, {name: tensor} and a dict of plain values.

        One that cannot be written, for want of space say, leaves nothing behind and stops nothing:
        a printed line says so.
        """
        began = time.monotonic()
        draft = self.folder / "unfinished.part"
        metadata = {"format": CHECKPOINT_FORMAT, "state": json.dumps(state | {"step": step})}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
            safetensors.torch.save_file(tensors, draft, metadata)
            with open(draft, "rb+") as file:
                os.fsync(file.fileno())
                digest = hashlib.file_digest(file, "blake2b").hexdigest()[:16]
            kept = self.folder / f"step-{step:08d}-{digest}.safetensors"
            os.replace(draft, kept)
            sync_folder(self.folder)
            before = [path for path in self.paths() if path.name < f"step-{step:08d}"]
            for old in {*self.paths()} - {kept, *before[:1]}:  # later ones were passed over
                old.unlink(missing_ok=True)
        except (OSError, SafetensorError) as error:
            print(f"no checkpoint at step {step:,}: {error}; training goes on", flush=True)
            try:
                draft.unlink(missing_ok=True)
            except OSError:
                pass
        self.last = time.monotonic()
        self.cost = self.last - began

    def paths(self):
        """Files of checkpoints, the newest first."""
        return sorted(self.folder.glob("step-*-*.safetensors"), reverse=True)

    def newest(self):
        """({name: tensor}, state) of the newest whole checkpoint, or None; says what it passes."""
        for path in self.paths():
            try:
                return read_checkpoint(path)
            except (OSError, ValueError) as error:
                print(f"passing over the checkpoint {path.name}: {error}", flush=True)
        return None

    def clear(self):
        """Removes them all: the run is finished and its record written."""
        shutil.rmtree(self.folder, ignore_errors=True)


def sync_folder(folder):
    """Pushes a rename in the folder to the disk, where the system can."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        except OSError:
            pass  # some mounted drives cannot
        finally:
            os.close(handle)


def read_checkpoint(path):
    """({name: tensor}, state) of a file of `Checkpoints`; ValueError, one line, for another."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "blake2b").hexdigest()[:16]
    if path.stem.split("-")[-1] != digest:
        raise ValueError("its bytes are not those that were written")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != CHECKPOINT_FORMAT:
                raise ValueError(f"expected the format {CHECKPOINT_FORMAT}")
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(
                metadata["state"])
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"not a checkpoint of this project: {error}") from None

# %% [markdown]
# What decides how a run goes on: its settings, its windows in their order, what the caller adds,
# and the versions of the packages. With other settings or data it is another run, and refused; a
# package that was updated in between is told, because the bits may differ then.

# %%
def windows_fingerprint(features):
    """12 hex digits over tokens and labels of the windows, in their order."""
    digest = hashlib.blake2b()
    plain = features.flatten_indices() if features._indices is not None else features
    for name in ("input_ids", "start_positions", "end_positions"):
        for chunk in plain.data.column(name).chunks:
            values = chunk.flatten() if hasattr(chunk, "flatten") and name == "input_ids" else chunk
            digest.update(np.ascontiguousarray(values.to_numpy(zero_copy_only=False)).tobytes())
        digest.update(str(len(plain)).encode())
    return digest.hexdigest()[:12]


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

# %% [markdown]
# The state of a training, as tensors and plain values, and back.

# %%
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
