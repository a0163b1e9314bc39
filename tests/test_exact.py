"""kernels.exact: known values, limits, identities, and another route to each number that is not obvious."""

import numpy as np
import pytest
from scipy import integrate, special, stats

from kernels import exact
from kernels.paths import log_cosh, paths


def test_terminal_law():
    np.testing.assert_allclose(exact.terminal_cdf(0.3, 0.1, 0.2, 4.0), stats.norm.cdf((0.3 - 0.4) / 0.4))
    p = np.array([1e-9, 0.25, 0.5, 0.999])
    quantile = exact.terminal_quantile(p, 0.1, 0.2, 4.0)
    np.testing.assert_allclose(exact.terminal_cdf(quantile, 0.1, 0.2, 4.0), p, rtol=1e-12)
    assert quantile[2] == pytest.approx(0.4)


def test_barrier_without_drift_is_twice_the_tail():
    barrier = np.array([1e-6, 0.5, 1.0, 3.0, np.inf])
    np.testing.assert_allclose(exact.barrier_probability(barrier, 0.0, 0.5, 4.0), 2 * stats.norm.sf(barrier))


def test_barrier_under_negative_drift_at_a_long_horizon():
    """The maximum of drifted Brownian motion over all time is exponential with rate 2 |mu| / sigma^2."""
    np.testing.assert_allclose(exact.barrier_probability(0.7, -0.2, 0.5, 1e6), np.exp(-2 * 0.2 * 0.7 / 0.25))


@pytest.mark.parametrize("mu", [-1.5, -0.4, 0.3, 2.0])
def test_barrier_under_drift_is_girsanov_s_integral(mu):
    """Driftless paths that touch b end below it as often as above; each end x weighs exp(mu x - mu^2 / 2)."""
    b = 0.8

    def touched(x):  # the law of the driftless end among paths that touch b
        return stats.norm.pdf(2 * b - x if x < b else x) * np.exp(mu * x - mu**2 / 2)

    expected = sum(integrate.quad(touched, *ends, epsabs=1e-13)[0] for ends in ((-30, b), (b, 30)))
    assert exact.barrier_probability(b, mu, 1.0, 1.0) == pytest.approx(expected, rel=1e-10)


def test_barrier_under_strong_drift_does_not_overflow():
    np.testing.assert_allclose(exact.barrier_probability([1.0, 1.0], [1e4, -1e4], 0.1, 1.0), [1.0, 0.0], atol=1e-12)
    np.testing.assert_array_equal(exact.barrier_probability(1.0, [1e160, -1e160], 1e-160), [1.0, 0.0])


def test_expected_drawdown_without_drift_scales_with_sd():
    np.testing.assert_allclose(exact.expected_max_drawdown(0.0, [0.01, 0.02], 4.0), [0.0250662827, 0.0501325655])


def drawdown_below(depth, mu, terms=60):
    """P(max drawdown over [0, 1] < depth) of Brownian motion with unit volatility, by Magdon-Ismail's series.

    The drawdown is Brownian motion with drift -mu that is reflected at 0. Its generator with a killing end at depth has
    the eigenfunctions exp(mu x) sin(theta (1 - x / depth)), tan theta = theta / (mu depth); one theta is imaginary
    where mu depth > 1.
    """
    slope = mu * depth
    shift = 0.5 * (mu < 0)
    index = np.arange(int(slope > 1), terms)
    theta = bisect(lambda t: slope * np.sin(t) - t * np.cos(t), (index + shift) * np.pi, (index + shift + 0.5) * np.pi)
    total = eigenfunction(theta, theta**2 + slope**2, depth, slope).sum()
    if slope > 1:
        eta = float(bisect(lambda t: slope * np.tanh(t) - t, np.array([1e-9]), np.array([slope]))[0])
        gap = 2 * slope / (np.exp(2 * eta) + 1)  # slope - eta, without cancellation
        total += eigenfunction(1j * eta, gap * (slope + eta), depth, slope)
    return float(np.real(total))


def eigenfunction(theta, size, depth, slope):
    """Its share in what survives to time 1, started at the maximum; size = theta^2 + slope^2."""
    projection = theta * np.exp(-slope) / size
    norm = 0.5 - np.sin(2 * theta) / (4 * theta)
    return np.exp(-size / (2 * depth**2)) * np.sin(theta) * projection / norm


def bisect(function, low, high):
    low, high = np.maximum(low, 1e-9), high  # 0 itself is no eigenvalue
    sign = np.sign(function(low))
    for _ in range(80):
        middle = 0.5 * (low + high)
        left = np.sign(function(middle)) == sign
        low, high = np.where(left, middle, low), np.where(left, high, middle)
    return low


