"""Brownian bridges as noise for series: the window's way changes, its two ends do not.

    out[s] = window[s] + sigma (W[s] - s / n W[n]),   s = 0 .. n,   n = T - 1,   W[s] = e[1] + ... + e[s]

The noise is 0 at both ends and has covariance sigma^2 s (n - t) / n at s <= t, so sigma is the standard deviation of a
step of the walk that was tied down. A window of log prices keeps its total log return.

`normal`: e standard normal (kernels/boxmuller.py), rounded to a multiple of 2^-k, so that W is an integer in those
          units and its sum has no rounding; k = floor(29 - log2(7 n)).
`bits`:   e = +-1, one bit of a Philox word a step: the same covariance, exactly.

What follows the sum is single operations in float32, in the order of `bridge_reference`; where the noise is 0 the
window's own bits stay. Source: a bridge as a walk without its line, Karatzas and Shreve (1991), "Brownian motion and
stochastic calculus", section 5.6.B.
"""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kernels import cpu, cuda
from kernels.boxmuller import REACH, normals32
from kernels.device import Device
from kernels.fixed_point import binary_scale
from kernels.philox import Op, bridge_counter, check_index, check_seed, philox4x32

Increments = Literal["normal", "bits"]
MAX_POINTS = 1 << 20  # of a window
_LANES = 64  # rows that the CPU backend takes at once
_SCRATCH = 1 << 16  # steps that stay in the cache
_THREADS = 128


