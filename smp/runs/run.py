"""The record of a run.

It is begun before training, so that versions and commit are those of the code that ran, and
finished with what came out. Paths of this machine do not go into it, only their last part.
"""

import json
from dataclasses import asdict
from pathlib import Path

from smp.files import replace_text_file
from smp.runs.checkpoint import Checkpoints
from smp.runs.names import run_name
from smp.runs.provenance import provenance
from smp.runs.read import read_results
from smp.runs.record import record_json, thin_history, write_record
from smp.runs.summary import summary_markdown
from smp.text import file_part, is_number


def begin_record(method, settings, model_sha, data_sha, teacher=None, variant=""):
    """What is known before training, all that decides the run's name, and the name.

    method: one of `record_methods()`; teacher: None or {"name", "em", "sha"}, sha the
    `model_fingerprint` of all of it (older records lack it). variant: of experiments/variants.py.
    """
    model, data = file_part(settings.model), file_part(settings.data)
    is_smp = method.startswith("SMP")
    begun = {
        "method": method,
        "sharing": {"local": "SMP-L", "shared": "SMP-S"}[settings.sharing] if is_smp else None,
        "model": model, "model_sha": model_sha, "data": data, "data_sha": data_sha,
        "profile": settings.profile, "seed": settings.seed, "epochs": settings.epochs,
        "density_target": settings.density, "teacher": teacher, "interrupted": False,
        "settings": {**asdict(settings), "model": model, "data": data,
                     **({"variant": variant} if variant else {})},
        **provenance(),
    }
    return {"name": run_name(begun), **begun}


def finish_record(begun, run, scores, params_total, layers=(), **measured):
    """The whole record: what was begun, what `fit` returned, the scores and what is left.

    layers: kept and total of each masked matrix, empty where nothing was masked; measured: head,
    bytes_mask_file, n_train, n_eval. density is of the masked matrices, remaining_of_model of all.
    """
    if scores["em"] == 0:
        print(f"EM is 0 on {measured['n_eval']:,} questions: nothing was learned that lasts; train "
              "longer (EPOCHS, N_TRAIN) or keep more (DENSITY)")
    masked = sum(row["total"] for row in layers)
    kept = sum(row["kept"] for row in layers)
    return {
        "bytes_mask_file": None, **begun, **measured, **scores,
        "params_total": params_total, "params_masked": masked, "params_kept": kept,
        "density": kept / masked if masked else 1.0,
        "remaining_of_model": (params_total - masked + kept) / params_total,
        "layers": list(layers), "history": thin_history(run["history"]),
        **{key: run[key]
           for key in ("steps", "seconds", "device", "precision", "threads", "zeros")},
    }


def run_checkpoints(begun, results, folder=None):
    """The `Checkpoints` of the run whose record was begun: in a folder of its name, within `folder`
    or results/checkpoints. They go when its record is kept, see `Checkpoints.clear`."""
    place = Path(results) / "checkpoints" if folder is None else Path(folder)
    about = {"model_sha": begun["model_sha"], "teacher": begun["teacher"]}
    return Checkpoints(place / begun["name"], about)


def keep_record(record, results, model_folder):
    """Writes results/<name>.json, and a copy beside the saved model, for `find_teacher`."""
    path = write_record(record, results)
    replace_text_file(Path(model_folder) / "record.json", record_json(record))
    print(f"record: {path.name}")


def read_model_record(path):
    """The record beside a saved model; where it is damaged, None, and a printed line says so."""
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        if is_number(saved["em"], 0, 1) and {"method", "model_sha", "data", "data_sha"} <= {*saved}:
            return saved
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    print(f"{path} is damaged, so the model beside it is no teacher here: make it again, or "
          "name it as TEACHER")
    return None


def find_teacher(results, model_sha, data):
    """(folder, record) of the newest fine-tuned model in results/models/ of the same encoder and
    data, or None. data: the name or path as in the settings. A model whose record is damaged is
    passed over, with a printed line."""
    found = []
    for path in sorted(Path(results).glob("models/*/record.json")):
        saved = read_model_record(path)
        if saved and (saved["method"], saved["model_sha"], saved["data"]) == (
            "fine-tuned", model_sha, file_part(data)
        ):
            found.append((path.stat().st_mtime, path.parent, saved))
    return max(found, key=lambda one: one[0])[1:] if found else None


def show_summary(results):
    """The tables of every record so far, for a notebook; also written to results/summary.md."""
    from IPython.display import Markdown

    text = summary_markdown(read_results(results))
    replace_text_file(Path(results) / "summary.md", text)
    return Markdown(text)
