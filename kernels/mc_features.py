"""Features of many random walks in one pass: barrier hits, terminal law, drawdown. No path is written to memory.

    x[0] = 0,   x[k] = x[k-1] + vol_k e_k + drift,   k = 1 .. n_steps

`bits`:     e_k = +-1, the bits of Philox words (kernels/philox.py).
`signflip`: the same arithmetic where vol_k is the k-th absolute return of a history: the wild bootstrap (Wu 1986,
            Liu 1988), which keeps heteroskedasticity. It needs vol of shape [P, n].
`normal`:   e_k standard normal (kernels/boxmuller.py).

A walk is a sum of integers, a_k = rint(vol_k 2^s), with one s a problem (`fixed_point`); every output is a count, a
sum or an extreme of integers. So neither order, nor chunk, nor machine changes a bit of it, and a faster backend must
agree exactly. Barriers are monitored at the steps, the start included.

The steps of a byte are taken together: for each of 256 values of a byte and each problem, a table holds net move,
maximum, minimum and drawdown of its eight steps. Problems that share a problem id share their bits, and a table row
is then fetched for a whole tile of problems.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kernels.boxmuller import REACH, normals32
from kernels.fixed_point import binary_scale
from kernels.philox import check_seed, normal_counter, philox4x32, walk_counter, walk_words

Increments = Literal["bits", "normal", "signflip"]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]

BINS = 512  # of the histogram, uniform in terminal / sd over +-8; the outer bins are open
NONE_BELOW, NONE_ABOVE = np.iinfo(np.int32).min, np.iinfo(np.int32).max
_PATHS, _PROBLEMS = 4096, 128  # a tile
_BLOCK = 1 << 15  # elements of a tile that are advanced together: their state fits the second-level cache


class Rank(NamedTuple):
    """Where an observed value stands among the terminal values; [P] each, in fixed point of the problem's scale."""

    below: Int64  # terminal values below the observed one
    equal: Int64  # terminal values equal to it
    next_below: Int32  # the largest terminal value below it, NONE_BELOW without one
    next_above: Int32  # the smallest terminal value above it, NONE_ABOVE without one


class McFeatures(NamedTuple):
    """Totals over the paths of each problem; divide counts by n_paths, and sums by n_paths 2^scale for log returns."""

    scale: Int32  # [P]: a log return is its integer times 2^-scale
    hits: Int64  # [P]: paths whose maximum reaches barrier
    hits_low: Int64  # [P]: paths whose minimum reaches -barrier_low; 0 where it is not given
    sum_mdd: Int64  # [P]: sum of maximum drawdowns
    sum_terminal: Int64  # [P]
    hist: Int32 | None  # [P, BINS]
    rank: Rank | None


@dataclass(frozen=True)
class _Problems:
    """Checked input."""

    vol: NDArray[np.float32]  # [P] or [P, n]
    drift: NDArray[np.float32]  # [P]
    barrier: NDArray[np.float32]  # [P]
    barrier_low: NDArray[np.float32]  # [P]
    observed: Float64 | None  # [P]
    ids: NDArray[np.uint32]  # [P]
    n_steps: int
    increments: Increments


class _Tile(NamedTuple):
    """A tile of R problems in fixed point."""

    drift: Int32  # [R]
    amplitude: Int32  # [R, n]
    scale: Int32  # [R]
    limit: Int32  # [R]: a path hits where its maximum reaches this
    limit_low: Int32  # [R]: and where its minimum falls to this
    observed: Int32 | None  # [R]


class _State(NamedTuple):
    """Walks of a tile so far, int32 [paths, R] each."""

    x: Int32
    high: Int32
    low: Int32
    drawdown: Int32


