"""kernels.exact: limits, identities and a simulation where the formula is not obvious."""

import numpy as np
import pytest
from scipy import stats

from kernels import exact


def test_terminal_cdf():
    np.testing.assert_allclose(exact.terminal_cdf(0.3, 0.1, 0.2, 4.0), stats.norm.cdf((0.3 - 0.4) / 0.4))


def test_barrier_without_drift_is_twice_the_tail():
    barrier = np.array([1e-6, 0.5, 1.0, 3.0, np.inf])
    np.testing.assert_allclose(exact.barrier_probability(barrier, 0.0, 0.5, 4.0), 2 * stats.norm.sf(barrier))


def test_barrier_under_negative_drift_at_a_long_horizon():
    """The maximum of drifted Brownian motion over all time is exponential with rate 2 |mu| / sigma^2."""
    np.testing.assert_allclose(exact.barrier_probability(0.7, -0.2, 0.5, 1e6), np.exp(-2 * 0.2 * 0.7 / 0.25))


def test_barrier_under_strong_drift_does_not_overflow():
    np.testing.assert_allclose(exact.barrier_probability([1.0, 1.0], [1e4, -1e4], 0.1, 1.0), [1.0, 0.0], atol=1e-12)


def test_expected_drawdown_scales_with_sd():
    np.testing.assert_allclose(exact.expected_max_drawdown([0.01, 0.02], 4.0), [0.0250662827, 0.0501325655])


@pytest.mark.parametrize("change", [{"barrier": 0.0}, {"sigma": -1.0}, {"horizon": 0.0}, {"sigma": np.nan}])
def test_what_is_not_positive_is_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        exact.barrier_probability(**{"barrier": 1.0, "mu": 0.0, "sigma": 1.0, "horizon": 1.0} | change)


def drawdown_by_dynamic_programming(n):
    """E[max drawdown] of n fair signs: Markov chain of (drawdown now, largest so far)."""
    law = np.zeros((n + 2, n + 2))
    law[0, 0] = 1.0
    now = np.arange(1, n + 2)
    for _ in range(n):
        moved = np.zeros_like(law)
        moved[:-1] += 0.5 * law[1:]  # a step up shortens the drawdown,
        moved[0] += 0.5 * law[0]  # or makes a new maximum
        moved[1:] += 0.5 * law[:-1]
        moved[now, now] += moved[now, now - 1]  # the largest so far follows
        moved[now, now - 1] = 0.0
        law = moved
    return float((law.sum(axis=0) * np.arange(n + 2)).sum())


@pytest.mark.parametrize("n", [1, 2, 7, 12])
def test_lattice_laws_are_those_of_all_paths(n):
    signs = 2 * ((np.arange(1 << n)[:, None] >> np.arange(n)) & 1) - 1
    walk = np.concatenate([np.zeros((1 << n, 1), int), signs.cumsum(axis=1)], axis=1)
    law = exact.lattice_terminal(n)
    value, count = np.unique(walk[:, -1], return_counts=True)
    np.testing.assert_array_equal(law.value, value)
    np.testing.assert_array_equal(law.probability, count / 2**n)
    barrier = np.arange(1, n + 3)
    hits = (walk.max(axis=1) >= barrier[:, None]).mean(axis=1)
    np.testing.assert_allclose(exact.lattice_barrier_probability(n, barrier), hits, rtol=1e-14)
    drawdown = (np.maximum.accumulate(walk, axis=1) - walk).max(axis=1)
    assert exact.lattice_expected_max_drawdown(n) == pytest.approx(drawdown.mean(), rel=1e-13)


@pytest.mark.parametrize("n", [31, 256])
def test_lattice_drawdown_equals_dynamic_programming(n):
    expected = exact.lattice_expected_max_drawdown(n)
    assert expected == pytest.approx(drawdown_by_dynamic_programming(n), rel=1e-12)
    if n == 256:
        assert expected == pytest.approx(19.076, abs=5e-4)


def test_lattice_laws_of_long_walks():
    law = exact.lattice_terminal(5000)
    assert law.probability.sum() == pytest.approx(1.0, rel=1e-13)
    assert (law.probability * law.value.astype(float) ** 2).sum() == pytest.approx(5000, rel=1e-12)


@pytest.mark.parametrize("barrier", [0, [1, -1], 1.5])
def test_lattice_barriers_that_are_none_are_refused(barrier):
    with pytest.raises(ValueError, match="barrier"):
        exact.lattice_barrier_probability(8, barrier)


@pytest.mark.parametrize("law", [exact.lattice_terminal, exact.lattice_expected_max_drawdown])
def test_lattice_needs_a_step(law):
    with pytest.raises(ValueError, match="n_steps"):
        law(0)
