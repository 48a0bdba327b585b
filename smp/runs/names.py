"""The name of a run, computed from what decides the run.

A run's name ends in six digits of a hash of what decides the run, so a rerun replaces its own
record and no other. Settings at their defaults are not hashed: a new one changes no old name.
"""

import hashlib
import json
from typing import Any

from smp.runs.methods import FINE_TUNED
from smp.runs.record import plain_value
from smp.runs.settings import SETTING_DEFAULTS
from smp.text import file_part

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