def mc_features(
    vol: ArrayLike,
    drift: ArrayLike,
    barrier: ArrayLike,
    *,
    n_paths: int,
    n_steps: int,
    seed: int,
    stream: int = 0,
    problem_ids: ArrayLike | None = None,
    increments: Increments = "bits",
    antithetic: bool = True,
    barrier_low: ArrayLike | None = None,
    observed: ArrayLike | None = None,
    hist: bool = True,
    device: str = "cpu",
) -> McFeatures:
    """Simulate n_paths walks of n_steps for each of P problems and total their features.

    vol: f32 [P] or [P, n_steps], standard deviation of the log return of a step. drift: f32 [P], log return of a step.
    barrier, barrier_low: f32 [P], log distance above and below the start, > 0; infinity is never reached. observed:
    f64 [P], a log return to rank among the terminal values. problem_ids: [P], the address of each problem's
    randomness, 0 .. P - 1 where None; equal ids have common random numbers. antithetic: path 2i + 1 takes the
    complemented bits (negated normals) of path 2i; error bars are then taken over pairs.

    Raises ValueError for n_steps <= 0, negative n_paths, shapes that disagree, vol that is negative or not finite,
    drift or observed that is not finite, a barrier that is not > 0, an unknown increment or device, a seed, stream or
    problem id out of range; RuntimeError for device="cuda" where there is none.
    """
    _check_device(device)
    if n_steps <= 0:
        raise ValueError(f"n_steps = {n_steps} is not positive")
    if not 0 <= n_paths <= 1 << 32:
        raise ValueError(f"n_paths = {n_paths} is outside [0, 2^32]")
    if increments not in get_args(Increments):
        raise ValueError(f"increments = {increments!r} is none of {', '.join(get_args(Increments))}")
    check_seed(seed)
    walk_counter(0, 0, 0, stream)  # refuses a stream out of range
    problems = _checked(vol, drift, barrier, barrier_low, observed, problem_ids, n_steps, increments)
    total = _zeros(problems, hist)
    for run in _runs(problems.ids):
        for first_path in range(0, n_paths, _PATHS):
            path = np.arange(first_path, min(first_path + _PATHS, n_paths), dtype=np.int64)
            walk = _walker(problems, path, antithetic, seed, int(problems.ids[run.start]), stream)
            for first in range(run.start, run.stop, _PROBLEMS):
                rows = slice(first, min(first + _PROBLEMS, run.stop))
                tile = _tile(problems, rows)
                total.scale[rows] = tile.scale
                _add(total, rows, tile, walk(tile))
    return total


def fixed_point(vol: Float64, drift: Float64, increments: Increments) -> tuple[Int32, Int32, Int32]:
    """vol [P, n] and drift [P] as integers a = rint(vol 2^s), m = rint(drift 2^s), and s [P].

    s = floor(29 - log2(reach sum vol + n |drift|)), reach = 1 for bits and 7 for normals: |x| 2^s stays below 2^30.
    """
    total = np.cumsum(vol, axis=1)[:, -1]  # in the order of the steps: a sum that every backend can repeat
    bound = (REACH if increments == "normal" else 1.0) * total + vol.shape[1] * np.abs(drift)
    scale = binary_scale(bound)
    a = np.rint(np.ldexp(vol, scale[:, None])).astype(np.int32)
    return a, np.rint(np.ldexp(drift, scale)).astype(np.int32), scale.astype(np.int32)


def _check_device(device: str) -> None:
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device = {device!r} is neither 'cpu' nor 'cuda'")
    if device == "cuda":
        raise RuntimeError("mc_features has no CUDA backend here; device='cpu' is a backend of its own")


def _checked(
    vol: ArrayLike,
    drift: ArrayLike,
    barrier: ArrayLike,
    barrier_low: ArrayLike | None,
    observed: ArrayLike | None,
    problem_ids: ArrayLike | None,
    n_steps: int,
    increments: Increments,
) -> _Problems:
    vol32 = np.asarray(vol, np.float32)
    size = len(vol32) if vol32.ndim else 1
    if vol32.shape not in ((size,), (size, n_steps)) or (increments == "signflip" and vol32.ndim != 2):
        shapes = f"[P, {n_steps}]" if increments == "signflip" else f"[P] or [P, {n_steps}]"
        raise ValueError(f"vol has shape {vol32.shape}, not {shapes}")
    if not (np.isfinite(vol32).all() and (vol32 >= 0).all()):
        raise ValueError("vol has a value that is negative or not finite")
    ids = np.arange(size) if problem_ids is None else np.asarray(problem_ids)
    if ids.dtype.kind not in "iu" or (ids.size and not 0 <= ids.min() <= ids.max() < 1 << 32):
        raise ValueError("problem_ids has a value that is not an integer in [0, 2^32)")
    return _Problems(
        vol=vol32,
        drift=_finite("drift", np.asarray(drift, np.float32), size),
        barrier=_above_zero("barrier", barrier, size),
        barrier_low=_above_zero("barrier_low", np.full(size, np.inf) if barrier_low is None else barrier_low, size),
        observed=None if observed is None else _finite("observed", np.asarray(observed, np.float64), size),
        ids=_sized("problem_ids", ids, size).astype(np.uint32),
        n_steps=n_steps,
        increments=increments,
    )


def _sized(name: str, array: NDArray[Any], size: int) -> NDArray[Any]:
    if array.shape != (size,):
        raise ValueError(f"{name} has shape {array.shape}, not ({size},)")
    return array


def _finite(name: str, array: NDArray[Any], size: int) -> NDArray[Any]:
    if not np.isfinite(array).all():
        raise ValueError(f"{name} has a value that is not finite")
    return _sized(name, array, size)


