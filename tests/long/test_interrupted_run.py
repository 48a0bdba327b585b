"""`smp run` after a signal, and in make test-recovery after two and without memory."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from transformers import BertForMaskedLM

from helpers import tiny_config
from records import record_without_times
from smp.runs.checkpoint import read_checkpoint

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def start(tmp_path_factory, tokenizer):
    """Return a function of a results folder that starts `smp run` with the notebook BERT_SMP."""
    base = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    BertForMaskedLM(tiny_config(max_position_embeddings=512)).save_pretrained(base)
    tokenizer.save_pretrained(base)

    def started(results):
        return subprocess.Popen(
            [sys.executable, "-m", "smp", "run", "--profile=quick", "--only", "smp",
             f"--model={base}", "--n-train=40", "--n-valid=8", "--n-eval=12", "--epochs=12",
             "--batch-size=4", "--max-length=96", "--stride=32", f"--results={results}"],
            cwd=results.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))

    return started


def disturbed(start, results, act):
    """Start a run, call act(process, kernel) in its training; return its exit code and stderr."""
    def written():
        return {path: path.stat().st_mtime_ns for path in results.glob("snapshots/*.safetensors")}

    before, process, deadline = written(), start(results), time.monotonic() + 600
    while written() == before and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.poll() is None, process.communicate()
    children = psutil.Process(process.pid).children(recursive=True)
    (kernel,) = (child for child in children if "ipykernel" in str(child.cmdline()))
    act(process, kernel)
    _, errors = process.communicate(timeout=600)
    assert psutil.wait_procs(children, timeout=60)[1] == []
    return process.returncode, errors


def limit_memory(process, kernel):
    size = kernel.memory_info().vms
    resource.prlimit(kernel.pid, resource.RLIMIT_AS, (size, size))


def terminate(process, kernel):
    process.send_signal(signal.SIGTERM)


def press_ctrl_c(process, kernel):
    process.send_signal(signal.SIGINT)


def end(process):
    """Wait for a run that ends without an error."""
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors


def disturb_each(start, results, acts):
    """Disturb a run in turns; return the step of its newest checkpoint after each."""
    steps = []
    for act in acts:
        code, line = {terminate: (143, "run: interrupted; "), press_ctrl_c: (130, "run: interrupt"),
                      limit_memory: (1, "BERT_SMP.ipynb failed: ")}[act]
        got, errors = disturbed(start, results, act)
        lines = [line for line in errors.splitlines() if "src/signaler.cpp" not in line]
        assert (got, len(lines)) == (code, 1) and lines[0].startswith(line), errors
        assert list(results.glob("*.json")) == []
        newest = max(results.glob("checkpoints/*/step-*.safetensors"))
        steps.append(read_checkpoint(newest)[1]["step"])
    return steps


def test_a_terminated_run_continues_from_its_checkpoint(start, tmp_path):
    (step,) = disturb_each(start, tmp_path / "r", [terminate])
    assert 0 < step < 120
    end(start(tmp_path / "r"))
    executed = (tmp_path / "r/executed/quick/BERT_SMP.ipynb").read_text()
    assert f"resuming after step {step} of 120" in executed
    assert record_without_times(tmp_path / "r")["steps"] == 120
    assert not (tmp_path / "r/checkpoints").exists()


@pytest.mark.skipif("SMP_RECOVERY" not in os.environ, reason="part of make test-recovery")
def test_a_run_with_two_signals_and_no_memory_has_its_record(start, tmp_path):
    end(start(tmp_path / "whole"))
    steps = disturb_each(start, tmp_path / "r", [terminate, limit_memory, press_ctrl_c])
    assert 0 < steps[0] == steps[1] < steps[2] < 120
    end(start(tmp_path / "r"))
    assert record_without_times(tmp_path / "r") == record_without_times(tmp_path / "whole")
