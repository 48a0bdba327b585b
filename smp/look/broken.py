"""The questions that a pruned model no longer answers, with the probabilities of both models."""

from typing import Any

from smp.look.figures import is_right
from smp.look.passages import plot_reading
from smp.plotting import View


def show_broken(examples: Any, readings: dict[str, list[dict]], most: int = 3) -> View:
    """Count the questions that only the last model gets wrong, and draw the first of them.

    examples: SQuAD rows; readings: {name of a model: `read_passages` of the rows}, pruned last.
    """
    *others, last = readings
    answers, n = examples["answers"][:], len(examples)
    right = {name: [is_right(reading["answer"], true) for reading, true in
                    zip(each, answers, strict=True)] for name, each in readings.items()}
    broken = [i for i in range(n) if not right[last][i] and all(right[name][i] for name in others)]
    words = f"The {last} model is wrong on {len(broken):,} of {n:,} questions"
    if others:
        repaired = sum(right[last][i] and not right[others[0]][i] for i in range(n))
        words += f" that the {others[0]} model answers; the reverse is true of {repaired:,}"
    views = [plot_reading(examples[i]["question"], examples[i]["context"],
                          {name: each[i] for name, each in readings.items()}, answers[i], 2)
             for i in broken[:most]]
    return View(f"{words}. The first {len(views)} follow.", *(
        part for view in views for part in view.parts))
