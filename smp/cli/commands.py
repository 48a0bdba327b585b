"""The command that repeats a run, computed from its record; commands.md has one for each."""

from dataclasses import asdict
from typing import Any

from smp.cli.parameters import OPTIONS
from smp.runs.methods import sweep_method
from smp.runs.names import group_records, record_label, record_order, with_defaults
from smp.runs.profiles import PROFILES
from smp.runs.settings import MASK_SETTINGS, choose_settings
from smp.runs.tables import group_heading
from smp.text import as_percent, short_name

NOTEBOOK_OF_TASK = {"fine-tune": "finetune", "smp": "smp", "smp-kd": "smp_kd"}
INTRODUCTION = """\
Computed from the records by `make table`. {where} `path/to/squad` is a folder of that name with
SQuAD v1.1's two files (other names make other records; a file's ending is not on record). The
settings are those of the record; the code is today's, and the record says which commit it was.
Where precision was left to the device, each line tells what it came to; `SET="precision=fp32"`
fixes it. On a CPU, `OMP_NUM_THREADS=1 make ...` fixes how many threads share the sums, and so how
these are rounded."""
OF_RUNS = """The fine-tuned models come first, for KD needs one as its teacher. What a run leaves
replaces the record here; with `RESULTS=again` it lies elsewhere, and so does the teacher."""
OF_SWEEPS = """The teacher is made first, by the command of that name beside the notebooks'
records, a soup of several by experiments/soup.py. A sweep does not run again what has a record in
its folder, hence `RESULTS=again`."""


def as_typed(name: str, value: Any) -> str:
    """Return a setting's value as it is typed, "path/to/" before the last part of a path."""
    if name in ("model", "data"):
        known = {profile["common"][name] for profile in PROFILES.values()}
        return value if value in known or "/" in value else f"path/to/{short_name(value)}"
    return value if isinstance(value, str) else f"{value:.12g}"


def changes_of(record: dict) -> dict:
    """Return {setting: value} that turns today's profile of the record into the record's settings.

    Settings that are younger than the record had their defaults' values. Raises ValueError if there
    is no such profile or setting any more.
    """
    if not {"profile", "task"} <= record["settings"].keys():
        raise ValueError("its record does not tell profile and task")
    then = with_defaults(record["settings"])
    profile, task = then.pop("profile"), then.pop("task")
    then.pop("variant", None)  # not a setting, see experiments/variants.py
    of_mask = {name: then[name] for name in MASK_SETTINGS}
    plain = asdict(choose_settings(profile, task))
    base = asdict(choose_settings(profile, task, **of_mask))  # with the preset of the density
    base |= {name: plain[name] for name in of_mask}
    choose_settings(profile, task, **then)
    changes = {name: value for name, value in then.items() if value != base[name]}
    return {name: record[name] if value is None else value for name, value in changes.items()}


def repeat_command(record: dict, of_a_sweep: bool = False) -> str:
    """Return the `make run ...` or `make sweep ...` that repeats a record's run.

    Settings without a variable of their own are in SET. Raises ValueError as `changes_of` does.
    """
    settings, changes = record["settings"], changes_of(record)
    words = ["make", "sweep" if of_a_sweep else "run", f"PROFILE={settings['profile']}"]
    if of_a_sweep:
        changes = {name: changes[name] for name in changes if name not in (*MASK_SETTINGS, "seed")}
        words += [f"VARIANT={settings['variant']}"] if "variant" in settings else []
        words += [f"METHODS={sweep_method(with_defaults(settings))}",
                  f"DENSITIES={as_typed('density', settings['density'])}",
                  f"SEEDS={settings['seed']}", "RESULTS=again"]
    else:
        words.append(f"ONLY={NOTEBOOK_OF_TASK[settings['task']]}")
    own = [name for name in OPTIONS if name in changes]
    words += [f"{name.upper()}={as_typed(name, changes[name])}" for name in own]
    if record["teacher"]:
        words.append(f"TEACHER=results/models/{record['teacher']['name']}")
    rest = [f"{name}={as_typed(name, changes[name])}" for name in changes if name not in own]
    words += [f'SET="{" ".join(rest)}"'] * bool(rest)
    return " ".join(words)


def commands_markdown(records: list[dict], of_a_sweep: bool = False) -> str:
    """Return a block for each table, two lines for each run: its result, and how to repeat it."""
    parts = [INTRODUCTION.format(where=OF_SWEEPS if of_a_sweep else OF_RUNS).replace("\n", " ")]
    for group in group_records(sorted(records, key=record_order)):
        lines = []
        for record in group:
            threads = record.get("threads")  # of a CPU: they decide how sums are rounded
            device = f"{record['device']} {record['precision']}"
            device += f", {threads} thread{'s' * (threads > 1)}" if threads else ""
            label = f"{record_label(record)}, {as_percent(record['density'])}, {device}"
            lines.append(f"# {label}, EM {record['em']:.3f}: {record['name']}.json")
            try:
                lines.append(repeat_command(record, of_a_sweep))
            except ValueError as error:
                lines.append(f"# not with today's code: {error}")
        parts += [group_heading(group[0]), "\n".join(["```sh", *lines, "```"])]
    return "\n\n".join(parts) + "\n"
