"""Static Model Pruning of a BERT that answers questions. Each folder is a room with one purpose."""

import importlib

LAZY = {"load_answerer": "smp.task.apply", "PrunedModel": "smp.task.adapters"}


def __getattr__(name: str):
    """Import smp.load_answerer and smp.PrunedModel on first use, because torch takes seconds."""
    if name not in LAZY:
        raise AttributeError(f"module 'smp' has no attribute {name!r}")
    return getattr(importlib.import_module(LAZY[name]), name)
