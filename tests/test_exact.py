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
