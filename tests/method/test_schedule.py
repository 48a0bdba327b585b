"""Density and the regulariser's weight over a run."""

import pytest

from smp.method.schedule import Pruning, cubic_ramp
from smp.runs.settings import choose_settings


def density_at(step, steps, final, ramp, hold=0.0):
    settings = choose_settings("quick", "smp", density=final, density_ramp_fraction=ramp,
                               density_hold_fraction=hold)
    return Pruning(None, settings).density_at(step, steps)


def regulariser_at(step, steps, final, ramp):
    settings = choose_settings("quick", "smp", regulariser=final, regulariser_ramp_fraction=ramp)
    return Pruning(None, settings).regulariser_at(step, steps)


def test_density_equals_the_formula_at_ends_and_between():
    assert density_at(0, 1000, 0.1, 0.8) == 1.0
    assert density_at(400, 1000, 0.1, 0.8) == pytest.approx(0.1 + 0.9 * 0.5**3)
    assert density_at(800, 1000, 0.1, 0.8) == 0.1
    assert density_at(999, 1000, 0.1, 0.8) == 0.1


def test_density_never_rises_or_falls_below_its_target():
    values = [density_at(t, 200, 0.03, 0.8193) for t in range(201)]
    assert all(a >= b for a, b in zip(values, values[1:], strict=False))
    assert min(values) == values[-1] == 0.03


def test_regulariser_equals_the_formula_at_ends_and_between():
    assert regulariser_at(0, 1000, 400, 1.0) == 0
    assert regulariser_at(500, 1000, 400, 1.0) == pytest.approx(400 * (1 - 0.5**3))
    assert regulariser_at(1000, 1000, 400, 1.0) == 400
    assert regulariser_at(600, 1000, 400, 0.5) == 400  # constant after T


@pytest.mark.parametrize("final", [0.5, 0.1, 0.03])
def test_equal_ramps_give_the_rule_of_the_paper(final):
    """Eq. 6: lambda_f times the sparsity of the step over the final sparsity, so it rises."""
    settings = choose_settings("quick", "smp", density=final, density_ramp_fraction=0.8,
                               regulariser_ramp_fraction=0.8)
    pruning, seen = Pruning(None, settings), []
    for step in (0, 1, 300, 799, 800, 1000):
        removed = 1 - pruning.density_at(step, 1000)
        seen.append(pruning.regulariser_at(step, 1000))
        assert seen[-1] == pytest.approx(400 * removed / (1 - final))
    assert seen[0] == 0 and seen == sorted(seen) and seen[-1] == 400


def test_short_and_long_runs_have_the_same_shape():
    for part in (0.1, 0.3, 0.7):
        assert density_at(part * 100, 100, 0.1, 0.8) == pytest.approx(
            density_at(part * 10_000, 10_000, 0.1, 0.8))


def test_a_held_density_falls_later_and_ends_at_the_same_time():
    for step in (0, 50, 100):
        assert density_at(step, 1000, 0.1, 0.8, hold=0.1) == 1.0
    assert density_at(450, 1000, 0.1, 0.8, hold=0.1) == pytest.approx(0.1 + 0.9 * 0.5**3)
    assert density_at(800, 1000, 0.1, 0.8, hold=0.1) == pytest.approx(0.1)
    assert cubic_ramp(0, 10, 1.0) == 0 and cubic_ramp(10, 10, 1.0) == 1


def test_the_gradients_get_the_current_regulariser():
    class Spy:
        added = 0.0

        def refresh(self, density):
            pass

        def add_regulariser_gradient(self, weight):
            self.added = weight

    pruning = Pruning(Spy(), choose_settings("quick", "smp", density_ramp_fraction=1.0))
    for step, weight in zip((0, 500, 1000), (0, 400 * (1 - 0.5**3), 400), strict=True):
        pruning.before_forward(step, 1000)
        pruning.after_backward(step, 1000)
        assert pruning.weight == pytest.approx(weight)
        assert pruning.masks.added == pytest.approx(weight)


def test_density_is_1_and_regulariser_0_before_the_first_step():
    pruning = Pruning(None, choose_settings("quick", "smp", density=0.1))
    assert (pruning.density, pruning.weight) == (1.0, 0.0)
