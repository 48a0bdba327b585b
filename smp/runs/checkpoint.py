"""Checkpoints of a run: files that a stopped run resumes from.

A checkpoint is written under another name, flushed to the disk and renamed, so it is whole or
absent. Its name ends in a digest of its bytes; of a damaged one `newest` returns the one before.
"""

import contextlib
import hashlib
import json
import os
import shutil
import time
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from smp.files import sync_folder

CHECKPOINT_FORMAT = "smp-checkpoint-1"


class Checkpoints:
    """The last two checkpoints of one run, in `folder`.

    about: what else decides the run (hashes of model and data), compared when it resumes.
    minutes: the least time between two, 0 for every step; writing takes at most 2% of the time.
    """

    def __init__(self, folder: str | Path, about: dict | None = None, minutes: float = 5.0):
        self.folder, self.about, self.minutes = Path(folder), about or {}, minutes
        self.last, self.cost = time.monotonic(), 0.0

    def due(self) -> bool:
        """Return whether it is time to write one."""
        wait = max(60 * self.minutes, 50 * self.cost) if self.minutes else 0
        return time.monotonic() - self.last >= wait

    def keep(self, step: int, tensors: dict[str, torch.Tensor], state: dict) -> None:
        """Write a checkpoint after `step` steps; state: plain values.

        If that fails, for example on a full disk, a line is printed and nothing is left.
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
            print(f"no checkpoint at step {step:,}: {error}; training goes on", flush=True)
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
                print(f"passing over the checkpoint {path.name}: {error}", flush=True)
        return None

    def clear(self) -> None:
        """Remove all checkpoints, after the run's record is written."""
        shutil.rmtree(self.folder, ignore_errors=True)


def read_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """Return ({name: tensor}, state) of a file of `Checkpoints`; ValueError for any other file."""
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
