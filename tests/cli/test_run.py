"""`smp run` with notebooks of a few lines: its output, and the files after a failure."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from records import make_record
from smp.cli.notebooks import error_line, run_notebook
from smp.runs.record import record_json

ROOT = Path(__file__).resolve().parents[2]
RECORDS = {name: make_record(method=method, distill=distill, em=em)
           for name, method, distill, em in (
               ("BERT_FINETUNE_QA", "fine-tuned", "none", 0.9),
               ("BERT_SMP", "smp-l", "none", 0.4), ("BERT_SMP_KD", "smp-l", "logits", 0.8))}

# Prints a bar, a warning, and the line that names the record, as the project's notebooks do.
SOURCE = """\
import json, logging, os, pathlib, sys, time, warnings
from tqdm import tqdm
print("density", DENSITY, pathlib.Path.cwd().name)
results = pathlib.Path(RESULTS or "results")
for i in tqdm(range(3), desc="train", unit=" steps", file=sys.stdout):
    for j in tqdm(range(2), desc="eval", leave=False, file=sys.stdout):
        time.sleep(0.05)
logging.getLogger("tornado.general").error("a socket of the kernel is closed")
warnings.warn("something is odd")
pathlib.Path("seen.json").write_text(json.dumps(
    [sys.executable, DENSITY, os.getcwd(), os.environ.get("OMP_NUM_THREADS")]))
if pathlib.Path("records.json").exists():
    name, text = json.loads(pathlib.Path("records.json").read_text())["NOTEBOOK"]
    results.joinpath(name + ".json").write_text(text)
    print(f"record: {name}.json")
