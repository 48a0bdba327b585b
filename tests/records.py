"""A record for tests."""

from smp.runs.names import run_name
from smp.runs.published import whole_model_share


def make_record(**changes):
    """A record as a run of the small encoder on the synthetic questions leaves it."""
    masked, total = 10_616_832, 22_565_376
    density = changes.get("density", 0.5)
    kept = int(density * 147456)
    record = {
        "method": "SMP + KD", "sharing": "SMP-L", "model": "all-MiniLM-L6-v2", "data": "almanac",
        "model_sha": "aaaa", "data_sha": "bbbb", "profile": "quick", "seed": 0,
        "density_target": density, "density": kept / 147456,
        "remaining_of_model": whole_model_share(density, masked, total), "params_total": total,
        "params_masked": masked, "params_kept": int(density * masked), "bytes_mask_file": 1327104,
        "em": 0.4804, "f1": 0.5678, "n_train": 3000, "n_eval": 1000, "epochs": 2, "steps": 372,
        "seconds": 99.5, "device": "cpu", "precision": "fp32", "versions": {"torch": "2.13.0"},
        "commit": None, "dirty": None, "interrupted": False,
        "teacher": {"name": "teacher", "em": 0.6}, "settings": {"seed": 0, "density": density},
        "layers": [{"layer": 0, "matrix": "query", "kept": kept, "total": 147456}],
        "history": {"step": [1, 2], "loss": [5.1, 4.9], "density": [1.0, 0.5],
                    "lambda": [0.0, 400.0], "valid_step": [2], "valid_em": [0.1],
                    "valid_f1": [0.2]},
    }
    record |= changes | {"density": kept / 147456}
    if changes.get("seed"):
        record["settings"] = record["settings"] | {"seed": changes["seed"]}
    if record["method"] == "fine-tuned":
        record |= {"sharing": None, "density_target": 1.0, "density": 1.0, "layers": [],
                   "remaining_of_model": 1.0, "params_kept": masked, "teacher": None,
                   "bytes_mask_file": None}
    return {"name": run_name(record)} | record
