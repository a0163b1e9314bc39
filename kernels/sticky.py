"""Sticky masks for series: a unit holds its bit from one time to the next, or draws a fresh one.

    keep[0] = fresh[0];   keep[t] = keep[t - 1] with probability rho, else fresh[t];   P(fresh[t] = 0) = p

Each unit is a stationary Markov chain: it is dropped with probability p at every time, and the correlation of its bits
at two times is rho to the power of their distance. rho = 0 is dropout of every time alone; rho = 1 is one mask for the
whole window, the variational dropout of recurrent networks of Gal and Ghahramani (2016), "A theoretically grounded
application of dropout in recurrent neural networks". A feature that is away for a while asks the network to do without
it, where a feature that is away for one session can be read off its neighbours.

Both probabilities are rounded to multiples of 2^-16: one word of Philox decides about one unit at one time, its low
half about holding, its high half about the fresh bit (`kernels.philox` has the layout).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels import cpu, cuda
from kernels.device import Device
from kernels.dropout import LEVELS, Address, check_address, threshold
from kernels.philox import Op, check_index, philox4x32, sticky_counter

_THREADS = 256


def sticky_mask(
    batch: int,
    time: int,
    features: int,
    p: float,
    rho: float,
    *,
    seed: int,
    step: int,
    layer: int,
    first_row: int = 0,
    device: str = "cpu",
    out: NDArray[np.bool_] | None = None,
) -> NDArray[np.bool_]:
    """Which units stay at which time, bool [batch, time, features]; each counts `kernels.dropout.scale(p)` times.

    p: probability of dropping, in [0, 1). rho: probability of holding, in [0, 1]. step: of training, in [0, 2^32).
    layer: in [0, 2^24), for masks of the same step that shall not be equal. first_row: position of the first row in the
    global batch, so that masks do not depend on how it is split. out: written where given, bool of that shape,
    contiguous.

    Raises ValueError for an argument outside its range, another shape or dtype of out and an unknown device;
    RuntimeError for device="cuda" where there is none.
    """
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device = {device!r} is neither 'cpu' nor 'cuda'")
    shape, address = (batch, time, features), Address(seed, step, layer)
    check(shape, p, rho, address, first_row)
    if out is None:
        out = np.empty(shape, np.bool_)
    elif out.shape != shape or out.dtype != np.bool_ or not out.flags.c_contiguous:
        raise ValueError(f"out is {out.dtype} {out.shape} with strides {out.strides}, not a contiguous bool {shape}")
    if device == "cpu":
        on_cpu(out, p, rho, address, first_row)
        return out
    engine = cuda.current()
    there = engine.empty(shape, np.uint8)
    on_device(engine, there, p, rho, seed, engine.put(np.array([step], np.int64)), layer, first_row)
    out[...] = engine.get(there).view(np.bool_)
    return out


def sticky_mask_reference(
    batch: int, time: int, features: int, p: float, rho: float, *, seed: int, step: int, layer: int, first_row: int = 0
) -> NDArray[np.bool_]:
    """`sticky_mask` in NumPy, time by time."""
    check((batch, time, features), p, rho, Address(seed, step, layer), first_row)
    keep = np.empty((batch, time, features), np.bool_)
    unit = first_row * features + np.arange(batch * features).reshape(batch, features)
    for t in range(time):
        word = philox4x32(sticky_counter(t, unit, step, layer), seed)[t & 3]
        keep[:, t] = word >> 16 >= threshold(p)
        if t:
            keep[:, t] = np.where(word & 0xFFFF < _hold(rho), keep[:, t - 1], keep[:, t])
    return keep


def check(shape: tuple[int, ...], p: float, rho: float, address: Address, first_row: int) -> None:
    """Raise ValueError for an argument outside its range; shape: [batch, time, features]."""
    threshold(p)
    _hold(rho)
    check_address(address)
    check_index("first_row", first_row, 32)
    if len(shape) != 3 or min(shape) < 0:
        raise ValueError(f"shape = {shape} is not [batch, time, features], each at least 0")
    batch, time, features = shape
    if time > 1 << 34:
        raise ValueError(f"time = {time} is beyond 2^34")
    if (first_row + batch) * features > 1 << 32:
        raise ValueError(
            f"first_row = {first_row}, batch = {batch}, features = {features}: units (row x features + feature) are in "
            "[0, 2^32)"
        )


def on_cpu(out: NDArray[Any], p: float, rho: float, address: Address, first_row: int) -> None:
    """The CPU backend: fills out, bool or uint8 [batch, time, features], contiguous; arguments checked by `check`."""
    tag = int(Op.STICKY_MASK) << 24 | address.layer
    words = (address.seed & 0xFFFFFFFF, address.seed >> 32, address.step, tag, threshold(p), _hold(rho))
    if out.size:
        _fill(out.view(np.uint8), np.uint32(first_row * out.shape[2]), *map(np.uint32, words))


def on_device(device: Device, out: Any, p: float, rho: float, seed: int, step: Any, layer: int, first_row: int) -> None:
    """Fills out, uint8 [batch, time, features] of the device; arguments checked by `check`.

    step: int64 [1] there, so that no launch waits for it (a CUDA graph may replay it with another one).
    """
    batch, time, features = out.shape
    units = batch * features
    if not units * time:
        return
    blocks = min(-(-units // _THREADS), 1 << 16)
    sizes = (units, time, features, first_row * features)
    device.launch("sticky", "sticky_mask", blocks, _THREADS, out, *sizes, threshold(p), _hold(rho), seed, step, layer)


def _hold(rho: float) -> int:
    """rho in units of 2^-16; ValueError outside [0, 1]."""
    if not 0 <= rho <= 1:
        raise ValueError(f"rho = {rho} is outside [0, 1]")
    return round(rho * LEVELS)


@cpu.jit
def _fill(out: Any, first_unit: Any, k0: Any, k1: Any, step: Any, tag: Any, drop: Any, hold: Any) -> None:
    batch, time, features = out.shape
    words = np.empty((4, features), np.uint32)
    keep = np.empty(features, np.uint8)
    half, low = np.uint32(16), np.uint32(0xFFFF)
    for row in range(batch):
        first = cpu.add(first_unit, np.uint32(row * features))
        for begin in range(0, time, 4):
            for f in range(features):
                unit = cpu.add(first, np.uint32(f))
                words[0, f], words[1, f], words[2, f], words[3, f] = cpu.philox4x32(
                    np.uint32(begin >> 2), unit, step, tag, k0, k1
                )
            for t in range(begin, min(begin + 4, time)):
                held = hold if t else np.uint32(0)
                for f in range(features):
                    word = words[t & 3, f]
                    fresh = np.uint8(cpu.shift_right(word, half) >= drop)
                    keep[f] = keep[f] if cpu.conjunction(word, low) < held else fresh
                    out[row, t, f] = keep[f]
