"""The numbers of the figures equal plain loops over the masks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smp.look.snapshot_writer import coarse_mask, keep_largest
from smp.look.snapshots import GRID, Snapshots


@pytest.fixture
def saved(kept_masks):
    return Snapshots(kept_masks[0])


def flat(matrices):
    return np.concatenate([mask.ravel() for mask, _, _ in matrices.values()])


@settings(deadline=None)
@given(st.integers(1, 100), st.integers(1, 100), st.integers(0, 9))
def test_coarse_mask_has_the_shares_of_its_blocks(out, wide, seed):
    mask = np.random.default_rng(seed).random((out, wide)) < 0.3
    found = coarse_mask(mask)
    for i in range(GRID):
        for j in range(GRID):
            rows, columns = (slice(start := at * side // GRID,
                                   max(start + 1, (at + 1) * side // GRID))
                             for at, side in ((i, out), (j, wide)))
            share = mask[rows, columns].mean()
            assert found[i, j] == round(255 * share**0.5)


def test_empty_rows_and_columns_equal_those_of_the_masks(saved, kept_masks):
    for step, matrices in kept_masks[1].items():
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
    counts = saved.head_counts(20)
    for name, _, kind, shape in saved.matrices:
        mask, heads = kept_masks[1][20][name][0], saved.heads_of(kind, shape)
        assert heads == (0 if kind in ("intermediate", "output") else 4)
        for part in np.split(mask, 4, axis=int(kind == "attention output")) if heads else ():
            assert counts.pop(0) == part.sum()
    assert not counts
    saved.about.pop("heads")
    assert saved.head_counts(20) == []
