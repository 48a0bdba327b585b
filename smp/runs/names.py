"""Names, labels, groups and order of records.

A run's name ends in six digits of a hash of what decides the run, so a rerun replaces its own
record and no other. Settings at their defaults are not hashed: a new one changes no old name.
"""

import hashlib
import json
import re
from collections.abc import Callable
from typing import Any

from smp.runs.methods import FINE_TUNED, method_rank
from smp.runs.record import plain_value
from smp.runs.settings import SETTING_DEFAULTS
from smp.text import file_part, short_name

SHOWN_ELSEWHERE = set(  # in a table's heading or other columns; or without effect on the model
    "profile method distill density model data n_train n_valid n_eval longest_passage epochs "
    "seed precision n_validations n_mask_snapshots".split()
)

REMOVED = {"regulariser_rule": "cubic"}  # settings of older records: their default


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


def with_defaults(settings: dict) -> dict:
    """Return a record's settings and the defaults of settings that are newer than the record."""
    return SETTING_DEFAULTS | {name: value for name, value in settings.items()
                               if name not in REMOVED or value != REMOVED[name]}


def identifying_settings(record: dict) -> dict:
    """Return `with_defaults`, "variant", and "teacher" if it is not the fine-tuned encoder.

    The teacher is named without its seed.
    """
    settings = with_defaults(record["settings"])
    if record["variant"]:
        settings |= {"variant": record["variant"]}
    name = record["teacher"]["name"] if record["teacher"] else ""
    kind = re.sub(r"_seed\d+_[0-9a-f]{6}$", "", name)
    own = kind.startswith(f"{file_part(record['model'])}_") and kind.endswith("_fine-tuned")
    return settings if own or not kind else settings | {"teacher": kind}


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


def record_group(record: dict) -> tuple:
    """Return what two records must share before their numbers may stand in one table."""
    keys = ("model", "model_sha", "data", "data_sha", "n_eval", "n_train")
    return tuple(record[key] for key in keys)


def group_records(records: list[dict], key: Callable = record_group) -> list[list[dict]]:
    """Return the records in groups of equal key, in the order in which they come."""
    groups: dict[Any, list[dict]] = {}
    for record in records:
        groups.setdefault(key(record), []).append(record)
    return list(groups.values())


def record_order(record: dict) -> tuple:
    """Return the sorting key: most questions first, group, method, dense first, label, settings."""
    settings = identifying_settings(record)
    values = [settings[name] for name in sorted(SETTING_DEFAULTS.keys() - SHOWN_ELSEWHERE)]
    values += [settings.get(name, "") for name in ("teacher", "variant")]
    comparable = [(0, v) if isinstance(v, int | float) else (1, str(v)) for v in values]
    return (-record["n_eval"], -record["n_train"], *record_group(record),
            method_rank(record["method"], settings["distill"]), -round(record["density"], 3),
            record["label"], comparable, record["steps"], record["seed"], record["name"])


def model_and_data(record: dict) -> str:
    """Return "<model> on <data>", and the limit on passages if there is one."""
    most = record["settings"].get("longest_passage")
    return f"{short_name(record['model'])} on {short_name(record['data'])}" + (
        f" (passages of at most {most} words)" if most else "")


def marks(record: dict) -> str:
    """Return " (uncommitted changes)" for a run whose code is not that of its commit, else ""."""
    return " (uncommitted changes)" if record["dirty"] else ""


def seedless(record: dict) -> str:
    """Return what two records share if they are the same experiment with different seeds."""
    keys = "label density_target profile params_total epochs steps".split()
    settings = changed_from_defaults(identifying_settings(record) | {"seed": 0})
    return as_json([[record[key] for key in keys], bool(record["dirty"]), settings])
