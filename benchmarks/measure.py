"""Time and memory measurements, and the form of a result.

Two times are compared only if they were measured in turns in one process, so that other load on
the machine affects both. A value is the median of the ratios of the rounds. Its spread is their
quartiles.
"""

import ctypes
import gc
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent


def device():
    return "cuda" if torch.cuda.is_available() else "cpu"


def seconds_of(function):
    """Return the wall-clock seconds of one call, including the work of the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def time_in_turns(functions, rounds=7, warm_up=1):
    """Call the functions in turns; return {name: seconds of each round (rounds,)}.

    Every second round has the reverse order, so that no function always follows the same one.
    """
    for _ in range(warm_up):
        for function in functions.values():
            function()
    seconds = {name: [] for name in functions}
    for turn in range(rounds):
        for name in list(functions)[:: -1 if turn % 2 else 1]:
            seconds[name].append(seconds_of(functions[name]))
    return {name: np.array(times) for name, times in seconds.items()}


def ratio(above, below):
    """Return (median, [lower quartile, upper quartile]) of above / below over the rounds."""
    low, middle, high = np.quantile(np.asarray(above) / np.asarray(below), [0.25, 0.5, 0.75])
    return float(middle), [float(low), float(high)]


def result(name, value, spread=None, goal=None, detail=""):
    """Return {"name", "value", "spread": [low, high], "goal", "met", "detail"} for bench.json.

    goal: "<= 1.05", ">= 15", or None for information only; met is then None.
    """
    met = None
    if goal is not None:
        kind, bound = goal.split()
        met = {"<=": value <= float(bound), ">=": value >= float(bound)}[kind]
    spread = [value, value] if spread is None else spread
    rounded = [float(f"{number:.4g}") for number in (value, *spread)]
    return {"name": name, "value": rounded[0], "spread": rounded[1:], "goal": goal, "met": met,
            "detail": detail}


def give_memory_back():
    """Return the memory of finished trainings to the system before the next measurement.

    Their models contain reference cycles, and glibc keeps freed memory.
    """
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # a function of glibc
        if trim:
            trim(0)
    torch.cuda.empty_cache()  # no effect without a GPU


# Above 64 KiB, glibc then requests memory from the system and returns it when it is freed. The peak
# is the memory in use at one time, not the memory that the allocator keeps.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}

CHILD = """
import importlib, json, sys
module, name, arguments = sys.argv[1:]
function = getattr(importlib.import_module(module), name)
from benchmarks.measure import peak_here
print("peak", json.dumps(peak_here(function, json.loads(arguments))))
"""


def peak_memory(function, **arguments):
    """Return the peak memory in bytes of function(**arguments), without the imports.

    It runs in a new process. The memory is that of the GPU if there is one, otherwise resident
    memory with MALLOC. function: at the top level of a module; arguments: values for JSON.
    """
    done = subprocess.run(
        [sys.executable, "-c", CHILD, function.__module__, function.__name__,
         json.dumps(arguments)],
        cwd=ROOT, env=os.environ | MALLOC, capture_output=True, text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{function.__name__} ended with {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout.split("peak ")[-1])


def peak_memories(function, several, **arguments):
    """Return `peak_memory` for several dicts of further arguments, two at a time."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda each: peak_memory(function, **arguments, **each), several))


def peak_here(function, arguments):
    """Return the peak memory of this process during the function, minus the memory before."""
    before = resident_bytes("VmRSS")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    function(**arguments)
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resident_bytes("VmHWM") - before


def resident_bytes(which):
    """Return VmRSS or VmHWM (the maximum until now) of this process.

    ru_maxrss of getrusage starts at the value of the parent process, so it is used only without
    /proc, on a Mac.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(re.search(rf"{which}:\s+(\d+) kB", status.read_text())[1])
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on a Mac


UNITS = ("avx2", "avx512_f", "avx512_bf16", "avx512_vnni", "avx512_fp16", "amx_bf16", "amx_int8")


def machine():
    """Return the properties of the machine that affect speed, without names of hosts or users."""
    cpu = torch.cpu.get_capabilities()
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    described = {
        "system": platform.system(),
        "cpu": cpu.get("cpu_name") or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "units": [unit for unit in UNITS if cpu.get(unit)],
        "memory_gb": round(gigabytes, 1),
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
