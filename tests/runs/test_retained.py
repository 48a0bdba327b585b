"""EM retained and its uncertainty, against computations by hand."""

import re

import numpy as np
import pytest

from records import make_record
from smp.runs.result import em_half_interval, matches_of
from smp.runs.retained import em_retained

N = 1003  # questions: no multiple of 8


def pack(right):
    """Return the exact_matches of an array of bool."""
    return np.packbits(right).tobytes().hex()


def run_of(right, method="smp-l", **changes):
    """Return the record of a run that answers these questions exactly."""
    return make_record(method, em=float(right.mean()), n_eval=len(right),
                       exact_matches=pack(right), **changes)


def unpaired(run):
    """Return the same run without the result of each question."""
    return run | {"exact_matches": None}


@pytest.fixture
def correlated():
    """Return bools of two fine-tuned seeds, and bools of a run that correlates with them."""
    rng = np.random.default_rng(0)
    hard = rng.random(N)
    return [hard + 0.2 * rng.standard_normal(N) < 0.7 for _ in range(2)], (
        hard + 0.2 * rng.standard_normal(N) < 0.6)


@pytest.mark.parametrize("n", [1, 7, 8, 9, N])
def test_exact_matches_unpack_to_the_packed_bits(n):
    right = np.random.default_rng(n).random(n) < 0.5
    np.testing.assert_array_equal(matches_of(run_of(right)), right)


@pytest.mark.parametrize("seeds", [1, 2])
def test_the_paired_interval_equals_a_hand_computation(correlated, seeds):
    dense, right = correlated
    difference = [int(a) - sum(map(int, b)) / seeds for a, *b in zip(right, *dense[:seeds])]
    mean = sum(difference) / N
    deviation = (sum((one - mean) ** 2 for one in difference) / N) ** 0.5
    half = em_half_interval(run_of(right), [run_of(one, "fine-tuned") for one in dense[:seeds]])
    assert half == pytest.approx(1.96 * deviation / N ** 0.5, rel=1e-12)


def test_the_paired_interval_equals_a_bootstrap_interval(correlated):
    (dense, _), right = correlated
    rng, differences = np.random.default_rng(1), []
    for _ in range(4000):
        drawn = rng.integers(0, N, N)
        differences.append(right[drawn].mean() - dense[drawn].mean())
    low, high = np.percentile(differences, [2.5, 97.5])
    half = em_half_interval(run_of(right), [run_of(dense, "fine-tuned")])
    assert half == pytest.approx((high - low) / 2, rel=0.06)


def test_without_results_per_question_samples_are_independent(correlated):
    (dense, _), right = correlated
    whole = run_of(right), [run_of(dense, "fine-tuned")]
    variances = [p * (1 - p) for p in (right.mean(), dense.mean())]
    wide = 1.96 * (sum(variances) / N) ** 0.5
    for run, fine_tuned in ((unpaired(whole[0]), whole[1]), (whole[0], [unpaired(whole[1][0])])):
        assert em_half_interval(run, fine_tuned) == pytest.approx(wide, rel=1e-12)
    assert em_half_interval(*whole) < 0.8 * wide


def test_pairing_narrows_the_interval_of_correlated_results():
    rng, dense = np.random.default_rng(2), np.random.default_rng(3).random(N) < 0.7
    narrower = []
    for share in (0.2, 0.4, 0.6, 0.8, 1.0):  # of the questions on which both agree
        right = np.where(rng.random(N) < share, dense, rng.random(N) < 0.5)
        run, fine_tuned = run_of(right), [run_of(dense, "fine-tuned")]
        wide = em_half_interval(unpaired(run), fine_tuned)
        narrower.append(em_half_interval(run, fine_tuned) / wide)
    assert narrower[0] < 1 and narrower == sorted(narrower, reverse=True) and narrower[-1] == 0


def test_one_run_has_its_interval_in_percent_of_the_dense_em(correlated):
    dense, right = correlated
    fine_tuned, run = [run_of(one, "fine-tuned") for one in dense], run_of(right)
    of = np.mean([one.mean() for one in dense])
    half = em_half_interval(run, fine_tuned)
    assert em_retained([run], fine_tuned) == (
        f"{100 * right.mean() / of:.1f}% ± {100 * half / of:.1f}")


def test_several_seeds_have_their_sample_standard_deviation():
    ems, dense = [0.41, 0.44, 0.48], make_record("fine-tuned", em=0.6)
    runs = [make_record(seed=seed, em=em) for seed, em in enumerate(ems)]
    expected = 100 * np.mean(ems) / 0.6, 100 * np.std(ems, ddof=1) / 0.6
    assert em_retained(runs, [dense]) == "{:.1f}% ± {:.1f} (seeds)".format(*expected)


def test_the_fine_tuned_row_is_100_percent():
    runs = [make_record("fine-tuned", em=em, seed=seed) for seed, em in enumerate((0.6, 0.8))]
    assert em_retained(runs[:1], runs[:1]) == "100.0%"
    spread = 100 * np.std([0.6, 0.8], ddof=1) / 0.7
    assert em_retained(runs, runs) == f"100.0% ± {spread:.1f} (seeds)"
    other = em_retained(runs[:1], runs[1:])  # another fine-tuned model than the best
    assert re.fullmatch(r"75\.0% ± \d\.\d", other)


@pytest.mark.parametrize("n_eval, expected", [
    (399, "withheld, 399 questions"), (400, "50.0% ± 7.7"),
])
def test_em_retained_is_withheld_below_400_questions(n_eval, expected):
    dense = [make_record("fine-tuned", em=0.8, n_eval=n_eval)]
    runs = [make_record(em=0.4, n_eval=n_eval, seed=seed) for seed in (0, 1)]
    assert em_retained(runs[:1], dense) == expected
    assert ("withheld" in em_retained(runs, dense)) == ("withheld" in expected)
    assert ("withheld" in em_retained(dense, dense)) == ("withheld" in expected)


def test_em_retained_is_empty_without_a_fine_tuned_em():
    assert em_retained([make_record()], []) == "—"
    assert em_retained([make_record()], [make_record("fine-tuned", em=0.0)]) == "—"
