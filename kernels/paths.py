"""Random walks written out step by step.

    x[k] = x0 + sum_{j < k} (e_j vol_j + drift_j),   k = 0 .. n_steps

`bits`:     e_j = +-1, the bits of Philox words. Its exponential has mean exp(n (drift + log cosh vol)), so a martingale
            needs drift = -log_cosh(vol), not -vol^2 / 2.
`signflip`: the same arithmetic where vol_j is the j-th absolute return of a history: the wild bootstrap.
`normal`:   e_j standard normal (kernels/boxmuller.py). A martingale needs drift = -vol^2 / 2.

vol_j is under the variance control of kernels/variance.py. A bridge pins the end of a walk: from x[k] it takes the
share S_k / S_n of what the end is off, S_k = vol_0^2 + .. + vol_{k-1}^2. Its covariance is S_j (S_n - S_k) / S_n for
j <= k; with normals it is the Brownian bridge (Karatzas and Shreve 1991, section 5.6.B), and a drift in proportion to
the variance leaves it as it is.

The sum is kept in integers of fixed point (see `fixed_point`), so neither order nor machine changes a bit of it; it
is turned into a float once, when x[k] is written. The unit is at most 2^-28 of the farthest that the walk can get, and
every step is rounded to it: of n equal steps each keeps 28 - log2 n binary digits (normals: 25 - log2 n), which is few
where n is a million. The bits of a step depend on its address alone; the unit, and with it the last digits of x, on
vol, drift, n_steps and the pin.

`paths_reference` is the plain NumPy of it; the CPU backend and kernels/paths.cu give the same bits.
"""

from math import fsum
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from kernels import cpu, cuda, simd
from kernels.boxmuller import REACH, normals32
from kernels.device import Device
from kernels.fixed_point import binary_scale
from kernels.philox import Op, check_index, check_seed, normal_counter, philox4x32, walk_counter, walk_words
from kernels.variance import controlled_vol

Increments = Literal["bits", "normal", "signflip"]
Int32 = NDArray[np.int32]

_TILE = 8192  # elements that the CPU backend computes in the first-level cache before it writes them
_THREADS = 256  # of a block of paths.cu


class ByteTable(NamedTuple):
    """What eight steps do at once, for each value of a byte (bit 0 first, 1 means +1); int8 [256] each."""

    net: NDArray[np.int8]
    high: NDArray[np.int8]  # maximum over the eight steps and the start: 0 .. 8
    low: NDArray[np.int8]  # minimum over the eight steps and the start: -8 .. 0
    drawdown: NDArray[np.int8]  # largest fall from an earlier maximum, the start included: 0 .. 8


class Pin(NamedTuple):
    """The end of a bridge, in fixed point."""

    ratio: Int32  # [n_steps]: rint(S_k / S_n 2^30) at k = 1 .. n_steps
    distance: int  # from x0 to the end
    end: float


class Plan(NamedTuple):
    """Checked arguments of `paths`, in fixed point: what the backends take."""

    n_paths: int
    amplitude: Int32  # [n_steps]
    shift: Int32  # [n_steps]
    scale: int  # a log return is its integer times 2^-scale
    x0: float
    pin: Pin | None
    normal: bool
    antithetic: bool
    seed: int
    stream: int
    problem: int
    dtype: np.dtype[Any]

    @property
    def shape(self) -> tuple[int, int]:
        return self.n_paths, len(self.amplitude) + 1


class Sent(NamedTuple):
    """The steps of a plan on a device, padded; up and down for bits, amplitude and shift for normals."""

    first: Any
    second: Any
    ratio: Any  # [n_steps + 1] and padding, or None


