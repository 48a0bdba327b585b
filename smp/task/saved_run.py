"""Read what a run saved: its record, its masks and their size, and its questions."""

from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from smp.data.reading import load_squad
from smp.model.load import find_model
from smp.model.student import STUDENT_HEADS
from smp.runs.record import read_record
from smp.task.mask_file import MASK_FILE, TRAINED
from smp.task.validate import read_any_masks

MASK_FIELDS = {"name", "label", "method", "base", "base_sha", "head", "settings", "data"}


def read_run(folder: Path) -> tuple[dict, tuple[dict, dict] | None]:
    """Return (record, result of `read_any_masks` or None without masks) of a saved run.

    If the folder contains a mask file and no model, the record is the file's metadata. Raises
    ValueError or FileNotFoundError with one line.
    """
    path, masks = folder / "record.json", folder / MASK_FILE
    if masks.is_file() and not (folder / "config.json").exists():
        found = read_any_masks(masks)
        if missing := MASK_FIELDS - found[1].keys():
            raise ValueError(f"{masks}: its metadata have no {', '.join(sorted(missing))}")
        return found[1] | {"model": found[1]["base"], "model_sha": found[1]["base_sha"]}, found
    find_model(str(folder))  # raises if the folder has no model
    try:
        record = read_record(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder} has no record.json: use a run in results/models"
                                ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a record of a run: {error}") from None
    if record["head"] not in STUDENT_HEADS:
        raise ValueError(f"{path} is not a record of a run: its head is {record['head']!r}, "
                         f"expected one of {', '.join(STUDENT_HEADS)}")
    return record, read_any_masks(masks) if record["bytes_mask_file"] else None


def check_settings(path: Path, settings: Any) -> None:
    """Raise ValueError unless the settings of a run contain its windows and its data."""
    for name, kind in (("max_length", int), ("stride", int), ("data", str), ("data_seed", int)):
        value = settings.get(name) if isinstance(settings, dict) else None
        if type(value) is not kind:
            raise ValueError(f"{path} is not a record of a run: its setting {name} is "
                             f"{str(value)[:40]!r}, expected {kind.__name__}")


def entropy_bytes(masks: dict[str, np.ndarray]) -> float:
    """Return the entropy of the masks in bytes: n H(k / n) bits for k of n weights of a matrix."""
    bits = 0.0
    for mask in masks.values():
        kept = np.count_nonzero(mask)
        bits += sum(c * np.log2(mask.size / c) for c in (kept, mask.size - kept) if c)
    return bits / 8


def measure_mask_file(path: Path, masks: dict, about: dict) -> dict:
    """Return the bytes of a mask file and of its parts, and the entropy of its masks."""
    size, bound = path.stat().st_size, entropy_bytes(masks)
    head, vectors = (sum(each.nbytes for each in about.get(kind, {}).values()) for kind in TRAINED)
    return {"bytes": size, "bytes_entropy_bound": round(bound), "bytes_head": head,
            "bytes_vectors": vectors,
            "above_bound": (size - head - vectors) / bound if bound else None}


def questions_of_run(settings: dict, data: str | None, held_out: int) -> dict[str, Dataset]:
    """Return {"eval": the questions that the run was evaluated on}, from `data` if it is given.

    With held_out > 0, also "train", and "held out": at most so many questions of train that the run
    did not train on. Those of its validation come first, then those on other passages.
    """
    source, n_valid = data or settings["data"], settings.get("n_valid", 0)
    rest = None, settings["data_seed"], settings.get("longest_passage")
    try:
        if not held_out:
            return {"eval": load_squad(source, 1, 0, *rest)["eval"]}
        parts = load_squad(source, settings.get("n_train"), n_valid, *rest)
        more = (load_squad(source, settings.get("n_train"), n_valid + held_out, *rest)["valid"]
                if source == "synthetic" else load_squad(source, None, 0, *rest)["train"])
    except FileNotFoundError as error:  # a record contains only the last part of a path
        line = f"{error}; set --data to the run's questions" if data is None else error
        raise FileNotFoundError(line) from None
    seen, passages = set(parts["train"]["id"][:]), set(parts["train"]["context"][:])
    valid = set(parts["valid"]["id"][:])
    rank = [2 if name in seen else -1 if name in valid else int(passage in passages)
            for name, passage in zip(more["id"][:], more["context"][:])]
    order = [row for row in np.argsort(rank, kind="stable") if rank[row] < 2][:held_out]
    if not order:
        raise ValueError(f"the run trained on all {len(seen):,} questions of {source}, so none are "
                         "held out: --best and openvino-int8 need some")
    return {"eval": parts["eval"], "train": parts["train"], "held out": more.select(order)}
