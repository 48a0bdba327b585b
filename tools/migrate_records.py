"""Turn records of the first edition into schema 2: the same numbers under the new names.

    python tools/migrate_records.py OLD NEW [DATA ...]

Reads every record below the folder OLD and writes it under the same name below NEW. The
fingerprint of the training questions is computed from the data: "synthetic" and the files or
folders DATA, each used for the records whose data have its name. It is null where the evaluation
questions read that way are not those of the record. This script goes when the base-size runs that
were started with the first edition are in.
"""

import functools
import json
import sys
from pathlib import Path

from smp.data.reading import data_fingerprint, load_squad
from smp.files import replace_text_file
from smp.runs.methods import FINE_TUNED, METHODS, method_label
from smp.runs.record import RECORD_FIELDS, check_record, record_json
from smp.runs.settings import SETTING_DEFAULTS
from smp.text import file_part

RENAMED = {
    "kd_weight": "distill_weight", "kd_temperature": "distill_temperature",
    "hidden_weight": "hidden_distill_weight", "score_start": "score_init",
    "density_hold": "density_hold_fraction", "density_ramp": "density_ramp_fraction",
    "regulariser_ramp": "regulariser_ramp_fraction", "warmup": "warmup_fraction",
    "n_snapshots": "n_validations", "n_masks": "n_mask_snapshots",
    "vector_learning_rate": "bias_norm_learning_rate",
}
DATA_NAMES = {"almanac": "synthetic"}


def new_method(settings: dict) -> str:
    """Return the setting `method` of old settings."""
    if settings["task"] == "fine-tune":
        return FINE_TUNED
    name, competes = settings.get("method", "smp"), settings["sharing"] == "shared"
    if name == "smp":
        return "smp-s" if competes else "smp-l"
    return name.replace(" ", "-") + "-s" * competes


def new_settings(old: dict) -> dict:
    """Return the settings under their new names, with the defaults that they were run with."""
    settings = {RENAMED.get(name, name): value for name, value in old.items()}
    task = settings.pop("task")
    for name in ("sharing", "variant"):
        settings.pop(name, None)
    hidden = settings.pop("hidden_distill_weight", 0)
    distill = "none" if task != "smp-kd" else "hidden" if hidden else "logits"
    if hidden:
        settings["hidden_distill_weight"] = hidden
    from_teacher = settings.get("head") == "teacher"
    settings |= {"method": new_method(old), "distill": distill,
                 "data": DATA_NAMES.get(old["data"], old["data"]),
                 "init_head_from_teacher": from_teacher}
    if from_teacher:
        settings["head"] = "auto"
    known = SETTING_DEFAULTS | settings
    assert known.keys() == SETTING_DEFAULTS.keys() | {
        "profile", "model", "data", "n_train", "n_valid", "n_eval"}, known.keys()
    return known


@functools.cache
def fingerprints(data: str, *chosen: int | None) -> tuple[str, str]:
    """Return the fingerprints of the training and evaluation questions that settings choose."""
    parts = load_squad(data, *chosen)
    return data_fingerprint(parts["train"]), data_fingerprint(parts["eval"])


def train_fingerprint(record: dict, sources: dict[str, str]) -> str | None:
    """Return the fingerprint of a record's training questions, None if they are not at hand."""
    settings, data = record["settings"], record["data"]
    if data not in sources:
        return None
    train, evaluation = fingerprints(sources[data], *(settings[name] for name in (
        "n_train", "n_valid", "n_eval", "data_seed", "longest_passage")))
    return train if evaluation == record["data_sha"] else None


def migrate(old: dict, sources: dict[str, str]) -> dict:
    """Return a record of schema 2."""
    settings = new_settings(old["settings"])
    trains_norms = bool(settings["bias_norm_learning_rate"]) and (
        settings["method"] in METHODS and METHODS[settings["method"]].freezes_weights)
    record = dict.fromkeys(RECORD_FIELDS) | old | {
        "schema": 2, "settings": settings, "method": settings["method"],
        "label": method_label(settings["method"], settings["distill"], trains_norms),
        "variant": old["settings"].get("variant"), "data": settings["data"],
    }
    if record["teacher"]:
        record["teacher"] = {"sha": None} | record["teacher"]
    del record["sharing"], record["interrupted"]
    return record | {"train_sha": train_fingerprint(record, sources)}


def main(old: str, new: str, *data: str) -> None:
    """Migrate every record below `old` into `new`."""
    sources = {"synthetic": "synthetic", **{file_part(path): path for path in data}}
    for path in sorted(Path(old).rglob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        if "em" in record and "schema" not in record:
            text = record_json(check_record(migrate(record, sources)))
            replace_text_file(Path(new) / path.relative_to(old), text)


if __name__ == "__main__":
    main(*sys.argv[1:])