def bridge_augment(
    window: NDArray[np.float32],
    sigma: NDArray[np.float32],
    *,
    seed: int,
    step: int,
    first_row: int = 0,
    increments: Increments = "normal",
    device: str = "cpu",
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """The windows, each with a bridge of its own added, float32 [B, T].

    window: float32 [B, T], T points in time, 2 <= T <= 2^20. sigma: float32 [B], standard deviation of the noise's
    steps, in the window's unit; 0 leaves a row as it is. step: of training. first_row: position of the first row in the
    global batch, so that the noise does not depend on how it is split. out: written where given, float32 [B, T],
    contiguous; may be the window itself.

    Raises ValueError for another shape or dtype, a value that is not finite, a negative sigma, an argument outside its
    range, unknown increments or an unknown device; RuntimeError for device="cuda" where there is none.
    """
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device = {device!r} is neither 'cpu' nor 'cuda'")
    for name, values in (("window", window), ("sigma", sigma)):
        if values.dtype != np.float32:
            raise ValueError(f"{name} has dtype {values.dtype}, not float32")
    check(window.shape, sigma.shape, seed, step, first_row, increments)
    check_values(window, sigma)
    if out is None:
        out = np.empty(window.shape, np.float32)
    elif out.shape != window.shape or out.dtype != np.float32 or not out.flags.c_contiguous:
        raise ValueError(f"out is {out.dtype} {out.shape} with strides {out.strides}, not contiguous, as window is")
    window, sigma = np.ascontiguousarray(window), np.ascontiguousarray(sigma)
    if device == "cpu":
        on_cpu(window, sigma, out, seed, step, first_row, increments)
        return out
    engine = cuda.current()
    there = engine.empty(window.shape, np.float32)
    steps = engine.put(np.array([step], np.int64))
    on_device(engine, engine.put(window), engine.put(sigma), there, seed, steps, first_row, increments)
    out[...] = engine.get(there)
    return out


def bridge_reference(
    window: NDArray[np.float32],
    sigma: NDArray[np.float32],
    *,
    seed: int,
    step: int,
    first_row: int = 0,
    increments: Increments = "normal",
) -> NDArray[np.float32]:
    """`bridge_augment` in NumPy."""
    check(window.shape, sigma.shape, seed, step, first_row, increments)
    check_values(window, sigma)
    if not len(window):
        return window.copy()
    n, bits = window.shape[1] - 1, increments == "bits"
    row = first_row + np.arange(len(window))[:, None]
    words = philox4x32(bridge_counter(np.arange(0, n, 128 if bits else 4), row, step, bits=bits), seed)  # [B, blocks]
    if bits:
        signs = np.stack(words, axis=-1)[..., None] >> np.arange(32, dtype=np.uint32) & np.uint32(1)
        steps = 2 * signs.astype(np.int64) - 1  # [B, blocks, 4, 32]
    else:
        z = np.stack([*normals32(*words[:2]), *normals32(*words[2:])], axis=-1)
        steps = np.rint(z * _amplitude(n, increments)).astype(np.int64)  # [B, blocks, 4]
    walk = np.zeros(window.shape, np.int64)
    np.cumsum(steps.reshape(len(window), -1)[:, :n], axis=1, out=walk[:, 1:])
    walk32 = walk.astype(np.float32)
    share = np.arange(n + 1, dtype=np.float32) / np.float32(n)
    noise = (walk32 - share * walk32[:, -1:]) * (sigma * (1 / _amplitude(n, increments)))[:, None]
    return np.where(noise == 0, window, window + noise)


def check(
    window: tuple[int, ...], sigma: tuple[int, ...], seed: int, step: int, first_row: int, increments: str
) -> None:
    """Raise ValueError for an argument outside its range; window, sigma: their shapes."""
    if len(window) != 2 or not 2 <= window[1] <= MAX_POINTS:
        raise ValueError(f"window has shape {window}, not [B, T] with T in [2, 2^20]: a bridge has two ends")
    if sigma != window[:1]:
        raise ValueError(f"sigma has shape {sigma}, not {window[:1]}: one for each row of window")
    check_seed(seed)
    check_index("step", step, 32)
    if check_index("first_row", first_row, 32) > (1 << 32) - window[0]:
        raise ValueError(f"first_row = {first_row}, with {window[0]} rows: rows are in [0, 2^32)")
    if increments not in ("normal", "bits"):
        raise ValueError(f"increments = {increments!r} is neither 'normal' nor 'bits'")


def check_values(window: NDArray[np.float32], sigma: NDArray[np.float32]) -> None:
    """Raise ValueError for a value that is not finite or a negative sigma."""
    for name, values in (("window", window), ("sigma", sigma)):
        if not np.isfinite(values).all():
            raise ValueError(f"{name} has a value that is not finite")
    if (sigma < 0).any():
        raise ValueError(f"sigma = {float(sigma.min())} is negative")


def on_cpu(
    window: NDArray[np.float32],
    sigma: NDArray[np.float32],
    out: NDArray[np.float32],
    seed: int,
    step: int,
    first_row: int,
    increments: Increments,
) -> None:
    """The CPU backend, on contiguous arrays; arguments checked by `check` and `check_values`."""
    bits = increments == "bits"
    amplitude = _amplitude(window.shape[1] - 1, increments)
    address = (seed & 0xFFFFFFFF, seed >> 32, step, int(Op.BRIDGE) << 24 | bits)
    kernel = _bits if bits else _normal
    if out.size:
        kernel(window, sigma, out, np.uint32(first_row), *map(np.uint32, address), amplitude)


def on_device(
    device: Device, window: Any, sigma: Any, out: Any, seed: int, step: Any, first_row: int, increments: Increments
) -> None:
    """`bridge_augment` on contiguous device arrays; arguments checked by `check`, values not looked at.

    step: int64 [1] there, so that no launch waits for it (a CUDA graph may replay it with another one).
    """
    batch, points = window.shape
    if not batch:
        return
    blocks = min(-(-batch // _THREADS), 1 << 16)
    amplitude = _amplitude(points - 1, increments)
    arguments = (window, sigma, out, batch, points, first_row, seed, step, amplitude)
    device.launch("bridge", f"bridge_{increments}", blocks, _THREADS, *arguments)


def _amplitude(n_steps: int, increments: Increments) -> np.float32:
    """Units of the integer walk in one standard deviation of a step: a power of two that cannot overflow."""
    return np.float32(1.0 if increments == "bits" else 2.0 ** int(binary_scale(REACH * n_steps)))


@cpu.inline
def _add_bridges(walk: Any, window: Any, sigma: Any, out: Any, begin: Any, count: Any, amplitude: Any) -> None:
    """Rows begin .. begin + count - 1 of out; walk: int32 steps [at least n, lanes], overwritten by their sums."""
    n = window.shape[1] - 1
    for s in range(1, n):
        for lane in range(count):
            walk[s, lane] = cpu.add(walk[s, lane], walk[s - 1, lane])
    for lane in range(count):
        row = begin + lane
        end = cpu.float_of_int(walk[n - 1, lane])
        unit = sigma[row] * (np.float32(1.0) / amplitude)
        out[row, 0] = window[row, 0]
        for s in range(1, n + 1):
            share = np.float32(s) / np.float32(n)
            noise = (cpu.float_of_int(walk[s - 1, lane]) - share * end) * unit
            value = window[row, s]
            out[row, s] = value if noise == np.float32(0.0) else value + noise


@cpu.jit
def _normal(
    window: Any, sigma: Any, out: Any, first_row: Any, k0: Any, k1: Any, step: Any, tag: Any, amplitude: Any
) -> None:
    batch, points = window.shape
    blocks = (points + 2) // 4
    lanes = max(1, min(_LANES, _SCRATCH // (4 * blocks)))
    walk = np.empty((4 * blocks, lanes), np.int32)
    for begin in range(0, batch, lanes):
        count = min(lanes, batch - begin)
        row = cpu.add(first_row, np.uint32(begin))
        for block in range(blocks):
            for lane in range(count):
                w0, w1, w2, w3 = cpu.philox4x32(np.uint32(block), cpu.add(row, np.uint32(lane)), step, tag, k0, k1)
                z0, z1 = cpu.normals32(w0, w1)
                z2, z3 = cpu.normals32(w2, w3)
                walk[4 * block, lane] = cpu.nearest_int(z0 * amplitude)
                walk[4 * block + 1, lane] = cpu.nearest_int(z1 * amplitude)
                walk[4 * block + 2, lane] = cpu.nearest_int(z2 * amplitude)
                walk[4 * block + 3, lane] = cpu.nearest_int(z3 * amplitude)
        _add_bridges(walk, window, sigma, out, begin, count, amplitude)


@cpu.jit
def _bits(
    window: Any, sigma: Any, out: Any, first_row: Any, k0: Any, k1: Any, step: Any, tag: Any, amplitude: Any
) -> None:
    batch, points = window.shape
    blocks = (points + 126) // 128
    lanes = max(1, min(_LANES, _SCRATCH // (128 * blocks)))
    walk = np.empty((128 * blocks, lanes), np.int32)
    words = np.empty((4, lanes), np.uint32)
    for begin in range(0, batch, lanes):
        count = min(lanes, batch - begin)
        row = cpu.add(first_row, np.uint32(begin))
        for block in range(blocks):
            for lane in range(count):
                words[0, lane], words[1, lane], words[2, lane], words[3, lane] = cpu.philox4x32(
                    np.uint32(block), cpu.add(row, np.uint32(lane)), step, tag, k0, k1
                )
            for j in range(128):
                for lane in range(count):
                    bit = cpu.conjunction(cpu.shift_right(words[j >> 5, lane], np.uint32(j & 31)), np.uint32(1))
                    walk[128 * block + j, lane] = cpu.subtract(cpu.signed(cpu.add(bit, bit)), np.int32(1))
        _add_bridges(walk, window, sigma, out, begin, count, amplitude)
