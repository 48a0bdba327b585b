"""Never lose a run.

Sessions end without warning. Every few minutes the state of a training is written down: what is
trained, the optimiser, the schedule, the random states and the curves so far; not the frozen
weights, which are where they came from. When the same run is begun again, it goes on from there
and ends with the same bits as if nothing had happened.

A checkpoint is whole or not there: it is written under another name, pushed to the disk, and
renamed. Its name ends in a digest of its bytes, so one that was cut or altered is noticed, and
the one before is taken.
"""

import hashlib
import json
import os
import shutil
import time
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError, safe_open

from smp.files import sync_folder

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
