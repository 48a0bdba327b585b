"""b: the masks of a BERT-base from its 85M scores, compared with a full sort of each matrix."""

import torch

from benchmarks.measure import device, ratio, result, time_in_turns
from benchmarks.workload import bert
from smp.cli.train import attach_pruning
from smp.method.masks import competing_share, same_share
from smp.runs.settings import choose_settings


def measure():
    masks = attach_pruning(bert(), choose_settings("squad", "smp", precision="fp32")).masks
    with torch.no_grad():
        for scores in masks.scores:
            scores.normal_()
    sample = masks.scores[: len(masks.scores) // 3]  # a third: whole layers
    moves = {scores.shape: 2e-2 * torch.randn_like(scores).sign() for scores in sample}

    @torch.no_grad()
    def move():
        """Change the scores like Adam: by the learning rate, up or down."""
        for scores in masks.scores:
            scores.add_(moves[scores.shape])

    def sort_some():
        for scores in sample:
            kept = scores.flatten().argsort(descending=True)[: scores.numel() // 10]
            mask = torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
            mask[kept] = True

    def ours(share):
        masks.share = share
        masks.refresh(0.1)

    seconds = time_in_turns({
        "move": move, "SMP-L": lambda: ours(same_share), "sort": sort_some,
        "move again": move, "SMP-S": lambda: ours(competing_share), "and again": move,
    }, rounds=3)
    sort = seconds["sort"] * len(masks.scores) / len(sample)
    goal = 10 if device() == "cuda" else 40
    return [
        result(
            f"b: full sort of each matrix / mask refresh, {name}",
            *ratio(sort, seconds[name]), f">= {goal}",
            f"{sum(scores.numel() for scores in masks.scores):,} scores, density 10%: "
            f"{min(seconds[name]):.3f} s; a third of the sorts was measured, times three",
        )
        for name in ("SMP-L", "SMP-S")
    ]
