"""The record of a run: one JSON file with its settings, versions, remaining weights and scores.

A run's name ends in six digits of a hash of what decides the run, so a rerun replaces its own
record and no other. Settings at their defaults are not hashed: a new one changes no old name.
"""

import hashlib
import json
import math
import re
import reprlib
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from smp.files import check_regular, replace_text_file
from smp.runs.methods import DISTILLATIONS, FINE_TUNED
from smp.runs.settings import SETTING_DEFAULTS
from smp.text import file_part, is_number

SCHEMA = 2
RECORD_FIELDS = (  # null: not measured, or not known; data_note, what is not official in the data,
    # is in records of such data only
    "schema name label method variant model data model_sha data_sha train_sha profile seed "
    "density_target density remaining_of_model params_total params_masked params_kept head "
    "bytes_mask_file bytes_model em f1 exact_matches ms_per_question n_train n_eval epochs steps "
    "seconds device precision threads versions commit dirty teacher settings layers history"
).split()
NAME = "a name, without < ` $ \\ or line breaks"
REMOVED = {"regulariser_rule": "cubic"}  # settings of older records: their default


def plain_value(value: Any, where: str) -> Any:
    """Return the value in plain JSON types; ValueError for NaN, infinity and other types."""
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


def is_name(value: Any) -> bool:
    """Return whether a text can stand in tables, pages and printed commands."""
    return isinstance(value, str) and not re.search(r"[<`$\\\x00-\x1f\x7f]", value)


def is_layer(entry: Any) -> bool:
    """Return whether it is {layer, matrix, kept, total} of one matrix, with possible counts."""
    return (
        isinstance(entry, dict) and {"layer", "matrix", "kept", "total"} <= entry.keys()
        and isinstance(entry["layer"], int) and isinstance(entry["matrix"], str)
        and is_number(entry["total"], 1) and is_number(entry["kept"], 0, entry["total"])
    )