def _above_zero(name: str, values: ArrayLike, size: int) -> NDArray[np.float32]:
    array = _sized(name, np.asarray(values, np.float32), size)
    if not (array > 0).all():
        raise ValueError(f"{name} has a value that is not > 0; infinity stands for a barrier that is never reached")
    return array


def _zeros(problems: _Problems, hist: bool) -> McFeatures:
    size = len(problems.ids)

    def counts() -> Int64:
        return np.zeros(size, np.int64)

    rank = Rank(counts(), counts(), np.full(size, NONE_BELOW, np.int32), np.full(size, NONE_ABOVE, np.int32))
    return McFeatures(
        scale=np.zeros(size, np.int32),
        hits=counts(),
        hits_low=counts(),
        sum_mdd=counts(),
        sum_terminal=counts(),
        hist=np.zeros((size, BINS), np.int32) if hist else None,
        rank=None if problems.observed is None else rank,
    )


def _runs(ids: NDArray[np.uint32]) -> Iterator[slice]:
    """Runs of neighbours with one id; they share their noise."""
    changes = (np.flatnonzero(np.diff(ids)) + 1).tolist()
    for start, stop in pairwise([0, *changes, len(ids)] if len(ids) else []):
        yield slice(start, stop)


def _tile(problems: _Problems, rows: slice) -> _Tile:
    vol, drift = problems.vol[rows].astype(np.float64), problems.drift[rows].astype(np.float64)
    if vol.ndim == 1:
        vol = np.broadcast_to(vol[:, None], (len(vol), problems.n_steps))
    amplitude, shift, scale = fixed_point(vol, drift, problems.increments)
    return _Tile(
        drift=shift,
        amplitude=amplitude,
        scale=scale,
        limit=_limit(problems.barrier[rows], scale),
        limit_low=-_limit(problems.barrier_low[rows], scale),
        observed=None if problems.observed is None else _round(np.ldexp(problems.observed[rows], scale)),
    )


def _limit(barrier: NDArray[np.float32], scale: Int32) -> Int32:
    """The smallest integer at or above the barrier."""
    return _round(np.ceil(np.ldexp(barrier.astype(np.float64), scale)))


def _round(values: Float64) -> Int32:
    """Nearest integers; no walk gets beyond 2^30, so what is farther away may be moved to the ends of the type."""
    return np.rint(np.clip(values, -NONE_ABOVE, NONE_ABOVE)).astype(np.int32)


def _start(paths: int, problems: int) -> _State:
    return _State(*(np.zeros((paths, problems), np.int32) for _ in _State._fields))


def _walker(
    problems: _Problems, path: Int64, antithetic: bool, seed: int, problem: int, stream: int
) -> Callable[[_Tile], _State]:
    """Walks of these paths as a function of the tile; their noise is made here, once for all tiles."""
    sign = path & 1 if antithetic else np.zeros_like(path)  # 1: the path complements its predecessor's words
    if problems.increments == "normal":
        z = _normals(path - sign, sign, problems.n_steps, seed, problem, stream)
        return lambda tile: _normal_walks(tile, z)
    octets = _octets(path - sign, sign, problems.n_steps, seed, problem, stream)
    return lambda tile: _bit_walks(tile, octets)


