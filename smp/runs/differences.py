"""Settings in which records differ, as text for tables and figures."""

from dataclasses import asdict
from typing import Any

from smp.runs.grouping import (
    SHOWN_ELSEWHERE,
    group_records,
    identifying_settings,
    marks,
    method_rank,
)
from smp.runs.methods import METHODS, stage_of
from smp.runs.record import as_json
from smp.runs.settings import SETTING_DEFAULTS, choose_settings
from smp.text import file_part

SHOWN_ABOVE = {  # in the heading of a table, or decided by it
    "model", "data", "n_train", "n_valid", "n_eval", "longest_passage", "batch_size", "epochs",
}


def disagreeing(settings: list[dict]) -> set[str]:
    """Return the names of the settings that do not have the same value in all of them."""
    return {name for name in {name for one in settings for name in one}
            if len({as_json(one.get(name)) for one in settings}) > 1}


def setting_text(name: str, value: Any) -> str:
    """Return e.g. regulariser 40000, density_ramp_fraction 0.819 (three digits), head trained."""
    return f"{name} {float(f'{value:.3g}'):g}" if isinstance(value, float) else f"{name} {value}"


def shown_settings(record: dict) -> dict:
    """Return `identifying_settings`; the teacher's name omits the table's encoder and data."""
    settings = identifying_settings(record)
    if isinstance(settings.get("teacher"), str):
        own = f"{file_part(record['model'])}_{file_part(record['data'])}_"
        settings["teacher"] = settings["teacher"].removeprefix(own) or own
    return settings


def what_differs(records: list[dict]) -> dict[str, str]:
    """Return {name: "setting value, ..."} of the settings that differ at one label and density."""
    found = {}
    for alike in group_records(records, lambda record: record["label"]):
        differing = set()
        for rivals in group_records(alike, lambda record: record["density_target"]):
            differing |= disagreeing(list(map(identifying_settings, rivals))) - SHOWN_ELSEWHERE
        for record in alike:
            shown = shown_settings(record)
            found[record["name"]] = ", ".join(
                setting_text(name, shown[name]) for name in sorted(differing) if name in shown)
    return found


def retained_row(record: dict) -> tuple[tuple[int, int], str, str]:
    """Return the row of a record: (rank of its method, its label, its teacher's whole name)."""
    shown = shown_settings(record)
    also = [f", {name} {shown[name]}" for name in ("teacher", "variant") if name in shown]
    return (method_rank(record["method"], shown["distill"]),
            "".join([record["label"], *also, marks(record)]),
            identifying_settings(record).get("teacher", ""))


def changed_settings_of(records: list[dict]) -> dict[str, str]:
    """Return {name of a record: the settings changed from its profile, method and density}.

    Settings of SHOWN_ABOVE are included only if the method has several values.
    """
    labels = {}
    for group in group_records(records, lambda record: record["label"]):
        differing = disagreeing(list(map(identifying_settings, group)))
        for record in group:
            own, settings = record["settings"], identifying_settings(record)
            method, distill = settings["method"], settings["distill"]
            try:
                usual = asdict(choose_settings(
                    record["profile"], stage_of(method, distill), distill=distill,
                    method=method if method in METHODS else None,  # it was removed, or fine-tuned
                    density=settings["density"], seed=settings["seed"],
                )) | {"method": method}
            except ValueError:  # the profile was removed
                usual = SETTING_DEFAULTS | {"method": method}
            labels[record["name"]] = ", ".join(
                setting_text(name, settings[name])
                for name in sorted(differing | {"variant"} | (own.keys() - SHOWN_ABOVE))
                if name in settings and settings[name] != usual.get(name)
            )
    return labels
