"""The numbers of the figures equal plain loops over the masks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smp.look.mask_stats import (
    empty_counts,
    head_shares,
    kept_shares,
    magnitude_overlap,
    mask_churn,
    pool_mask,
    window_of,
)
from smp.look.snapshots import Snapshots


@pytest.fixture
def saved(kept_masks):
    return Snapshots(kept_masks[0])


def flat(matrices):
    return np.concatenate([mask.ravel() for mask, _, _ in matrices.values()])


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 64), st.integers(0, 9))
def test_pool_mask_returns_the_means_of_its_blocks(out, wide, blocks, seed):
    mask = np.random.default_rng(seed).random((out, wide)) < 0.3
    shares, size = pool_mask(mask, blocks)
    assert size == -(-min(out, wide) // blocks)
    expected = [[mask[i:i + size, j:j + size].mean() for j in range(0, wide, size)]
                for i in range(0, out, size)]
    np.testing.assert_allclose(shares, expected, rtol=1e-12)


@settings(deadline=None)
@given(st.tuples(st.integers(1, 50), st.integers(1, 50)), st.integers(1, 60) | st.none(),
       st.integers(0, 80), st.integers(0, 80))
def test_window_is_inside_and_has_the_wanted_side(shape, side, row, column):
    window = window_of(shape, side, row, column)
    for part, at, n in zip(window, (row, column), shape):
        assert 0 <= part.start < part.stop <= n
        assert part.stop - part.start == (n if side is None else min(side, n))
        assert side is None or part.start == min(at, max(0, n - side))


def test_by_layer_puts_values_at_layer_and_type(saved):
    saved.matrices = [["a", 1, "key", [1, 1]], ["b", 0, "query", [1, 1]], ["c", 1, "query", [1, 1]]]
    saved.layers, saved.types = [0, 1], ["key", "query"]
    np.testing.assert_array_equal(saved.by_layer([3, 1, 2]), [[np.nan, 1], [3, 2]])


def test_shares_and_empty_rows_equal_those_of_the_masks(saved, kept_masks):
    for step, matrices in kept_masks[1].items():
        layers, types, shares = saved.layers, saved.types, kept_shares(saved, step)
        rows, columns = (empty_counts(saved, step, part) for part in ("rows", "columns"))
        assert layers == [0, 1] and types[:3] == ["query", "key", "value"] and len(types) == 6
        for name, layer, matrix, _ in saved.matrices:
            mask, where = matrices[name][0], (layers.index(layer), types.index(matrix))
            assert shares[where] == mask.mean()
            assert rows[where] == sum(not row.any() for row in mask)
            assert columns[where] == sum(not row.any() for row in mask.T)
    assert rows.sum() + columns.sum() > 0  # there were some to count


def test_heads_are_rows_of_qkv_and_columns_of_the_output(saved, kept_masks):
    shares = head_shares(saved, 20)
    assert list(shares) == ["query", "key", "value", "attention output"]
    for name, layer, matrix, _ in saved.matrices:
        mask = kept_masks[1][20][name][0]
        for head in range(4) if matrix in shares else ():
            part = slice(8 * head, 8 * head + 8)  # 32 neurons, 4 heads
            own = mask[:, part] if matrix == "attention output" else mask[part]
            assert shares[matrix][layer, head] == own.mean()
    saved.about.pop("heads")
    assert head_shares(saved, 20) == {}


def test_churn_and_overlap_equal_direct_counts(saved, kept_masks):
    kept = kept_masks[1]
    steps, removed, returned = mask_churn(saved)
    assert steps == [10, 20, 30]
    for i, (a, b) in enumerate(((0, 10), (10, 20), (20, 30))):
        before, now = flat(kept[a]), flat(kept[b])
        assert removed[i] == np.sum(before & ~now) / before.sum()
        assert returned[i] == np.sum(now & ~before) / now.sum()
    overlap, chance = magnitude_overlap(saved)
    for i, step in enumerate(saved.steps):
        both = total = lucky = 0
        for mask, _, size in kept[step].values():
            k = int(mask.sum())
            largest = np.zeros(mask.size, bool)
            largest[np.argsort(-size, axis=None, kind="stable")[:k]] = True
            both, total = both + (largest & mask.ravel()).sum(), total + k
            lucky += k * k / mask.size
        assert overlap[i] == both / total and chance[i] == pytest.approx(lucky / total)
