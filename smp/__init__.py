"""Static Model Pruning of a BERT that answers questions: one idea a module."""

import importlib

LAZY = {"Reader": "smp.reader", "PrunedModel": "smp.pruned"}


def __getattr__(name):
    """smp.Reader and smp.PrunedModel, imported when they are asked for: torch takes seconds."""
    if name not in LAZY:
        raise AttributeError(f"module 'smp' has no attribute {name!r}")
    return getattr(importlib.import_module(LAZY[name]), name)
