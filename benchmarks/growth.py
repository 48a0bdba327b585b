"""i: seconds of an SMP step for growing layers, width, tokens, batch or density."""

import numpy as np

from benchmarks.measure import result
from benchmarks.workload import steps_in_turns, training

MIDDLE = {"layers": 4, "width": 256, "tokens": 128, "batch": 8, "density": 0.1}
POINTS = {
    "layers": (1, 2, 4, 8), "width": (128, 256, 384, 512), "tokens": (64, 128, 256, 384),
    "batch": (2, 4, 8, 16), "density": (0.03, 0.1, 0.5, 0.9),
}


def training_of(layers, width, tokens, batch, density):
    return training(
        batch, tokens, 5, density=density, num_hidden_layers=layers, hidden_size=width,
        intermediate_size=4 * width, num_attention_heads=width // 64,
    )


def measure():
    results = []
    for axis, points in POINTS.items():
        seconds = steps_in_turns({x: training_of(**MIDDLE | {axis: x}) for x in points})
        for x, times in seconds.items():
            low, middle, high = np.quantile(times, [0.25, 0.5, 0.75])
            others = ", ".join(f"{name} {value}" for name, value in MIDDLE.items() if name != axis)
            results.append(
                result(f"i: seconds of an SMP step, {axis} {x}", middle, [low, high], detail=others)
                | {"axis": axis, "x": x}
            )
    return results
