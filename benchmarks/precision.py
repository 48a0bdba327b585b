"""e: SMP steps a second in the precision this device is fast at, against fp32."""

from benchmarks.measure import device, ratio, result
from benchmarks.workload import steps_in_turns, training
from smp.train import pick_precision

BATCH, LENGTH, STEPS = 8, 128, 9


def measure():
    fast = pick_precision()
    if fast == "fp32":
        return [result("e: SMP throughput, fp32 / fp32", 1.0, detail="no units for half precision")]
    seconds = steps_in_turns({
        precision: training(BATCH, LENGTH, STEPS, precision=precision)
        for precision in ("fp32", fast)
    })
    return [result(
        f"e: SMP throughput, {fast} / fp32, {BATCH} x {LENGTH}",
        *ratio(seconds["fp32"], seconds[fast]), ">= 3" if device() == "cuda" else ">= 1.4",
        "BERT-base; what it does to EM is for the records of runs to say, not for this",
    )]
