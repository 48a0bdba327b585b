"""The command in commands.md repeats the settings of its record."""

import shlex
from dataclasses import asdict
from pathlib import Path

import pytest

from experiments.variants import VARIANTS
from smp.cli import main as command_line
from smp.cli.commands import changes_of, commands_markdown, repeat_command
from smp.cli.parameters import read_parameters
from smp.cli.sweep import plan_sweep
from smp.runs.read import read_records
from smp.runs.settings import SETTING_DEFAULTS, choose_settings
from smp.text import short_name

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {"results": False, "results/sweep": True, "results/tried/sweep": True}
TASKS = {"finetune": "fine-tune", "smp": "smp", "smp_kd": "smp-kd"}


def options_of(command, monkeypatch):
    """The parsed options of a `make` command, as the Makefile passes them on."""
    make, verb, *words = shlex.split(command)
    assert make == "make"
    arguments = [verb]
    for word in words:
        name, _, value = word.partition("=")
        if name == "VARIANT":  # of the code: `make sweep` runs another module with it
            assert verb == "sweep" and value in VARIANTS
            continue
        split = name in ("SET", "METHODS", "DENSITIES", "SEEDS", "ONLY")  # not quoted there
        arguments += ["--" + name.lower().replace("_", "-"), *(value.split() if split else [value])]
    seen = []
    monkeypatch.setattr(command_line, "run_verb", lambda options: seen.append(options) or 0)
    assert command_line.main(arguments) == 0
    assert seen[0].verb == verb
    return seen[0]


def settings_of(command, monkeypatch):
    """The settings of the run that a command makes."""
    options = options_of(command, monkeypatch)
    given = {name.lower(): value for name, value in read_parameters(options).items()}
    profile, more = given.pop("profile"), given.pop("set", {})
    given = {name: value for name, value in given.items() if name not in ("teacher", "results")}
    if options.verb == "run":
        (notebook,) = options.only
        return choose_settings(profile, TASKS[notebook], **given, **more)
    numbers = {"densities": map(float, options.densities), "seeds": map(int, options.seeds)}
    (run,) = plan_sweep(profile, options.methods, **numbers, **given, **more)
    return run


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_command_makes_the_settings_of_its_record_again(folder, tmp_path, monkeypatch):
    records = read_records(ROOT / folder)
    monkeypatch.chdir(tmp_path)
    for record in records:
        Path("path/to", short_name(record["data"])).mkdir(parents=True, exist_ok=True)
        if record["teacher"]:
            Path("results/models", record["teacher"]["name"]).mkdir(parents=True, exist_ok=True)
        command = repeat_command(record, FOLDERS[folder])
        made = asdict(settings_of(command, monkeypatch))
        wanted = SETTING_DEFAULTS | record["settings"]
        for name in ("model", "data"):
            made[name] = short_name(made[name])
        counts = {name: record[name] for name in ("n_train", "n_eval") if wanted[name] is None
                  and made[name] is not None}
        assert ("VARIANT=" in command) == (wanted.pop("variant", None) is not None)
        assert made == wanted | counts, record["name"]
        assert ("TEACHER=" in command) == bool(record["teacher"])


def a_record(profile="quick", task="smp", **changes):
    settings = asdict(choose_settings(profile, task, **changes))
    return {"settings": settings, "teacher": None, "n_train": 7, "n_eval": 5}


@pytest.mark.parametrize("task, changes", [
    ("smp", {"model": "owner/name", "data": "almanac", "epochs": 2.5}),
    ("smp", {"head": "label words", "learning_rate": 0.06}),  # a value that the shell splits
    ("smp-kd", {"density": 0.03, "sharing": "shared", "seed": 4}),  # brings its preset along
    ("fine-tune", {"learning_rate": 1e-5, "precision": "fp32"}),
])
def test_whatever_is_changed_is_in_the_command(task, changes, monkeypatch):
    for profile in ("quick", "paper"):
        command = repeat_command(a_record(profile, task, **changes))
        assert settings_of(command, monkeypatch) == choose_settings(profile, task, **changes)


def test_nothing_changed_is_the_profile_alone():
    assert changes_of(a_record()) == {}
    assert repeat_command(a_record()) == "make run PROFILE=quick ONLY=smp"


def test_commands_name_what_the_code_cannot_repeat():
    record = next(one for one in read_records(ROOT / "results") if one["profile"] == "quick")
    for settings, said in (
        ({"profile": "gone"}, "PROFILE='gone': expected one of"),
        ({"gone": 1}, "unknown setting 'gone'"),
        ({"density": 2.0}, "DENSITY=2.0"),
    ):
        text = commands_markdown([record | {"settings": record["settings"] | settings}])
        assert f"# not with today's code: {said}" in text and "\nmake" not in text
    text = commands_markdown([record | {"settings": {}}])
    assert "# not with today's code: its record does not tell" in text


@pytest.mark.parametrize("device, threads, said", [
    ("cpu", 1, "cpu bf16, 1 thread, EM"), ("cpu", 2, "cpu bf16, 2 threads, EM"),
    ("cpu", None, "cpu bf16, EM"), ("cuda", None, "cuda bf16, EM"),
])
def test_commands_name_the_threads_of_a_cpu(device, threads, said):
    record = next(one for one in read_records(ROOT / "results") if one["profile"] == "quick")
    record = record | {"device": device, "precision": "bf16", "threads": threads}
    assert said in commands_markdown([record])


@pytest.mark.parametrize("folder", FOLDERS)
def test_committed_commands_match_the_committed_records(folder):
    records = read_records(ROOT / folder)
    text = (ROOT / folder / "commands.md").read_text("utf-8")
    assert text == commands_markdown(records, FOLDERS[folder]), "make table"
