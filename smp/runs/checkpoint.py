"""Checkpoints of a run: a stopped run resumes from them and equals an uninterrupted one.

A checkpoint is written under another name, flushed to the disk and renamed, so it is whole or
absent. Its name ends in a digest of its bytes; `newest` skips a damaged one.
A checkpoint contains no frozen weights.
"""


import contextlib
import hashlib
import importlib.metadata
import json
import os
import random
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from smp.files import check_regular, sync_folder
from smp.runs.settings import SETTING_DEFAULTS

CHECKPOINT_FORMAT = "smp-checkpoint-1"


class Checkpoints:
    """The last two checkpoints of one run, in `folder`.

    about: more values that identify the run (hashes of model and data), compared on resume.
    minutes: minimum time between two, 0 for every step; up to six times as long where writing is
    slow and would take over 2% of the time; lock: of the run, released by `clear`.
    """

    def __init__(self, folder: str | Path, about: dict | None = None, minutes: float = 5.0,
                 lock: Any = None):
        self.folder, self.about, self.minutes = Path(folder), about or {}, minutes
        self.lock = lock
        self.last, self.cost = time.monotonic(), 0.0

    def due(self) -> bool:
        """Return whether a checkpoint is due."""
        wait = min(max(60 * self.minutes, 50 * self.cost), 360 * self.minutes)
        return time.monotonic() - self.last >= wait

    def keep(self, step: int, tensors: dict[str, torch.Tensor], state: dict) -> None:
        """Write a checkpoint after `step` steps; state: plain values.

        If writing fails, for example on a full disk, it prints a line and leaves no file.
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
            for old in {*self.paths()} - {kept, *before[:1]}:  # later ones are damaged
                old.unlink(missing_ok=True)
        except (OSError, SafetensorError) as error:
            print(f"no checkpoint at step {step:,}: {error}; training continues", flush=True)
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
        self.last = time.monotonic()
        self.cost = self.last - began

    def paths(self) -> list[Path]:
        """Return the files of checkpoints, the newest first."""
        return sorted(self.folder.glob("step-*-*.safetensors"), reverse=True)

    def newest(self) -> tuple[dict[str, torch.Tensor], dict] | None:
        """Return (tensors, state) of the newest whole checkpoint, or None; print damaged ones."""
        for path in self.paths():
            try:
                return read_checkpoint(path)
            except (OSError, ValueError) as error:
                print(f"skipping the checkpoint {path.name}: {error}", flush=True)
        return None

    def clear(self) -> None:
        """Remove all checkpoints, after the run's record is written, and release the lock."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.lock:
            lock = Path(self.lock.lock_file)
            lock.with_suffix(".owner").unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # Windows keeps an open file; other runs have files
                lock.unlink()  # before the release: later it can be the lock of another process
                lock.parent.rmdir()
            self.lock.release(force=True)


def read_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """Return ({name: tensor}, state) of a file of `Checkpoints`; ValueError for any other file."""
    check_regular(path)
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "blake2b").hexdigest()[:16]
    if path.stem.split("-")[-1] != digest:
        raise ValueError("the checksum in its name does not match its bytes")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != CHECKPOINT_FORMAT:
                raise ValueError(f"expected the format {CHECKPOINT_FORMAT}")
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(
                metadata["state"])
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"not a checkpoint of this project: {error}") from None


def package_versions() -> dict[str, str]:
    """Return {package: version} of the packages that compute a training step."""
    return {name: importlib.metadata.version(name)
            for name in ("torch", "transformers", "accelerate", "numpy")}


def check_same_run(saved: dict, now: dict, folder: str | Path) -> None:
    """Raise ValueError, one line with the difference, if a checkpoint is of another run.

    Different versions only print a line. A teacher's EM may differ because it is measured again.
    Of the base model, only what both describe is compared: an older checkpoint has no "base".
    """
    for name, value in now.items():
        if name == "versions":
            for package, version in value.items():
                there = saved[name].get(package, version)
                if there != version:
                    print(f"the checkpoint was written with {package} {there}, this is "
                          f"{version}: the result may differ in its last bits", flush=True)
            continue
        before = saved.get(name)
        if name == "settings":  # a setting that is newer than the checkpoint had its default
            before = SETTING_DEFAULTS | (before or {})
        elif name == "base":
            before = value | {key: old for key, old in (before or {}).items() if key in value}
        pairs = {name: (before, value)}
        if isinstance(value, dict) and isinstance(before, dict):
            pairs = {f"{name} {key}": (before.get(key), value.get(key))
                     for key in sorted({*before, *value}) if (name, key) != ("teacher", "em")}
        for what, (there, here) in pairs.items():
            if there != here:
                raise ValueError(
                    f"cannot resume from {folder}: {what} is {here!r}, the checkpoint has "
                    f"{there!r}; restore the value or delete the folder"
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
    scaler: that of fp16, or None; curves: {"history", "losses", "seconds"}, see `Watch`; run:
    the values that `check_same_run` compares.
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
