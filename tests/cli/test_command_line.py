"""`python -m smp`: wrong values, the terminal, and the files that a failed run leaves."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from smp.cli.main import main
from smp.cli.notebooks import Screen, terminal_text
from smp.cli.parameters import OPTIONS, read_parameters, relative_parameters

ROOT = Path(__file__).resolve().parents[2]


BAD = [
    (["--density=abc"], "DENSITY='abc'"),
    (["--density=0"], "DENSITY=0"),
    (["--density=1.5"], "DENSITY=1.5"),
    (["--density=nan"], "DENSITY=nan"),
    (["--epochs=many"], "EPOCHS='many'"),
    (["--epochs=0"], "EPOCHS=0"),
    (["--n-train=1.5"], "N_TRAIN='1.5'"),
    (["--n-train=0"], "N_TRAIN=0"),
    (["--n-valid=-1"], "N_VALID=-1"),
    (["--n-eval=x"], "N_EVAL='x'"),
    (["--seed=-1"], "SEED=-1"),
    (["--profile=huge"], "PROFILE='huge'"),
    (["--sharing=global"], "SHARING='global'"),
    (["--model=./no/such/folder"], "MODEL='./no/such/folder'"),
    (["--data=questions.json"], "DATA='questions.json'"),
    (["--teacher=results/models/none"], "TEACHER='results/models/none'"),
    (["--teacher=squad_teacher.zip"], "TEACHER='squad_teacher.zip'"),
    (["--results=README.md"], "RESULTS='README.md'"),
    (["--only=everything"], "everything"),
    (["--checkpoints=README.md"], "CHECKPOINTS='README.md'"),
    (["--set", "head"], "SET='head': expected NAME=VALUE"),
    (["--set", "head=none"], "HEAD='none'"),
    (["--set", "epochs=3"], "SET='epochs=3': expected EPOCHS=3"),
    (["--densty=0.1"], "--densty=0.1"),
]


@pytest.mark.parametrize("arguments, named", BAD, ids=[bad[0][0] for bad in BAD])
def test_a_wrong_value_is_one_line(tmp_path, monkeypatch, capfd, arguments, named):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").touch()
    try:
        code = main(["run", *arguments])
    except SystemExit as stopped:  # argparse
        code = stopped.code
    shown = capfd.readouterr()
    assert code == 2 and shown.out == ""
    assert re.fullmatch(r"(run|smp): [^\n]+\n", shown.err) and named in shown.err
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_wrong_values_import_no_slow_package():
    slow = "torch", "transformers", "datasets", "papermill", "matplotlib"
    code = ("import sys; from smp.__main__ import main; code = main(['run', '--density=7']); "
            f"print(code, [name for name in {slow} if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "2 []\n" and done.stderr.startswith("run: DENSITY=7: expected")


def read(*arguments):
    options = {name: None for name in OPTIONS} | dict(arguments)
    return read_parameters(type("Options", (), options))


def test_only_what_was_given_is_passed_on_with_its_type():
    assert read(("profile", "paper")) == {"PROFILE": "paper"}
    assert read()["PROFILE"] in ("quick", "squad")  # without and with a GPU; names a folder
    given = read(("profile", "quick"), ("n_train", "20"), ("epochs", "2"), ("density", "0.5"),
                 ("sharing", "shared"))
    assert given == {"N_TRAIN": 20, "EPOCHS": 2, "DENSITY": 0.5, "SHARING": "shared",
                     "PROFILE": "quick"}
    assert [type(given[name]) for name in ("N_TRAIN", "EPOCHS", "DENSITY")] == [int, int, float]


@pytest.mark.parametrize("words", [
    ["batch_size=16", "head=label words"], ["batch_size=16 head=label words"],
    ["batch_size=16", "head=label", "words"],
])
def test_set_reaches_the_notebooks_however_it_is_quoted(words):
    given = read(("profile", "quick"), ("set", words))
    assert given == {"PROFILE": "quick", "SET": {"batch_size": 16, "head": "label words"}}
    assert relative_parameters("somewhere", given) == given


def test_paths_become_absolute_and_names_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my model").mkdir()
    (tmp_path / "squad.json").touch()
    (tmp_path / "teacher.zip").touch()
    (tmp_path / "almanac").mkdir()  # not what DATA=almanac means
    given = read(("profile", "quick"), ("model", "my model"), ("data", "squad.json"),
                 ("teacher", "teacher.zip"), ("results", "new/folder"))
    assert given.pop("PROFILE") == "quick" and given == {
                     "MODEL": str(tmp_path / "my model"), "DATA": str(tmp_path / "squad.json"),
                     "TEACHER": str(tmp_path / "teacher.zip"),
                     "RESULTS": str(tmp_path / "new/folder")}
    folder = tmp_path / "Static_Model_Pruning"  # and a shared copy shows no path of this machine
    assert relative_parameters(folder, given)["DATA"] == os.path.join("..", "squad.json")
    names = read(("profile", "quick"), ("model", "google-bert/bert-base-uncased"),
                 ("data", "almanac"))
    assert relative_parameters(folder, names) == names == {
        "PROFILE": "quick", "MODEL": "google-bert/bert-base-uncased", "DATA": "almanac"}


def test_terminal_text_is_the_final_screen():
    up = "\x1b[A"
    text = f"\rtrain:  5%\n\reval: 10%{up}\n\reval: 99%{up}\n\r         {up}\rtrain: 100%\ndone\n"
    assert terminal_text(text) == "train: 100%\ndone\n"
    assert terminal_text("plain\n  text\n") == "plain\n  text\n"


def test_a_terminal_shows_bars_in_place_and_the_position(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    screen = Screen(total=3)
    printed, bars = (screen.stream_named(name).write for name in ("stdout", "stderr"))
    screen.cell_started(nbformat.v4.new_markdown_cell("## Training\n\nLong."), 0)
    screen.cell_started(nbformat.v4.new_code_cell("train()"), 1)
    bars("\rtrain:  50%")
    bars("\rtrain: 100%")
    printed("8 steps\n")  # before the bar's own line end has come
    bars("\n")
    screen.cell_started(nbformat.v4.new_code_cell("evaluate()"), 2)
    bars("\revaluating")
    bars("\r          ")
    printed("EM 0.5\n")
    bars("\r")
    shown = capsys.readouterr().out
    assert "cell 2 of 3  Training" in shown and shown.index("cell 2") < shown.index("50%")
    screen_now = terminal_text(shown.replace("\x1b[K", " " * 79 + "\r"))
    assert screen_now.split("\n") == ["train: 100%", "8 steps", "EM 0.5", ""]


# Three notebooks of a few lines, run for real

FIRST = """\
import json, os, pathlib, sys, time
from tqdm.auto import tqdm
print("first sees", DENSITY, pathlib.Path.cwd().name)
for i in tqdm(range(3), desc="train"):
    for j in tqdm(range(2), desc="eval", leave=False):
        time.sleep(0.05)
