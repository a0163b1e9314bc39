"""Dropout whose mask is addressed by (seed, step, layer, unit, sample), never drawn from a global state.

    y = x * keep / (1 - p)

With p = 1/2 a mask is one bit a unit and one Philox word holds the bits of 32 samples. Every other p compares 16 bits
a unit with a threshold, so p is rounded to a multiple of 2^-16; the scale uses the rounded p and the expectation of y
is exactly x. The layout of the counter is in `kernels.philox`.

Samples 2i and 2i + 1 are an antithetic pair: the second takes the complemented words of the first. Each member has
the same law, and the errors that are odd in the mask cancel within the pair.

`keep_mask` is the NumPy reference of the bits; `masked` multiplies by them without storing them. The torch front, with
its gradient, is `kernels.torch_front.dropout`. Sources: Srivastava et al. (2014) for dropout, Gal and Ghahramani
(2016) for dropout at inference as a posterior sample.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels import cpu, cuda
from kernels.device import Device
from kernels.philox import Op, check_index, check_seed, dropout_half_counter, dropout_threshold_counter, philox4x32

LEVELS = 1 << 16
_CHUNK = 1024  # units whose words stay in the first-level cache
_THREADS = 256


class Address(NamedTuple):
    """Which masks: all that a bit depends on but unit and sample."""

    seed: int
    step: int
    layer: int


def keep_mask(
    n_units: int, p: float, *, seed: int, step: int, layer: int, samples: int = 1, first_unit: int = 0
) -> NDArray[np.bool_]:
    """Which of the units first_unit .. first_unit + n_units - 1 stay, bool [samples, n_units]; the reference.

    p: probability of dropping a unit, in [0, 1). samples: 1, or an even number of antithetic pairs. Raises ValueError
    for p, seed, step, layer, samples or a unit outside its range.
    """
    check(p, Address(seed, step, layer), samples, n_units, first_unit)
    unit = np.arange(first_unit, first_unit + n_units)
    sample = np.arange(0, samples, 2)[:, None]  # the first of each pair; words are [pairs, units, 4]
    if threshold(p) == LEVELS // 2:
        words = np.stack(
            philox4x32(dropout_half_counter(unit, sample, step, layer), seed), axis=-1
        )  # [pairs, units, 4]
        word = np.take_along_axis(words, (unit & 3)[None, :, None], axis=-1)[..., 0]
        bits = (word >> (sample & 31).astype(np.uint32)) & np.uint32(1) == 1
        pairs = [bits, ~bits]
    else:
        words = np.stack(philox4x32(dropout_threshold_counter(unit, sample, step, layer), seed), axis=-1)
        word = np.take_along_axis(words, (unit >> 1 & 3)[None, :, None], axis=-1)[..., 0]
        draws = (word >> (16 * (unit & 1)).astype(np.uint32) & np.uint32(0xFFFF)).astype(np.int64)
        pairs = [draws >= threshold(p), LEVELS - 1 - draws >= threshold(p)]
    return np.stack(pairs, axis=1).reshape(2 * len(sample), n_units)[:samples]


def masked(
    x: NDArray[Any],
    p: float,
    *,
    seed: int,
    step: int,
    layer: int,
    samples: int = 1,
    first_unit: int = 0,
    out: NDArray[Any] | None = None,
    device: str = "cpu",
) -> NDArray[Any]:
    """x times its masks and their scale, [samples, rows, units].

    x: float32 or float64 [1 or samples, rows, units]; the rows of a sample share its mask. out: written where given.
    Raises ValueError as `keep_mask` does, for another dtype or shape of x or out and for an unknown device;
    RuntimeError for device="cuda" where there is none.
    """
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device = {device!r} is neither 'cpu' nor 'cuda'")
    if x.dtype not in (np.float32, np.float64):
        raise ValueError(f"x has dtype {x.dtype}, neither float32 nor float64")
    if x.ndim != 3 or x.shape[0] not in (1, samples):
        raise ValueError(f"x has shape {x.shape}, not [1 or {samples}, rows, units]")
    address = Address(seed, step, layer)
    check(p, address, samples, x.shape[2], first_unit)
    shape = (samples, *x.shape[1:])
    if out is None:
        out = np.empty(shape, x.dtype)
    elif out.shape != shape or out.dtype != x.dtype:
        raise ValueError(f"out is {out.dtype} {out.shape}, not {x.dtype} {shape}")
    if device == "cpu":
        on_cpu(x, out, p, address, first_unit)
        return out
    engine = cuda.current()
    there = engine.empty(shape, x.dtype)
    steps = engine.put(np.array([step], np.int64))
    on_device(engine, engine.put(np.ascontiguousarray(x)), there, p, seed, steps, layer, first_unit)
    out[...] = engine.get(there)
    return out


def check(p: float, address: Address, samples: int, n_units: int, first_unit: int) -> None:
    """Raise ValueError for an argument outside its range."""
    threshold(p)
    check_address(address)
    if samples < 1 or (samples > 1 and samples % 2):
        raise ValueError(f"samples = {samples} is neither 1 nor even (antithetic pairs)")
    end = 1 << (34 if threshold(p) == LEVELS // 2 else 35)
    check_index("first_unit", first_unit, 35)
    if n_units < 0 or not 0 <= first_unit <= end - n_units:
        raise ValueError(f"n_units = {n_units}, first_unit = {first_unit}: units are in [0, {end})")


def check_address(address: Address) -> None:
    """Raise ValueError for a seed, step or layer that is not an integer in its range."""
    check_seed(address.seed)
    check_index("step", address.step, 32)
    check_index("layer", address.layer, 24)


def threshold(p: float) -> int:
    """p in units of 2^-16, below 1 even where p rounds to 1; ValueError outside [0, 1)."""
    if not 0 <= p < 1:
        raise ValueError(f"p = {p} is outside [0, 1)")
    return min(round(p * LEVELS), LEVELS - 1)


def scale(p: float) -> float:
    """What a unit that stays is multiplied by."""
    return LEVELS / (LEVELS - threshold(p))


def on_cpu(x: NDArray[Any], out: NDArray[Any], p: float, address: Address, first_unit: int) -> None:
    """The CPU backend of `masked`, its arguments checked."""
    tag = int(Op.DROPOUT_HALF if threshold(p) == LEVELS // 2 else Op.DROPOUT_THRESHOLD) << 24 | address.layer
    words = [np.uint32(word) for word in (address.seed & 0xFFFFFFFF, address.seed >> 32, address.step, tag)]
    factor = x.dtype.type(scale(p))
    if threshold(p) == LEVELS // 2:
        _half(x, out, np.int64(first_unit), *words, factor)
    else:
        _threshold(x, out, np.int64(first_unit), *words, np.uint32(threshold(p)), factor)


def on_device(device: Device, x: Any, out: Any, p: float, seed: int, step: Any, layer: int, first_unit: int) -> None:
    """`masked` on device arrays; step: int64 [1] there, so that no launch waits for it (a CUDA graph may replay it)."""
    kernel = "dropout_half" if threshold(p) == LEVELS // 2 else "dropout_threshold"
    width = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}[np.dtype(x.dtype)]
    samples, rows, units = out.shape
    work = rows * (units // 4 + 2) * -(-samples // 32)
    blocks = max(1, min(-(-work // _THREADS), 1 << 16))
    sizes = (x.shape[0] > 1, samples, rows, units, first_unit)
    address = (seed, step, layer, threshold(p), scale(p))
    device.launch("dropout", f"{kernel}_{width}", blocks, _THREADS, x, out, *sizes, *address)


@cpu.inline
def _four(words: Any, n_blocks: Any, first: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> None:
    """words[4 i + j]: word j of counter first + i."""
    for i in range(n_blocks):
        c0 = cpu.add(first, np.uint32(i))
        words[4 * i], words[4 * i + 1], words[4 * i + 2], words[4 * i + 3] = cpu.philox4x32(c0, c1, c2, c3, k0, k1)


@cpu.jit
def _half(x: Any, out: Any, first_unit: Any, k0: Any, k1: Any, step: Any, tag: Any, factor: Any) -> None:
    samples, rows, units = out.shape
    nothing = factor - factor  # a zero of x's own type
    words = np.empty(_CHUNK + 8, np.uint32)
    for begin in range(0, units, _CHUNK):
        n = min(_CHUNK, units - begin)
        offset = (first_unit + begin) & 3
        block = np.uint32((first_unit + begin) >> 2)
        for holder in range((samples + 31) >> 5):
            _four(words, (offset + n + 3) >> 2, block, np.uint32(holder), step, tag, k0, k1)
            for s in range(32 * holder, min(samples, 32 * holder + 32)):
                bit, flip = np.uint32(s & 30), np.uint32(s & 1)  # an odd sample: its predecessor's bit, flipped
                given = s if x.shape[0] > 1 else 0
                for r in range(rows):
                    for u in range(n):
                        keep = cpu.xor(cpu.conjunction(cpu.shift_right(words[offset + u], bit), np.uint32(1)), flip)
                        value = x[given, r, begin + u]
                        out[s, r, begin + u] = value * (factor if keep else nothing)


@cpu.jit
def _threshold(
    x: Any, out: Any, first_unit: Any, k0: Any, k1: Any, step: Any, tag: Any, least: Any, factor: Any
) -> None:
    samples, rows, units = out.shape
    nothing = factor - factor
    words = np.empty(_CHUNK // 2 + 8, np.uint32)
    draws = np.empty(_CHUNK + 16, np.uint32)
    for begin in range(0, units, _CHUNK):
        n = min(_CHUNK, units - begin)
        offset = (first_unit + begin) & 7
        n_blocks = (offset + n + 7) >> 3
        block = np.uint32((first_unit + begin) >> 3)
        for pair in range((samples + 1) >> 1):
            _four(words, n_blocks, block, np.uint32(2 * pair), step, tag, k0, k1)
            for i in range(4 * n_blocks):
                draws[2 * i] = cpu.conjunction(words[i], np.uint32(0xFFFF))
                draws[2 * i + 1] = cpu.shift_right(words[i], np.uint32(16))
            for s in range(2 * pair, min(samples, 2 * pair + 2)):
                flip = np.uint32(0xFFFF) if s & 1 else np.uint32(0)
                given = s if x.shape[0] > 1 else 0
                for r in range(rows):
                    for u in range(n):
                        keep = cpu.xor(draws[offset + u], flip) >= least
                        out[s, r, begin + u] = x[given, r, begin + u] * (factor if keep else nothing)
