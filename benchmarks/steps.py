"""a: a step of SMP against a step of fine-tuning, both of the loop itself; and a plain SMP step."""

import torch

from benchmarks.measure import device, ratio, result, seconds_of
from benchmarks.references import attach_sorted_masks, train_plainly
from benchmarks.run_on_a_t4 import flops_per_token
from benchmarks.workload import (
    SHAPES,
    bert,
    embedded_tokenizer,
    random_windows,
    steps_in_turns,
    training,
)
from smp.squad import make_loader
from smp.train import pick_precision

GOALS = {(4, 128): "<= 1.05", (8, 384): "<= 1.00"}


def precisions():
    """fp32, and what this device is faster at, if anything is."""
    return list(dict.fromkeys(["fp32", pick_precision()]))


def sorted_training(batch_size, length, steps):
    """(model, run) of SMP with a full sort of every matrix in every forward, in fp32."""
    model = bert()
    scores = attach_sorted_masks(model, 0.1)
    loader = make_loader(
        random_windows(steps * batch_size, length), embedded_tokenizer(), batch_size, shuffle=False
    )
    batches = [{k: v.to(device()) for k, v in batch.items()} for batch in loader]
    return model, lambda: train_plainly(model, batches, scores)


def matmul_rate(precision, size=2048):
    """FLOPs a second of the device in one large matrix product: the best of ten."""
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    size = 4 * size if device() == "cuda" else size
    one = torch.randn(size, size, device=device()).to(kind)
    return 2 * size**3 / min(seconds_of(lambda: one @ one) for _ in range(10))


def measure():
    results = []
    for precision in precisions():
        rate = matmul_rate(precision)
        for batch_size, length in SHAPES:
            steps = 14 if length == 128 else 8
            where = f"{batch_size} x {length}, {precision}"
            trainings = {
                task: training(batch_size, length, steps, task, precision)
                for task in ("fine-tune", "smp")
            }
            if precision == "fp32" and length == 128:
                trainings["sorted"] = sorted_training(batch_size, length, steps)
            seconds = steps_in_turns(trainings)
            plain, ours = seconds["fine-tune"], seconds["smp"]
            results.append(result(
                f"a: SMP step / fine-tuning step, {where}", *ratio(ours, plain),
                GOALS[batch_size, length],
                f"BERT-base, random weights, fused AdamW, {len(ours)} pairs of steps",
            ))
            if "sorted" in seconds:
                results.append(result(
                    f"a: SMP step with a sort a forward / fine-tuning step, {where}",
                    *ratio(seconds["sorted"], plain),
                    detail="the reference: masks by a full sort in every forward, the regulariser "
                    "in the graph",
                ))
            tokens = batch_size * length / ours
            flops = flops_per_token(length)
            results.append(result(
                f"a: SMP, tokens a second, {where}", *ratio(batch_size * length, ours),
                detail=f"{float(min(tokens) * flops / 1e9):,.0f} GFLOP/s or more"
            ))
            results.append(result(
                f"a: SMP, share of the measured matrix rate, {where}",
                *ratio(tokens * flops, rate),
                detail=f"one large product here: {rate / 1e9:,.0f} GFLOP/s",
            ))
    return results
