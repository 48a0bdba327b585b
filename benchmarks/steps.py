"""a, e: steps of SMP and of fine-tuning, both with the project's training loop."""

import torch

from benchmarks.measure import device, give_memory_back, ratio, result, seconds_of
from benchmarks.references import attach_sorted_masks
from benchmarks.run_on_gpus import flops_per_token
from benchmarks.workload import bert, plainly, steps_in_turns, training
from smp.model.predict import pick_precision

SMALL, LARGE = (4, 128), (8, 384)  # rows, tokens
GOALS = {SMALL: "<= 1.05", LARGE: "<= 1.00"}  # of a


def sorted_training(batch_size, length, steps):
    """Return (model, run) of SMP in fp32 with a full sort of each matrix in each forward."""
    model = bert()
    scores = attach_sorted_masks(model, 0.1)
    return model, plainly(model, batch_size, length, steps, scores=scores)


def matmul_rate(precision):
    """Return the FLOP/s of the device in one large matrix product, the best of ten."""
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    size = 8192 if device() == "cuda" else 2048
    one = torch.randn(size, size, device=device()).to(kind)
    return 2 * size**3 / min(seconds_of(lambda: one @ one) for _ in range(10))


def of_shape(batch_size, length, precisions, steps):
    """Return the results of one batch size and length, with all trainings in turns.

    The first step of each training is not counted.
    """
    goal = GOALS[batch_size, length]
    trainings = {
        (task, precision): training(batch_size, length, steps, task, precision)
        for precision in precisions for task in ("fine-tune", "smp")
    }
    if (batch_size, length) == SMALL:
        trainings["dense"] = training(batch_size, length, steps, skips=False)
        trainings["sorted"] = sorted_training(batch_size, length, 2)  # few, because slow
    seconds, results = steps_in_turns(trainings), []
    trainings.clear()
    give_memory_back()
    shape, tokens = f"{batch_size} x {length}", batch_size * length
    for precision in precisions:
        ours, plain = seconds["smp", precision], seconds["fine-tune", precision]
        rate, flops = matmul_rate(precision), tokens * flops_per_token(length)
        results += [
            result(f"a: SMP step / fine-tuning step, {shape}, {precision}", *ratio(ours, plain),
                   goal, "BERT-base, random weights, 10% kept, fused AdamW, "
                   f"{len(ours)} pairs of steps"),
            result(f"a: SMP, tokens per second, {shape}, {precision}", *ratio(tokens, ours)),
            result(f"a: SMP, share of the matrix rate, {shape}, {precision}",
                   *ratio(flops / rate, ours),
                   detail=f"rate of one large product {rate / 1e9:,.0f} GFLOP/s; zeros counted"),
        ]
    if "sorted" in seconds:
        few = len(seconds["sorted"])
        results.append(result(
            f"a: SMP step with its zeros multiplied / fine-tuning step, {shape}, fp32",
            *ratio(seconds["dense"], seconds["fine-tune", "fp32"]),
            detail="as with more than 40% kept weights, or without a C compiler",
        ))
        results.append(result(
            f"a: SMP step with a sort per forward / fine-tuning step, {shape}, fp32",
            *ratio(seconds["sorted"], seconds["fine-tune", "fp32"][:few]),
            detail="plain implementation: a full sort in each forward, the regulariser in the "
            "graph",
        ))
    for fast in precisions[1:]:
        halves = seconds["smp", fast]
        results += [
            result(f"e: SMP throughput, {fast} / fp32, {shape}", *ratio(seconds["dense"], halves),
                   ">= 3" if device() == "cuda" else ">= 1.4",
                   "zeros multiplied in both; the effect on EM is not measured here"),
            result(f"e: the same, if fp32 skips zeros, {shape}",
                   *ratio(seconds["smp", "fp32"], halves)),
        ]
    return results


def measure():
    """Return the results in fp32 and in the precision of `auto`.

    At the large shape the precisions run one after the other, which needs less memory. The slower
    one runs fewer steps.
    """
    both = list(dict.fromkeys(["fp32", pick_precision()]))
    results = of_shape(*SMALL, both, steps=9)
    for precision in both:
        results += of_shape(*LARGE, [precision], steps=4 if precision == "fp32" else 5)
    return results
