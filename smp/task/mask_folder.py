"""The folder of a task, as PEFT has them: masks.safetensors, smp_config.json and a model card."""

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from smp.files import replace_text_file
from smp.runs.checkpoint import package_versions
from smp.task.apply import as_arrays
from smp.task.cards import mask_card
from smp.task.heads import task_of, task_parts
from smp.task.mask_file import MASK_FILE, TRAINED, save_masks
from smp.text import short_name

CONFIG_FILE = "smp_config.json"
SHARES = {"same_share": "SMP-L", "competing_share": "SMP-S"}


def method_name(masks: Any) -> str:
    """Return SMP-L or SMP-S, by the share of plain `Masks`, otherwise the name of the class."""
    share = getattr(masks.share, "func", masks.share)  # of a functools.partial
    plain = SHARES.get(getattr(share, "__name__", "same_share"))
    return plain if plain and type(masks).__name__ == "Masks" else type(masks).__name__


def describe_trained(model: Any, masks: Any, base_sha: str, setup: dict) -> dict:
    """Return the metadata and the head of a trained task, as `save_masks` takes them.

    base_sha: see `encoder_fingerprint`; setup: `model_setup` of the base model. Raises ValueError
    for a model without a stock head.
    """
    config, task = model.config, task_of(model)
    return {
        "base": short_name(config._name_or_path or type(model.base_model).__name__),
        "base_revision": getattr(config, "_commit_hash", None), "base_sha": base_sha,
        "base_setup": {name: value for name, value in setup.items() if name != "head"},
        "label": method_name(masks), "method": method_name(masks).lower(), "head": "trained",
        "task": task, "task_class": type(model).__name__, "problem_type": config.problem_type,
        "labels": [str(config.id2label[i]) for i in range(config.num_labels)],
        "head_weights": as_arrays(task_parts(model).state_dict()),
    }


def save_mask_folder(masks: dict[str, np.ndarray], folder: Path | str, **about: Any) -> int:
    """Write masks.safetensors, smp_config.json and README.md; return the bytes of the mask file.

    about: see `save_masks`; for the card also name, data, license and metrics, {name: number}.
    """
    folder = Path(folder)
    size = save_masks(masks, folder / MASK_FILE, **about)
    plain = {name: value for name, value in about.items() if name not in TRAINED}
    plain |= {"masks": MASK_FILE, "bytes": size, "versions": {
        "bert-smp": importlib.import_module("smp").__version__, **package_versions()}}
    replace_text_file(folder / CONFIG_FILE, json.dumps(plain, indent=2, sort_keys=True) + "\n")
    replace_text_file(folder / "README.md", mask_card(about, size))
    return size
