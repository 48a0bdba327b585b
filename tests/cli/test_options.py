"""The options of each verb: their parameters, and one line for a wrong option."""

import io
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import nbformat
import pytest

from smp.cli.main import main
from smp.cli.options import HELP, VERBS, parse, plain_text
from smp.cli.parameters import notebook_parameters, read_files, read_settings, relative_parameters
from smp.cli.paths import NOTEBOOKS
from smp.runs.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
NAMES = [field.name for field in fields(Settings)]

BAD = [
    (["--density=abc"], "--density abc: expected a number"),
    (["--density", "0"], "density is 0.0: expected a number above 0 and at most 1"),
    (["--density=1.5"], "density is 1.5: expected a number above 0 and at most 1"),
    (["--density=nan"], "density is nan: expected a number above 0 and at most 1"),
    (["--epochs=many"], "--epochs many: expected a number"),
    (["--epochs=0"], "epochs is 0.0: expected a number above 0"),
    (["--n-train=1.5"], "--n-train 1.5: expected a whole number"),
    (["--n-train=0"], "n_train is 0: expected a whole number from 1"),
    (["--n-valid=-1"], "n_valid is -1: expected a whole number from 0"),
    (["--n_eval", "x"], "--n-eval x: expected a whole number"),
    (["--threads=0"], "--threads 0: expected 1 or more"),
    (["--threads=x"], "--threads x: expected a whole number"),
    (["--seed", "-1"], "seed is -1: expected a whole number from 0"),
    (["--profile=huge"], "profile is 'huge': expected one of quick, laptop, "),
    (["--method=global"], "--method global: the notebooks run smp-l and smp-s, `smp sweep"),
    (["--method=movement"], "--method movement: the notebooks run smp-l and smp-s, `smp sweep"),
    (["--distill=teacher"], "distill is 'teacher': expected one of none, logits, hidden"),
    (["--distill=none"], "distill is 'none': expected logits or hidden in a run with a teacher"),
    (["--model=./no/such/folder"], "--model ./no/such/folder: no such file or folder"),
    (["--data=questions.json"], "--data questions.json: no such file or folder"),
    (["--teacher=results/models/none"], "--teacher results/models/none: no such file or folder"),
    (["--teacher=squad_teacher.zip"], "--teacher squad_teacher.zip: no such file or folder"),
    (["--results=README.md"], "--results README.md: "),
    (["--checkpoints=README.md"], "--checkpoints README.md: "),
    (["--only=everything"], "invalid choice 'everything' for argument '--only'. Expected one of "
                            "('finetune', 'smp', 'smp_kd')"),
    (["--only", "smp", "kd"], "invalid choice 'kd' for argument '--only'"),
    (["--head", "none"], "head is 'none': expected one of auto, label words, "),
    (["--head"], "Missing value for argument '--head'"),
    (["--learning-rate=1e999"], "learning_rate is inf: expected a number below 4294967296"),
    (["everything"], "Unrecognized options: everything"),
    (["--densty=0.1"], "unknown option --densty: did you mean --density?"),
    (["--densty", "0.1"], "unknown option --densty: did you mean --density?"),
    (["--n_trian", "9"], "unknown option --n-trian: did you mean --n-train?"),
    (["--kd-weight=1"], "unknown option --kd-weight: did you mean --distill-weight?"),
    (["--set", "head=none"], "unknown option --set"),
    (["--xyz"], "unknown option --xyz: `smp run --help` lists the options"),
    (["--epochs=2", "-x"], "unknown option -x: `smp run --help` lists the options"),
]


def exit_code(arguments):
    """Return the exit code of the process."""
    try:
        return main(arguments)
    except SystemExit as stopped:
        return stopped.code


