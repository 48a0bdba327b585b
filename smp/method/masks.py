"""Static Model Pruning (SMP): learn a score for each frozen weight and keep the highest.

A masked linear layer computes y = (W * M) x + b. W is frozen. M in {0, 1} marks the weights with
the k highest scores S, and k = floor(v * n) for density v.
Source: Jiang et al., Pruning Pre-trained Language Models Without Fine-Tuning, ACL 2023.
"""

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize


def kept_count(density: float, total: int) -> int:
    """Return floor(density * total) for the decimal as written: 0.29 of 100 is 29, not 28."""
    return math.floor(Fraction(str(float(density))) * total)


def keep_top(scores: torch.Tensor, k: int) -> torch.Tensor:
    """Return the bool mask of the k highest scores; of equal scores the lower index is kept."""
    flat = scores.detach().flatten()
    removed = len(flat) - k
    if not 0 < k < len(flat):
        return torch.full_like(scores, k > 0, dtype=torch.bool)
    if flat.is_cpu:  # ten times faster than torch.topk
        threshold = float(np.partition(flat.numpy(), removed)[removed])
    else:
        threshold = flat.topk(k, sorted=False).values.min()
    above, equal = flat > threshold, flat == threshold
    first = equal.cumsum(0) <= k - above.sum()
    return (above | (equal & first)).view_as(scores)


class StraightThrough(torch.autograd.Function):
    """Return W' = W * M. The gradients are dL/dS = dL/dW' * W (Eq. 3) and dL/dW = dL/dW' * M."""

    @staticmethod
    def forward(ctx, weight, scores, mask):
        ctx.save_for_backward(weight, mask)
        return weight * mask

    @staticmethod
    def backward(ctx, grad):
        weight, mask = ctx.saved_tensors
        trains_weight, trains_scores, _ = ctx.needs_input_grad
        to_scores = grad * weight if trains_scores else None
        return grad * mask if trains_weight else None, to_scores, None


class StaticMask(nn.Module):
    """The scores and the mask of one weight (out, in). `parametrize` attaches it to a layer.

    The scores start at score_init * |W| / mean |W|, which is 0 in SMP. None: no scores are learned.
    """

    def __init__(self, weight: torch.Tensor, score_init: float | None = 0.0):
        super().__init__()
        size = weight.detach().abs()
        start = None if score_init is None else score_init * size / size.mean().clamp_min(1e-12)
        self.scores = None if start is None else nn.Parameter(start)
        self.register_buffer("mask", torch.ones_like(weight, dtype=torch.bool))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return StraightThrough.apply(weight, self.scores, self.mask)


def same_share(density: float, scores: dict, kinds: dict) -> dict:
    """Return {name: kept weights} with the same density in every matrix (SMP-L)."""
    return {name: kept_count(density, score.numel()) for name, score in scores.items()}


class Masks:
    """The masks of a model's linear layers. Creating them attaches them and freezes the weights.

    linears: [(name, kind, layer, nn.Linear)]; share: `same_share` (SMP-L) or `competing_share`
    (SMP-S); choose: ({name: scores}, {name: k}) -> {name: mask}, None for `keep_top` on each;
    static_mask: the class of one mask, None for `StaticMask`.
    """

    trains_weights = False

    def __init__(self, linears: list[tuple], share: Callable | None = None,
                 score_init: float | None = 0.0, choose: Callable | None = None,
                 static_mask: Callable | None = None):
        self.matrices, self.share, self.choose = list(linears), share, choose
        self.kinds = {name: kind for name, kind, _, _ in self.matrices}
        self.masks = {}
        for name, _, _, linear in self.matrices:
            linear.weight.requires_grad_(self.trains_weights)
            self.masks[name] = (static_mask or StaticMask)(linear.weight, score_init)
            parametrize.register_parametrization(linear, "weight", self.masks[name])

    @property
    def scores(self) -> list[nn.Parameter]:
        return [mask.scores for mask in self.masks.values() if mask.scores is not None]

    def rankings(self) -> dict[str, torch.Tensor]:
        """Return {name: tensor (out, in)} whose highest entries are kept; in SMP the scores."""
        return {name: mask.scores for name, mask in self.masks.items()}

    @torch.no_grad()
    def refresh(self, density: float) -> None:
        """Choose new masks at exactly this density; called once per optimizer step."""
        scores = self.rankings()
        k = (self.share or same_share)(density, scores, self.kinds)
        chosen = self.choose(scores, k) if self.choose else {
            name: keep_top(score, k[name]) for name, score in scores.items()}
        for name, mask in self.masks.items():
            mask.mask.copy_(chosen[name])

    def add_regulariser_gradient(self, weight: float) -> None:
        add_regulariser_gradient(self.scores, weight)

    def counts(self) -> list[dict]:
        """Return [{"layer", "matrix", "kept", "total"}] with one entry for each matrix."""
        return [{"layer": layer, "matrix": kind, "kept": int(self.masks[name].mask.sum()),
                 "total": self.masks[name].mask.numel()}
                for name, kind, layer, _ in self.matrices]

    def numpy(self) -> dict[str, np.ndarray]:
        """Return {name: bool array (out, in)}, a copy."""
        return {name: mask.mask.cpu().numpy().copy() for name, mask in self.masks.items()}

    def merge(self) -> None:
        """Write W * M into the weights and remove the masks: plain nn.Linear layers remain."""
        for _, _, _, linear in self.matrices:
            parametrize.remove_parametrizations(linear, "weight", leave_parametrized=True)


def share_out(total_kept: int, sizes: list[int], importance: list[float]) -> list[int]:
    """Return kept weights per layer: proportional to size * importance, at most size, exact sum.

    The surplus of a full layer goes to the others in the same proportion (the authors' code loses
    it). Remainders go to the largest fractions, ties to the lower layer.
    """
    size = np.asarray(sizes, dtype=np.float64)
    claim = size * np.asarray(importance, dtype=np.float64)
    kept, is_open, left = np.zeros_like(size), np.ones(len(size), dtype=bool), total_kept
    while is_open.any():
        kept[is_open] = left * claim[is_open] / claim[is_open].sum()
        full = is_open & (kept >= size)
        if not full.any():
            break
        kept[full] = size[full]
        is_open &= ~full
        left = total_kept - int(size[~is_open].sum())
    whole = np.floor(kept).astype(int)
    missing = total_kept - int(whole.sum())
    whole[np.argsort(whole - kept, kind="stable")[:missing]] += 1
    return whole.tolist()


def competing_share(density: float, scores: dict, kinds: dict, temperature: float = 1.0) -> dict:
    """Divide the density of a kind among its layers by r = mean sigmoid(S / p) (SMP-S, Eq. 4)."""
    rates = torch.stack([torch.sigmoid(score / temperature).mean() for score in scores.values()])
    rate, kept = dict(zip(scores, rates.tolist())), dict[str, int]()
    for kind in dict.fromkeys(kinds.values()):
        names = [name for name in scores if kinds[name] == kind]
        sizes = [scores[name].numel() for name in names]
        total = kept_count(density, sum(sizes))
        kept |= dict(zip(names, share_out(total, sizes, [rate[name] for name in names])))
    return kept


@torch.no_grad()
def add_regulariser_gradient(scores: list[nn.Parameter], weight: float) -> None:
    """Add weight * dR/dS to the gradients; R is the mean over matrices of mean sigmoid(S)."""
    for score in scores:
        slope = torch.sigmoid(score)
        slope *= (1 - slope) * (weight / (len(scores) * score.numel()))
        score.grad = slope if score.grad is None else score.grad.add_(slope)
