"""Results: one file a run, and tables computed from them.

Each run leaves one JSON file in `results/`: what was trained on what, with which settings and
versions, how much of the model is left, and how many questions it answers. The tables are
computed from these files and never typed, so a number in the README can be followed back to
the run it came from.

A run's name ends in six digits of a hash of its settings, its model and its data. The same
settings therefore give the same name, and a rerun replaces its own record and no other. Settings
at their defaults do not count, so that a new one leaves the old names as they are.
"""

import hashlib
import json
import re

from smp.runs.methods import record_methods
from smp.runs.record import plain_value
from smp.runs.settings import SETTING_DEFAULTS
from smp.text import file_part, short_name


def changed_from_defaults(settings: dict) -> dict:
    """The settings that are not at the default, whichever there were when the run was made."""
    return {name: value for name, value in settings.items()
            if name not in SETTING_DEFAULTS or value != SETTING_DEFAULTS[name]}


def with_defaults(settings: dict) -> dict:
    """A record's settings, and those newer than it, which had their defaults' effect."""
    return SETTING_DEFAULTS | settings


def identifying_settings(record: dict) -> dict:
    """What tells a run from others: `with_defaults`, and its teacher, where that is another than
    the run's own encoder, fine-tuned. A seed at the end of a teacher's name does not count."""
    settings = with_defaults(record["settings"])
    name = (record.get("teacher") or {"name": ""})["name"]
    kind = re.sub(r"_seed\d+_[0-9a-f]{6}$", "", name)
    own = kind.startswith(f"{file_part(record['model'])}_") and kind.endswith("_fine-tuned")
    return settings if own or not kind else settings | {"teacher": kind}


def shown_settings(record: dict) -> dict:
    """`told_settings` as a table shows them: of a teacher's name without the encoder and data at
    its beginning, where they are the table's own."""
    told, own = identifying_settings(record), f"{file_part(record['model'])}_{file_part(record['data'])}_"
    short = {"teacher": told["teacher"].removeprefix(own) or own} if "teacher" in told else {}
    return told | short


def run_name(record: dict) -> str:
    """Name of a run, e.g. all-MiniLM-L6-v2_almanac_smp-l-kd_0.50_seed0_1a2b3c.

    The last six hex digits are of a sha256 over settings, profile, model_sha, data_sha, method
    and the teacher's name. An interrupted run has a name of its own, so that it never replaces
    a finished one.
    """
    keys = ("profile", "model_sha", "data_sha", "method")
    identity = {key: record[key] for key in keys}
    identity["settings"] = changed_from_defaults(record["settings"])
    if record.get("teacher"):
        identity["teacher"] = record["teacher"]["name"]
    text = json.dumps(plain_value(identity, "record"), sort_keys=True, separators=(",", ":"))
    parts = [file_part(record["model"]), file_part(record["data"])]
    if record["method"] == "fine-tuned":
        parts.append("fine-tuned")
    else:
        kd = "-kd" if "KD" in record["method"] else ""
        target = record["density_target"]
        method = record["method"].removesuffix(" + KD").replace(" ", "-")
        parts.append((record["sharing"] or method).lower() + kd)
        parts.append(f"{target:.2f}" if round(target, 2) == target else f"{target:g}")
    parts += [f"seed{record['seed']}", hashlib.sha256(text.encode()).hexdigest()[:6]]
    return "_".join(parts + ["interrupted"] * bool(record.get("interrupted")))


def record_group(record: dict) -> tuple:
    """What two records must share before their numbers may stand in one table."""
    keys = ("model", "model_sha", "data", "data_sha", "n_eval", "n_train")
    return tuple(record[key] for key in keys)


def group_records(records: list[dict], key=record_group) -> list[list[dict]]:
    """The records in groups of the same key, in the order in which they come."""
    groups = {}
    for record in records:
        groups.setdefault(key(record), []).append(record)
    return list(groups.values())


def record_order(record: dict) -> tuple:
    """Sorting key: most questions first, then group, fine-tuned before SMP before SMP + KD, dense
    before sparse, small values of settings before large ones, short before long, seed."""
    group = (-record["n_eval"], -record["n_train"])
    group += tuple(part or "" for part in record_group(record))  # a sha may be unknown
    rank = (record_methods().index(record["method"]), -round(record["density"], 3))
    settings = identifying_settings(record)
    values = [settings[name] for name in sorted(SETTING_DEFAULTS.keys() - SHOWN_ELSEWHERE)]
    values += [settings.get(name, "") for name in ("teacher", "variant")]
    told = [(0, value) if isinstance(value, (int, float)) else (1, str(value)) for value in values]
    length = (record["steps"], record["seed"], record["name"])
    return group + rank + (record_label(record), told) + length


def method_label(method: str, sharing: str | None) -> str:
    """SMP + KD, SMP-S -> SMP-S + KD."""
    return method.replace("SMP", sharing) if sharing else method


def data_label(record: dict) -> str:
    """The data a run read, and what of it, where long passages were left out."""
    most = record["settings"].get("longest_passage")
    return short_name(record["data"]) + (f" (passages of at most {most} words)" if most else "")


def record_label(record: dict) -> str:
    """The method of a run, and what was learned from or trained besides."""
    settings = record.get("settings", {})
    competes = record["sharing"] is None and settings.get("sharing") == "shared"
    return (
        method_label(record["method"], record["sharing"])
        + " + hidden states" * bool(settings.get("hidden_weight"))
        + " + biases, LayerNorms" * bool(settings.get("vector_learning_rate"))
        + ", layers compete" * competes
    )


def disagreeing(settings: list[dict]) -> set[str]:
    """Names of the settings that do not have the same value in all of them."""
    return {name for name in {name for one in settings for name in one}
            if len({json.dumps(one.get(name)) for one in settings}) > 1}


def setting_text(name: str, value) -> str:
    """regulariser 40000, density_ramp 0.819 (three digits count), head teacher."""
    return f"{name} {float(f'{value:.3g}'):g}" if isinstance(value, float) else f"{name} {value}"

SHOWN_ELSEWHERE = set(  # by a table's heading or its other columns; or of no effect on a model
    "profile task method sharing density model data n_train n_valid n_eval longest_passage epochs "
    "seed precision n_snapshots n_masks".split()
)


def what_differs(records: list[dict]) -> dict[str, str]:
    """{name of a record: "setting value, ..."}: the settings, seeds apart, in which several records
    of its label differ at one density; "" where there are none."""
    told = {}
    for alike in group_records(records, record_label):
        settings = {one["name"]: identifying_settings(one) for one in alike}
        shown = {one["name"]: shown_settings(one) for one in alike}
        telling = set()
        for rivals in group_records(alike, lambda record: record["density_target"]):
            telling |= disagreeing([settings[one["name"]] for one in rivals]) - SHOWN_ELSEWHERE
        told |= {name: ", ".join(setting_text(n, one[n]) for n in sorted(telling) if n in one)
                 for name, one in shown.items()}
    return told


def seedless(record: dict) -> str:
    """What makes two records the same experiment, whatever their seeds."""
    keys = "method sharing density_target profile params_total epochs steps interrupted".split()
    settings = changed_from_defaults(identifying_settings(record) | {"seed": 0})
    return json.dumps([[record[key] for key in keys], bool(record["dirty"]), settings],
                      sort_keys=True)
