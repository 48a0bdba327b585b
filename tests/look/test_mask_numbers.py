"""The numbers of the figures equal plain loops over the masks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smp.look.matrix_figures import pool_mask, window_of
from smp.look.snapshot_writer import keep_largest
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


def test_shares_are_placed_at_layer_and_type(saved):
    saved.matrices = [["a", 1, "key", [1, 1]], ["b", 0, "query", [1, 1]], ["c", 1, "query", [1, 1]]]
    saved.layers, saved.types, saved.sizes = [0, 1], ["key", "query"], np.array([10, 10, 10])
    saved.parts = {0: {"kept": np.array([3, 1, 2])}}
    np.testing.assert_array_equal(saved.shares(0), [[np.nan, 0.1], [0.3, 0.2]])


def test_shares_and_empty_rows_equal_those_of_the_masks(saved, kept_masks):
    for step, matrices in kept_masks[1].items():
        layers, types, shares = saved.layers, saved.types, saved.shares(step)
        assert layers == [0, 1] and types[:3] == ["query", "key", "value"] and len(types) == 6
        for name, layer, matrix, _ in saved.matrices:
            assert shares[layers.index(layer), types.index(matrix)] == matrices[name][0].mean()
        masks = [mask for mask, _, _ in matrices.values()]
        rows, columns = saved.empty(step, "rows"), saved.empty(step, "columns")
        assert rows == sum(not row.any() for mask in masks for row in mask)
        assert columns == sum(not row.any() for mask in masks for row in mask.T)
    assert rows + columns > 0  # some were counted


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.data())
def test_keep_largest_equals_a_stable_sort(sizes, data):
    k = data.draw(st.integers(0, len(sizes)))
    expected = np.zeros(len(sizes), bool)
    expected[np.argsort(-np.array(sizes), kind="stable")[:k]] = True
    np.testing.assert_array_equal(keep_largest(np.array(sizes, np.float32), k), expected)


def test_heads_are_rows_of_qkv_and_columns_of_the_output(saved, kept_masks):
    shares = saved.head_shares(20)
    assert list(shares) == ["query", "key", "value", "attention output"]
    for name, layer, matrix, _ in saved.matrices:
        mask = kept_masks[1][20][name][0]
        for head in range(4) if matrix in shares else ():
            part = slice(8 * head, 8 * head + 8)  # 32 neurons, 4 heads
            own = mask[:, part] if matrix == "attention output" else mask[part]
            assert shares[matrix][layer, head] == own.mean()
    saved.about.pop("heads")
    assert saved.head_shares(20) == {}


def test_turnover_and_overlap_equal_direct_counts(saved, kept_masks):
    kept = kept_masks[1]
    steps, removed, returned = saved.turnover()
    assert steps == [10, 20, 30]
    for i, (a, b) in enumerate(((0, 10), (10, 20), (20, 30))):
        before, now = flat(kept[a]), flat(kept[b])
        assert removed[i] == np.sum(before & ~now) / before.sum()
        assert returned[i] == np.sum(now & ~before) / now.sum()
    overlap, chance = saved.magnitude_overlap()
    for i, step in enumerate(saved.steps):
        both = total = lucky = 0
        for mask, _, size in kept[step].values():
            k = int(mask.sum())
            largest = np.zeros(mask.size, bool)
            largest[np.argsort(-size, axis=None, kind="stable")[:k]] = True
            both, total = both + (largest & mask.ravel()).sum(), total + k
            lucky += k * k / mask.size
        assert overlap[i] == both / total and chance[i] == pytest.approx(lucky / total)
