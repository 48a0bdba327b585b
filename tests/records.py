"""Records for tests."""

import json
from dataclasses import asdict

from smp.runs.methods import FINE_TUNED, METHODS, method_label, stage_of
from smp.runs.published import whole_model_share
from smp.runs.record import run_name
from smp.runs.settings import choose_settings


def make_record(method="smp-l", distill="logits", density=0.5, settings=(), **changes):
    """Return a record like that of a run of the small encoder on the synthetic questions.

    settings: changes of the profile's settings; changes: of any field. The density is rounded to
    whole weights. density_target is the same if it is not given.
    """
    if method == FINE_TUNED:
        distill, density = "none", 1.0
    profile, seed, target = (changes.pop(name, usual) for name, usual in (
        ("profile", "quick"), ("seed", 0), ("density_target", density)))
    settings = asdict(choose_settings(
        profile, stage_of(method, distill), method=method, distill=distill, density=target,
        seed=seed,
    )) | dict(settings)
    freezes = method != FINE_TUNED and METHODS[method].freezes_weights
    matrix, masked, total = 147_456, 10_616_832, 22_565_376
    kept = int(density * matrix)
    layers = [{"layer": 0, "matrix": "query", "kept": kept, "total": matrix}]
    record = {
        "schema": 2, "method": method, "variant": None,
        "label": method_label(method, settings["distill"],
                              freezes and settings["bias_norm_learning_rate"] > 0),
        "model": "all-MiniLM-L6-v2", "data": "synthetic", "model_sha": "aaaa", "data_sha": "bbbb",
        "train_sha": "cccc", "profile": profile, "seed": seed, "density_target": target,
        "density": kept / matrix, "remaining_of_model": whole_model_share(density, masked, total),
        "params_total": total, "params_masked": masked, "params_kept": int(density * masked),
        "head": "trained", "bytes_mask_file": 1_327_104 if freezes else None, "bytes_model": None,
        "em": 0.4804, "f1": 0.5678, "exact_matches": None, "ms_per_question": None,
        "n_train": 3000, "n_eval": 1000, "epochs": 2, "steps": 372, "seconds": 99.5,
        "device": "cpu", "precision": "fp32", "threads": None, "versions": {"torch": "2.13.0"},
        "commit": None, "dirty": None,
        "teacher": None if distill == "none" else {"name": "teacher", "em": 0.6, "sha": "dddd"},
        "settings": settings, "layers": [] if method == FINE_TUNED else layers,
        "history": {"step": [1, 2], "loss": [5.1, 4.9], "density": [1.0, 0.5],
                    "lambda": [0.0, 400.0], "valid_step": [2], "valid_em": [0.1],
                    "valid_f1": [0.2]},
    } | changes
    return {"name": run_name(record)} | record


def record_without_times(results):
    """Return the only record in a folder without times."""
    (path,) = results.glob("*.json")
    return {name: value for name, value in json.loads(path.read_text()).items()
            if name not in ("seconds", "ms_per_question")}