@pytest.mark.parametrize("arguments, message", BAD, ids=[" ".join(bad[0]) for bad in BAD])
def test_a_wrong_value_prints_one_line(tmp_path, monkeypatch, capfd, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").touch()
    assert exit_code(["run", *arguments]) == 2
    shown = capfd.readouterr()
    assert shown.out == "" and re.fullmatch(r"run: [^\n]+\n", shown.err)
    assert shown.err.startswith(f"run: {message}")
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


@pytest.mark.parametrize("arguments, message", [
    (["export", "--bst", "r"], "export: unknown option --bst: did you mean --best?"),
    (["authors", "--mdel=x"], "authors: unknown option --mdel: did you mean --model?"),
    (["table", "--referenc"], "table: unknown option --referenc: did you mean --reference?"),
    (["sweep", "--speed=9"], "sweep: unknown option --speed: did you mean --seed?"),
    (["sweep", "--densities", "0.5", "x"], "sweep: --densities 0.5 x: expected a number"),
    (["sweep", "--seeds", "a"], "sweep: --seeds a: expected a whole number"),
    (["repeat"], "repeat: Missing from smp repeat: STR Record, a .json file. (required)"),
    (["ask", "--passage=x"], "ask: Missing from smp ask: --model STR "),
    (["runn"], "smp: unknown verb 'runn': did you mean run? Known: " + ", ".join(VERBS)),
    (["shp"], "smp: unknown verb 'shp': did you mean "),
    (["--profile=quick"], "smp: unknown verb '--profile=quick': did you mean "),
])
def test_a_wrong_verb_or_option_prints_one_line(arguments, message, capfd):
    assert exit_code(arguments) == 2
    shown = capfd.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1 and shown.err.startswith(message)


@pytest.mark.parametrize("arguments, message", [
    (["--densty=0.1"], "run: unknown option --densty: did you mean --density?\n"),
    (["--n-train=x"], "run: --n-train x: expected a whole number\n"),
    (["--only=x"], "run: invalid choice 'x' for argument '--only'. Expected one of "),
])
@pytest.mark.parametrize("output", ["colours", "ascii", "narrow"])
def test_the_line_is_the_same_on_each_terminal(output, arguments, message, monkeypatch, capsys):
    """tyro adapts its boxes to the terminal: coloured, without borders, or wrapped."""
    if output == "colours":
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    elif output == "ascii":
        monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), "ascii"))
    else:
        monkeypatch.setenv("COLUMNS", "40")
    assert exit_code(["run", *arguments]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(message) and shown.count("\n") == 1


def test_wrong_values_import_no_slow_package():
    slow = "torch", "transformers", "datasets", "papermill", "matplotlib"
    code = ("import sys; from smp.__main__ import main; code = main(['run', '--density=7']); "
            f"print(code, [name for name in {slow} if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "2 []\n" and done.stderr.startswith("run: density is 7.0: expected")


def test_threads_are_those_of_torch_in_a_new_process():
    code = ("from smp.cli.main import limit_threads; limit_threads(1); import torch; "
            "print(torch.get_num_threads())")
    environment = {name: value for name, value in os.environ.items() if "NUM_THREADS" not in name}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
                          env=environment)
    assert done.stdout == "1\n"


def test_no_verb_prints_the_verbs_and_returns_2(capsys):
    for arguments, code in (([], 2), (["--help"], 0), (["-h"], 0)):
        assert exit_code(arguments) == code
        shown = capsys.readouterr()
        assert re.findall(r"^  (\w+) ", shown.out, re.MULTILINE) == [*VERBS] and shown.err == ""


@pytest.mark.parametrize("verb", ["run", "sweep"])
def test_every_setting_is_an_option_with_its_comment(verb, capsys):
    assert HELP.keys() == set(NAMES) and exit_code([verb, "--help"]) == 0
    shown = " ".join(plain_text(capsys.readouterr().out).split())
    for name in NAMES:
        option = "--" + name.replace("_", "-")
        option += f", --no-{option[2:]}" if name == "init_head_from_teacher" else " (STR|INT|FLOAT)"
        assert len(re.findall(f"{option} {re.escape(HELP[name])}", shown)) == 1, name


def test_only_given_options_are_passed_on_with_their_type():
    verb, options = parse(["run", "--n-train", "20", "--epochs", "2", "--density=0.5",
                           "--method", "smp-s", "--bias_norm_learning_rate=1e-3",
                           "--head", "label words", "--only", "smp", "finetune"])
    assert verb == "run" and options.only == ("smp", "finetune")
    given = {name: value for name, value in vars(options.settings).items() if value is not None}
    assert given == {"n_train": 20, "epochs": 2.0, "density": 0.5, "method": "smp-s",
                     "bias_norm_learning_rate": 0.001, "head": "label words"}
    assert [type(given[name]) for name in ("n_train", "epochs", "density")] == [int, float, float]
    assert vars(options.settings).keys() == set(NAMES)
    assert set(vars(options.files).values()) == {None}


def test_a_boolean_setting_is_a_flag():
    for argument, value in (("--init-head-from-teacher", True),
                            ("--no-init-head-from-teacher", False)):
        assert parse(["run", argument])[1].settings.init_head_from_teacher is value
    assert parse(["run"])[1].settings.init_head_from_teacher is None


def parameters(*arguments):
    """Return the notebook parameters of a command line."""
    options = parse(["run", *arguments])[1]
    return notebook_parameters(read_settings(options.settings), read_files(options.files))


def test_the_default_profile_is_quick_also_with_a_gpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert parameters() == {"PROFILE": "quick"}
    assert parameters("--profile=paper") == {"PROFILE": "paper"}


def test_settings_without_a_parameter_are_in_set():
    given = parameters("--profile=quick", "--batch-size=16", "--head=label words", "--density=0.2",
                       "--distill=hidden", "--no-init-head-from-teacher")
    assert given == {"PROFILE": "quick", "DENSITY": 0.2, "DISTILL": "hidden",
                     "SET": {"batch_size": 16, "head": "label words",
                             "init_head_from_teacher": False}}
    assert relative_parameters(Path("somewhere"), given) == given


def test_every_parameter_is_one_of_the_notebooks(tmp_path):
    given = parameters("--profile=quick", "--model=a", "--data=b", "--n-train=1", "--n-valid=1",
                       "--n-eval=1", "--epochs=1", "--method=smp-s", "--distill=hidden",
                       "--density=0.2", "--seed=1", "--stride=1", f"--results={tmp_path}",
                       f"--checkpoints={tmp_path}", f"--teacher={tmp_path}")
    notebook = nbformat.read(ROOT / NOTEBOOKS["smp_kd"], as_version=4)
    (cell,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    assert given.keys() == set(re.findall(r"^([A-Z_]+) =", cell.source, re.MULTILINE))


def test_paths_become_absolute_and_names_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my model").mkdir()
    (tmp_path / "squad.json").touch()
    (tmp_path / "teacher.zip").touch()
    (tmp_path / "synthetic").mkdir()  # --data=synthetic is not this folder
    given = parameters("--profile=quick", "--model=my model", "--data", "squad.json",
                       "--teacher=teacher.zip", "--results=new/folder")
    assert given.pop("PROFILE") == "quick" and given == {
                     "MODEL": str(tmp_path / "my model"), "DATA": str(tmp_path / "squad.json"),
                     "TEACHER": str(tmp_path / "teacher.zip"),
                     "RESULTS": str(tmp_path / "new/folder")}
    folder = tmp_path / "Static_Model_Pruning"  # a shared copy contains no path of this machine
    assert relative_parameters(folder, given)["DATA"] == os.path.join("..", "squad.json")
    names = parameters("--profile=quick", "--model=google-bert/bert-base-uncased",
                       "--data=synthetic")
    assert relative_parameters(folder, names) == names == {
        "PROFILE": "quick", "MODEL": "google-bert/bert-base-uncased", "DATA": "synthetic"}