def is_hex_of(value: Any, bits: int) -> bool:
    """Return whether the value is hexadecimal digits of `bits` bits, padded to whole bytes."""
    return isinstance(value, str) and bool(re.fullmatch(r"[0-9a-f]*", value)) and (
        len(value) == 2 * ((bits + 7) // 8))


def check_record(record: dict) -> dict:
    """Return the record in plain JSON types and in order; ValueError, one line, for a bad one."""
    if not isinstance(record, dict):
        raise ValueError(f"a record is expected to be a JSON object, not {type(record).__name__}")
    missing = [field for field in RECORD_FIELDS if field not in record]
    if missing:
        rest = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ValueError(f"missing {', '.join(missing[:3])}{rest}; a record has all fields of "
                         "RECORD_FIELDS")
    more = sorted(record.keys() - set(RECORD_FIELDS))
    record = {field: plain_value(record[field], field) for field in [*RECORD_FIELDS, *more]}

    def need(names: str, good: Callable, expected: str) -> None:
        for field in names.split():
            if not good(record.get(field)):
                raise ValueError(f"{field} is {reprlib.repr(record[field])}, expected {expected}")

    need("schema", lambda v: v == SCHEMA, f"{SCHEMA}")
    need("name label method model data profile device precision head",
         lambda v: isinstance(v, str) and v, "text")
    need("variant", lambda v: v is None or is_name(v) and v, f"null or {NAME}")
    need("density remaining_of_model em f1", lambda v: is_number(v, 0, 1), "a fraction in [0, 1]")
    need("seed params_total params_masked params_kept n_train n_eval epochs steps seconds",
         is_number, "a number from 0 to 1e18")
    need("bytes_mask_file bytes_model ms_per_question threads",
         lambda v: v is None or is_number(v), "null or a number from 0 to 1e18")
    need("label method model model_sha data data_sha profile device precision head", is_name, NAME)
    need("versions settings history", lambda v: isinstance(v, dict), "a dict")
    if not isinstance(record["layers"], list) or not all(map(is_layer, record["layers"])):
        raise ValueError("layers is expected to be a list of {layer, matrix, kept, total}")
    need("exact_matches", lambda v: v is None or is_hex_of(v, record["n_eval"]),
         "null, or a bit for each evaluation question as hexadecimal digits")
    need("train_sha data_note", lambda v: v is None or isinstance(v, str) and v.isprintable()
         and "<" not in v, "null or text, without < or line breaks")
    need("density_target", lambda v: is_number(v, 0, 1), "in [0, 1]")
    need("teacher", lambda v: v is None or isinstance(v, dict) and {"name", "em"} <= v.keys()
         and is_name(v["name"]), f"null, or {NAME}, and its em")
    need("settings", lambda v: v.get("distill") in DISTILLATIONS,
         f"distill to be one of {', '.join(DISTILLATIONS)}")
    need("settings", lambda v: isinstance(v.get("method", ""), str), "method to be a name")
    need("name", lambda v: re.fullmatch(r"[\w+-][\w.+-]{,199}", v, re.ASCII),
         "a safe file name, as run_name(record) returns")
    kept = sum(entry["kept"] for entry in record["layers"])
    total = sum(entry["total"] for entry in record["layers"])
    if record["layers"] and abs(kept - record["density"] * total) > 1e-6 * total:
        raise ValueError(f"density is {record['density']}, but layers keep {kept} of {total}")
    return record


def read_record(path: Path) -> dict:
    """Return the record in a file; raise OSError, ValueError or RecursionError for another file."""
    check_regular(path)
    return check_record(json.loads(path.read_text(encoding="utf-8")))


def thin_history(history: dict, most: int = 400) -> dict:
    """Return the history with at most `most` steps; each has the mean loss since the one before.

    The validation scores stay as they are.
    """
    n = len(history["step"])
    size = max(1, math.ceil(n / most))
    ends = [min(start + size, n) for start in range(0, n, size)]
    thin = {key: [history[key][end - 1] for end in ends] for key in ("step", "density", "lambda")}
    loss = [statistics.fmean(history["loss"][i * size : end]) for i, end in enumerate(ends)]
    return history | thin | {"loss": loss}


def record_json(record: dict) -> str:
    """Return the record as JSON with one line for each field, layer and list of the history."""
    lines = []
    for field, value in record.items():
        text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False)
        text = text.replace("\n", "\n ")
        if field == "layers" and value:
            text = "[\n" + ",\n".join(f"  {json.dumps(entry)}" for entry in value) + "\n ]"
        elif field == "history" and value:
            items = [f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in value.items()]
            text = "{\n" + ",\n".join(items) + "\n }"
        lines.append(f" {json.dumps(field)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def write_record(record: dict, folder: str | Path) -> Path:
    """Write folder/<name>.json in one step and return its path; ValueError for a bad record."""
    try:
        record = check_record(record)
    except ValueError as error:
        name = record.get("name") if isinstance(record, dict) else None
        raise ValueError(f"record {name}: {error}; nothing was written") from None
    return replace_text_file(Path(folder) / f"{record['name']}.json", record_json(record))


def as_json(value: Any) -> str:
    """Return compact JSON, sorted, in which equal numbers are the same text: 1 and 1.0."""
    def plain(part: Any) -> Any:
        if isinstance(part, float) and part.is_integer():
            return int(part)
        if isinstance(part, list):
            return [plain(item) for item in part]
        return {k: plain(v) for k, v in part.items()} if isinstance(part, dict) else part

    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"))


def changed_from_defaults(settings: dict) -> dict:
    """Return the settings that are not at their default."""
    defaults = REMOVED | SETTING_DEFAULTS
    return {name: value for name, value in settings.items()
            if name not in defaults or value != defaults[name]}


def run_name(record: dict) -> str:
    """Return the name of a run, e.g. all-MiniLM-L6-v2_synthetic_smp-l-kd_0.50_seed0_1a2b3c."""
    identity = {key: record[key] for key in ("profile", "model_sha", "data_sha", "variant")}
    identity["settings"] = changed_from_defaults(record["settings"])
    if record["teacher"]:
        identity["teacher"] = record["teacher"]["name"]
    text = as_json(plain_value(identity, "record"))
    parts = [file_part(record["model"]), file_part(record["data"]), record["method"]]
    if record["method"] != FINE_TUNED:
        target = record["density_target"]
        parts[-1] += "-kd" * (record["settings"]["distill"] != "none")
        parts.append(f"{target:.2f}" if round(target, 2) == target else f"{target:g}")
    parts += [f"seed{record['seed']}", hashlib.sha256(text.encode()).hexdigest()[:6]]
    return "_".join(parts)
