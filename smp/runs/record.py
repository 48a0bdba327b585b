"""Results: one file a run, and tables computed from them.

Each run leaves one JSON file in `results/`: what was trained on what, with which settings and
versions, how much of the model is left, and how many questions it answers. The tables are
computed from these files and never typed, so a number in the README can be followed back to
the run it came from.

A run's name ends in six digits of a hash of its settings, its model and its data. The same
settings therefore give the same name, and a rerun replaces its own record and no other. Settings
at their defaults do not count, so that a new one leaves the old names as they are.
"""

import json
import math
import re
import statistics
from pathlib import Path

from smp.files import replace_text_file
from smp.runs.methods import record_methods
from smp.text import is_number

RECORD_FIELDS = (
    "name method sharing model data model_sha data_sha profile seed density_target density "
    "remaining_of_model params_total params_masked params_kept bytes_mask_file em f1 n_train "
    "n_eval epochs steps seconds device precision versions commit dirty interrupted teacher "
    "settings layers history"
).split()
RECORD_TEXTS = "name method model data profile device precision".split()
RECORD_NAMES = "model model_sha data data_sha".split()  # in the headings of the tables
RECORD_SHARES = "density remaining_of_model em f1".split()
RECORD_COUNTS = "seed params_total params_masked params_kept n_train n_eval epochs steps seconds"
RECORD_OPTIONAL = "bytes_mask_file bytes_model ms_per_question threads".split()  # None: unknown


def plain_value(value, where: str):
    """The value in plain JSON types. ValueError for a number that is not finite, or no JSON."""
    if hasattr(value, "tolist"):  # numpy and torch
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} is {value}, expected a finite number; did the run diverge?")
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, dict):
        return {str(key): plain_value(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(item, f"{where}[{i}]") for i, item in enumerate(value)]
    raise ValueError(f"{where} is of type {type(value).__name__}, expected plain JSON values")


def is_layer(entry) -> bool:
    """Whether it is {layer, matrix, kept, total} of one matrix, with counts that can be."""
    return (
        isinstance(entry, dict) and {"layer", "matrix", "kept", "total"} <= entry.keys()
        and isinstance(entry["layer"], int) and isinstance(entry["matrix"], str)
        and is_number(entry["total"], 1) and is_number(entry["kept"], 0, entry["total"])
    )


def check_record(record: dict) -> dict:
    """The record in plain JSON types and the order of RECORD_FIELDS; ValueError in one line."""
    if not isinstance(record, dict):
        raise ValueError(f"a record is expected to be a JSON object, not {type(record).__name__}")
    missing = [field for field in RECORD_FIELDS if field not in record]
    if missing:
        raise ValueError(f"missing {', '.join(missing)}; a record has all fields of RECORD_FIELDS")
    more = sorted(record.keys() - set(RECORD_FIELDS))
    record = {field: plain_value(record[field], field) for field in [*RECORD_FIELDS, *more]}

    wrong = [f"{f} is {record[f]!r}, expected text" for f in RECORD_TEXTS
             if not (isinstance(record[f], str) and record[f])]
    wrong += [f"{f} is {record[f]!r}, expected a fraction in [0, 1]" for f in RECORD_SHARES
              if not is_number(record[f], 0, 1)]
    wrong += [f"{f} is {record[f]!r}, expected a number from 0 to 1e18"
              for f in RECORD_COUNTS.split() if not is_number(record[f])]
    wrong += [f"{f} is {record[f]!r}, expected null or a number from 0 to 1e18"
              for f in RECORD_OPTIONAL if not (record.get(f) is None or is_number(record[f]))]
    wrong += [f"{f} is {record[f]!r}, expected a name, without < or line breaks"
              for f in RECORD_NAMES if not isinstance(record[f], str | None)
              or re.search(r"[<\x00-\x1f]", record[f] or "")]
    for field in ("versions", "settings", "history"):
        if not isinstance(record[field], dict):
            wrong.append(f"{field} is {record[field]!r}, expected a dict")
    if not isinstance(record["layers"], list) or not all(map(is_layer, record["layers"])):
        wrong.append("layers is expected to be a list of {layer, matrix, kept, total}")
    if not isinstance(record["interrupted"], bool):
        wrong.append(f"interrupted is {record['interrupted']!r}, expected true or false")
    without = record["density_target"] is None and record["method"] == "fine-tuned"
    if not without and not is_number(record["density_target"], 0, 1):
        wrong.append(f"density_target is {record['density_target']!r}, expected in [0, 1]")
    if record["teacher"] is not None and not (
        isinstance(record["teacher"], dict) and {"name", "em"} <= record["teacher"].keys()
        and isinstance(record["teacher"]["name"], str)
    ):
        wrong.append(f"teacher is {record['teacher']!r}, expected null or a name and its em")
    if record["method"] not in record_methods():
        wrong.append(f"method is {record['method']!r}, expected one of {record_methods()}")
    if record["sharing"] not in (None, "SMP-L", "SMP-S"):
        wrong.append(f"sharing is {record['sharing']!r}, expected null, 'SMP-L' or 'SMP-S'")
    if not wrong and not re.fullmatch(r"[\w+-][\w.+-]*", record["name"], re.ASCII):
        wrong.append(f"name {record['name']!r} is no safe file name; use run_name(record)")
    if not wrong and record["layers"]:
        kept = sum(entry["kept"] for entry in record["layers"])
        total = sum(entry["total"] for entry in record["layers"])
        if abs(kept - record["density"] * total) > 1e-6 * total:
            wrong.append(f"density is {record['density']}, but layers keep {kept} of {total}")
    if wrong:
        raise ValueError(wrong[0])
    return record


def thin_history(history: dict, most: int = 400) -> dict:
    """The history with at most `most` steps, small enough for a record.

    Of each run of neighbouring steps it keeps the mean loss and, at its last step, the density
    and λ. The validation scores stay as they are.
    """
    n = len(history["step"])
    size = max(1, math.ceil(n / most))
    ends = [min(start + size, n) for start in range(0, n, size)]
    thin = {key: [history[key][end - 1] for end in ends] for key in ("step", "density", "lambda")}
    loss = [statistics.fmean(history["loss"][i * size : end]) for i, end in enumerate(ends)]
    return history | thin | {"loss": loss}


def record_json(record: dict) -> str:
    """The record as JSON that diffs well: one line for a field, layer entry or history list."""
    lines = []
    for field, value in record.items():
        if field == "layers" and value:
            items = ",\n".join(f"  {json.dumps(entry)}" for entry in value)
            text = f"[\n{items}\n ]"
        elif field == "history" and value:
            items = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in value.items())
            text = f"{{\n{items}\n }}"
        else:
            text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False)
            text = text.replace("\n", "\n ")
        lines.append(f" {json.dumps(field)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def write_record(record: dict, folder: str | Path) -> Path:
    """Write folder/<name>.json in one step and return its path; ValueError for a bad record."""
    try:
        record = check_record(record)
    except ValueError as error:
        name = record.get("name") if isinstance(record, dict) else None
        raise ValueError(f"record {name}: {error}; nothing was written") from None
    path = replace_text_file(Path(folder) / f"{record['name']}.json", record_json(record))
    path.with_name(f"{record['name']}_interrupted.json").unlink(missing_ok=True)
    return path




