"""Distillation with cached teacher logits, compared with a teacher that runs in each step."""

from benchmarks.measure import children_in_turns, result
from benchmarks.workload import training

WINDOWS, TOKENS, STEPS = 4, 128, 5


def measure():
    seconds, _ = children_in_turns({str(teacher): (training, dict(
        way="smp", windows=WINDOWS, tokens=TOKENS, steps=STEPS + 2, teacher=teacher,
    )) for teacher in (None, "cached", "online")}, STEPS)
    cost = result("", "", seconds["cached"] / seconds["None"])["value"]
    return [result(
        "SMP step with cached teacher logits", "a teacher that runs in each step",
        seconds["online"] / seconds["cached"], f"BERT-base, {WINDOWS} windows of {TOKENS} tokens, "
        f"fp32; {cost} times the step without a teacher")]
