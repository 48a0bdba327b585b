"""Baselines of SMP, as Sanh et al. 2020 (Movement Pruning) and their code have them.

They train the layers and the head together with the mask. The embeddings are frozen.

| method        | a weight is kept if                                  |
|---------------|------------------------------------------------------|
| magnitude     | |W| is among the top v of its matrix                 |
| movement      | its score is among the top v of its matrix           |
| soft movement | sigmoid(S) > tau, with one tau for all matrices, or  |
|               | its score is among the top 0.5% of its matrix        |
"""

from collections.abc import Callable

import torch

from smp.method.masks import Masks, keep_top, kept_count
from smp.method.schedule import Pruning, cubic_ramp


class MagnitudeMasks(Masks):
    """Keep the largest |W| of each matrix, as W is in this step. No scores are learned."""

    trains_weights = True

    def __init__(self, linears: list[tuple], share: Callable | None = None,
                 score_init: float | None = None, **options: Callable | None):
        super().__init__(linears, share, None, **options)

    def rankings(self) -> dict[str, torch.Tensor]:
        return {name: linear.parametrizations.weight.original.abs()
                for name, _, _, linear in self.matrices}


class MovementMasks(Masks):
    """Learn scores as SMP does, and train the weights too (Sanh et al. 2020, section 3)."""

    trains_weights = True


class SoftMovementMasks(MovementMasks):
    """Keep the weights whose score passes a threshold, so the matrices compete."""

    @torch.no_grad()
    def refresh_above(self, threshold: float) -> float:
        """Set mask = sigmoid(S) > threshold and return the share of masked weights that is kept.

        Each matrix of n weights keeps at least floor(0.005 n) + 1, as in the code of Sanh et al.
        """
        kept = total = 0
        for mask, scores in zip(self.masks.values(), self.scores):
            least = kept_count(0.005, scores.numel()) + 1
            passing = scores.sigmoid() > threshold
            mask.mask.copy_(passing if passing.sum() >= least else keep_top(scores, least))
            kept, total = kept + mask.mask.sum(), total + mask.mask.numel()
        return int(kept) / total


class SoftPruning(Pruning):
    """Soft movement over time: threshold and penalty rise together on the cubic, from 0.

    The density is a result here, not a setting. Source: Sanh et al. 2020, section 4.2, and code.
    """

    def before_forward(self, step: int, steps: int) -> None:
        chosen = self.settings
        risen = cubic_ramp(step, steps, chosen.density_ramp_fraction, chosen.density_hold_fraction)
        self.weight = chosen.regulariser * risen
        self.density = self.masks.refresh_above(chosen.threshold * risen)

    def finish(self) -> None:
        self.density = self.masks.refresh_above(self.settings.threshold)