def paths(
    n_paths: int,
    n_steps: int,
    *,
    vol: ArrayLike,
    drift: ArrayLike = 0.0,
    x0: float = 0.0,
    feedback: float = 1.0,
    decay: float = 0.0,
    bridge_to: float | None = None,
    seed: int,
    stream: int = 0,
    problem: int = 0,
    increments: Increments = "bits",
    antithetic: bool = False,
    dtype: DTypeLike = np.float32,
    out: NDArray[Any] | None = None,
    device: str = "cpu",
) -> NDArray[Any]:
    """Walks x, [n_paths, n_steps + 1].

    vol: standard deviation of the log return of a step, scalar or [n_steps]; for signflip [n_steps], the absolute
    returns. drift: log return of a step, scalar or [n_steps]. feedback, decay: the variance control of vol. bridge_to:
    every walk ends there, exactly. seed, stream, problem: the address of the randomness (kernels/philox.py); path i is
    the same whatever n_paths is. antithetic: path 2i + 1 takes the complemented bits (negated normals) of path 2i, so
    that error bars are taken over pairs. dtype: float32 or float64, of the output only. out: written and returned where
    given, of that shape and dtype, contiguous. device: "cpu" or "cuda"; the bits are the same.

    Raises ValueError for n_steps <= 0, negative n_paths, vol that is negative or not finite, drift, x0 or bridge_to
    that is not finite, a bridge without volatility, feedback outside [0, 1], a negative decay, an unknown increment,
    dtype or device, another out, a seed outside [0, 2^64), a counter that overflows; RuntimeError for device="cuda"
    where there is none.
    """
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device = {device!r} is neither 'cpu' nor 'cuda'")
    what = plan(
        n_paths,
        n_steps,
        vol=vol,
        drift=drift,
        x0=x0,
        feedback=feedback,
        decay=decay,
        bridge_to=bridge_to,
        seed=seed,
        stream=stream,
        problem=problem,
        increments=increments,
        antithetic=antithetic,
        dtype=dtype,
    )
    if out is None:
        out = np.empty(what.shape, what.dtype)
    elif out.shape != what.shape or out.dtype != what.dtype or not out.flags.carray:
        wanted = f"writeable contiguous {what.dtype} {what.shape}"
        raise ValueError(f"out is {out.dtype} {out.shape} with strides {out.strides}, not {wanted}")
    if device == "cpu":
        on_cpu(what, out)
    else:
        engine = cuda.current()
        there = engine.empty(what.shape, what.dtype)
        on_device(engine, what, there)
        out[...] = engine.get(there)
    return out


def plan(
    n_paths: int,
    n_steps: int,
    *,
    vol: ArrayLike,
    drift: ArrayLike = 0.0,
    x0: float = 0.0,
    feedback: float = 1.0,
    decay: float = 0.0,
    bridge_to: float | None = None,
    seed: int,
    stream: int = 0,
    problem: int = 0,
    increments: Increments = "bits",
    antithetic: bool = False,
    dtype: DTypeLike = np.float32,
) -> Plan:
    """The arguments of `paths`, checked as it says, with every step in fixed point."""
    _check_address(n_paths, n_steps, seed, stream, problem, increments)
    dtype = np.dtype(dtype)
    if dtype not in (np.float32, np.float64):
        raise ValueError(f"dtype = {dtype} is neither float32 nor float64")
    for name, value in (("x0", x0), ("bridge_to", bridge_to)):
        if value is not None and not abs(value) <= float(np.finfo(dtype).max):
            raise ValueError(f"{name} = {value} is not finite in {dtype}")
    if increments == "signflip" and np.shape(vol) != (n_steps,):
        raise ValueError(f"increments = 'signflip' takes vol of shape ({n_steps},), not {np.shape(vol)}")
    sd = controlled_vol(_finite("vol", vol, n_steps), n_steps, feedback, decay)
    if (sd < 0).any():
        raise ValueError(f"vol = {sd.min()} is negative")
    way = 0.0 if bridge_to is None else bridge_to - x0
    amplitude, shift, scale = fixed_point(sd, _finite("drift", drift, n_steps), increments, abs(way))
    return Plan(
        n_paths=n_paths,
        amplitude=amplitude.astype(np.int32),
        shift=shift.astype(np.int32),
        scale=scale,
        x0=x0,
        pin=None if bridge_to is None else Pin(_ratio(sd), round(float(np.ldexp(way, scale))), bridge_to),
        normal=increments == "normal",
        antithetic=bool(antithetic),
        seed=int(seed),
        stream=stream,
        problem=problem,
        dtype=dtype,
    )


