"""The choice of the masks on a CPU: the same bits as `method.masks.keep_top`, ten times faster.

A partition of the few values near the k-th highest replaces a partition of all. Where the k-th
highest was in the last step, it is nearly there in this one; otherwise a sample tells the place.
"""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch


class KeepTop:
    """Choose the masks of all matrices: ({name: scores}, {name: k}) -> {name: mask}.

    For `Masks(..., choose=KeepTop())`, on CPUs. It keeps for each name the interval in which the
    last k-th highest score was, which changes the time and not the masks.
    """

    def __init__(self) -> None:
        self.intervals: dict[str, tuple | None] = {}

    def __call__(self, rankings: dict, counts: dict) -> dict[str, torch.Tensor]:
        def choose(name):
            mask, self.intervals[name] = keep_top_near(
                rankings[name], counts[name], self.intervals.get(name))
            return name, mask

        names = sorted(rankings, key=lambda name: -rankings[name].numel())  # the largest first
        with ThreadPoolExecutor(torch.get_num_threads()) as threads:  # numpy releases the GIL
            return dict(threads.map(choose, names))


def keep_top_near(scores: torch.Tensor, k: int, interval: tuple | None = None):
    """Return (mask of the k highest scores, interval for the next call).

    scores: of a CPU; ties go to the lower index. interval: (low, high) where the k-th highest may
    be, or None; it makes no difference to the mask.
    """
    values = scores.detach().flatten().numpy()
    if not 0 < k < len(values):
        return torch.full_like(scores, k > 0, dtype=torch.bool), None
    kept = np.empty(len(values), dtype=bool)
    found = keep_top_between(values, k, *interval, kept) if interval else None
    found = found or keep_top_between(values, k, *likely_cut(values, k), kept)
    found = found or keep_top_between(values, k, -np.inf, np.inf, kept)
    if found is None:  # NaN is neither above nor equal to a threshold, as in `keep_top`
        kept[:] = False
    mask = torch.from_numpy(kept).view(scores.shape)
    return mask, found if found and 0 < found[1] - found[0] < math.inf else None


def keep_top_between(values, k, low, high, mask):
    """Writes the mask of the k highest of a float array (n,) and returns (low, high) around the
    k-th of them, with about a half percent of the values between; None where it does not lie
    in [low, high]."""
    np.greater(values, high, out=mask)
    between = values >= low
    np.not_equal(between, mask, out=between)
    places = np.flatnonzero(between)
    near, left = values[places], k - np.count_nonzero(mask)
    if not 0 < left <= len(near):
        return (low, high) if left == 0 else None
    cut = float(np.partition(near, len(near) - left)[len(near) - left])
    higher = np.flatnonzero(near > cut)
    mask[places[higher]] = True
    mask[places[np.flatnonzero(near == cut)[: left - len(higher)]]] = True
    reach = len(values) / 400 / len(near) * (high - low)
    return (cut - reach, cut + reach)


def likely_cut(values, k):
    """(low, high) with the k-th highest of a float array (n,) very likely between them.

    To sort what is between, a few in a thousand, is far cheaper than to sort everything (Floyd and
    Rivest, 1975): one value in 61 tells where to look, the rank of a first guess where exactly.
    """
    n, step = len(values), 61  # prime to the widths of matrices: the sample walks all columns
    if n < 10_000:
        return -np.inf, np.inf
    sample = np.concatenate([[-np.inf], values[::step], [np.inf]], dtype=values.dtype)
    rank, spread = len(sample) - 2 - k / step, 4 * math.sqrt(k * (n - k) / n / step) + 2
    first, last = max(0, round(rank - spread)), min(len(sample) - 1, round(rank + spread))
    near = np.sort(np.partition(sample, (first, last))[first : last + 1])
    guess = len(near) // 2
    found = np.count_nonzero(values > near[guess])
    if found < k and near[guess - 1] == near[guess]:  # one of many that are equal, maybe the cut
        found = np.count_nonzero(values >= near[guess])
        if found >= k:
            return float(near[guess]), float(near[guess])
    rank, spread = guess + (found - k) / step, 4 * math.sqrt(abs(found - k) / step) + 3
    first, last = np.clip((round(rank - spread), round(rank + spread)), 0, len(near) - 1)
    return float(near[first]), float(near[last])
