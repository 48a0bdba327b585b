"""`smp repeat`: train the run of a record again with the current code and compare both."""

import os
from pathlib import Path
from typing import Any

from smp.cli.grid import Grid
from smp.cli.parameters import EMBEDDED, read_files, read_path
from smp.files import results_folder
from smp.runs.grouping import with_defaults
from smp.runs.profiles import PROFILES
from smp.runs.record import read_record
from smp.runs.settings import Settings, check_settings


def recorded_settings(path: Path, **places: str | None) -> tuple[dict, Settings]:
    """Return a record and the settings of its run.

    places: paths of "model" and "data", None for the name in the record. Raises ValueError with
    one line if the file is not a record, or if its settings are not valid.
    """
    try:
        record = read_record(path)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; expected a record, a .json file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a result record: {error}") from None
    if record["variant"]:
        raise ValueError(f"{path.name}: variant {record['variant']} is not in the package; see "
                         "experiments/variants.py")
    values = with_defaults(record["settings"])
    for name, place in places.items():
        hub = {profile["common"][name].split("/")[-1]: profile["common"][name]
               for profile in PROFILES.values()}
        if place is not None:
            values[name] = read_path(name, place)
        elif values.get(name) not in EMBEDDED:
            values[name] = hub.get(str(values.get(name)), values.get(name))
    try:
        return record, check_settings(Settings(**values))
    except TypeError as error:
        raise ValueError(f"{path.name}: its settings do not match this version: {error}") from None


def repeat(options: Any) -> int:
    """Run the settings of a record again, print both results, and return the exit code."""
    path, files = Path(os.path.expanduser(options.record)), read_files(options.files)
    before, settings = recorded_settings(path, model=options.model, data=options.data)
    results = Path(files.get("results", results_folder()))
    teacher = files.get("teacher")
    if before["teacher"] and not teacher:
        own = results / "models" / before["teacher"]["name"]
        teacher = str(own) if own.is_dir() else None
    grid = Grid([settings], results, teacher, files.get("checkpoints"))
    begun = grid.begun[grid.runs[0]]
    for field, name, what in (("model_sha", "model", "weights"), ("train_sha", "data", "training "
                              "questions"), ("data_sha", "data", "evaluation questions")):
        if before[field] not in (None, begun[field]):
            line = f"the {what} of {getattr(settings, name)} differ from the record's"
            if field == "model_sha" or not before.get("data_note"):
                raise ValueError(f"{line}: set --{name} to the {name} of the record")
            print(f"{line}, which has a note: {before['data_note']}")
    if before.get("data_note") and before["train_sha"] == begun["train_sha"]:
        begun["data_note"] = before["data_note"]
    if before["teacher"] and before["teacher"].get("sha") not in (None, grid.teacher["sha"]):
        print(f"teacher: {grid.teacher['name']}, which is not the record's teacher")
    now = grid.run(grid.runs[0])
    for when, record in (("record", before), ("now", now)):
        print(f"{when:7} EM {record['em']:.3f}  F1 {record['f1']:.3f}  density "
              f"{record['density']:.1%}  {record['device']} {record['precision']}")
    return 0
