"""b: the masks of a BERT-base from its 85M scores, against a full sort of each matrix."""

import torch

from benchmarks.measure import device, ratio, result, time_in_turns
from benchmarks.workload import bert
from smp.masks import Masks


def measure():
    masks = Masks(bert())
    with torch.no_grad():
        for scores in masks.scores:
            scores.normal_()

    def sort_each():
        for scores in masks.scores:
            kept = scores.flatten().argsort(descending=True)[: scores.numel() // 10]
            mask = torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
            mask[kept] = True

    def ours(sharing):
        masks.sharing = sharing
        masks.refresh(0.1)

    seconds = time_in_turns({
        "SMP-L": lambda: ours("local"), "SMP-S": lambda: ours("shared"), "sort": sort_each
    }, rounds=2, warm_up=0)
    goal = 10 if device() == "cuda" else 40
    return [
        result(
            f"b: full sort of each matrix / mask refresh, {name}",
            *ratio(seconds["sort"], seconds[name]), f">= {goal}",
            f"{sum(scores.numel() for scores in masks.scores):,} scores, density 10%: "
            f"{min(seconds[name]):.3f} s",
        )
        for name in ("SMP-L", "SMP-S")
    ]
