"""Paths of the notebooks, in the clone or in the installed package, and of the reference."""

import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
REFERENCE = ROOT / "results" / "reference"  # in the clone only
NOTEBOOKS = {
    "finetune": "BERT_FINETUNE_QA.ipynb",
    "smp": "Static_Model_Pruning/BERT_SMP.ipynb",
    "smp_kd": "Static_Model_Pruning/BERT_SMP_KD.ipynb",
}


def notebook_path(name: str, root: Path = ROOT) -> Path:
    """Return the file of a notebook of NOTEBOOKS, in the clone or in the installed package.

    Raises ValueError with one line if the file is missing.
    """
    is_clone = (root / NOTEBOOKS["finetune"]).is_file()
    packaged = root / "smp" / "notebooks" / Path(NOTEBOOKS[name]).name
    path = root / NOTEBOOKS[name] if is_clone else packaged
    if not path.is_file():
        fix = "build it with `make notebooks`" if is_clone else "install the package again"
        raise ValueError(f"{path} is missing: {fix}")
    return path


def shown_path(path: str | Path) -> str:
    """Return the path relative to the current folder if it is inside, otherwise absolute."""
    full, here = Path(path).absolute(), Path.cwd()
    return str(full.relative_to(here) if full.is_relative_to(here) else full)


def minutes_since(start: float) -> str:
    """Return "1.5 minutes" since a time of `time.monotonic`."""
    return f"{(time.monotonic() - start) / 60:.1f} minutes"