"""


def write_notebook(path, source):
    new = nbformat.v4
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [new.new_markdown_cell("## Parameters"),
             new.new_code_cell("DENSITY = None\nRESULTS = None", metadata={"tags": ["parameters"]}),
             new.new_code_cell(source)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(new.new_notebook(metadata={"kernelspec": kernel}, cells=cells), path)


def write_project(root, packaged=False):
    """Write a clone, or an installed package, whose notebooks have a few lines each."""
    shutil.copytree(ROOT / "smp", root / "smp", ignore=shutil.ignore_patterns("__pycache__"))
    for name in RECORDS:
        folder = "smp/notebooks" if packaged else (
            "" if name == "BERT_FINETUNE_QA" else "Static_Model_Pruning")
        write_notebook(root / folder / f"{name}.ipynb", SOURCE.replace("NOTEBOOK", name))
    return root


@pytest.fixture
def project(tmp_path):
    """Return a clone in a folder with braces and spaces in its name."""
    root = write_project(tmp_path / "a {clone} of it")
    (root / "results").mkdir()
    return root


def write_records(folder):
    """Let the notebooks that run in the folder write RECORDS."""
    texts = {name: (record["name"], record_json(record)) for name, record in RECORDS.items()}
    (folder / "records.json").write_text(json.dumps(texts))


def run_in(folder, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "smp", "run", "--profile=quick", *arguments], cwd=folder,
        capture_output=True, text=True, timeout=600, env={**os.environ, **environment})


def stderr_lines(done):
    # libzmq may print an error about its own shutdown on a busy machine
    return [line for line in done.stderr.splitlines() if "src/signaler.cpp" not in line]


def test_run_prints_under_40_lines_and_ends_with_5(project):
    # A kernel named python3 in the user's own folders must not run.
    user = project / "user"
    for folder in ("data", "path"):
        kernel = user / folder / "kernels/python3"
        kernel.mkdir(parents=True)
        (kernel / "kernel.json").write_text(json.dumps(
            {"argv": ["false"], "display_name": "another", "language": "python"}))
    write_records(project)
    (project / "results/reference").mkdir()
    expected = RECORDS["BERT_SMP"] | {"em": 0.5}
    (project / f"results/reference/{expected['name']}.json").write_text(record_json(expected))
    done = run_in(project, "--density=0.25", "--threads=3", JUPYTER_DATA_DIR=str(user / "data"),
                  JUPYTER_PATH=str(user / "path"), JUPYTER_PREFER_ENV_PATH="0")
    assert done.returncode == 0 and stderr_lines(done) == []
    lines = done.stdout.splitlines()
    assert len(lines) <= 40 and "\r" not in done.stdout
    assert lines[0].startswith("Profile quick: all-MiniLM-L6-v2 on synthetic, 2,000 training")
    assert any("smp run --profile squad" in line for line in lines[:8])
    heads = [line for line in lines if line.startswith("[")]
    assert heads == ["[1/3] BERT_FINETUNE_QA.ipynb", "[2/3] BERT_SMP.ipynb",
                     "[3/3] BERT_SMP_KD.ipynb"]
    assert lines.count("      UserWarning: something is odd") == 3
    assert lines[-6] == "" and lines[-5].startswith("fine-tuned  EM 0.900 at 100% remaining")
    assert "EM 0.400 at 50% remaining weights, expected 0.500" in lines[-4]
    assert "EM 0.800" in lines[-3] and "expected" not in lines[-3]
    assert lines[-2].startswith("results/ contains") and "smp table;" in lines[-1]
    assert "| SMP-L" in (project / "results/summary.md").read_text()
    seen = json.loads((project / "seen.json").read_text())
    assert seen == [sys.executable, 0.25, str(project), "3"]
    copies = sorted(path.name for path in (project / "results/executed/quick").iterdir())
    assert copies == ["BERT_FINETUNE_QA.ipynb", "BERT_SMP.ipynb", "BERT_SMP_KD.ipynb"]
    text = (project / "results/executed/quick/BERT_FINETUNE_QA.ipynb").read_text()
    assert not any(word in text for word in (str(project), "papermill", "ipykernel_", sys.prefix))
    copy = nbformat.reads(text, as_version=4)
    nbformat.validate(copy)
    stdout = [o.text.strip() for o in copy.cells[-1].outputs if o.get("name") == "stdout"]
    assert any(line.startswith("train: 100%") for line in stdout[0].splitlines())
    stderr = [o.text.strip() for o in copy.cells[-1].outputs if o.get("name") == "stderr"]
    assert len(stderr[0].splitlines()) == 2  # a warning


def test_installed_notebooks_run_in_the_current_folder(tmp_path):
    package, here = write_project(tmp_path / "site-packages", packaged=True), tmp_path / "here"
    here.mkdir()
    done = run_in(here, "--only", "smp", PYTHONPATH=str(package))
    assert done.returncode == 0 and stderr_lines(done) == []
    assert json.loads((here / "seen.json").read_text())[2] == str(here)
    assert (here / "results/executed/quick/BERT_SMP.ipynb").is_file()
    assert sorted(path.name for path in here.iterdir()) == ["results", "seen.json"]
    assert not (package / "results").exists()


def test_a_failed_notebook_prints_one_line_and_keeps_old_copy(project):
    write_notebook(project / "Static_Model_Pruning/BERT_SMP.ipynb",
                   "raise ValueError('much\\nDENSITY is odd')")
    executed = project / "results/executed/quick"
    executed.mkdir(parents=True)
    (executed / "BERT_SMP.ipynb").write_text("earlier")
    done = run_in(project, "--only", "smp", "smp_kd")
    assert done.returncode == 1
    failed = executed / "BERT_SMP.failed.ipynb"
    assert stderr_lines(done) == ["BERT_SMP.ipynb failed: ValueError: DENSITY is odd "
                                  f"(outputs until then: {failed.relative_to(project)})"]
    assert "[1/2] BERT_SMP.ipynb" in done.stdout and "BERT_SMP_KD" not in done.stdout
    assert (executed / "BERT_SMP.ipynb").read_text() == "earlier"
    assert "DENSITY is odd" in failed.read_text()


def test_a_dead_kernel_prints_one_line(project):
    write_notebook(project / "BERT_FINETUNE_QA.ipynb", "import os\nos._exit(9)")
    done = run_in(project, "--only", "finetune")
    assert done.returncode == 1 and len(stderr_lines(done)) == 1
    assert "BERT_FINETUNE_QA.ipynb failed: Kernel died, possibly out of memory." in done.stderr


@pytest.mark.parametrize("name, code", [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_prints_one_line_and_removes_files_and_kernel(project, name, code):
    write_notebook(project / "BERT_FINETUNE_QA.ipynb",
                   "import os, pathlib, time\npathlib.Path('draft').write_text(str(os.getpid()))\n"
                   "os.replace('draft', 'started')\ntime.sleep(100)")
    process = subprocess.Popen(
        [sys.executable, "-m", "smp", "run", "--profile=quick", "--only", "finetune"], cwd=project,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # a shell that starts the tests in the background makes them ignore Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    deadline = time.monotonic() + 600
    while not (project / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(getattr(signal, name))
    _, errors = process.communicate(timeout=600)
    assert process.returncode == code
    assert errors.strip() == ("run: interrupted; BERT_FINETUNE_QA.ipynb left no executed copy; the "
                              "same command resumes its training")
    assert list((project / "results/executed/quick").iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.kill(int((project / "started").read_text()), 0)


def test_a_full_disk_keeps_the_old_copy_and_no_draft(tmp_path, monkeypatch):
    (tmp_path / "BERT_SMP.ipynb").write_text("earlier")

    def execute(path, copy, parameters, screen):
        copy.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("smp.cli.notebooks.execute", execute)
    with pytest.raises(OSError) as raised:
        run_notebook(Path("BERT_SMP.ipynb"), tmp_path, {})
    assert error_line(raised.value) == "OSError: [Errno 28] No space left on device"
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [
        ("BERT_SMP.ipynb", "earlier")]


def test_a_missing_notebook_prints_one_line_before_any_run(project):
    path = project / "Static_Model_Pruning/BERT_SMP_KD.ipynb"
    path.unlink()
    done = run_in(project)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == f"run: {path} is missing: build it with `make notebooks`\n"
