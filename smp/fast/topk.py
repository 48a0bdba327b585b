"""Fast choice of the masks on a CPU, bit for bit equal to `smp.method.masks.keep_top`.

Only the few values near the k-th highest are partitioned. They are found near the k-th highest of
the last step, because scores change little in a step. In the first step, a sample locates them.
"""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor


class KeepTop:
    """Choice of the masks of all matrices: ({name: scores}, {name: k}) -> {name: mask}.

    For `Masks(..., choose=KeepTop())` on a CPU. For each name it keeps the interval of the last
    k-th highest score, which affects the time but not the masks. It also keeps the memory of each
    mask, so the next call overwrites the masks that this call returned.
    """

    def __init__(self) -> None:
        self.intervals: dict[str, tuple[float, float] | None] = {}
        self.memory: dict[str, np.ndarray] = {}

    def __call__(self, rankings: dict, counts: dict) -> dict[str, Tensor]:
        def choose(name):
            if name not in self.memory:
                self.memory[name] = np.empty(rankings[name].numel(), dtype=bool)
            mask, self.intervals[name] = keep_top_near(
                rankings[name], counts[name], self.intervals.get(name), self.memory[name])
            return name, mask

        names = sorted(rankings, key=lambda name: -rankings[name].numel())  # the largest first
        with ThreadPoolExecutor(torch.get_num_threads()) as threads:  # numpy releases the GIL
            return dict(threads.map(choose, names))


def keep_top_near(scores: Tensor, k: int, interval: tuple[float, float] | None = None,
                  out: np.ndarray | None = None) -> tuple[Tensor, tuple[float, float] | None]:
    """Return (bool mask of the k highest scores, interval for the next call).

    scores: on the CPU; for equal scores the lower index is kept. interval: (low, high) that may
    contain the k-th highest, or None; the mask does not depend on it. out: memory for the mask.
    """
    values = scores.detach().flatten().numpy()
    if not 0 < k < len(values):
        return torch.full_like(scores, k > 0, dtype=torch.bool), None
    kept = np.empty(len(values), dtype=bool) if out is None else out
    found = keep_top_between(values, k, *interval, kept) if interval else None
    found = found or keep_top_between(values, k, *likely_interval(values, k), kept)
    found = found or keep_top_between(values, k, -math.inf, math.inf, kept)
    if found is None:  # the k-th highest is NaN: no value is above it or equal to it
        kept[:] = False
    mask = torch.from_numpy(kept).view(scores.shape)
    return mask, found if found and 0 < found[1] - found[0] < math.inf else None


def keep_top_between(values: np.ndarray, k: int, low: float, high: float, mask: np.ndarray
                     ) -> tuple[float, float] | None:
    """Write the mask of the k highest of values (n,) and return an interval near the k-th.

    The interval contains about 0.5% of the values. It is [low, high] if exactly k values are above
    high. Returns None, with an invalid mask, if the k-th highest is below low or cannot be found in
    [low, high]. NaN ranks highest and is never kept.
    """
    np.greater(values, high, out=mask)
    outside = values < low
    np.logical_or(outside, mask, out=outside)
    indices = np.flatnonzero(np.logical_not(outside, out=outside))
    inside, missing = values[indices], k - np.count_nonzero(mask)
    if missing == 0 and not np.isnan(inside).any():
        return low, high
    if not 0 < missing <= len(inside):
        return None
    threshold = float(np.partition(inside, len(inside) - missing)[len(inside) - missing])
    if math.isnan(threshold):
        return None
    above = np.flatnonzero(inside > threshold)
    mask[indices[above]] = True
    mask[indices[np.flatnonzero(inside == threshold)[: missing - len(above)]]] = True
    reach = len(values) / 400 / len(inside) * (high - low)
    return threshold - reach, threshold + reach


def likely_interval(values: np.ndarray, k: int) -> tuple[float, float]:
    """Return (low, high) that very likely contains the k-th highest of values (n,).

    A sample of one value in 61 estimates the k-th highest, and the rank of the estimate corrects
    it. The partition of the few values in the interval takes much less time than the partition of
    all values (Floyd and Rivest, 1975).
    """
    n, step = len(values), 61  # coprime to the widths of matrices, to sample all columns
    if n < 10_000:
        return -math.inf, math.inf
    sample = np.concatenate([[-np.inf], values[::step], [np.inf]], dtype=values.dtype)
    rank, spread = len(sample) - 2 - k / step, 4 * math.sqrt(k * (n - k) / n / step) + 2
    first, last = max(0, round(rank - spread)), min(len(sample) - 1, round(rank + spread))
    middle = np.sort(np.partition(sample, (first, last))[first : last + 1])
    guess = len(middle) // 2
    found = np.count_nonzero(values > middle[guess])
    if found < k and middle[guess - 1] == middle[guess]:  # many equal values, possibly the k-th
        found = np.count_nonzero(values >= middle[guess])
        if found >= k:
            return float(middle[guess]), float(middle[guess])
    rank, spread = guess + (found - k) / step, 4 * math.sqrt(abs(found - k) / step) + 3
    first, last = np.clip((round(rank - spread), round(rank + spread)), 0, len(middle) - 1)
    return float(middle[first]), float(middle[last])
