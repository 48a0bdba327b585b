"""The lines that `smp run` prints before and after the notebooks, computed from records."""

import math
import shlex
import shutil
import statistics
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from smp.cli.paths import NOTEBOOKS, shown_path
from smp.runs.methods import FINE_TUNED
from smp.runs.read import read_records
from smp.runs.record import changed_from_defaults
from smp.runs.result import half_interval
from smp.runs.settings import Settings, choose_settings
from smp.text import as_percent, file_part, short_name

STAGES = {"finetune": "fine-tune", "smp": "smp", "smp_kd": "smp-kd"}
NOT_SETTINGS = ("PROFILE", "TEACHER", "RESULTS", "CHECKPOINTS", "SET")
TIMED = ("profile", "n_train", "epochs", "batch_size", "max_length")  # decide the time of a run
SAME = ("profile", "density_target", "model_sha", "data_sha", "n_train", "n_eval", "epochs")


def notebook_settings(name: str, parameters: dict[str, Any]) -> Settings:
    """Return the settings that a notebook of NOTEBOOKS chooses with the parameters."""
    given = {key.lower(): value for key, value in parameters.items() if key not in NOT_SETTINGS}
    more = parameters.get("SET", {})
    return choose_settings(parameters["PROFILE"], STAGES[name], **given, **more)


def record_notebook(record: dict) -> str:
    """Return the notebook that writes this kind of record: "finetune", "smp" or "smp_kd"."""
    if record["method"] == FINE_TUNED:
        return "finetune"
    return "smp_kd" if record["teacher"] else "smp"


def own_settings(record: dict) -> dict:
    """Return the settings that differ from their defaults, without the seed."""
    return {name: value for name, value in changed_from_defaults(record["settings"]).items()
            if name != "seed"}


def read_reference(folder: Path) -> list[dict]:
    """Return the reference records, [] if there are none or one is damaged."""
    try:
        return read_records(folder)
    except ValueError:
        return []


def time_line(settings: dict[str, Settings], reference: list[dict]) -> str | None:
    """Return a line with the training time of the same runs in the reference.

    Returns None if the reference lacks one of the runs.
    """
    found = []
    for name, chosen in settings.items():
        wanted = asdict(chosen)
        same = [record for record in reference if record_notebook(record) == name
                and (record["model"], record["data"])
                == (file_part(chosen.model), file_part(chosen.data))
                and all(record["settings"].get(key) == wanted[key] for key in TIMED)]
        if not same:
            return None
        found.append(min(same, key=lambda record: record["seconds"]))
    devices = {record["device"] for record in found}
    threads = {record["threads"] for record in found}
    where = "on " + " and ".join("a CPU" if d == "cpu" else d for d in sorted(devices))
    if devices == {"cpu"} and len(threads) == 1 and None not in threads:
        count = threads.pop()
        where = "on one core of a CPU" if count == 1 else (
            f"on {'two' if count == 2 else count} cores of a CPU")
    minutes = max(1, round(sum(record["seconds"] for record in found) / 60))
    length = f"{minutes} minute" + "s" * (minutes > 1) if minutes < 90 else (
        f"{minutes / 60:.1f} hours")
    return (f"Time: training took about {length} {where} in the reference runs. "
            "Evaluation adds to it.")


def opening_lines(settings: dict[str, Settings], results: Path, reference: list[dict],
                  smp: str = "smp") -> list[str]:
    """Return the lines for the runs, the time, the results folder and the command for BERT-base.

    settings: {notebook: its settings}, at least one notebook.
    """
    first = next(iter(settings.values()))
    train = "all" if first.n_train is None else f"{first.n_train:,}"
    lines = [f"Profile {first.profile}: {short_name(first.model)} on {short_name(first.data)}, "
             f"{train} training questions, {len(settings)} of {len(NOTEBOOKS)} notebooks"]
    if time := time_line(settings, reference):
        lines.append(time)
    lines.append(f"Results: {shown_path(results)}/")
    if not ("bert-base" in first.model and "squad" in first.data):
        lines.append(f"BERT-base on SQuAD: {smp} run --profile squad (needs a GPU and a network)")
    return lines


def result_text(record: dict) -> str:
    """Return "EM 0.880 at 50% remaining weights" of a record."""
    return f"EM {record['em']:.3f} at {as_percent(record['density'])} remaining weights"


def expected_em(record: dict, reference: list[dict]) -> float | None:
    """Return the EM of the same run in the reference, or None if there is none.

    A run with the record's seed is preferred. Without one, the result is the mean over the seeds.
    """
    same = [other for other in reference
            if all(other[key] == record[key] for key in SAME)
            and other["label"] == record["label"]
            and own_settings(other) == own_settings(record)]
    chosen = [other for other in same if other["seed"] == record["seed"]] or same
    return statistics.fmean(other["em"] for other in chosen) if chosen else None


def expected_text(record: dict, reference: list[dict]) -> str:
    """Return ", expected 0.880", with a remark if the difference exceeds the sampling error.

    The sampling error is the 95% interval of the difference of two independent proportions.
    """
    if (em := expected_em(record, reference)) is None:
        return ""
    error = math.hypot(*(half_interval(share, record["n_eval"]) for share in (em, record["em"])))
    difference = record["em"] - em
    remark = f" (difference {difference:+.3f}, sampling error ±{error:.3f})"
    return f", expected {em:.3f}" + remark * (abs(difference) > error)


def command_name() -> str:
    """Return "smp" if it is on the PATH, otherwise the command that started this program."""
    if shutil.which("smp"):
        return "smp"
    started = Path(sys.argv[0])
    return "python -m smp" if started.name == "__main__.py" else shown_path(started)


def closing_lines(records: list[dict], reference: list[dict], results: Path, executed: Path,
                  smp: str = "smp") -> list[str]:
    """Return a line for each record, a line for the results folder and a line of next commands."""
    width = max((len(record["label"]) for record in records), default=0)
    lines = [f"{record['label']:{width}}  {result_text(record)}"
             f"{expected_text(record, reference)}" for record in records]
    lines.append(f"{shown_path(results)}/ contains records (*.json), summary.md, models/ and the "
                 f"executed notebooks ({executed.relative_to(results)}/).")
    tries = [f"{smp} table"]
    if records:
        last = records[-1]
        density = "0.1" if last["density_target"] == 0.3 else "0.3"
        model = shlex.quote(shown_path(results / "models" / last["name"]))
        tries += [f"{smp} run --profile {shlex.quote(last['profile'])} --density {density}",
                  f'{smp} ask --model {model} --passage FILE --question "..."']
    return [*lines, "Next: " + "; ".join(tries)]
