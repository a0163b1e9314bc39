"""Uniform dither of the bit walk's end, and how far that end and its barriers are from Brownian motion.

A walk of n steps +-vol ends on a lattice of cells 2 vol wide. A uniform number on one cell, added to the end, spreads
each of the lattice's probabilities over its cell. The result has variance vol^2 (n + 1/3); scaled back to vol^2 n,

    y = mean + sqrt(n / (n + 1/3)) (x - mean + vol (2 u - 1)),   u uniform on (0, 1),

its distribution function is off the normal one by about 0.084 / n, where the lattice's is off by 0.40 / sqrt(n).
It repairs the end only. A barrier on the lattice needs none, since P(max S >= m) = 2 P(S + (2 u - 1) > m); an expected
maximum drawdown needs one step vol more.

`bit_walk_error` computes these errors exactly, without simulation; docs/bicep.md derives their orders.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from kernels import exact
from kernels.philox import Op, normal_counter, uniforms

Float64 = NDArray[np.float64]


class BitWalkError(NamedTuple):
    """Distance of the n-step bit walk from Brownian motion of its mean and variance, without drift."""

    ks: float  # largest error of the distribution function of the end
    ks_dithered: float  # the same for the dithered end
    excess_kurtosis: float  # of the end: -2 / n; the dithered end has nearly the same
    barrier_bits: float  # mean absolute error of P(touching a barrier), barriers on the lattice, 0 to 1.5 sd
    barrier_normal: float  # the same for a walk of n normal steps, which sees the barrier at its steps only
    drawdown: float  # relative error of E[max drawdown]
    drawdown_corrected: float  # the same with one step vol added


def dithered(
    terminal: ArrayLike,
    *,
    vol: float,
    n_steps: int,
    mean: float = 0.0,
    seed: int,
    stream: int = 0,
    problem: int = 0,
    first_path: int = 0,
    antithetic: bool = False,
) -> Float64:
    """Ends of bit walks, dithered; float64 [n_paths], for paths first_path, first_path + 1, ...

    terminal: ends x [n_paths] of walks with constant vol, log returns. mean: x0 plus the whole drift. seed, stream,
    problem: the walks' own address; the dither has its own op code. antithetic: as the walks were made; path 2i + 1
    then takes 1 - u of path 2i, so that a pair keeps its symmetry about the mean. Raises ValueError for an end, vol or
    mean that is not finite, negative vol, another shape, n_steps <= 0, an address out of range.
    """
    x = np.asarray(terminal, np.float64)
    if x.ndim != 1:
        raise ValueError(f"terminal has shape {x.shape}, not (n_paths,)")
    if n_steps <= 0:
        raise ValueError(f"n_steps = {n_steps} is not positive")
    if vol < 0:
        raise ValueError(f"vol = {vol} is negative")
    for name, values in (("terminal", x), ("vol", vol), ("mean", mean)):
        if not np.isfinite(values).all():
            raise ValueError(f"{name} has a value that is not finite")
    path = first_path + np.arange(len(x), dtype=np.int64)
    second = path & 1 if antithetic else np.zeros_like(path)
    u = uniforms(normal_counter(0, path - second, problem, stream, Op.DITHER), seed)[:, 0]
    cell = vol * (2.0 * np.where(second, 1.0 - u, u) - 1.0)
    return mean + np.sqrt(n_steps / (n_steps + 1.0 / 3.0)) * (x - mean + cell)


def bit_walk_error(n_steps: int) -> BitWalkError:
    """The errors of n_steps fair signs, from exact laws. ValueError for n_steps < 1 or beyond some ten thousand."""
    law = exact.lattice_terminal(n_steps)
    sd = np.sqrt(n_steps)
    reference = ndtr(law.value / sd)
    after = np.cumsum(law.probability)
    ks = max(np.abs(after - reference).max(), np.abs(after - law.probability - reference).max())
    barriers = np.unique(np.rint(np.linspace(1.0, 1.5 * sd, 8)).astype(np.int64))
    continuous = exact.barrier_probability(barriers, 0.0, 1.0, n_steps)
    bits = exact.lattice_barrier_probability(n_steps, barriers)
    normal = exact.monitored_barrier_probability(n_steps, barriers)
    drawdown, limit = exact.lattice_expected_max_drawdown(n_steps), np.sqrt(np.pi / 2.0) * sd
    return BitWalkError(
        ks=float(ks),
        ks_dithered=_ks_dithered(law, n_steps),
        excess_kurtosis=-2.0 / n_steps,
        barrier_bits=float(np.abs(bits - continuous).mean()),
        barrier_normal=float(np.abs(normal - continuous).mean()),
        drawdown=float(drawdown / limit - 1.0),
        drawdown_corrected=float((drawdown + 1.0) / limit - 1.0),
    )


def _ks_dithered(law: exact.Lattice, n_steps: int) -> float:
    """Largest error of the dithered distribution function, which is linear in each cell.

    Within a cell of probability p it is extreme at the cell's ends, or where the densities are equal:
    p / 2 = exp(-y^2 / (2 s^2)) / (s sqrt(2 pi)), s^2 = n + 1/3.
    """
    s = np.sqrt(n_steps + 1.0 / 3.0)
    left = law.value - 1.0
    before = np.cumsum(law.probability) - law.probability
    with np.errstate(divide="ignore"):  # of a probability that underflowed
        equal = s * np.sqrt(np.maximum(-2.0 * np.log(0.5 * law.probability * s * np.sqrt(2.0 * np.pi)), 0.0))
    worst = 0.0
    for y in (left, left + 2.0, np.clip(equal, left, left + 2.0), np.clip(-equal, left, left + 2.0)):
        distribution = before + law.probability * 0.5 * (y - left)
        worst = max(worst, float(np.abs(distribution - ndtr(y / s)).max()))
    return worst
