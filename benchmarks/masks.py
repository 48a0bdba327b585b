"""The choice of the masks of a BERT-base from its scores, compared with full sorts."""

import torch

from benchmarks.measure import result, time_in_turns
from benchmarks.references import sorted_mask
from benchmarks.workload import bert
from smp.cli.train import attach_pruning
from smp.method.masks import competing_share, same_share
from smp.runs.settings import choose_settings

DENSITY = 0.1


@torch.no_grad()
def measure():
    masks = attach_pruning(bert(), choose_settings("squad", "smp", precision="fp32")).masks
    for scores in masks.scores:
        scores.normal_()
    sample = masks.scores[: len(masks.scores) // 6]  # whole layers
    moves = {scores.shape: 2e-2 * torch.randn_like(scores).sign() for scores in sample}

    def move():
        """Change the scores like Adam: by the learning rate, up or down."""
        for scores in masks.scores:
            scores.add_(moves[scores.shape])

    def choose(share):
        masks.share = share
        masks.refresh(DENSITY)

    seconds = time_in_turns({
        "move": move, "SMP-L": lambda: choose(same_share),
        "sort": lambda: [sorted_mask(scores, DENSITY) for scores in sample],
        "move again": move, "SMP-S": lambda: choose(competing_share), "and again": move,
    }, rounds=5)
    count = sum(scores.numel() for scores in masks.scores)
    sort = seconds["sort"] * len(masks.scores) / len(sample)
    return [
        result(f"Choice of 10% of {count / 1e6:.0f}M weights, {name}", "a full sort of each matrix",
               sort / seconds[name], f"{1000 * seconds[name].min():.0f} ms; one sixth of the sorts "
               "was measured, times six")
        for name in ("SMP-L", "SMP-S")
    ]