pathlib.Path("python.json").write_text(json.dumps(sys.executable))
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A clone, in a folder with an awkward name, whose notebooks have a few lines each."""
    root = tmp_path / "a {clone} of it"
    write_notebook(root / "BERT_FINETUNE_QA.ipynb", FIRST)
    for name in ("BERT_SMP", "BERT_SMP_KD"):
        write_notebook(root / f"Static_Model_Pruning/{name}.ipynb", f'print("{name}", DENSITY)')
    shutil.copytree(ROOT / "smp", root / "smp", ignore=shutil.ignore_patterns("__pycache__"))
    return root


def write_notebook(path, source):
    new = nbformat.v4
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new.new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3",
                                 "language": "python"}},
        cells=[new.new_markdown_cell("## Parameters"),
               new.new_code_cell("DENSITY = None", metadata={"tags": ["parameters"]}),
               new.new_code_cell(source)],
    ), path)


def run_in(project, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "smp", "run", "--profile=quick", *arguments], cwd=project,
        capture_output=True, text=True, timeout=600, env={**os.environ, **environment},
    )


def test_run_executes_the_notebooks_and_prints_the_table(project):
    # A kernel that is called python3 too, in the user's own folders, must not be the one.
    user = project / "user"
    for folder in ("data", "path"):
        kernel = user / folder / "kernels/python3"
        kernel.mkdir(parents=True)
        (kernel / "kernel.json").write_text(json.dumps(
            {"argv": ["false"], "display_name": "another", "language": "python"}))
    done = run_in(project, "--density=0.25", JUPYTER_DATA_DIR=str(user / "data"),
                  JUPYTER_PATH=str(user / "path"), JUPYTER_PREFER_ENV_PATH="0")
    # libzmq may complain about its own shutdown on a busy machine; the project says nothing
    said = [line for line in done.stderr.splitlines() if "src/signaler.cpp" not in line]
    assert done.returncode == 0 and said == []
    lines = done.stdout.splitlines()
    heads = [line for line in lines if line.startswith("[")]
    assert heads == ["[1/3] BERT_FINETUNE_QA.ipynb", "[2/3] BERT_SMP.ipynb",
                     "[3/3] BERT_SMP_KD.ipynb"]
    assert f"first sees 0.25 {project.name}" in lines and "BERT_SMP_KD 0.25" in lines
    end = next(i for i, line in enumerate(lines) if re.fullmatch(r"[\d.]+ minutes in all", line))
    assert lines[end + 2].startswith("Nothing was measured yet")  # then the table of all records
    assert json.loads((project / "python.json").read_text()) == sys.executable
    copies = sorted(path.name for path in (project / "results/executed/quick").iterdir())
    assert copies == ["BERT_FINETUNE_QA.ipynb", "BERT_SMP.ipynb", "BERT_SMP_KD.ipynb"]
    text = (project / "results/executed/quick/BERT_FINETUNE_QA.ipynb").read_text()
    assert str(project) not in text and "papermill" not in text  # no paths of this machine
    copy = nbformat.reads(text, as_version=4)
    nbformat.validate(copy)
    bars = [output.text.strip() for output in copy.cells[-1].outputs
            if output.get("name") == "stderr"]
    assert len(bars) == 1 and bars[0].startswith("train: 100%") and "\n" not in bars[0]


def test_a_failed_notebook_is_one_line_and_keeps_the_old_copy(project):
    write_notebook(project / "Static_Model_Pruning/BERT_SMP.ipynb",
                   "raise ValueError('much\\nDENSITY is odd')")
    executed = project / "results/executed/quick"
    executed.mkdir(parents=True)
    (executed / "BERT_SMP.ipynb").write_text("earlier")
    done = run_in(project, "--only", "smp", "smp_kd")
    assert done.returncode == 1
    failed = executed / "BERT_SMP.failed.ipynb"
    assert done.stderr == ("BERT_SMP.ipynb stopped: ValueError: DENSITY is odd "
                           f"(so far: {failed.relative_to(project)})\n")
    assert "[1/2] BERT_SMP.ipynb" in done.stdout and "BERT_SMP_KD" not in done.stdout
    assert (executed / "BERT_SMP.ipynb").read_text() == "earlier"
    assert "DENSITY is odd" in failed.read_text()


def test_a_kernel_that_dies_is_one_line(project):
    write_notebook(project / "BERT_FINETUNE_QA.ipynb", "import os\nos._exit(9)")
    done = run_in(project, "--only", "finetune")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("BERT_FINETUNE_QA.ipynb stopped: its Python process died")


def test_ctrl_c_is_one_line_and_leaves_no_partial_file(project):
    write_notebook(project / "BERT_FINETUNE_QA.ipynb",
                   "import pathlib, time\npathlib.Path('started').touch()\ntime.sleep(100)")
    process = subprocess.Popen(
        [sys.executable, "-m", "smp", "run", "--profile=quick", "--only", "finetune"], cwd=project,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # a shell that starts the tests in the background has them ignore Ctrl-C: a user's does not
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    deadline = time.monotonic() + 600
    while not (project / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 130
    assert errors.strip() == "run: interrupted; BERT_FINETUNE_QA.ipynb left no executed copy"
    assert list((project / "results/executed/quick").iterdir()) == []


def test_a_missing_notebook_is_one_line_before_any_run(project):
    (project / "Static_Model_Pruning/BERT_SMP_KD.ipynb").unlink()
    done = run_in(project)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "run: BERT_SMP_KD.ipynb is missing: `make notebooks` builds it\n"
