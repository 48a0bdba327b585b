"""Where the clone and its notebooks are."""

import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
NOTEBOOKS = {
    "finetune": "BERT_FINETUNE_QA.ipynb",
    "smp": "Static_Model_Pruning/BERT_SMP.ipynb",
    "smp_kd": "Static_Model_Pruning/BERT_SMP_KD.ipynb",
}


def minutes_since(start: float) -> str:
    """Return "1.5 minutes" since a time of `time.monotonic`."""
    return f"{(time.monotonic() - start) / 60:.1f} minutes"
