"""The choice of the masks: fast masks, plain masks and a stable sort are equal, bit for bit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import attach_masks
from smp.fast.topk import KeepTop, keep_top_near
from smp.method.masks import keep_top

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no CUDA device"))]
SCORES = {
    "spread": lambda random, n: random.normal(size=n),
    "all equal": lambda random, n: np.full(n, 0.02),
    "zeros of both signs": lambda random, n: random.choice([-0.0, 0.0], n),
    "a few values": lambda random, n: random.choice([-0.04, -0.02, 0.0, 0.02], n),
    "some equal": lambda random, n: random.normal(size=n).round(1),
    "one sign each": lambda random, n: 0.02 * np.sign(random.normal(size=n)),
    "only sampled ones": lambda random, n: 1.0 * (np.arange(n) % 61 == 0),
    "sampled ones higher": lambda random, n: random.normal(size=n) + 9 * (np.arange(n) % 61 == 0),
    "sampled ones repeated": lambda random, n: random.normal(size=n)[np.arange(n) // 61 * 61],
    "rising": lambda random, n: np.arange(n) / n,
    "falling": lambda random, n: -np.arange(n) / n,
    "infinities": lambda random, n: random.choice([-np.inf, 0.0, 1.0, np.inf], n),
}
DENSITIES = st.sampled_from([0.0, 1e-4, 0.03, 0.1, 0.5, 0.9, 1 - 1e-4, 1.0]) | st.floats(0, 1)
SEEDS = st.integers(0, 2**32 - 1)
few_values = st.sampled_from([-np.inf, -1.0, -0.02, -0.0, 0.0, 0.02, 1.0, np.inf])


def stable_top(values, k):
    """Return the mask of the first k values of a stable sort, highest first."""
    mask = np.zeros(values.size, dtype=bool)
    mask[np.argsort(-values.ravel(), kind="stable")[:k]] = True
    return torch.from_numpy(mask.reshape(values.shape))


def check_masks(values, k, interval=None):
    """Compare the fast and the plain mask with a stable sort; return the next interval."""
    mask, following = keep_top_near(torch.from_numpy(values), k, interval)
    expected = stable_top(values, k)
    assert mask.dtype == torch.bool and mask.shape == values.shape and mask.sum() == k
    assert torch.equal(mask, expected)
    assert torch.equal(keep_top(torch.from_numpy(values), k), expected)
    assert following is None or following[0] <= following[1]
    return following


@settings(deadline=None)
@given(st.lists(few_values | st.floats(-5, 5, width=32), min_size=1, max_size=60), st.data())
def test_masks_of_few_scores_equal_a_stable_sort(values, data):
    k = data.draw(st.integers(0, len(values)))
    check_masks(np.array(values, dtype=np.float32), k)


@pytest.mark.parametrize("kind", SCORES)
@settings(deadline=None, max_examples=12)
@given(n=st.integers(9_900, 80_000), density=DENSITIES, seed=SEEDS)
def test_masks_of_many_scores_equal_a_stable_sort(kind, n, density, seed):
    values = SCORES[kind](np.random.default_rng(seed), n).astype(np.float32)
    k = round(density * n)
    following = check_masks(values, k)
    check_masks(values, k, following)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", SCORES)
@settings(deadline=None, max_examples=8)
@given(n=st.integers(1, 30_000), density=DENSITIES, seed=SEEDS)
def test_plain_masks_equal_a_stable_sort_on(device, kind, n, density, seed):
    values = SCORES[kind](np.random.default_rng(seed), n).astype(np.float32)
    k = round(density * n)
    mask = keep_top(torch.from_numpy(values).to(device), k)
    assert mask.device.type == device and torch.equal(mask.cpu(), stable_top(values, k))


@pytest.mark.parametrize("shape", [(0,), (1,), (1, 1), (7, 5), (5, 7, 3), (130, 97), (64, 3072)])
@pytest.mark.parametrize("density", [0, 0.1, 0.5, 1])
def test_masks_have_the_shape_of_the_scores(shape, density):
    values = np.random.default_rng(0).normal(size=shape).round(1).astype(np.float32)
    check_masks(values, round(density * values.size))


@pytest.mark.parametrize("k", [-1, 0, 100, 1000, 16_000, 16_001])
def test_masks_of_transposed_learned_scores_equal_plain_ones(k):
    scores = torch.nn.Parameter(torch.randn(160, 100, generator=torch.manual_seed(0)).T)
    mask, _ = keep_top_near(scores, k)
    assert torch.equal(mask, keep_top(scores, k)) and not mask.requires_grad


@settings(deadline=None, max_examples=60)
@given(n=st.integers(10_000, 40_000), density=st.floats(0.01, 0.99), seed=SEEDS,
       move=st.sampled_from([0.0, 1e-3, 0.1, 10.0]), decimals=st.sampled_from([None, 1, 0]))
def test_the_interval_does_not_change_the_mask(n, density, seed, move, decimals):
    """Change scores by little or much, with and without ties; intervals: right, wrong, NaN."""
    random = np.random.default_rng(seed)
    scores, interval = random.normal(size=n), None
    for given_one in (None, None, None, (2.0, 3.0), (-9.0, -8.0), (3.0, 2.0), (0.0, 0.0),
                      (np.nan, np.nan), (np.nan, 0.0), (0.0, np.nan), (-np.inf, np.inf),
                      (np.inf, -np.inf), None):
        interval = given_one or interval
        scores += move * random.normal(size=n)
        values = (scores if decimals is None else scores.round(decimals)).astype(np.float32)
        interval = check_masks(values, round(density * n), interval)


@settings(deadline=None, max_examples=30)
@given(n=st.integers(10_000, 40_000), seed=SEEDS, data=st.data())
def test_intervals_of_other_densities_do_not_change_masks(n, seed, data):
    values = np.random.default_rng(seed).normal(size=n).astype(np.float32)
    interval = None
    for density in data.draw(st.lists(DENSITIES, min_size=2, max_size=6)):
        interval = check_masks(values, round(density * n), interval)


INTERVALS = st.sampled_from([None, (0.5, 1.5), (-1.0, -0.9), (np.nan, np.nan), (-np.inf, np.inf)])


@settings(deadline=None, max_examples=100)
@given(n=st.integers(1, 200) | st.integers(10_000, 30_000), density=DENSITIES, interval=INTERVALS,
       kind=st.sampled_from([*SCORES]), share=st.sampled_from([1e-3, 0.02, 0.3, 1.0]), seed=SEEDS)
def test_masks_with_nan_scores_equal_plain_ones(n, density, interval, kind, share, seed):
    random = np.random.default_rng(seed)
    values = SCORES[kind](random, n).astype(np.float32)
    values[random.random(n) < share] = np.nan
    scores, k = torch.from_numpy(values), round(density * n)
    mask, following = keep_top_near(scores, k, interval)
    assert torch.equal(mask, keep_top(scores, k))
    assert following is None or np.isfinite(following).all()
    assert torch.equal(keep_top_near(scores, k, following)[0], mask)


def test_nan_ranks_highest_above_the_interval():
    values = np.linspace(0, 1, 20_000, dtype=np.float32)
    values[5] = np.nan
    scores, k = torch.from_numpy(values), int((values > 0.9).sum())
    mask, _ = keep_top_near(scores, k, (0.8, 0.9))
    assert mask.sum() == k - 1 and torch.equal(mask, keep_top(scores, k))


@pytest.mark.parametrize("sharing", ["local", "shared"])
@pytest.mark.parametrize("threads", [1, 3])
def test_fast_masks_of_a_model_equal_plain_ones(tiny_qa, sharing, threads):
    masks, choose, usual = attach_masks(tiny_qa, sharing), KeepTop(), torch.get_num_threads()
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    try:
        for density in (1.0, 0.5, 0.5, 0.1, 0.1, 0.03, 0.7, 0.0):
            for score in masks.scores:
                score.data += 0.1 * torch.randn_like(score).sign()
            chosen = []
            for masks.choose in (choose, None):
                masks.refresh(density)
                chosen.append(masks.numpy())
            assert chosen[0].keys() == chosen[1].keys()
            assert all(np.array_equal(chosen[0][name], chosen[1][name]) for name in chosen[0])
    finally:
        torch.set_num_threads(usual)
    assert choose.intervals.keys() == masks.masks.keys()
