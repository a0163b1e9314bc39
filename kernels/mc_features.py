"""Features of many random walks in one pass: barrier hits, terminal law, drawdown. No path is written to memory.

    x[0] = 0,   x[k] = x[k-1] + vol_k e_k + drift,   k = 1 .. n_steps

`bits`:     e_k = +-1, the bits of Philox words (kernels/philox.py).
`signflip`: the same arithmetic where vol_k is the k-th absolute return of a history: the wild bootstrap (Wu 1986,
            Liu 1988), which keeps heteroskedasticity. It needs vol of shape [P, n].
`normal`:   e_k standard normal (kernels/boxmuller.py).

A walk is a sum of integers, a_k = rint(vol_k 2^s), with one s a problem (`fixed_point`); every output is a count, a
sum or an extreme of integers. So neither order, nor threads, nor machine changes a bit of it: `mc_features_reference`
in plain NumPy, the loops for the CPU (kernels/mc_walks.py) and those for the GPU (kernels/mc_features.cu) agree
exactly. Barriers are monitored at the steps, the start included.

A call pays for what it asks. Bit walks of constant volatility are cheapest: without drawdown and drift they live on a
lattice and take eight steps at a time, and without barriers they are a count of bits.
"""

from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kernels import cuda, mc_walks
from kernels.boxmuller import REACH, normals32
from kernels.device import Device
from kernels.fixed_point import binary_scale
from kernels.mc_walks import BINS, NONE_ABOVE, NONE_BELOW, Address, Int32, Int64, Tile, Totals
from kernels.philox import Op, check_seed, normal_counter, philox4x32, walk_counter, walk_words

Increments = Literal["bits", "normal", "signflip"]
Float64 = NDArray[np.float64]

_LANES = 1024  # paths that the CPU walks side by side: their state and noise fit the first two levels of cache
_PROBLEMS, _TABLE = 64, 1 << 20  # of a tile, at most: problems, and problems x steps
_LATTICE_PROBLEMS = 4096  # of a tile that has no table
_THREADS, _BLOCKS = 256, 1 << 13  # of a launch, at most


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
    sum_mdd: Int64 | None  # [P]: sum of maximum drawdowns
    sum_terminal: Int64  # [P]
    hist: Int32 | None  # [P, BINS]: bins uniform in terminal / sd over +-8, the outer ones open
    rank: Rank | None


class Plan(NamedTuple):
    """Checked arguments of `mc_features`: what the backends take."""

    vol: NDArray[np.float32]  # [P] or [P, n_steps]
    drift: NDArray[np.float32]  # [P]
    barrier: NDArray[np.float32]  # [P]
    barrier_low: NDArray[np.float32]  # [P]
    observed: Float64 | None  # [P]
    ids: NDArray[np.uint32]  # [P]
    n_paths: int
    n_steps: int
    seed: int
    stream: int
    normal: bool
    antithetic: bool
    drawdown: bool
    hist: bool

    @property
    def high(self) -> bool:
        """Whether some path may hit from below."""
        return bool(np.isfinite(self.barrier).any())

    @property
    def low(self) -> bool:
        return bool(np.isfinite(self.barrier_low).any())

    @property
    def lattice(self) -> bool:
        """Whether all that is asked follows from the walk of steps +-1."""
        centred = not self.drift.any() or not (self.high or self.low)
        return not self.normal and self.vol.ndim == 1 and not self.drawdown and centred


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
    drawdown: bool = True,
    hist: bool = True,
    threads: int = 1,
    device: str = "cpu",
) -> McFeatures:
    """Simulate n_paths walks of n_steps for each of P problems and total their features.

    vol: f32 [P] or [P, n_steps], standard deviation of the log return of a step. drift: f32 [P], log return of a step.
    barrier, barrier_low: f32 [P], log distance above and below the start, > 0; infinity is never reached, and a side
    that is infinite in every problem costs nothing. observed: f64 [P], a log return to rank among the terminal values.
    problem_ids: [P], the address of each problem's randomness, 0 .. P - 1 where None; equal ids have common random
    numbers, and neighbours with one id share the work of making them. antithetic: path 2i + 1 takes the complemented
    bits (negated normals) of path 2i; error bars are then taken over pairs. drawdown, hist: whether to compute sum_mdd
    and hist, which are None otherwise. threads: of the CPU. device: "cpu" or "cuda". Neither changes a bit.

    Raises ValueError for n_steps outside [1, 2^31), negative n_paths, shapes that disagree, vol that is negative or
    not finite, drift or observed that is not finite, a barrier that is not > 0, an unknown increment or device,
    threads < 1, a seed, stream or problem id out of range; RuntimeError for device="cuda" where there is none.
    """
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device = {device!r} is neither 'cpu' nor 'cuda'")
    if threads < 1:
        raise ValueError(f"threads = {threads} is not positive")
    what = plan(
        vol,
        drift,
        barrier,
        n_paths=n_paths,
        n_steps=n_steps,
        seed=seed,
        stream=stream,
        problem_ids=problem_ids,
        increments=increments,
        antithetic=antithetic,
        barrier_low=barrier_low,
        observed=observed,
        drawdown=drawdown,
        hist=hist,
    )
    return on_cpu(what, threads) if device == "cpu" else on_device(cuda.current(), what)


