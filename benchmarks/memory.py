"""h: peak memory of training, SMP against fine-tuning, each in a process of its own."""

from benchmarks.measure import MALLOC, device, peak_memory, result
from benchmarks.steps import SHAPES
from benchmarks.workload import training


def train(task, batch_size, length):
    training(batch_size, length, 2, task)[1]()


def measure():
    results = []
    for batch_size, length in SHAPES:
        peaks = {
            task: peak_memory(train, task=task, batch_size=batch_size, length=length)
            for task in ("fine-tune", "smp")
        }
        results.append(result(
            f"h: peak memory of SMP / fine-tuning, {batch_size} x {length}, fp32",
            peaks["smp"] / peaks["fine-tune"], goal="<= 1.0",
            detail=f"{peaks['smp'] / 2**30:.2f} GB; " + (
                "of the GPU" if device() == "cuda"
                else "resident, " + ", ".join(f"{k}={v}" for k, v in MALLOC.items())
            ),
        ))
    return results
