"""Where a run's results go, and which versions and commit made them."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path


def results_folder(start: str | Path = ".") -> Path:
    """Return results/ of the project that is `start` or its parent, else start/results.

    A project folder contains BERT_FINETUNE_QA.ipynb and results/. Nothing is created.
    """
    start = Path(start)
    parent = start / ".." if start.name in ("", "..") else start.parent
    for folder in (start, parent):
        if (folder / "BERT_FINETUNE_QA.ipynb").is_file() and (folder / "results").is_dir():
            return folder / "results"
    return start / "results"


def git_output(folder: str | Path, *arguments: str) -> str | None:
    """Return what `git …` prints in the folder, None without git or when git fails."""
    # Inside a git hook these variables point at the repository of the hook, not of the folder.
    hook = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")
    environment = {key: value for key, value in os.environ.items() if key not in hook}
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, env=environment)
    except OSError:
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def provenance(folder: str | Path = ".") -> dict:
    """Return {"versions": {package: version or None}, "commit", "dirty"}; call it before training.

    commit and dirty are None outside a git clone of this project (one that tracks
    BERT_FINETUNE_QA.ipynb). dirty: uncommitted changes outside results/ and README.md, which the
    runs write, or new files in smp/, notebooks/ or tools/.
    """
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in ("torch", "transformers", "datasets", "evaluate", "accelerate", "numpy"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None

    folder = Path(folder).absolute()
    while not folder.is_dir():
        folder = folder.parent
    top = git_output(folder, "rev-parse", "--show-toplevel")
    if not top or not git_output(top, "ls-files", "--", "BERT_FINETUNE_QA.ipynb"):
        return {"versions": versions, "commit": None, "dirty": None}
    outside = ("--", ".", ":(exclude)results", ":(exclude)README.md")
    changed = git_output(top, "status", "--porcelain", "--untracked-files=no", *outside)
    code = ("smp", "notebooks", "tools", "experiments")
    new = git_output(top, "ls-files", "--others", "--exclude-standard", "--", *code)
    dirty = None if changed is None or new is None else bool(changed or new)
    commit = git_output(top, "rev-parse", "--verify", "--quiet", "HEAD")
    return {"versions": versions, "commit": commit, "dirty": dirty}
