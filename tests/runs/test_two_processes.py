"""Two processes at once: one run has one process, and tables are complete."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from records import make_record
from smp.runs import run as run_module
from smp.runs.record import record_json
from smp.runs.run import find_teacher, keep_record, run_checkpoints

TESTS = Path(__file__).parents[1]
IN_CHILDREN = """
import os, sys

def in_children(count, action):
    children = []
    for _ in range(count):
        child = os.fork()
        if not child:
            code = 1
            try:
                action()
                code = 0
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * count
"""
TAKE_TURNS = """
from records import make_record
from smp.runs.run import run_checkpoints

begun, turns = make_record(), [0]

def take_turns():
    while turns[0] < 40:
        try:
            checkpoints = run_checkpoints(begun, sys.argv[1])
        except ValueError as error:
            assert "is being trained by another process (" in str(error)
            continue
        with open(sys.argv[1] + "/alone", "x"):
            turns[0] += 1
        os.remove(sys.argv[1] + "/alone")
        checkpoints.clear()

in_children(3, take_turns)
"""
TABLES = """
import contextlib
from pathlib import Path
from smp.cli import table as module
from smp.cli.main import main

root = Path(sys.argv[1])
module.ROOT, module.REFERENCE = root, root / "results/reference"

def tables():
    for arguments in (["--results", str(root / "results/reference")], ["--reference"]):
        assert main(["table", *arguments]) == 0

with contextlib.redirect_stdout(None):
    in_children(1, tables)
    files = lambda: {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    whole = files()
    in_children(2, tables)
assert len(whole) == 13 and files() == whole, sorted(map(str, files()))
"""


def run_script(source, folder):
    paths = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    done = subprocess.run([sys.executable, "-c", IN_CHILDREN + source, str(folder)],
                          capture_output=True, text=True, env=os.environ | {"PYTHONPATH": paths})
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_run_is_never_in_two_processes(tmp_path):
    """The processes take the lock of one run in turns, as fast as they can."""
    another = tmp_path / "checkpoints" / "of another run"
    another.mkdir(parents=True)
    run_script(TAKE_TURNS, tmp_path)
    assert [*tmp_path.rglob("*")] == [another.parent, another]


def test_tables_of_several_processes_are_complete(tmp_path):
    for folder, method in (("", "smp-l"), ("", "magnitude"), ("sweep", "smp-l"),
                           ("tried", "smp-l")):
        record = make_record(method=method, distill="none")
        path = tmp_path / "results/reference" / folder / f"{record['name']}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(record_json(record))
    (tmp_path / "README.md").write_text("<!-- results -->\n<!-- /results -->\n")
    run_script(TABLES, tmp_path)


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_a_kill_in_keep_record_leaves_no_record_alone(writes, tmp_path, monkeypatch):
    """A sweep skips a run that has a record, so its model must then be a possible teacher."""
    class Kill(BaseException):
        pass

    def killed(*arguments, replace=run_module.replace_text_file):
        if not count:
            raise Kill
        count.pop()
        return replace(*arguments)

    record, count = make_record(method="fine-tuned"), [1] * writes
    model = tmp_path / "models" / record["name"]
    checkpoints = run_checkpoints(record, tmp_path)
    for module in (run_module, sys.modules["smp.runs.record"]):
        monkeypatch.setattr(module, "replace_text_file", killed)
    try:
        keep_record(record, tmp_path, model, checkpoints)
    except Kill:
        checkpoints.clear()
    assert (tmp_path / f"{record['name']}.json").exists() == (writes == 2)
    assert bool(find_teacher(tmp_path, "aaaa", "synthetic")) == (writes > 0)


def test_a_run_removes_its_drafts_that_a_kill_left(tmp_path):
    record, other = make_record(seed=0), make_record(seed=1)
    drafts = [tmp_path / f".{record['name']}.json.7.part",
              tmp_path / "snapshots" / f".{record['name']}.safetensors.7.part",
              tmp_path / "snapshots" / f".{other['name']}.safetensors.7.part"]
    for draft in drafts:
        draft.parent.mkdir(exist_ok=True)
        draft.touch()
    run_checkpoints(record, tmp_path).clear()
    assert [draft.exists() for draft in drafts] == [False, False, True]