def paths_reference(what: Plan) -> NDArray[Any]:
    """`paths` in NumPy."""
    n_steps = len(what.amplitude)
    path = np.arange(what.n_paths)
    odd = path & what.antithetic
    if what.normal:
        counter = normal_counter(np.arange(0, n_steps, 4), (path - odd)[:, None], what.problem, what.stream)
        w0, w1, w2, w3 = philox4x32(counter, what.seed)  # [p, blocks] each
        z = np.stack([*normals32(w0, w1), *normals32(w2, w3)], axis=-1).reshape(len(path), 4 * w0.shape[1])
        z *= (1 - 2 * odd).astype(np.float32)[:, None]
        steps = np.rint(z[:, :n_steps] * what.amplitude.astype(np.float32)).astype(np.int32) + what.shift
    else:
        words = walk_words(path - odd, n_steps, seed=what.seed, problem=what.problem, stream=what.stream)
        bits = np.unpackbits(words.astype("<u4").view(np.uint8), axis=1, count=n_steps, bitorder="little")
        steps = np.where(bits ^ odd[:, None], what.shift + what.amplitude, what.shift - what.amplitude)
    total = np.zeros(what.shape, np.int32)
    np.cumsum(steps, axis=1, out=total[:, 1:])
    if what.pin is not None:
        off = total[:, -1:].astype(np.int64) - what.pin.distance
        total[:, 1:] -= ((what.pin.ratio * off + (1 << simd.RATIO_BITS - 1)) >> simd.RATIO_BITS).astype(np.int32)
    x = total.astype(what.dtype) * what.dtype.type(2.0**-what.scale) + what.dtype.type(what.x0)
    if what.pin is not None:
        x[:, -1] = what.pin.end
    return x


def on_cpu(what: Plan, out: NDArray[Any]) -> None:
    """Write the walks into out, of the plan's shape and dtype, contiguous; one thread, the GIL released."""
    op = Op.NORMALS if what.normal else Op.WALK_BITS
    words = (what.problem, int(op) << 24 | what.stream, what.seed & 0xFFFFFFFF, what.seed >> 32)
    ratio, distance = (np.empty(0, np.int32), 0) if what.pin is None else (_padded(what.pin.ratio), what.pin.distance)
    amplitude, shift = _padded(what.amplitude), _padded(what.shift)
    size = amplitude.astype(np.float32)
    pair = (size, -size) if what.normal else (shift + amplitude, shift - amplitude)  # a path, its antithetic partner
    (_normal_paths if what.normal else _bit_paths)(
        out.reshape(-1),
        what.shape,
        what.antithetic,
        tuple(map(np.uint32, words)),
        np.concatenate(pair),
        shift,
        (ratio, np.int32(distance)),
        (what.dtype.type(2.0**-what.scale), what.dtype.type(what.x0)),
    )
    if what.pin is not None:
        out[:, -1] = what.pin.end


def send(device: Device, what: Plan) -> Sent:
    """The steps of a plan on the device, for any number of calls of `on_device`."""
    amplitude, shift = _padded(what.amplitude), _padded(what.shift)
    pair = (amplitude.astype(np.float32), shift) if what.normal else (shift + amplitude, shift - amplitude)
    ratio = None if what.pin is None else device.put(np.pad(what.pin.ratio, (1, 2 * simd.LANES)))  # 0 at the start
    return Sent(device.put(pair[0]), device.put(pair[1]), ratio)


