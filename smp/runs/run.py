"""Begin and finish the record of a run, and find the record of a teacher.

A record contains the versions and the commit of the code.
"""

import importlib.metadata
import json
import os
import platform
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from smp.files import check_regular, recover_folder, replace_text_file
from smp.model.predict import is_first_process
from smp.runs.checkpoint import Checkpoints
from smp.runs.methods import FINE_TUNED, method_label
from smp.runs.record import SCHEMA, record_json, run_name, thin_history, write_record
from smp.runs.settings import Settings
from smp.text import file_part, is_number

# A repository's own configuration can name programs for git to run; these are not needed.
GIT_OPTIONS = "-c core.fsmonitor=false -c core.hooksPath=/dev/null -c core.pager=cat".split()


def git_output(folder: str | Path, *arguments: str) -> str | None:
    """Return the output of `git …` in the folder, None if git is missing or fails."""
    # Inside a git hook these variables point at the repository of the hook, not of the folder.
    hook = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")
    environment = {key: value for key, value in os.environ.items() if key not in hook}
    command = ["git", "--no-optional-locks", "-C", str(folder), *GIT_OPTIONS, *arguments]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, env=environment)
    except OSError:
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def without_filters(folder: str | Path) -> list[str]:
    """Return options of git that switch off the filters in its configuration."""
    names = git_output(folder, "config", "--includes", "--name-only", "--get-regexp", r"^filter\.")
    # -c ends a name at its first =. With the option that does not exist, git runs no filter.
    return [part for name in {line.rpartition(".")[0] for line in (names or "").splitlines()}
            for value in ("clean=", "smudge=", "process=", "required=false")
            for part in ("--no-such-option" if "=" in name else "-c", f"{name}.{value}")]


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
    changed = git_output(top, *without_filters(top), "status", "--porcelain",
                         "--untracked-files=no", "--ignore-submodules=all", *outside)
    code = ("smp", "notebooks", "tools", "experiments")
    new = git_output(top, "ls-files", "--others", "--exclude-standard", "--", *code)
    dirty = None if changed is None or new is None else bool(changed or new)
    commit = git_output(top, "rev-parse", "--verify", "--quiet", "HEAD")
    return {"versions": versions, "commit": commit, "dirty": dirty}


def begin_record(settings: Settings, model_sha: str, data_sha: str, train_sha: str,
                 teacher: dict | None = None, variant: str = "") -> dict:
    """Return the fields that are known before training, among them the run's name.

    data_sha, train_sha: fingerprints of the evaluation and training questions; teacher: None or
    {"name", "em", "sha" (of encoder and head)}; variant: a name in experiments/variants.py. Of
    paths only the last part is recorded.
    """
    model, data = file_part(settings.model), file_part(settings.data)
    begun = {
        "schema": SCHEMA,
        "label": method_label(settings.method, settings.distill,
                              settings.freezes_weights and settings.trains_biases_and_norms),
        "method": settings.method, "variant": variant or None,
        "model": model, "model_sha": model_sha,
        "data": data, "data_sha": data_sha, "train_sha": train_sha,
        "profile": settings.profile, "seed": settings.seed, "epochs": settings.epochs,
        "density_target": settings.density, "teacher": teacher,
        "settings": {**asdict(settings), "model": model, "data": data},
        **provenance(),
    }
    return {"name": run_name(begun), **begun}


def finish_record(begun: dict, run: dict, scores: dict, params_total: int,
                  layers: list[dict] | tuple = (), **measured: Any) -> dict:
    """Return the whole record of a run that `begin_record` began; run: from `Watch.run`.

    layers: `counts` of the masks, empty without masks; measured: head, bytes_mask_file, n_train,
    n_eval. density is of the masked matrices, remaining_of_model of all parameters.
    """
    if scores["em"] == 0:
        print(f"EM is 0 on {measured['n_eval']:,} questions: train longer (epochs, n_train) "
              "or raise the density")
    masked = sum(row["total"] for row in layers)
    kept = sum(row["kept"] for row in layers)
    return {
        "bytes_mask_file": None, "bytes_model": None, **begun, **measured, **scores,
        "params_total": params_total, "params_masked": masked, "params_kept": kept,
        "density": kept / masked if masked else 1.0,
        "remaining_of_model": (params_total - masked + kept) / params_total,
        "layers": list(layers), **run, "history": thin_history(run["history"]),
    }


def own_run(path: Path) -> FileLock:
    """Return the acquired lock of a run. Raises ValueError if another process has it.

    The system releases the lock when its process ends, so no lock is stale.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock, owner = FileLock(path, timeout=0, is_singleton=True), path.with_suffix(".owner")
    try:
        lock.acquire()
    except Timeout:
        try:
            process = owner.read_text()
        except FileNotFoundError:  # it begins or ends now
            process = "unknown"
        raise ValueError(f"{path.stem} is being trained by another process ({process}): wait until "
                         "it ends, or change the seed or the folder of results") from None
    replace_text_file(owner, f"{os.getpid()} on {platform.node()}")
    return lock


def run_checkpoints(begun: dict, results: str | Path, folder: str | Path | None = None
                    ) -> Checkpoints:
    """Return the `Checkpoints` of a run, in <folder or results/checkpoints>/<its name>.

    Raises ValueError with one line if another process trains this run.
    """
    place = Path(results) / "checkpoints" if folder is None else Path(folder)
    lock = own_run(place / f"{begun['name']}.lock") if is_first_process() else None
    for draft in Path(results).rglob(f".{begun['name']}.*.part") if lock else ():
        draft.unlink()  # of a process that was killed
    about = {name: begun[name] for name in ("model_sha", "teacher", "commit")}
    return Checkpoints(place / begun["name"], about, lock=lock)


def keep_record(record: dict, results: str | Path, model_folder: str | Path,
                checkpoints: Checkpoints) -> None:
    """Write results/<name>.json, and a copy in the model's folder for `find_teacher`.

    The checkpoints of the run are then removed.
    """
    replace_text_file(Path(model_folder) / "record.json", record_json(record))
    write_record(record, results)  # the last file: a sweep does not run it again
    checkpoints.clear()
    print(f"record: {record['name']}.json")


def read_model_record(path: Path) -> dict | None:
    """Return the record in a model's folder; print a line and return None if it is damaged."""
    try:
        check_regular(path)
        saved = json.loads(path.read_text(encoding="utf-8"))
        if is_number(saved["em"], 0, 1) and {"method", "model_sha", "data", "data_sha"} <= {*saved}:
            return saved
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    print(f"{path} is damaged, so its model is not used as a teacher: train it again, or "
          "set it as the teacher")
    return None


def find_teacher(results: str | Path, model_sha: str, data: str, name: str = "*"
                 ) -> tuple[Path, dict] | None:
    """Return (folder, record) of the newest fine-tuned model of this encoder and data, or None.

    It searches results/models/. data: the name or path in the settings; name: of the run, or a
    pattern.
    """
    wanted, found = (FINE_TUNED, model_sha, file_part(data)), []
    for old in Path(results).glob(f"models/{name}.old"):
        recover_folder(old.with_name(old.name.removesuffix(".old")))
    for path in sorted(Path(results).glob(f"models/{name}/record.json")):
        if path.parent.name.endswith((".part", ".old")):  # of a replacement that was killed
            continue
        saved = read_model_record(path)
        if saved and (saved["method"], saved["model_sha"], saved["data"]) == wanted:
            found.append((path.stat().st_mtime, path.parent, saved))
    return max(found, key=lambda one: one[0])[1:] if found else None
