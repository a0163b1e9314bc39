"""Closed forms of Brownian motion with constant drift and volatility: what no simulation is needed for.

X(t) = mu t + sigma W(t), X(0) = 0. mu: log return a step; sigma: standard deviation of the log return a step;
horizon: steps; barrier: log distance above the start. Arguments broadcast; results are float64.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_ndtr, ndtr

Float64 = NDArray[np.float64]


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


def _positive(name: str, values: ArrayLike) -> Float64:
    array = np.asarray(values, np.float64)
    if not (array > 0).all():
        raise ValueError(f"{name} has a value that is not > 0")
    return array
