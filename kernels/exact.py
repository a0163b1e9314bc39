"""Closed forms: what no simulation is needed for.

Brownian motion with constant drift and volatility,

X(t) = mu t + sigma W(t), X(0) = 0. mu: log return a step; sigma: standard deviation of the log return a step;
horizon: steps; barrier: log distance above the start. Arguments broadcast; results are float64.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_ndtr, ndtr

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]


def terminal_cdf(x: ArrayLike, mu: ArrayLike, sigma: ArrayLike, horizon: ArrayLike = 1.0) -> Float64:
    """P(X(horizon) <= x). Raises ValueError where sigma or horizon is not > 0."""
    horizon = _positive("horizon", horizon)
    centred = np.asarray(x, np.float64) - np.asarray(mu, np.float64) * horizon
    return ndtr(centred / (_positive("sigma", sigma) * np.sqrt(horizon)))


def barrier_probability(barrier: ArrayLike, mu: ArrayLike, sigma: ArrayLike, horizon: ArrayLike = 1.0) -> Float64:
    """P(max X >= barrier) over [0, horizon], by reflection.

        Phi((mu T - b) / (sigma sqrt T)) + exp(2 mu b / sigma^2) Phi((-b - mu T) / (sigma sqrt T))

    For a barrier below the start, negate mu. Raises ValueError where sigma, horizon or barrier is not > 0.
    Source: Harrison (1985), "Brownian motion and stochastic flow systems", section 1.8.
    """
    b, sigma, horizon = _positive("barrier", barrier), _positive("sigma", sigma), _positive("horizon", horizon)
    sd, shift = sigma * np.sqrt(horizon), np.asarray(mu, np.float64) * horizon
    tilt = 2.0 * np.asarray(mu, np.float64) * np.where(np.isinf(b), 0.0, b) / sigma**2
    reflected = np.exp(tilt + log_ndtr((-b - shift) / sd))
    return np.clip(ndtr((shift - b) / sd) + reflected, 0.0, 1.0)


def expected_max_drawdown(sigma: ArrayLike, horizon: ArrayLike = 1.0) -> Float64:
    """E[max drawdown] over [0, horizon] without drift: sqrt(pi / 2) sigma sqrt(T), a log return.

    Raises ValueError where sigma or horizon is not > 0.
    Source: Magdon-Ismail, Atiya, Pratap, Abu-Mostafa (2004), "On the maximum drawdown of a Brownian motion".
    """
    return np.sqrt(np.pi / 2.0) * _positive("sigma", sigma) * np.sqrt(_positive("horizon", horizon))


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


def _positive(name: str, values: ArrayLike) -> Float64:
    array = np.asarray(values, np.float64)
    if not (array > 0).all():
        raise ValueError(f"{name} has a value that is not > 0")
    return array
