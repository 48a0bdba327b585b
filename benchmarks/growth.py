"""Seconds of a training step against the number of tokens, and the share of kept weights."""

from benchmarks.measure import children_in_turns, result
from benchmarks.workload import training

MODEL = dict(hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024)
WINDOWS, STEPS, TOKENS, DENSITY = 8, 4, 128, 0.1
POINTS = {"tokens": (64, 128, 256, 384), "density": (0.03, 0.1, 0.25, 0.5, 0.9)}
LINES = {"smp": "SMP", "fine-tune": "fine-tuning"}


def trainings(turn, way):
    """Train once for each point: a first step, the measured steps, a step that ends them."""
    for axis, points in POINTS.items():
        for x in points:
            training(turn, way, WINDOWS, steps=STEPS + 2, config=MODEL,
                     **{"tokens": TOKENS, "density": DENSITY} | {axis: x})


def measure():
    points = [(axis, x) for axis in POINTS for x in POINTS[axis]]
    rounds = (STEPS + 2) * len(points) - 2  # the first turn does not count, the last does not end
    seconds, _ = children_in_turns({way: (trainings, {"way": way}) for way in LINES}, rounds)
    others = {"tokens": f"{DENSITY:.0%} kept", "density": f"{TOKENS} tokens"}
    return [
        result(LINES[way], "", seconds[way][(STEPS + 2) * i :][:STEPS],
               f"four layers of width 256, {WINDOWS} windows, {others[axis]}, fp32", "s")
        | {"axis": axis, "x": x}
        for way in LINES for i, (axis, x) in enumerate(points)
    ]