@pytest.mark.parametrize("mu", [-1.5, -1.0, -0.1, 0.1, 0.7, 2.0, 3.5])
def test_expected_drawdown_under_drift_is_the_integral_of_its_law(mu):
    node, weight = np.polynomial.legendre.leggauss(80)
    low, high = 0.12, 8.0 + max(-mu, 0.0)  # P(max drawdown < 0.12) < 1e-30
    depth, weight = low + 0.5 * (high - low) * (1 + node), 0.5 * (high - low) * weight
    integral = low + sum(w * (1 - drawdown_below(h, mu)) for h, w in zip(depth, weight, strict=True))
    assert exact.expected_max_drawdown(mu, 1.0) == pytest.approx(integral, rel=1e-10)


@pytest.mark.parametrize("mu", [-2.0, -0.3, 1e-9, 0.5, 4.0])
def test_transform_of_the_expected_drawdown_is_taylor_s_law_integrated(mu):
    """E exp(-z tau) for the first time of a drawdown of h, over all h, with an ordinary quadrature."""
    z = 1.7 + 2.3j
    delta = np.sqrt(mu**2 + 2 * z)

    def first(h):
        return 2 * delta * np.exp(-(delta + mu) * h) / (delta - mu + (delta + mu) * np.exp(-2 * delta * h))

    parts = [
        integrate.quad(lambda h, part=part: part(first(h)), 0, np.inf, epsabs=1e-12)[0] for part in (np.real, np.imag)
    ]
    np.testing.assert_allclose(exact._drawdown_transform(z, np.array([mu]))[0], complex(*parts) / z, rtol=1e-9)


def test_expected_drawdown_at_the_limits_of_drift():
    """Logarithmic growth under positive drift, a line under negative drift, no jump at none."""
    far = np.array([1e3, 1e6])
    constant = 2 * far * exact.expected_max_drawdown(far, 1.0) - np.log(far**2 / 2)
    np.testing.assert_allclose(constant / 4, 0.49088, atol=2e-5)  # the constant that the source states
    np.testing.assert_allclose(exact.expected_max_drawdown(-far, 1.0), far + 1 / far, rtol=1e-11)
    near = exact.expected_max_drawdown([-1e-12, 0.0, 1e-12], 1.0)
    np.testing.assert_allclose(near, np.sqrt(np.pi / 2), rtol=1e-11)
    np.testing.assert_array_equal(exact.expected_max_drawdown([1e160, -1e160], 1e-3), [0.0, 1e160])


def test_expected_drawdown_is_what_fine_walks_tend_to():
    """Signs that are up with probability (1 + mu / sqrt n) / 2, exactly; their error falls like 1 / sqrt n."""
    mu = 0.8
    coarse, fine = (drawdown_by_dynamic_programming(n, 0.5 * (1 + mu / np.sqrt(n))) / np.sqrt(n) for n in (100, 400))
    assert 2 * fine - coarse == pytest.approx(float(exact.expected_max_drawdown(mu, 1.0)), abs=2e-3)


@pytest.mark.parametrize(("mu", "b"), [(0.0, 0.5), (-0.3, 1.0), (0.2, 2.0)])
def test_monitored_barrier(mu, b):
    """One step is a tail, two are a bivariate normal, many approach the continuous law with a shifted barrier."""
    assert exact.monitored_barrier_probability(1, b, mu) == pytest.approx(stats.norm.sf(b - mu), abs=1e-11)
    both = stats.multivariate_normal([mu, 2 * mu], [[1, 1], [1, 2]]).cdf([b, b])
    assert exact.monitored_barrier_probability(2, b, mu) == pytest.approx(1 - both, abs=1e-9)
    n, sigma = 400, 0.05
    shift = -special.zeta(0.5) / np.sqrt(2 * np.pi)  # 0.5826: Broadie, Glasserman, Kou (1997)
    moved = exact.barrier_probability(b + shift * sigma, mu / n, sigma, n)
    assert exact.monitored_barrier_probability(n, b, mu / n, sigma) == pytest.approx(float(moved), abs=2e-4)


def test_monitored_barrier_is_that_of_the_normal_walk():
    n, n_paths = 40, 40_000
    walk = paths(n_paths, n, vol=0.02, drift=0.001, seed=5, increments="normal", dtype=np.float64)
    p = exact.monitored_barrier_probability(n, 0.15, 0.001, 0.02)
    assert abs((walk.max(axis=1) >= 0.15).mean() - p) / np.sqrt(p * (1 - p) / n_paths) < 4


def test_monitored_barrier_far_away_and_too_much_work():
    one, two = exact.monitored_barrier_probability(10, 1.0), exact.monitored_barrier_probability(10, 2.0)
    several = exact.monitored_barrier_probability(10, [[1.0, 1e9], [np.inf, 2.0]])
    np.testing.assert_allclose(several, [[one, 0.0], [0.0, two]], rtol=1e-10)
    with pytest.raises(ValueError, match="nodes"):
        exact.monitored_barrier_probability(10_000, 1.0, -5.0)


