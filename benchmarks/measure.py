"""Measure in turns, compare, and describe the machine.

Two times are compared only if they were measured in turns, so that other load on the machine
affects both. A value is the median of the ratios of the rounds, with their quartiles.
"""

import contextlib
import importlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import torch

ROOT = Path(__file__).resolve().parent.parent


def device():
    return "cuda" if torch.cuda.is_available() else "cpu"


def now():
    """Return the time in seconds, after the work of the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds_of(function):
    """Return the wall-clock seconds of one call, including the work of the device."""
    began = now()
    function()
    return now() - began


# -- turns -------------------------------------------------------------------------------------


def in_turns(functions, rounds):
    """Call the functions in turns; return {name: their values (rounds, ...)}.

    Every second round has the reverse order, so that no function always follows the same one.
    """
    values = {name: [] for name in functions}
    for turn in range(rounds):
        for name in list(functions)[:: -1 if turn % 2 else 1]:
            values[name].append(functions[name]())
    return {name: np.array(each, dtype=float) for name, each in values.items()}


def time_in_turns(functions, rounds, warm_up=1):
    """Return {name: seconds of the calls (rounds,)}, after `warm_up` rounds that do not count."""
    timed = {name: partial(seconds_of, function) for name, function in functions.items()}
    return {name: times[warm_up:] for name, times in in_turns(timed, warm_up + rounds).items()}


class Child:
    """A function in a process of its own, which takes one turn at a time.

    function: at the top level of a module, called as function(turn, **arguments). It calls turn()
    where its next turn begins. arguments: values for JSON.
    """

    def __init__(self, function, arguments):
        self.name, self.errors = function.__name__, tempfile.TemporaryFile("w+")
        code = "import sys; from benchmarks.measure import take_turns; take_turns(*sys.argv[1:])"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, function.__module__, self.name, json.dumps(arguments)],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True)

    def report(self):
        """Return [seconds, peak bytes] of the last turn; [None, None] before the first."""
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            raise RuntimeError(f"{self.name} ended with {self.errors.read().splitlines()[-1:]}")
        return json.loads(line)

    def turn(self):
        with contextlib.suppress(BrokenPipeError):  # it ended, see report
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        return self.report()

    def close(self):
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()  # ends the process at the end of its turn
        self.process.stdout.close()
        self.process.wait()
        self.errors.close()


def take_turns(module, name, arguments):
    """Run the function of a `Child` in this process. A turn begins with a line from the parent."""
    reports = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the function prints is not a report
    function = getattr(importlib.import_module(module), name)
    before, began = resident_bytes("VmRSS"), None

    def turn():
        nonlocal began
        report = [now() - began, peak_bytes() - before] if began else [None, None]
        print(json.dumps(report), file=reports, flush=True)
        if not sys.stdin.readline():
            os._exit(0)
        clear_peak()
        began = now()

    function(turn, **json.loads(arguments))
    raise ValueError(f"{name} ended before its last turn")


def children_in_turns(functions, rounds):
    """Run {name: (function, arguments)} in turns, each as a `Child`, because `speed_up` changes the
    memory and the products of a process.

    Return ({name: seconds (rounds,)}, {name: peak memory in bytes, without the imports (rounds,)}).
    The first turn of each does not count.
    """
    with contextlib.ExitStack() as stack:
        children = {name: stack.enter_context(contextlib.closing(Child(*each)))
                    for name, each in functions.items()}
        for child in children.values():
            child.report()  # its first turn may begin
        reports = in_turns({name: child.turn for name, child in children.items()}, 1 + rounds)
    return tuple({name: each[1:, i] for name, each in reports.items()} for i in (0, 1))


def clear_peak():
    """Let the peak memory of this process start at the memory in use, on Linux and on GPUs."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes():
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else \
        resident_bytes("VmHWM")


def resident_bytes(which):
    """Return VmRSS or VmHWM (the peak) of this process; without /proc, the peak of getrusage."""
    if torch.cuda.is_available():
        return 0
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(re.search(rf"{which}:\s+(\d+) kB", status.read_text())[1])
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on a Mac


# -- results -----------------------------------------------------------------------------------

DEFAULT = "torch and transformers as they come"
BEST = "the best dense way on this machine"


def result(name, against, values, detail="", unit="times faster"):
    """Return the median and the quartiles of the values, in the form of bench.json."""
    low, middle, high = (float(f"{one:.4g}") for one in np.quantile(values, [0.25, 0.5, 0.75]))
    return {"name": name, "against": against, "value": middle, "quartiles": [low, high],
            "unit": unit, "detail": detail}


def load_of_others():
    """Return the share of the CPU that other processes use during a second of sleep."""
    return psutil.cpu_percent(1.0) / 100


UNITS = ("avx2", "avx512_f", "avx512_bf16", "avx512_vnni", "avx512_fp16", "amx_bf16", "amx_int8")


def machine():
    """Return the properties of the machine that affect speed, without names of hosts or users."""
    cpu = torch.cpu.get_capabilities()
    described = {
        "system": platform.system(),
        "cpu": cpu.get("cpu_name") or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "units": [unit for unit in UNITS if cpu.get(unit)],
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": None,
    }
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        described["gpu"] = f"{card.name}, {card.total_memory / 2**30:.0f} GB"
    return described


def versions():
    """Return the versions of Python and of the packages that affect speed."""
    packages = ("torch", "transformers", "tokenizers", "datasets", "accelerate", "numpy")
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in packages
    }
