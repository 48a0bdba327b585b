"""Training and evaluation.

One loop serves every method: it has the steps of any training, and two places where pruning
comes in when there is any, before the forward and after the backward. accelerate brings device,
precision and processes: with several, each takes its rows of every batch, so that the batch as a
whole, and with it the mask, is that of one.
"""

import os

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState


def pick_precision(wanted="auto"):
    """The wanted precision, or the one this device is fast at; "auto" never picks emulation."""
    if wanted != "auto":
        return wanted
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.get_device_capability() >= (8, 0) else "fp16"
    if torch.backends.mps.is_available():
        return "fp32"
    units = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return "bf16" if units.get("amx_bf16") or units.get("avx512_bf16") else "fp32"


def make_accelerator(precision="auto"):
    alike = DistributedDataParallelKwargs(broadcast_buffers=False)  # each finds the same mask
    mixed = pick_precision(precision).replace("fp32", "no")
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != mixed:
        AcceleratorState._reset_state()  # else a kernel could train in one precision only
    return Accelerator(mixed_precision=mixed, kwargs_handlers=[alike])


def is_first_process():
    """Whether this is the process that writes and shows, by the launcher's RANK; one alone is."""
    return os.environ.get("RANK", "0") == "0"


def shard_batch(batch, accelerator):
    """(this process's rows of a batch, on its device; their weight in the mean over all rows).

    "row", which tells a window's place, stays on the CPU, where what is looked up by it lies.

    The weight is n_own * processes / n_all, because gradients are averaged over the processes. A
    process that gets no row of a last, short batch takes one with weight 0.
    """
    here, processes = accelerator.process_index, accelerator.num_processes
    total = len(batch["row"])
    own = len(range(here, total, processes))
    rows = slice(here, None, processes) if own else slice(0, 1)
    own_batch = {
        name: value[rows] if name == "row" else value[rows].to(accelerator.device)
        for name, value in batch.items()
    }
    return own_batch, own * processes / total
