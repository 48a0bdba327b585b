"""Static Model Pruning of a BERT that answers questions. Each folder is a room with one purpose.

The names below are imported on first use, because importing torch takes seconds.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the names, for type checkers and editors
    from smp.data.reading import load_squad as load_squad
    from smp.data.windows import featurise as featurise
    from smp.fast.dead_units import prune_dead_units as prune_dead_units
    from smp.fast.sparse import accelerate as accelerate
    from smp.look.explorer import explore as explore
    from smp.method.loop import fit as fit
    from smp.method.masks import Masks as Masks
    from smp.method.masks import competing_share as competing_share
    from smp.method.schedule import Pruning as Pruning
    from smp.model.encoder import encoder_linears as encoder_linears
    from smp.model.load import load_qa_model as load_qa_model
    from smp.model.predict import evaluate_answers as evaluate_answers
    from smp.model.question_answerer import QuestionAnswerer as QuestionAnswerer
    from smp.model.student import load_student as load_student
    from smp.runs.settings import choose_settings as choose_settings
    from smp.task.adapters import PrunedModel as PrunedModel
    from smp.task.answerer import load_answerer as load_answerer
    from smp.task.export import export_run as export_run
    from smp.task.mask_settings import MaskSettings as MaskSettings
    from smp.task.trainer import SMPTrainer as SMPTrainer

__version__ = "2.0.0.dev0"

LAZY = {
    "load_squad": "smp.data.reading",
    "featurise": "smp.data.windows",
    "load_qa_model": "smp.model.load",
    "load_student": "smp.model.student",
    "choose_settings": "smp.runs.settings",
    "Masks": "smp.method.masks",
    "competing_share": "smp.method.masks",
    "encoder_linears": "smp.model.encoder",
    "MaskSettings": "smp.task.mask_settings",
    "SMPTrainer": "smp.task.trainer",
    "Pruning": "smp.method.schedule",
    "fit": "smp.method.loop",
    "evaluate_answers": "smp.model.predict",
    "QuestionAnswerer": "smp.model.question_answerer",
    "load_answerer": "smp.task.answerer",
    "PrunedModel": "smp.task.adapters",
    "export_run": "smp.task.export",
    "prune_dead_units": "smp.fast.dead_units",
    "accelerate": "smp.fast.sparse",
    "explore": "smp.look.explorer",
}
__all__ = list(LAZY)


def __getattr__(name: str) -> Any:
    """Import one of the names above. Raises AttributeError for any other name."""
    if name not in LAZY:
        raise AttributeError(f"module 'smp' has no attribute {name!r}")
    return getattr(importlib.import_module(LAZY[name]), name)


def __dir__() -> list[str]:
    """Return the module's attributes and the lazy names."""
    return sorted({*globals(), *LAZY})