def plan(
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
    drawdown: bool = True,
    hist: bool = True,
) -> Plan:
    """The arguments of `mc_features`, checked as it says."""
    if not 0 < n_steps < 1 << 31:
        raise ValueError(f"n_steps = {n_steps} is outside [1, 2^31)")
    if not 0 <= n_paths <= 1 << 32:
        raise ValueError(f"n_paths = {n_paths} is outside [0, 2^32]")
    if increments not in get_args(Increments):
        raise ValueError(f"increments = {increments!r} is none of {', '.join(get_args(Increments))}")
    walk_counter(0, 0, 0, stream)  # refuses a stream out of range
    vol32 = _float32(vol)
    size = len(vol32) if vol32.ndim else 1
    if vol32.shape not in ((size,), (size, n_steps)) or (increments == "signflip" and vol32.ndim != 2):
        shapes = f"[P, {n_steps}]" if increments == "signflip" else f"[P] or [P, {n_steps}]"
        raise ValueError(f"vol has shape {vol32.shape}, not {shapes}")
    if not (np.isfinite(vol32).all() and (vol32 >= 0).all()):
        raise ValueError("vol has a value that is negative or not finite")
    ids = np.arange(size) if problem_ids is None else np.asarray(problem_ids)
    if ids.dtype.kind not in "iu" or (ids.size and not 0 <= ids.min() <= ids.max() < 1 << 32):
        raise ValueError("problem_ids has a value that is not an integer in [0, 2^32)")
    return Plan(
        vol=vol32,
        drift=_finite("drift", _float32(drift), size),
        barrier=_above_zero("barrier", barrier, size),
        barrier_low=_above_zero("barrier_low", np.full(size, np.inf) if barrier_low is None else barrier_low, size),
        observed=None if observed is None else _finite("observed", np.asarray(observed, np.float64), size),
        ids=_sized("problem_ids", ids, size).astype(np.uint32),
        n_paths=n_paths,
        n_steps=n_steps,
        seed=check_seed(seed),
        stream=stream,
        normal=increments == "normal",
        antithetic=bool(antithetic),
        drawdown=bool(drawdown),
        hist=bool(hist),
    )


