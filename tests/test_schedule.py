"""Density and the regulariser's weight over a run."""

import pytest

from smp.schedule import density_at, regulariser_at


def test_density_at_the_ends_and_between():
    assert density_at(0, 1000, 0.1, 0.8) == 1.0
    assert density_at(400, 1000, 0.1, 0.8) == pytest.approx(0.1 + 0.9 * 0.5**3)
    assert density_at(800, 1000, 0.1, 0.8) == 0.1
    assert density_at(999, 1000, 0.1, 0.8) == 0.1


def test_density_never_rises_and_never_passes_its_goal():
    values = [density_at(t, 200, 0.03, 0.8193) for t in range(201)]
    assert all(a >= b for a, b in zip(values, values[1:], strict=False))
    assert min(values) == values[-1] == 0.03


def test_regulariser_at_the_ends_and_between():
    assert regulariser_at(0, 1000, 400, 1.0) == 0
    assert regulariser_at(500, 1000, 400, 1.0) == pytest.approx(400 * (1 - 0.5**3))
    assert regulariser_at(1000, 1000, 400, 1.0) == 400
    assert regulariser_at(600, 1000, 400, 0.5) == 400  # constant after T


def test_short_and_long_runs_have_one_shape():
    for part in (0.1, 0.3, 0.7):
        assert density_at(part * 100, 100, 0.1, 0.8) == pytest.approx(
            density_at(part * 10_000, 10_000, 0.1, 0.8))
