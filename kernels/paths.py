"""Random walks written out step by step: the reference of every other backend, in NumPy.

    x[k] = x0 + sum_{j < k} (e_j vol_j + drift_j),   k = 0 .. n_steps

`bits`:   e_j = +-1, the bits of Philox words. Its exponential has mean exp(n (drift + log cosh vol)), so a martingale
          needs drift = -log_cosh(vol), not -vol^2 / 2.
`normal`: e_j standard normal (kernels/boxmuller.py). A martingale needs drift = -vol^2 / 2.

The sum is kept in integers of fixed point (see `fixed_point`), so neither order nor machine changes a bit of it; it
is turned into a float once, when x[k] is written. The bits of step k of path i depend on nothing else; the scale of
the fixed point, and with it the last digits of x, depends on vol, drift and n_steps.
"""

from math import fsum
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from kernels.boxmuller import REACH, normals32
from kernels.fixed_point import binary_scale
from kernels.philox import UInt32, check_seed, normal_counter, philox4x32, walk_words

Increments = Literal["bits", "normal"]
_CHUNK_STEPS = 1 << 18  # path-steps whose temporaries stay in the cache


class ByteTable(NamedTuple):
    """What eight steps do at once, for each value of a byte (bit 0 first, 1 means +1); int8 [256] each."""

    net: NDArray[np.int8]
    high: NDArray[np.int8]  # maximum over the eight steps and the start: 0 .. 8
    low: NDArray[np.int8]  # minimum over the eight steps and the start: -8 .. 0
    drawdown: NDArray[np.int8]  # largest fall from an earlier maximum, the start included: 0 .. 8