def mc_features_reference(what: Plan) -> McFeatures:
    """`mc_features` in NumPy, with every walk of a problem in memory."""
    size = len(what.ids)
    scale, total = np.zeros(size, np.int32), _nothing(what, size)
    for r in range(size):
        tile = _tile(what, slice(r, r + 1))
        x = np.zeros((what.n_paths, what.n_steps + 1), np.int64)
        np.cumsum(_steps(what, tile), axis=1, out=x[:, 1:])
        terminal = x[:, -1]
        scale[r] = tile.scale[0]
        total.hits[r] = (x.max(axis=1) >= tile.limit).sum()
        total.hits_low[r] = (x.min(axis=1) <= tile.limit_low).sum()
        total.sum_mdd[r] = (np.maximum.accumulate(x, axis=1) - x).max(axis=1).sum()
        total.sum_terminal[r] = terminal.sum()
        if what.hist:
            bins = np.clip(terminal * (BINS // 16) // tile.sd + BINS // 2, 0, BINS - 1)
            total.hist[r] = np.bincount(bins, minlength=BINS)
        if what.observed is not None:
            below, above = terminal[terminal < tile.observed], terminal[terminal > tile.observed]
            total.below[r], total.equal[r] = len(below), len(terminal) - len(below) - len(above)
            total.next_below[r], total.next_above[r] = below.max(initial=NONE_BELOW), above.min(initial=NONE_ABOVE)
    return _features(what, scale, total)


def on_cpu(what: Plan, threads: int = 1) -> McFeatures:
    """The features by the loops of `mc_walks`; threads share problems and paths."""
    size, n_steps = len(what.ids), what.n_steps
    if what.lattice:
        followed = what.high or what.low
        walks, rows = mc_walks.lattice(what.high, what.low) if followed else mc_walks.ends(), _LATTICE_PROBLEMS
    else:
        walks, rows = mc_walks.general(what.normal, what.low, what.drawdown), _rows(n_steps)
    tiles = [slice(first, min(first + rows, size)) for first in range(0, size, rows)]
    pieces = 1 if threads == 1 else -(-4 * threads // max(1, len(tiles)))
    paths = max(1, -(-what.n_paths // (pieces * _LANES))) * _LANES  # of a piece
    lanes = max(2, min(_LANES, what.n_paths + what.n_paths % 2))
    op = Op.NORMALS if what.normal else Op.WALK_BITS
    address = Address(
        np.uint32(op << 24 | what.stream),
        np.uint32(what.seed & 0xFFFFFFFF),
        np.uint32(what.seed >> 32),
        what.antithetic,
    )

    def run(task: tuple[slice, int]) -> tuple[Int32, Totals]:
        rows, first = task
        tile, totals = _tile(what, rows), _nothing(what, rows.stop - rows.start)
        steps = tile if what.lattice else mc_walks.stepwise(tile, n_steps)
        walks(steps, n_steps, address, first, min(first + paths, what.n_paths), lanes, totals)
        return tile.scale, totals

    scale, total = np.zeros(size, np.int32), _nothing(what, size)
    tasks = list(product(tiles, range(0, max(1, what.n_paths), paths)))
    with ThreadPoolExecutor(threads) as pool:
        for (rows, _), (its_scale, found) in zip(tasks, (map if threads == 1 else pool.map)(run, tasks), strict=True):
            scale[rows] = its_scale
            _merge(total, rows, found)
    return _features(what, scale, total)


class OnDevice(NamedTuple):
    """Arguments and totals of a launch, in the memory of a device."""

    scale: Int32  # of the host
    inputs: tuple[Any, ...]  # arrays of the problems, then numbers
    sums: Any  # [P, 6]: hits, hits_low, sum_mdd, sum_terminal, below, equal
    nearest: Any  # [P, 2]: next_below, next_above
    hist: Any  # [P, BINS], or None


def on_device(device: Device, what: Plan) -> McFeatures:
    """The features by mc_features.cu."""
    there = send(device, what)
    walk(device, what, there)
    return receive(device, what, there)


def send(device: Device, what: Plan) -> OnDevice:
    """What a launch needs, and its totals before any path."""
    size, rows = len(what.ids), _rows(what.n_steps)
    tiles = [_tile(what, slice(first, min(first + rows, size))) for first in range(0, max(1, size), rows)]
    tile = Tile(*(np.concatenate(parts) for parts in zip(*tiles, strict=True)))
    put = device.put
    return OnDevice(
        tile.scale,
        (
            *(put(tile.ids), put(tile.amplitude), put(tile.drift), put(tile.limit), put(tile.limit_low), put(tile.sd)),
            None if what.observed is None else put(tile.observed),
            *(size, what.n_steps, what.vol.ndim == 2, what.n_paths, what.seed, what.stream, what.antithetic),
        ),
        device.zeros((size, 6), np.uint64),
        device.put(np.tile(np.array([NONE_BELOW, NONE_ABOVE], np.int32), (size, 1))),
        device.zeros((size, BINS), np.int32) if what.hist else None,
    )


def walk(device: Device, what: Plan, there: OnDevice, *, blocks: int = _BLOCKS, threads: int = _THREADS) -> None:
    """Add the walks to the totals on the device. threads: a multiple of 32; no launch shape changes a bit."""
    work = len(what.ids) * -(-what.n_paths // (2 * threads))
    if not work:
        return
    if what.lattice:
        kernel, flags = "walk_lattice", (what.high, what.low)
    else:
        kernel, flags = "walk_normals" if what.normal else "walk_bits", (what.low, what.drawdown)
    totals = there.sums, there.nearest, there.hist
    device.launch("mc_features", kernel, min(work, blocks), threads, *there.inputs, *flags, *totals)


def receive(device: Device, what: Plan, there: OnDevice) -> McFeatures:
    """The totals, from the device."""
    hits, hits_low, sum_mdd, sum_terminal, below, equal = np.ascontiguousarray(device.get(there.sums).view(np.int64).T)
    next_below, next_above = np.ascontiguousarray(device.get(there.nearest).T)
    hist = np.empty((0, BINS), np.int32) if there.hist is None else device.get(there.hist)
    totals = Totals(hits, hits_low, sum_mdd, sum_terminal, hist, below, equal, next_below, next_above)
    return _features(what, there.scale, totals)


def fixed_point(vol: Float64, drift: Float64, normal: bool, n_steps: int) -> tuple[Int32, Int32, Int32]:
    """vol [P, n_steps] or [P, 1] and drift [P] as integers a = rint(vol 2^s), m = rint(drift 2^s), and s [P].

    s = floor(29 - log2(reach sum vol + n |drift|)), reach = 1 for bits and 7 for normals: |x| 2^s stays below 2^30.
    """
    total = np.cumsum(vol, axis=1)[:, -1]  # in the order of the steps: a sum that every backend can repeat
    total *= n_steps // vol.shape[1]  # of equal float32 values, so as exact as their sum
    bound = (REACH if normal else 1.0) * total + n_steps * np.abs(drift)
    scale = binary_scale(bound)
    a = np.rint(np.ldexp(vol, scale[:, None])).astype(np.int32)
    return a, np.rint(np.ldexp(drift, scale)).astype(np.int32), scale.astype(np.int32)


def _rows(n_steps: int) -> int:
    """Problems of a tile that has a table of steps."""
    return min(_PROBLEMS, max(1, _TABLE // n_steps))


def _tile(what: Plan, rows: slice) -> Tile:
    """Problems in fixed point; amplitude [R, n_steps] or, where it is constant, [R, 1]; drift [R, 1]."""
    vol, drift = what.vol[rows].astype(np.float64), what.drift[rows].astype(np.float64)
    a, m, scale = fixed_point(vol if vol.ndim == 2 else vol[:, None], drift, what.normal, what.n_steps)
    variance = (what.n_steps // a.shape[1]) * np.square(a, dtype=np.int64).sum(axis=1)
    with np.errstate(over="ignore"):  # what no walk reaches may become infinite
        observed = np.empty(0) if what.observed is None else np.ldexp(what.observed[rows], scale)
    return Tile(
        ids=what.ids[rows],
        scale=scale,
        amplitude=a,
        drift=m[:, None],
        limit=_limit(what.barrier[rows], scale),
        limit_low=-_limit(what.barrier_low[rows], scale),
        sd=np.maximum(np.rint(np.sqrt(variance)), 1).astype(np.int64),
        observed=_round(observed),
    )


def _limit(barrier: NDArray[np.float32], scale: Int32) -> Int32:
    """The smallest integer at or above the barrier."""
    return _round(np.ceil(np.ldexp(barrier.astype(np.float64), scale)))


def _round(values: Float64) -> Int32:
    """Nearest integers; no walk gets beyond 2^30, so what is farther away may be moved to the ends of the type."""
    return np.rint(np.clip(values, -NONE_ABOVE, NONE_ABOVE)).astype(np.int32)


def _steps(what: Plan, tile: Tile) -> NDArray[np.int64]:
    """Steps of the walks of one problem, [n_paths, n_steps]."""
    path, problem, n = np.arange(what.n_paths), int(tile.ids[0]), what.n_steps
    odd = path & what.antithetic
    if what.normal:
        counter = normal_counter(np.arange(0, n, 4), (path - odd)[:, None], problem, what.stream)
        w0, w1, w2, w3 = philox4x32(counter, what.seed)  # [n_paths, blocks] each
        z = np.stack([*normals32(w0, w1), *normals32(w2, w3)], axis=-1).reshape(len(path), 4 * w0.shape[1])[:, :n]
        z = np.where(odd[:, None], -z, z)
        return np.rint(z * tile.amplitude.astype(np.float32)).astype(np.int64) + tile.drift
    words = walk_words(path - odd, n, seed=what.seed, problem=problem, stream=what.stream)
    bits = np.unpackbits(words.astype("<u4").view(np.uint8), axis=1, count=n, bitorder="little")
    return np.where(bits ^ odd[:, None], tile.drift + tile.amplitude, tile.drift - tile.amplitude).astype(np.int64)


def _merge(total: Totals, rows: slice, found: Totals) -> None:
    """Add what some paths of these rows came to."""
    for name in ("hits", "hits_low", "sum_mdd", "sum_terminal", "hist", "below", "equal"):
        getattr(total, name)[rows] += getattr(found, name)
    total.next_below[rows] = np.maximum(total.next_below[rows], found.next_below)
    total.next_above[rows] = np.minimum(total.next_above[rows], found.next_above)


def _nothing(what: Plan, size: int) -> Totals:
    """Totals of `size` problems before any path."""
    below, above = np.full(size, NONE_BELOW, np.int32), np.full(size, NONE_ABOVE, np.int32)
    hits, hits_low, sum_mdd, sum_terminal, less, equal = np.zeros((6, size), np.int64)
    hist = np.zeros((size if what.hist else 0, BINS), np.int32)
    return Totals(hits, hits_low, sum_mdd, sum_terminal, hist, less, equal, below, above)


def _features(what: Plan, scale: Int32, total: Totals) -> McFeatures:
    rank = Rank(total.below, total.equal, total.next_below, total.next_above)
    return McFeatures(
        scale=scale,
        hits=total.hits,
        hits_low=total.hits_low,
        sum_mdd=total.sum_mdd if what.drawdown else None,
        sum_terminal=total.sum_terminal,
        hist=total.hist if what.hist else None,
        rank=None if what.observed is None else rank,
    )


def _float32(values: ArrayLike) -> NDArray[np.float32]:
    if np.asarray(values).dtype.kind not in "fiu":
        raise ValueError(f"an argument has dtype {np.asarray(values).dtype}, no real numbers")
    with np.errstate(over="ignore"):  # the checks that follow see an infinity
        return np.asarray(values, np.float32)


def _sized(name: str, array: NDArray[Any], size: int) -> NDArray[Any]:
    if array.shape != (size,):
        raise ValueError(f"{name} has shape {array.shape}, not ({size},)")
    return array


def _finite(name: str, array: NDArray[Any], size: int) -> NDArray[Any]:
    if not np.isfinite(array).all():
        raise ValueError(f"{name} has a value that is not finite")
    return _sized(name, array, size)


def _above_zero(name: str, values: ArrayLike, size: int) -> NDArray[np.float32]:
    array = _sized(name, _float32(values), size)
    if not (array > 0).all():
        raise ValueError(f"{name} has a value that is not > 0; infinity stands for a barrier that is never reached")
    return array
