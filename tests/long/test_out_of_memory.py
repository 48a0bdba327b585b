"""A run without memory ends with one line, and the same command then continues it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import BertForQuestionAnswering

from helpers import tiny_config
from records import record_without_times

ROOT = Path(__file__).parents[2]
# The limit is the size of the process when the stage begins. Blocks then fill all its free memory.
SCRIPT = """
import json, os, resource, sys
from pathlib import Path
import torch
import smp.cli.sweep
from smp.cli.main import main
from smp.runs import checkpoint, teaching, training

STAGES = {"none": None, "train": (training.Watch, "masked", 4),
          "checkpoint": (checkpoint.Checkpoints, "keep", 4),
          "evaluate": (teaching, "evaluate_answers", 1), "save": (teaching, "save_model", 1)}
folder, *arguments = sys.argv[1:]
checkpoint.Checkpoints.due = lambda self: True

def fill():
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    blocks = []
    for block in (1 << 20, 1 << 16):
        try:
            while True:
                blocks.append(bytearray(block))
        except MemoryError:
            pass
    fill.blocks = blocks[:-4]

def exhaust(owner, name, calls):
    act = getattr(owner, name)
    def acting(*given, **named):
        nonlocal calls
        calls -= 1
        if calls == 0:
            fill()
        return act(*given, **named)
    setattr(owner, name, acting)

def sweep(stage, results, log):
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    for number in (1, 2):
        os.dup2(os.open(f"{log}.{number}", os.O_WRONLY | os.O_CREAT), number)
    if STAGES[stage]:
        exhaust(*STAGES[stage])
    code = main([*arguments, "--results", results])
    sys.stdout.flush()
    os._exit(code)

def files(results):
    return sorted(str(path.relative_to(results)) for path in Path(results).rglob("*")
                  if path.is_file())

found = {}
for stage in STAGES:
    results = os.path.join(folder, stage)
    first = sweep(stage, results, results + ".first")
    left = files(results)
    found[stage] = [first, left, sweep("none", results, results + ".then"), files(results)]
Path(folder, "found.json").write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tokenizer):
    """Return (folder, {stage without memory: [exit code, files, those of the second run]})."""
    folder = tmp_path_factory.mktemp("memory")
    torch.manual_seed(0)
    BertForQuestionAnswering(tiny_config()).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    subprocess.run(
        [sys.executable, "-c", SCRIPT, folder, "sweep", "--profile=quick",
         f"--model={folder / 'base'}", "--n-train=48", "--n-valid=0", "--n-eval=48",
         "--max-length=96", "--stride=32", "--epochs=1", "--methods", "fine-tuned"],
        check=True, env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    return folder, json.loads((folder / "found.json").read_text())


@pytest.mark.parametrize("stage", ["train", "checkpoint", "evaluate", "save"])
def test_a_run_without_memory_continues_later(stage, runs):
    """While safetensors writes a file, it ends the process itself."""
    folder, found = runs
    code, left, second, files = found[stage]
    errors = (folder / f"{stage}.first.2").read_text()
    if stage in ("train", "evaluate"):
        assert code == 1 and "Traceback" not in errors
        assert errors.count(" stopped: out of memory; stop other programs") == 1
        assert {Path(name).suffix for name in left} == {".safetensors", ".lock", ".owner"}
    else:
        assert code == -signal.SIGABRT
    assert 1 <= sum("checkpoints/" in name and "step-" in name for name in left) <= 2
    assert second == 0 and "resuming after step" in (folder / f"{stage}.then.1").read_text()
    assert files == found["none"][1]
    assert record_without_times(folder / stage) == record_without_times(folder / "none")
