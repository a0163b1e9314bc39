"""Closed forms: what no simulation is needed for.

Brownian motion X(t) = mu t + sigma W(t), X(0) = 0, with constant drift and volatility. mu: log return a step; sigma:
standard deviation of the log return a step, where 0 is the motion along a line; horizon: steps; barrier: log distance
above the start, infinity is never reached. Arguments broadcast; results are float64. All functions raise ValueError
where mu is not finite, sigma negative or not finite, horizon not > 0 or not finite, barrier not > 0.

`monitored_barrier_probability` is the law of the `normal` walk, which looks at the barrier at its steps only. The
laws of the bit walk on the integers are `lattice_*`. docs/bicep.md derives what is not derived here.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import erfcx, ndtr, ndtri, zeta

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

_NODES = 32  # of the contour; its error is about 2.85^-32, below the rounding of the sum
_TERMS = 56  # of series in b with |b| <= 1/2
_MOST_NODES = 4096  # of a quadrature over the walks' position


class NullFeatures(NamedTuple):
    """Closed forms of a problem each, float64 [P]; log returns and a probability."""

    terminal_mean: Float64
    terminal_sd: Float64
    barrier_probability: Float64  # of touching barrier at any time up to the horizon
    expected_max_drawdown: Float64


def null_features(mu: ArrayLike, sigma: ArrayLike, horizon: ArrayLike, barrier: ArrayLike) -> NullFeatures:
    """What `mc_features` estimates, exactly, where drift and volatility are constant and time is continuous.

    mu, sigma, barrier: f64 [P]; horizon: steps, a number or [P]. The terminal law is normal, so `terminal_mean` and
    `terminal_sd` are all of it; `terminal_quantile` and `terminal_cdf` evaluate it.
    """
    parts = np.broadcast_arrays(
        *np.atleast_1d(*(np.asarray(part, np.float64) for part in (mu, sigma, horizon, barrier)))
    )
    mu, sigma, horizon, barrier = parts
    mean, sd = _terminal(mu, sigma, horizon)
    return NullFeatures(
        mean, sd, barrier_probability(barrier, mu, sigma, horizon), expected_max_drawdown(mu, sigma, horizon)
    )


def terminal_cdf(x: ArrayLike, mu: ArrayLike, sigma: ArrayLike, horizon: ArrayLike = 1.0) -> Float64:
    """P(X(horizon) <= x)."""
    mean, sd = _terminal(mu, sigma, horizon)
    centred = np.asarray(x, np.float64) - mean
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(sd > 0, ndtr(centred / sd), centred >= 0)


def terminal_quantile(p: ArrayLike, mu: ArrayLike, sigma: ArrayLike, horizon: ArrayLike = 1.0) -> Float64:
    """The x with P(X(horizon) <= x) = p. ValueError also for p outside (0, 1)."""
    p = np.asarray(p, np.float64)
    if not ((p > 0) & (p < 1)).all():
        raise ValueError("p has a value outside (0, 1)")
    mean, sd = _terminal(mu, sigma, horizon)
    return mean + sd * ndtri(p)


def barrier_probability(barrier: ArrayLike, mu: ArrayLike, sigma: ArrayLike, horizon: ArrayLike = 1.0) -> Float64:
    """P(max X >= barrier) over [0, horizon], by reflection.

        Phi((mu T - b) / (sigma sqrt T)) + exp(2 mu b / sigma^2) Phi((-b - mu T) / (sigma sqrt T))

    For a barrier below the start, negate mu. Where the second argument -d is negative, exp and Phi are joined to
    exp(-(b - mu T)^2 / (2 sigma^2 T)) erfcx(d / sqrt 2) / 2, which cannot overflow.
    Source: Harrison (1985), "Brownian motion and stochastic flow systems", section 1.8.
    """
    b = _barrier(barrier)
    mean, sd = _terminal(mu, sigma, horizon)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        short, far = (mean - b) / sd, (mean + b) / sd
        joined = 0.5 * erfcx(far / np.sqrt(2.0)) * np.exp(-0.5 * short**2)
        apart = np.exp(2.0 * (mean / sd) * (b / sd)) * ndtr(-far)
        touched = ndtr(short) + np.where(far > 0, joined, apart)
    return np.where(sd > 0, np.clip(touched, 0.0, 1.0), mean >= b)


def expected_max_drawdown(mu: ArrayLike, sigma: ArrayLike, horizon: ArrayLike = 1.0) -> Float64:
    """E[max drawdown] over [0, horizon], a log return: sqrt(pi / 2) sigma sqrt(T) without drift.

    With drift it is sigma sqrt(T) g(mu sqrt(T) / sigma), where g is the inverse Laplace transform, at time 1, of what
    `_drawdown_transform` computes; relative error below 1e-11. It grows like log T where mu > 0, and like -mu T where
    mu < 0. Source: Magdon-Ismail, Atiya, Pratap, Abu-Mostafa (2004), "On the maximum drawdown of a Brownian motion".
    """
    mean, sd = np.broadcast_arrays(*_terminal(mu, sigma, horizon))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        drift = mean / sd
    drifting = (np.abs(drift) < 1e150) & (mean != 0)  # beyond, the motion is a line
    result = np.where(mean == 0, np.sqrt(np.pi / 2.0) * sd, np.maximum(-mean, 0.0))
    result[drifting] = sd[drifting] * _unit_drawdown(drift[drifting])
    return result


def black_scholes_call(
    spot: ArrayLike, strike: ArrayLike, sigma: ArrayLike, horizon: ArrayLike = 1.0, rate: ArrayLike = 0.0
) -> Float64:
    """Price of a call on spot exp(X(horizon)), X with drift rate - sigma^2 / 2: a known answer for simulated prices.

    spot, strike: > 0, in one currency; rate: continuously compounded interest a step. sigma is > 0 here.
    Source: Black and Scholes (1973), "The pricing of options and corporate liabilities".
    """
    spot, strike = _above_zero("spot", spot), _above_zero("strike", strike)
    rate, sigma = np.asarray(rate, np.float64), _above_zero("sigma", sigma)
    mean, sd = _terminal(rate - 0.5 * sigma**2, sigma, horizon)
    above = (np.log(spot / strike) + mean) / sd
    discount = np.exp(-rate * np.asarray(horizon, np.float64))
    return spot * ndtr(above + sd) - strike * discount * ndtr(above)


def monitored_barrier_probability(n_steps: int, barrier: ArrayLike, mu: float = 0.0, sigma: float = 1.0) -> Float64:
    """P(max over the steps 1 .. n_steps of the `normal` walk >= barrier), of barrier's shape.

    The walk's distance r = b - x below the barrier has the density f_1(r) = phi(b - mu - r), f_(k+1)(r) =
    int f_k(q) phi(q - mu - r) dq over q > 0, as long as it stays above 0; phi is the density of sigma times a normal.
    Both are carried through the steps on Gauss-Legendre nodes, three for each sigma: everything is smooth, so the error
    falls exponentially with their number and is below 1e-10. Time grows with its square: ValueError where n_steps, mu
    and barrier ask for too many. sigma > 0 here.
    """
    n, b = _steps(n_steps), _barrier(barrier)
    sigma = float(_finite("sigma", _above_zero("sigma", sigma)))
    b, shift = b / sigma, float(_finite("mu", mu)) / sigma
    probability = np.zeros_like(b)
    near = b < max(shift * n, 0.0) + 9.0 * np.sqrt(n) + 9.0  # the others are reached with less than n Phi(-9)
    if not near.any():
        return probability
    width = b[near].max() + max(-shift * n, 0.0) + 7.0 * np.sqrt(n)  # beyond it lies Phi(-7) = 1e-12
    count = int(np.ceil(3.0 * width)) + 16
    if count > _MOST_NODES:
        raise ValueError(f"n_steps = {n}, mu / sigma = {shift:g}, barrier / sigma = {b[near].max():g}: {count} nodes")
    node, weight = np.polynomial.legendre.leggauss(count)
    r, weight = 0.5 * width * (1.0 + node), 0.5 * width * weight / np.sqrt(2.0 * np.pi)
    step = np.exp(-0.5 * (r - shift - r[:, None]) ** 2) * weight  # [to, from]
    alive = np.exp(-0.5 * (b[near] - shift - r[:, None]) ** 2)  # [node, barrier]
    for _ in range(n - 1):
        alive = step @ alive
    probability[near] = 1.0 - weight @ alive
    return probability


def _unit_drawdown(drift: Float64) -> Float64:
    """E[max drawdown] of Brownian motion with this drift and unit volatility over [0, 1]; drift [M], none 0.

    Bromwich's integral on a parabola around the negative axis, where all singularities of the transform lie. Source:
    Trefethen, Weideman, Schmelzer (2006), "Talbot quadratures and rational approximations", whose z is this.
    """
    total = np.zeros_like(drift)
    for theta in np.pi / _NODES * np.arange(1, _NODES, 2):  # the other half of the nodes is the complex conjugate
        z = _NODES * complex(0.1309 - 0.1194 * theta**2, 0.25 * theta)
        slope = _NODES * complex(-0.2388 * theta, 0.25)
        total += 2.0 / _NODES * np.imag(np.exp(z) * slope * _drawdown_transform(z, drift))
    return total


def _drawdown_transform(z: complex, drift: Float64) -> NDArray[np.complex128]:
    """int_0^inf e^(-z T) E[max drawdown over [0, T]] dT with unit volatility, for each drift m.

    With delta = sqrt(m^2 + 2 z), a = (delta + m) / (2 delta), and b of -|m| likewise, so that |b| <= 1/2,

        F(1, 1; 1 + a; a) / (z (delta + m)),   F(1, 1; 1 + b; b) = 1 + sum_(n >= 1) n! b^n / ((b + 1) .. (b + n))

    serves m < 0, where a = b. For m > 0, where a = 1 - b is near 1, the connection of the two points gives

        (pi b / sin(pi b) b^-b (1 - b)^(b - 1) - F(1, 1; 1 + b; b)) / (z (delta - m))

    Its terms nearly cancel for large m, so 1 is subtracted from both and the logarithm of the first is summed:
    -b log b + b - sum_(k >= 2) b^k / (k (k - 1)) + sum_(k >= 1) zeta(2 k) b^(2 k) / k.
    """
    size = np.abs(drift)
    delta = np.sqrt(size**2 + 2.0 * z)
    b = z / (delta * (delta + size))  # (delta - |m|) / (2 delta) without cancellation
    term, series = np.ones_like(b), np.zeros_like(b)
    for n in range(1, _TERMS):
        term = term * (n * b / (b + n))
        series += term
    log_first = b - b * np.log(b)
    power = b.copy()
    for k in range(2, _TERMS):
        power = power * b
        log_first -= power / (k * (k - 1))
        if k % 2 == 0:
            log_first += power * (2.0 * zeta(k) / k)
    rest = np.where(drift < 0, 1.0 + series, np.expm1(log_first) - series)
    return rest * (delta + size) / (2.0 * z**2)  # 1 / (delta - |m|) = (delta + |m|) / (2 z)


class Lattice(NamedTuple):
    """Law of a walk of +-1 steps after n steps."""

    value: Int64  # [n + 1]: -n, -n + 2, ..., n
    probability: Float64  # [n + 1]


def lattice_terminal(n_steps: int) -> Lattice:
    """Binomial law of S_n, the sum of n_steps fair signs; each probability is correctly rounded.

    Raises ValueError for n_steps < 1.
    """
    n = _steps(n_steps)
    ways, counts = 1, []
    for ups in range(n + 1):
        counts.append(ways / (1 << n))  # integers of any size: one rounding
        ways = ways * (n - ups) // (ups + 1)
    return Lattice(np.arange(-n, n + 1, 2), np.array(counts))


def lattice_barrier_probability(n_steps: int, barrier: ArrayLike) -> Float64:
    """P(max S_k >= m, k <= n_steps) = P(S_n >= m) + P(S_n > m), by reflection at the first visit of m.

    barrier: integers m >= 1, of any shape. Raises ValueError for others, or n_steps < 1.
    """
    n, m = _steps(n_steps), np.asarray(barrier)
    if m.dtype.kind not in "iu" or (m.size and m.min() < 1):
        raise ValueError("barrier has a value that is not an integer >= 1")
    law = lattice_terminal(n)
    above = np.append(np.cumsum(law.probability[::-1])[::-1], 0.0)  # P(S_n >= value[k])
    at_least = above[np.searchsorted(law.value, m)]
    return at_least + above[np.searchsorted(law.value, m, side="right")]


def lattice_expected_max_drawdown(n_steps: int) -> float:
    """E[max drawdown] of n_steps fair signs: the sum of P(drawdown >= d) over d >= 1.

    The drawdown moves like |Y| - 1/2, Y = S + 1/2, so it stays below d as long as S stays in (-d - 1, d). With
    N = 2 d + 1 the sine series of that strip gives

        P(drawdown < d) = (2 / N) sum_{j odd < N} cos(pi j / N)^n sin(pi j (d + 1) / N) cot(pi j / (2 N))

    Raises ValueError for n_steps < 1.
    """
    n = _steps(n_steps)
    reachable = min(n, int(9.0 * np.sqrt(n)) + 1)  # beyond it P(drawdown >= d) <= 4 Phi(-9) < 1e-18
    total = 0.0
    for d in range(1, reachable + 1):
        width = 2 * d + 1
        angle = np.pi * np.arange(1, width, 2) / width
        terms = np.cos(angle) ** n * np.sin(angle * (d + 1)) / np.tan(0.5 * angle)
        total += 1.0 - 2.0 / width * float(terms.sum())
    return total


def _steps(n_steps: int) -> int:
    if n_steps < 1:
        raise ValueError(f"n_steps = {n_steps} is not positive")
    return int(n_steps)


def _terminal(mu: ArrayLike, sigma: ArrayLike, horizon: ArrayLike) -> tuple[Float64, Float64]:
    """Mean and standard deviation of X(horizon)."""
    horizon = _finite("horizon", _above_zero("horizon", horizon))
    sigma = _finite("sigma", sigma)
    if (sigma < 0).any():
        raise ValueError("sigma has a value that is negative")
    return _finite("mu", mu) * horizon, sigma * np.sqrt(horizon)


def _barrier(barrier: ArrayLike) -> Float64:
    return _above_zero("barrier", barrier)


def _finite(name: str, values: ArrayLike) -> Float64:
    array = np.asarray(values, np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} has a value that is not finite")
    return array


def _above_zero(name: str, values: ArrayLike) -> Float64:
    array = np.asarray(values, np.float64)
    if not (array > 0).all():
        raise ValueError(f"{name} has a value that is not > 0")
    return array