def paths(
    n_paths: int,
    n_steps: int,
    *,
    vol: ArrayLike,
    drift: ArrayLike = 0.0,
    x0: float = 0.0,
    seed: int,
    stream: int = 0,
    problem: int = 0,
    increments: Increments = "bits",
    antithetic: bool = False,
    dtype: DTypeLike = np.float32,
) -> NDArray[np.floating]:
    """Walks x, [n_paths, n_steps + 1].

    vol: standard deviation of the log return of a step, scalar or [n_steps]. drift: log return of a step, scalar or
    [n_steps]. seed, stream, problem: the address of the randomness (kernels/philox.py); path i is the same whatever
    n_paths is. antithetic: path 2i + 1 takes the complemented bits (negated normals) of path 2i, so that error bars
    are taken over pairs. dtype: float32 or float64, of the output only.

    Raises ValueError for n_steps <= 0, negative n_paths, vol that is negative or not finite, drift or x0 that is not
    finite, an unknown increment or dtype, a seed outside [0, 2^64), a counter that overflows.
    """
    up, down, scale = _checked_steps(n_paths, n_steps, vol, drift, increments)
    check_seed(seed)
    dtype = np.dtype(dtype)
    if dtype not in (np.float32, np.float64):
        raise ValueError(f"dtype = {dtype} is neither float32 nor float64")
    if not np.isfinite(x0):
        raise ValueError(f"x0 = {x0} is not finite")
    out = np.empty((n_paths, n_steps + 1), dtype)
    chunk = 2 * max(1, _CHUNK_STEPS // (2 * n_steps))  # even: an antithetic pair stays together
    for start in range(0, n_paths, chunk):
        path = np.arange(start, min(start + chunk, n_paths), dtype=np.int64)
        sign = path & 1 if antithetic else np.zeros_like(path)
        if increments == "bits":
            words = walk_words(path - sign, n_steps, seed=seed, problem=problem, stream=stream)
            steps = np.where(_bits(words ^ _mask(sign), n_steps), up, down)
        else:
            z = _normals(path - sign, n_steps, seed, problem, stream)
            z *= (1 - 2 * sign).astype(np.float32)[:, None]
            amplitude, shift = np.float32(0.5) * (up - down).astype(np.float32), (up + down) // 2
            steps = np.rint(z * amplitude).astype(np.int32) + shift
        total = np.cumsum(steps, axis=1, dtype=np.int32).astype(dtype)
        rows = out[path[0] : path[-1] + 1]
        rows[:, 0] = x0
        np.add(total * np.asarray(2.0**-scale, dtype), np.asarray(x0, dtype), out=rows[:, 1:])
    return out


def log_cosh(x: ArrayLike) -> NDArray[np.float64]:
    """log cosh x: minus the drift that makes exp of a bit walk with this vol a martingale; accurate near 0."""
    return np.log1p(2.0 * np.sinh(0.5 * np.asarray(x, np.float64)) ** 2)


def fixed_point(
    vol: NDArray[np.float64], drift: NDArray[np.float64], increments: Increments
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """vol and drift of each step as integers a_t = rint(vol_t 2^s), m_t = rint(drift_t 2^s), and s.

    s = floor(29 - log2(reach sum vol + sum |drift|)), reach = 1 for bits and 7 for normals: |x| 2^s stays below 2^30.
    """
    bound = (REACH if increments == "normal" else 1.0) * fsum(vol) + fsum(np.abs(drift))
    scale = int(binary_scale(bound))
    if not (np.isfinite(bound) and -100 <= scale <= 100):
        raise ValueError(f"vol and drift sum to {bound}, outside [2^-71, 2^129]")
    return np.rint(np.ldexp(vol, scale)).astype(np.int64), np.rint(np.ldexp(drift, scale)).astype(np.int64), scale


def byte_table() -> ByteTable:
    """Net move, maximum, minimum and drawdown of the eight steps in each of the 256 bytes."""
    bits = (np.arange(256)[:, None] >> np.arange(8)) & 1
    walk = np.concatenate([np.zeros((256, 1), np.int64), np.cumsum(2 * bits - 1, axis=1)], axis=1)
    drawdown = (np.maximum.accumulate(walk, axis=1) - walk).max(axis=1)
    parts = (walk[:, -1], walk.max(axis=1), walk.min(axis=1), drawdown)
    return ByteTable(*(part.astype(np.int8) for part in parts))


def _checked_steps(
    n_paths: int, n_steps: int, vol: ArrayLike, drift: ArrayLike, increments: Increments
) -> tuple[NDArray[np.int32], NDArray[np.int32], int]:
    """Integer step up and step down at each time, int32 [n_steps], and the scale."""
    if n_steps <= 0:
        raise ValueError(f"n_steps = {n_steps} is not positive")
    if not 0 <= n_paths <= 1 << 32:
        raise ValueError(f"n_paths = {n_paths} is outside [0, 2^32]")
    if increments not in ("bits", "normal"):
        raise ValueError(f"increments = {increments!r} is neither 'bits' nor 'normal'")
    both = []
    for name, values in (("vol", vol), ("drift", drift)):
        array = np.asarray(values, np.float64)
        if array.shape not in ((), (n_steps,)):
            raise ValueError(f"{name} has shape {array.shape}, neither () nor ({n_steps},)")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} is not finite")
        both.append(np.broadcast_to(array, n_steps))
    if (both[0] < 0).any():
        raise ValueError(f"vol = {both[0].min()} is negative")
    amplitude, shift, scale = fixed_point(both[0], both[1], increments)
    return (shift + amplitude).astype(np.int32), (shift - amplitude).astype(np.int32), scale


def _bits(words: UInt32, n_steps: int) -> NDArray[np.uint8]:
    """Words [p, w] to bits [p, n_steps], the lowest bit of a word first."""
    octets = np.ascontiguousarray(words, "<u4").view(np.uint8)
    return np.unpackbits(octets, axis=1, count=n_steps, bitorder="little")


def _mask(sign: NDArray[np.int64]) -> UInt32:
    """All ones for paths that complement their words, [p, 1]."""
    return np.where(sign, np.uint32(0xFFFFFFFF), np.uint32(0))[:, None]


def _normals(path: NDArray[np.int64], n_steps: int, seed: int, problem: int, stream: int) -> NDArray[np.float32]:
    counter = normal_counter(np.arange(0, n_steps, 4), path[:, None], problem, stream)
    w0, w1, w2, w3 = philox4x32(counter, seed)  # [p, blocks] each
    z = np.stack([*normals32(w0, w1), *normals32(w2, w3)], axis=-1)  # [p, blocks, 4]
    return z.reshape(len(path), -1)[:, :n_steps]