def test_black_scholes():
    """The textbook's call, put-call parity, and prices by both walks with their own drift corrections."""
    assert exact.black_scholes_call(100.0, 100.0, 0.2, 1.0, 0.05) == pytest.approx(10.450583572185565, rel=1e-12)
    n, n_paths, sigma, rate, strike = 64, 40_000, 0.02, 0.0005, 1.05
    price = exact.black_scholes_call(1.0, strike, sigma, n, rate)
    for increments, correction in (("normal", sigma**2 / 2), ("bits", float(log_cosh(sigma)))):
        walk = paths(n_paths, n, vol=sigma, drift=rate - correction, seed=3, increments=increments, dtype=np.float64)
        paid = np.maximum(np.exp(walk[:, -1]) - strike, 0.0) * np.exp(-rate * n)
        slack = 0.02 * price if increments == "bits" else 0.0  # the lattice's own error at 64 steps
        assert abs(paid.mean() - price) < 4 * paid.std() / np.sqrt(n_paths) + slack


def test_null_features_are_the_parts():
    mu, sigma, barrier = np.array([0.01, -0.02, 0.0]), np.array([0.1, 0.2, 0.3]), np.array([0.5, 1.0, np.inf])
    found = exact.null_features(mu, sigma, 9, barrier)
    np.testing.assert_allclose(found.terminal_mean, 9 * mu)
    np.testing.assert_allclose(found.terminal_sd, 3 * sigma)
    np.testing.assert_array_equal(found.barrier_probability, exact.barrier_probability(barrier, mu, sigma, 9))
    np.testing.assert_array_equal(found.expected_max_drawdown, exact.expected_max_drawdown(mu, sigma, 9))
    assert {(part.shape, part.dtype) for part in found} == {((3,), np.dtype(np.float64))}


@pytest.mark.parametrize("size", [0, 1, 31, 257, 10_007])
def test_null_features_of_any_size_and_layout(size):
    rng = np.random.default_rng(size)
    wide = rng.uniform(0.1, 1.0, (size, 6))
    mu, sigma, barrier = wide[:, 0] - 0.5, wide[:, 2], wide[:, 4]  # not contiguous
    found = exact.null_features(mu, sigma, 4.0, barrier)
    assert all(part.shape == (size,) for part in found)
    for i in {0, size // 2, size - 1} & set(range(size)):
        for whole, one in zip(found, exact.null_features(mu[i], sigma[i], 4.0, barrier[i]), strict=True):
            assert whole[i] == pytest.approx(one[0], rel=1e-13)


def test_without_volatility_the_motion_is_a_line():
    found = exact.null_features([0.5, -0.5, 0.0], 0.0, 4.0, 2.0)
    np.testing.assert_array_equal(found.terminal_sd, 0.0)
    np.testing.assert_array_equal(found.barrier_probability, [1.0, 0.0, 0.0])
    np.testing.assert_array_equal(found.expected_max_drawdown, [0.0, 2.0, 0.0])
    np.testing.assert_array_equal(exact.terminal_cdf([1.9, 2.0], 0.5, 0.0, 4.0), [0.0, 1.0])
    assert exact.terminal_quantile(0.3, 0.5, 0.0, 4.0) == 2.0


@pytest.mark.parametrize(
    "change",
    [
        {"barrier": 0.0},
        {"barrier": [1.0, np.nan]},
        {"sigma": -1.0},
        {"sigma": np.nan},
        {"sigma": np.inf},
        {"horizon": 0.0},
        {"horizon": np.inf},
        {"mu": np.nan},
        {"mu": [0.0, np.inf]},
    ],
    ids=str,
)
def test_misuse_is_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        exact.null_features(**{"mu": 0.0, "sigma": 1.0, "horizon": 1.0, "barrier": 1.0} | change)


@pytest.mark.parametrize("p", [0.0, 1.0, -0.1, np.nan])
def test_quantiles_of_what_is_no_probability_are_refused(p):
    with pytest.raises(ValueError, match="p has"):
        exact.terminal_quantile(p, 0.0, 1.0)


def test_shapes_that_disagree_are_refused():
    with pytest.raises(ValueError, match="shape"):
        exact.null_features(np.zeros(2), np.ones(3), 1.0, 1.0)


def drawdown_by_dynamic_programming(n, up=0.5):
    """E[max drawdown] of n signs, +1 with probability `up`: the chain of (drawdown now, largest so far)."""
    law = np.zeros((n + 2, n + 2))
    law[0, 0] = 1.0
    now = np.arange(1, n + 2)
    for _ in range(n):
        moved = np.zeros_like(law)
        moved[:-1] += up * law[1:]  # a step up shortens the drawdown,
        moved[0] += up * law[0]  # or makes a new maximum
        moved[1:] += (1 - up) * law[:-1]
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
