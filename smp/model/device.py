"""Device, numeric precision and processes of a run, from Hugging Face's accelerate."""

import os

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState


def pick_precision(wanted: str = "auto") -> str:
    """Return `wanted`, or for "auto" the fastest that this device does not emulate."""
    if wanted != "auto":
        return wanted
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.get_device_capability() >= (8, 0) else "fp16"
    if torch.backends.mps.is_available():
        return "fp32"
    units = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return "bf16" if units.get("amx_bf16") or units.get("avx512_bf16") else "fp32"


def make_accelerator(precision: str = "auto") -> Accelerator:
    """Return an accelerator of this precision, even if the kernel has one of another."""
    alike = DistributedDataParallelKwargs(broadcast_buffers=False)  # each computes the same mask
    mixed = pick_precision(precision).replace("fp32", "no")
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != mixed:
        AcceleratorState._reset_state()  # otherwise a kernel could train in one precision only
    return Accelerator(mixed_precision=mixed, kwargs_handlers=[alike])


def is_first_process() -> bool:
    """Return whether this process is the one that writes and prints, by the launcher's RANK."""
    return os.environ.get("RANK", "0") == "0"


def shard_batch(batch: dict, accelerator: Accelerator) -> tuple[dict, float]:
    """Return (this process's rows of a batch, on its device; their weight in the mean of all rows).

    The weight is n_own * processes / n_all, because gradients are averaged over the processes. A
    process without a row of a short batch takes one with weight 0. "row" stays on the CPU.
    """
    here, processes = accelerator.process_index, accelerator.num_processes
    total = len(batch["row"])
    own = len(range(here, total, processes))
    rows = slice(here, None, processes) if own else slice(0, 1)
    own_batch = {name: value[rows] if name == "row" else value[rows].to(accelerator.device)
                 for name, value in batch.items()}
    return own_batch, own * processes / total