def _octets(base: Int64, sign: Int64, n_steps: int, seed: int, problem: int, stream: int) -> NDArray[np.intp]:
    """Bits of the walks, eight steps a byte, [ceil(n_steps / 8), paths]."""
    words = walk_words(base, n_steps, seed=seed, problem=problem, stream=stream)  # [paths, w]
    words = words ^ np.where(sign, np.uint32(0xFFFFFFFF), np.uint32(0))[:, None]
    octets = np.ascontiguousarray(words, "<u4").view(np.uint8)[:, : -(-n_steps // 8)]
    return np.ascontiguousarray(octets.T, np.intp)


def _bit_walks(tile: _Tile, octets: NDArray[np.intp]) -> _State:
    n_paths, n_problems = octets.shape[1], len(tile.scale)
    state = _start(n_paths, n_problems)
    size = min(_BLOCK // n_problems, n_paths)
    scratch = np.empty((size, n_problems), np.int32)
    for group, octet in enumerate(octets):
        a = tile.amplitude[:, 8 * group : 8 * group + 8].T
        table = _byte_table(tile.drift + a, tile.drift - a)
        for first in range(0, n_paths, size):
            block = slice(first, min(first + size, n_paths))
            here = _State(*(part[block] for part in state))
            _eight_steps(here, table, octet[block], scratch[: len(here.x)])
    return state


def _byte_table(up: Int32, down: Int32) -> _State:
    """What up to eight steps do at once, for each value of a byte (bit 0 first): int32 [256, problems] each.

    up, down: [steps, problems], steps <= 8; the high bits of a byte that has fewer steps are ignored.
    """
    table = _start(1, up.shape[1])
    for k in range(8):
        if k >= len(up):
            table = _State(*(np.concatenate([part, part]) for part in table))
            continue
        halves = []
        for step in (down[k], up[k]):
            x = table.x + step
            high = np.maximum(table.high, x)
            halves.append((x, high, np.minimum(table.low, x), np.maximum(table.drawdown, high - x)))
        table = _State(*(np.concatenate(pair) for pair in zip(*halves, strict=True)))
    return table


def _eight_steps(state: _State, table: _State, octet: NDArray[np.intp], scratch: Int32) -> None:
    """Advance a block of walks, in place, by the steps of one byte each."""
    x, high, low, drawdown = state

    def fetch(part: Int32) -> Int32:
        return np.take(part, octet, axis=0, out=scratch, mode="clip")  # the bytes are in range; "raise" would copy

    np.maximum(drawdown, fetch(table.drawdown), out=drawdown)
    fetch(table.low)
    np.add(scratch, x, out=scratch)
    np.minimum(low, scratch, out=low)
    np.subtract(high, scratch, out=scratch)  # fall from the maximum before these steps
    np.maximum(drawdown, scratch, out=drawdown)
    fetch(table.high)
    np.add(scratch, x, out=scratch)
    np.maximum(high, scratch, out=high)
    np.add(x, fetch(table.x), out=x)


def _normals(base: Int64, sign: Int64, n_steps: int, seed: int, problem: int, stream: int) -> NDArray[np.float32]:
    """Normals of the walks, [n_steps, paths]."""
    counter = normal_counter(np.arange(0, n_steps, 4)[:, None], base, problem, stream)
    w0, w1, w2, w3 = philox4x32(counter, seed)  # [blocks, paths] each
    z = np.stack([*normals32(w0, w1), *normals32(w2, w3)], axis=1)  # [blocks, 4, paths]
    return z.reshape(-1, len(base))[:n_steps] * (1 - 2 * sign).astype(np.float32)


def _normal_walks(tile: _Tile, z: NDArray[np.float32]) -> _State:
    amplitude = tile.amplitude.astype(np.float32)
    state = _start(z.shape[1], len(tile.scale))
    x, high, low, drawdown = state
    for k, normal in enumerate(z):
        x += np.rint(normal[:, None] * amplitude[:, k]).astype(np.int32) + tile.drift
        np.maximum(high, x, out=high)
        np.minimum(low, x, out=low)
        np.maximum(drawdown, high - x, out=drawdown)
    return state


def _add(total: McFeatures, rows: slice, tile: _Tile, state: _State) -> None:
    """Add the walks of a tile to the totals of its problems."""
    x = state.x
    total.hits[rows] += np.count_nonzero(state.high >= tile.limit, axis=0)
    total.hits_low[rows] += np.count_nonzero(state.low <= tile.limit_low, axis=0)
    total.sum_mdd[rows] += state.drawdown.sum(axis=0, dtype=np.int64)
    total.sum_terminal[rows] += x.sum(axis=0, dtype=np.int64)
    if total.hist is not None:
        total.hist[rows] += _histogram(x, _sd(tile))
    if total.rank is not None and tile.observed is not None:
        below, above = x < tile.observed, x > tile.observed
        count = np.count_nonzero(below, axis=0)
        total.rank.below[rows] += count
        total.rank.equal[rows] += len(x) - count - np.count_nonzero(above, axis=0)
        nearest = np.where(below, x, np.int32(NONE_BELOW)).max(axis=0)
        np.maximum(total.rank.next_below[rows], nearest, out=total.rank.next_below[rows])
        nearest = np.where(above, x, np.int32(NONE_ABOVE)).min(axis=0)
        np.minimum(total.rank.next_above[rows], nearest, out=total.rank.next_above[rows])


def _histogram(x: Int32, sd: Int64) -> Int32:
    """Counts of terminal / sd in BINS bins over +-8, int32 [problems, BINS]; all of it in integers."""
    per_sd = BINS // 16
    bins = np.clip(x.astype(np.int64) * per_sd // sd + BINS // 2, 0, BINS - 1)  # [paths, problems]
    flat = bins + BINS * np.arange(len(sd))
    return np.bincount(flat.ravel(), minlength=BINS * len(sd)).reshape(len(sd), BINS).astype(np.int32)


def _sd(tile: _Tile) -> Int64:
    """Standard deviation of the terminal value in fixed point, at least 1."""
    variance = np.square(tile.amplitude, dtype=np.int64).sum(axis=1)
    return np.maximum(np.rint(np.sqrt(variance)), 1).astype(np.int64)