def on_device(device: Device, what: Plan, out: Any, there: Sent | None = None) -> None:
    """Write the walks into out, an array of the device of the plan's shape and dtype, contiguous."""
    if not what.n_paths:
        return
    double, pin = what.dtype == np.float64, what.pin
    device.launch(
        "paths",
        "paths_normal" if what.normal else "paths_bits",
        min(-(-what.n_paths // _THREADS), 1 << 16),
        _THREADS,
        None if double else out,
        out if double else None,
        what.n_paths,
        len(what.amplitude),
        *(send(device, what) if there is None else there),
        0 if pin is None else pin.distance,
        0.0 if pin is None else pin.end,
        2.0**-what.scale,
        what.x0,
        what.antithetic,
        what.seed,
        what.stream,
        what.problem,
    )


def log_cosh(x: ArrayLike) -> NDArray[np.float64]:
    """log cosh x: minus the drift that makes exp of a bit walk with this vol a martingale; accurate near 0."""
    return np.log1p(2.0 * np.sinh(0.5 * np.asarray(x, np.float64)) ** 2)


def fixed_point(
    vol: NDArray[np.float64], drift: NDArray[np.float64], increments: Increments, way: float = 0.0
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """vol and drift of each step as integers a_t = rint(vol_t 2^s), m_t = rint(drift_t 2^s), and s.

    s = floor(29 - log2(reach sum vol + sum |drift| + way)), reach = 1 for bits and 7 for normals: |x| 2^s stays below
    2^30. way: the distance from the start to a pinned end.
    """
    bound = (REACH if increments == "normal" else 1.0) * fsum(vol) + fsum(np.abs(drift)) + way
    scale = int(binary_scale(bound))
    if not (np.isfinite(bound) and -97 <= scale <= 100):
        raise ValueError(f"vol, drift and the way to a pinned end sum to {bound}, outside [2^-71, 2^126]")
    return np.rint(np.ldexp(vol, scale)).astype(np.int64), np.rint(np.ldexp(drift, scale)).astype(np.int64), scale


def byte_table() -> ByteTable:
    """Net move, maximum, minimum and drawdown of the eight steps in each of the 256 bytes."""
    bits = (np.arange(256)[:, None] >> np.arange(8)) & 1
    walk = np.concatenate([np.zeros((256, 1), np.int64), np.cumsum(2 * bits - 1, axis=1)], axis=1)
    drawdown = (np.maximum.accumulate(walk, axis=1) - walk).max(axis=1)
    parts = (walk[:, -1], walk.max(axis=1), walk.min(axis=1), drawdown)
    return ByteTable(*(part.astype(np.int8) for part in parts))


def _check_address(n_paths: int, n_steps: int, seed: int, stream: int, problem: int, increments: str) -> None:
    if n_steps <= 0:
        raise ValueError(f"n_steps = {n_steps} is not positive")
    if not 0 <= n_paths <= 1 << 32:
        raise ValueError(f"n_paths = {n_paths} is outside [0, 2^32]")
    if increments not in get_args(Increments):
        raise ValueError(f"increments = {increments!r} is none of {', '.join(get_args(Increments))}")
    check_seed(seed)
    check_index("problem", problem, 32)
    (normal_counter if increments == "normal" else walk_counter)(n_steps - 1, 0, problem, stream)  # refuses overflow


def _finite(name: str, values: ArrayLike, n_steps: int) -> NDArray[np.float64]:
    """The value of each step, [n_steps]."""
    if np.asarray(values).dtype.kind not in "fiu":
        raise ValueError(f"{name} has dtype {np.asarray(values).dtype}, no real numbers")
    array = np.asarray(values, np.float64)
    if array.shape not in ((), (n_steps,)):
        raise ValueError(f"{name} has shape {array.shape}, neither () nor ({n_steps},)")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} is not finite")
    return np.broadcast_to(array, n_steps)


def _ratio(vol: NDArray[np.float64]) -> Int32:
    """Share of the variance that has passed after each step, [n_steps], in fixed point."""
    if not vol.any():
        raise ValueError("bridge_to needs a vol that is not 0 everywhere: a walk without noise ends where it ends")
    variance = np.cumsum((vol / vol.max()) ** 2)
    return np.rint(np.ldexp(variance / variance[-1], simd.RATIO_BITS)).astype(np.int32)


def _padded(steps: Int32) -> Int32:
    """With zeros that let the last vector of a walk reach beyond its end."""
    return np.pad(steps, (0, 2 * simd.LANES))


@cpu.jit
def _bit_paths(
    out: Any, shape: Any, antithetic: Any, address: Any, steps: Any, shift: Any, pin: Any, scaling: Any
) -> None:
    """steps: up [n + padding], then down; the other way round for an antithetic partner."""
    n_paths, width = shape
    n_steps, padded = width - 1, len(shift)
    blocks = (n_steps + 127) // 128
    rows, path, block = _counters(width, blocks, antithetic)
    words = np.empty((4, len(path)), np.uint32)
    tile = np.empty(rows * width + 2 * simd.LANES, np.int32)
    for first in range(0, n_paths, rows):
        count = min(rows, n_paths - first)
        _words(words, ((count + antithetic) >> antithetic) * blocks, np.uint32(first), path, block, address)
        head = done = _to_line(out, first * width, count * width)
        for row in range(count):
            at, counter = row * width, (row >> antithetic) * blocks
            up = padded * (row & antithetic)
            down = padded - up
            tile[at] = 0
            last = np.int32(0)
            for k in range(0, n_steps, 32):
                word = words[(k >> 5) & 3, counter + (k >> 7)]
                last = simd.bit_walk(word, steps, up + k, down + k, last, tile, at + 1 + k)
                word, k16 = cpu.shift_right(word, np.uint32(16)), k + 16
                last = simd.bit_walk(word, steps, up + k16, down + k16, last, tile, at + 1 + k16)
            _tie(tile, at + 1, last, n_steps, pin)
            done = _stream(tile, done, at + width, scaling, out, first * width)
        _convert(tile, 0, head, scaling, out, first * width)
        _convert(tile, done, count * width, scaling, out, first * width)
    simd.fence()


@cpu.jit
def _normal_paths(
    out: Any, shape: Any, antithetic: Any, address: Any, amplitude: Any, shift: Any, pin: Any, scaling: Any
) -> None:
    """amplitude: [n + padding], then negated for an antithetic partner."""
    n_paths, width = shape
    n_steps, padded = width - 1, len(shift)
    blocks = (n_steps + 3) // 4
    rows, path, block = _counters(width, blocks, antithetic)
    words = np.empty((4, len(path)), np.uint32)
    z = np.zeros(4 * len(path) + simd.LANES, np.float32)
    tile = np.empty(rows * width + simd.LANES, np.int32)
    for first in range(0, n_paths, rows):
        count = min(rows, n_paths - first)
        used = ((count + antithetic) >> antithetic) * blocks
        _words(words, used, np.uint32(first), path, block, address)
        _normals(words, used, z)
        head = done = _to_line(out, first * width, count * width)
        for row in range(count):
            at, normal = row * width, (row >> antithetic) * 4 * blocks
            a = padded * (row & antithetic)
            tile[at] = 0
            last = np.int32(0)
            for k in range(0, n_steps, simd.LANES):
                last = simd.normal_walk(z, normal + k, amplitude, a + k, shift, k, last, tile, at + 1 + k)
            _tie(tile, at + 1, last, n_steps, pin)
            done = _stream(tile, done, at + width, scaling, out, first * width)
        _convert(tile, 0, head, scaling, out, first * width)
        _convert(tile, done, count * width, scaling, out, first * width)
    simd.fence()


@cpu.jit
def _counters(width: Any, blocks: Any, antithetic: Any) -> Any:
    """Paths in a tile, and of each of its counters, a path's after another's: its path from the first, its block."""
    rows = 2  # even: an antithetic pair stays together; a power of two: whole vectors of counters
    while rows * width < _TILE:
        rows *= 2
    distinct = rows >> antithetic
    path, block = np.empty(distinct * blocks, np.uint32), np.empty(distinct * blocks, np.uint32)
    for i in range(distinct):
        for j in range(blocks):
            path[i * blocks + j] = i << antithetic
            block[i * blocks + j] = j
    return rows, path, block


@cpu.jit
def _words(words: Any, used: Any, first: Any, path: Any, block: Any, address: Any) -> None:
    c2, c3, k0, k1 = address
    for i in range(used):
        c1 = cpu.add(first, path[i])
        words[0, i], words[1, i], words[2, i], words[3, i] = cpu.philox4x32(block[i], c1, c2, c3, k0, k1)


@cpu.jit
def _normals(words: Any, used: Any, z: Any) -> None:
    for i in range(used):
        z[4 * i], z[4 * i + 1] = cpu.normals32(words[0, i], words[1, i])
        z[4 * i + 2], z[4 * i + 3] = cpu.normals32(words[2, i], words[3, i])


@cpu.jit
def _tie(tile: Any, at: Any, last: Any, n_steps: Any, pin: Any) -> None:
    """Take from each step of a row its share of what the last one is off, where there is a pin."""
    ratio, distance = pin
    if len(ratio):
        off = cpu.subtract(last, distance)
        for k in range(0, n_steps, simd.LANES):
            simd.tie(tile, at + k, ratio, k, off)


@cpu.jit
def _to_line(out: Any, at: Any, size: Any) -> Any:
    """How many of the elements out[at ..] come before the first that starts a line of the cache; at most size."""
    return min(size, -(out.ctypes.data // out.itemsize + at) % (simd.LINE_BYTES // out.itemsize))


@cpu.jit
def _stream(tile: Any, begin: Any, end: Any, scaling: Any, out: Any, at: Any) -> Any:
    """out[at + i] = tile[i] unit + start for whole lines of the cache from begin on; where it stopped.

    Called row by row: the lines of a row go to memory while the next row is computed.
    """
    unit, start = scaling
    lanes = simd.LINE_BYTES // out.itemsize
    while begin + lanes <= end:
        simd.stream(tile, begin, unit, start, out, at + begin)
        begin += lanes
    return begin


@cpu.jit
def _convert(tile: Any, begin: Any, end: Any, scaling: Any, out: Any, at: Any) -> None:
    """The same for what is not a whole line."""
    unit, start = scaling
    for i in range(begin, end):
        out[at + i] = out.dtype.type(tile[i]) * unit + start
