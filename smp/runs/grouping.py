"""Group and sort the records of a table."""

import re
from collections.abc import Callable
from typing import Any

from smp.runs.methods import DISTILLATIONS, FINE_TUNED, METHODS
from smp.runs.record import REMOVED, as_json, changed_from_defaults
from smp.runs.settings import SETTING_DEFAULTS
from smp.text import file_part, short_name

SHOWN_ELSEWHERE = set(  # in a table's heading or other columns; or without effect on the model
    "profile method distill density model data n_train n_valid n_eval longest_passage epochs "
    "seed precision n_validations n_mask_snapshots".split()
)


def method_rank(method: str, distill: str) -> tuple[int, int]:
    """Return the sorting key of a method in tables; an unknown method is last."""
    names = [FINE_TUNED, *METHODS]
    return names.index(method) if method in names else len(names), DISTILLATIONS.index(distill)


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


def record_group(record: dict) -> tuple:
    """Return the values that all records of one table share."""
    keys = ("model", "model_sha", "data", "data_sha", "n_eval", "n_train")
    return tuple(record[key] for key in keys)


def group_records(records: list[dict], key: Callable = record_group) -> list[list[dict]]:
    """Return the records in groups of equal key, in input order."""
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


def data_notes(records: list[dict]) -> list[str]:
    """Return the different notes of the records on their data, one paragraph each."""
    notes = {record["data_note"] for record in records if record.get("data_note")}
    return [f"Data: {note}" for note in sorted(notes)]


def marks(record: dict) -> str:
    """Return " (uncommitted changes)" for a run whose code is not that of its commit, else ""."""
    return " (uncommitted changes)" if record["dirty"] else ""


def seedless(record: dict) -> str:
    """Return a key that is equal for records of one experiment with different seeds."""
    keys = "label density_target profile params_total epochs steps".split()
    settings = changed_from_defaults(identifying_settings(record) | {"seed": 0})
    return as_json([[record[key] for key in keys], bool(record["dirty"]), settings])
