"""Philox4x32-10: randomness that is addressed, not drawn.

The key is the 64-bit seed; the counter names the thing, so the same (seed, what) gives the same bits on any machine,
in any order, on any number of threads. This module is the reference for every backend, and the only place where the
layout of a counter is written down:

    use                       c0          c1            c2          c3
    walk bits                 step >> 7   path          problem     op << 24 | stream
    normals, uniforms         step >> 2   path          problem     op << 24 | stream
    dropout, p = 1/2          unit >> 2   sample >> 5   train step  op << 24 | layer
    dropout, 16-bit threshold unit >> 3   sample        train step  op << 24 | layer
    sticky mask               time >> 2   unit          train step  op << 24 | layer
    bridge, normal            step >> 2   row           train step  op << 24 | 0
    bridge, bits              step >> 7   row           train step  op << 24 | 1

Two uses cannot meet: they differ in op, and within one op the fields do not overlap. A sticky mask takes word
`time & 3`, its low half to ask whether the unit's bit is held, its high half for a fresh bit; unit = row x features +
feature. Rows and units count through the global batch, however it is split. The steps of a bridge are found in their
words as those of a walk; its two kinds of step differ in c3.

Source: Salmon, Moraes, Dror, Shaw (2011), "Parallel random numbers: as easy as 1, 2, 3", SC '11; constants and known
answers as in their Random123.
"""

from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

UInt32 = NDArray[np.uint32]
Counter = tuple[ArrayLike, ArrayLike, ArrayLike, ArrayLike]
Words = tuple[UInt32, UInt32, UInt32, UInt32]

ROUNDS = 10
M0, M1 = 0xD2511F53, 0xCD9E8D57  # multipliers
W0, W1 = 0x9E3779B9, 0xBB67AE85  # Weyl increments of the key: golden ratio and sqrt(3) - 1
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
_CHUNK = 1 << 14  # counters whose temporaries stay in the cache


class Op(IntEnum):
    """What the bits are for: the top byte of c3. Codes are never reused, or old results could not be reproduced."""

    WALK_BITS = 1
    NORMALS = 2
    DROPOUT_HALF = 3
    DROPOUT_THRESHOLD = 4
    STICKY_MASK = 5
    BRIDGE = 6
    DITHER = 7
    UNIFORMS = 8


def philox4x32(counter: Counter, seed: int) -> Words:
    """Four words for each counter.

    counter: four integer arrays in [0, 2^32) that broadcast against each other; seed: the key, in [0, 2^64).
    Returns four uint32 arrays of the broadcast shape. Raises ValueError outside these ranges.
    """
    keys = _round_keys(check_seed(seed))
    words = [_as_uint32(part, f"counter word {index}") for index, part in enumerate(counter)]
    shape = np.broadcast_shapes(*(word.shape for word in words))
    size = int(np.prod(shape, dtype=np.int64))
    if size <= _CHUNK:
        return _as_words(_rounds([word.astype(np.uint64) for word in words], keys), shape)
    flat = [np.broadcast_to(word, shape).reshape(-1) if word.size > 1 else word.reshape(-1) for word in words]
    out = np.empty((4, size), np.uint32)
    for start in range(0, size, _CHUNK):
        part = slice(start, start + _CHUNK)
        block = [(word[part] if word.size > 1 else word).astype(np.uint64) for word in flat]
        for index, word in enumerate(_rounds(block, keys)):
            out[index, part] = word
    return _as_words(list(out), shape)


def walk_counter(step: ArrayLike, path: ArrayLike, problem: ArrayLike = 0, stream: int = 0) -> Counter:
    """Counter whose four words hold the bits of steps 128 k .. 128 k + 127 of a walk, k = step >> 7.

    The bit of a step is `(word[(step >> 5) & 3] >> (step & 31)) & 1`; 1 means +1.
    """
    return _shifted(step, 7, "step"), path, problem, _tag(Op.WALK_BITS, stream, "stream")


def normal_counter(
    step: ArrayLike, path: ArrayLike, problem: ArrayLike = 0, stream: int = 0, op: Op = Op.NORMALS
) -> Counter:
    """Counter whose four words make the normals (or uniforms, with that op) of steps 4 k .. 4 k + 3, k = step >> 2."""
    return _shifted(step, 2, "step"), path, problem, _tag(op, stream, "stream")


def dropout_half_counter(unit: ArrayLike, sample: ArrayLike, step: ArrayLike, layer: int) -> Counter:
    """Dropout with p = 1/2, one bit a unit and sample: word `unit & 3`, bit `sample & 31`."""
    return _shifted(unit, 2, "unit"), _shifted(sample, 5, "sample"), step, _tag(Op.DROPOUT_HALF, layer, "layer")


def dropout_threshold_counter(unit: ArrayLike, sample: ArrayLike, step: ArrayLike, layer: int) -> Counter:
    """Dropout with a 16-bit threshold: word `(unit >> 1) & 3`, its low half for even units, its high half for odd."""
    return _shifted(unit, 3, "unit"), sample, step, _tag(Op.DROPOUT_THRESHOLD, layer, "layer")


def sticky_counter(time: ArrayLike, unit: ArrayLike, step: ArrayLike, layer: int) -> Counter:
    """Counter whose four words decide about times 4 k .. 4 k + 3 of a unit, k = time >> 2."""
    return _shifted(time, 2, "time"), unit, step, _tag(Op.STICKY_MASK, layer, "layer")


def bridge_counter(bridge_step: ArrayLike, row: ArrayLike, step: ArrayLike, *, bits: bool) -> Counter:
    """Counter whose words make 4 normal steps of a bridge, or with `bits` 128 steps of one bit; step: of training."""
    return _shifted(bridge_step, 7 if bits else 2, "bridge_step"), row, step, _tag(Op.BRIDGE, int(bits), "kind")


def walk_words(path: ArrayLike, n_steps: int, *, seed: int, problem: ArrayLike = 0, stream: int = 0) -> UInt32:
    """Words of the first `n_steps` steps of walks, word j for steps 32 j .. 32 j + 31.

    path and problem broadcast to a shape [...]; returns uint32 [..., ceil(n_steps / 32)].
    """
    if n_steps < 0:
        raise ValueError(f"n_steps = {n_steps} is negative")
    path, problem = np.asarray(path)[..., None], np.asarray(problem)[..., None]
    steps = np.arange(0, n_steps, 128)
    words = np.stack(philox4x32(walk_counter(steps, path, problem, stream), seed), axis=-1)  # [..., blocks, 4]
    return words.reshape(*words.shape[:-2], words.shape[-2] * 4)[..., : -(-n_steps // 32)]


def uniforms(counter: Counter, seed: int) -> NDArray[np.float64]:
    """Four uniforms in the open interval (0, 1) for each counter, float64 [..., 4]; 32 bits each."""
    return to_uniform(np.stack(philox4x32(counter, seed), axis=-1))


def normals(counter: Counter, seed: int) -> NDArray[np.float64]:
    """Four standard normals for each counter, float64 [..., 4], by Box and Muller from word pairs (0, 1), (2, 3)."""
    u = uniforms(counter, seed)
    radius, angle = np.sqrt(-2.0 * np.log(u[..., 0::2])), 2.0 * np.pi * u[..., 1::2]
    z = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)  # [..., pair, 2]
    return z.reshape(u.shape)


def to_uniform(words: UInt32) -> NDArray[np.float64]:
    """Words to the midpoints of 2^32 equal cells of (0, 1)."""
    return (words.astype(np.float64) + 0.5) * 2.0**-32


def check_seed(seed: int) -> int:
    """The seed as a Python integer; ValueError outside [0, 2^64)."""
    return check_index("seed", seed, 64)


def check_index(name: str, value: int, bits: int) -> int:
    """The value as a Python integer; ValueError for one that is not an integer or outside [0, 2^bits).

    A float is refused, also a whole one: cut to an integer it would name other randomness than was asked for.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ValueError(f"{name} = {value!r} is not an integer")
    if not 0 <= int(value) < 1 << bits:
        raise ValueError(f"{name} = {value} is outside [0, 2^{bits})")
    return int(value)


def _round_keys(seed: int) -> list[tuple[np.uint64, np.uint64]]:
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32
    return [(np.uint64((k0 + r * W0) & 0xFFFFFFFF), np.uint64((k1 + r * W1) & 0xFFFFFFFF)) for r in range(ROUNDS)]


def _rounds(words: list[NDArray[np.uint64]], keys: list[tuple[np.uint64, np.uint64]]) -> list[NDArray[np.uint64]]:
    c0, c1, c2, c3 = words
    for k0, k1 in keys:
        product0, product1 = c0 * np.uint64(M0), c2 * np.uint64(M1)
        c0, c1, c2, c3 = (
            (product1 >> _SHIFT) ^ c1 ^ k0,
            product1 & _LOW,
            (product0 >> _SHIFT) ^ c3 ^ k1,
            product0 & _LOW,
        )
    return [c0, c1, c2, c3]


def _as_words(words: list[Any], shape: tuple[int, ...]) -> Words:
    first, second, third, fourth = (np.asarray(word).astype(np.uint32, copy=False).reshape(shape) for word in words)
    return first, second, third, fourth


def _as_uint32(values: ArrayLike, name: str) -> UInt32:
    array = np.asarray(values)
    if array.dtype == np.uint32:
        return array
    return _in_range(array, 1 << 32, name).astype(np.uint32)


def _shifted(values: ArrayLike, bits: int, name: str) -> UInt32:
    array = _in_range(np.asarray(values), 1 << (32 + bits), name)
    return (array.astype(np.uint64) >> np.uint64(bits)).astype(np.uint32)


def _in_range(array: NDArray[Any], end: int, name: str) -> NDArray[Any]:
    if array.size == 0:
        return array
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name} has dtype {array.dtype}, not an integer type")
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= end:
        raise ValueError(f"{name} = {low if low < 0 else high} is outside [0, {end})")
    return array


def _tag(op: Op, low: int, name: str) -> UInt32:
    return np.asarray(int(op) << 24 | check_index(name, low, 24), np.uint32)
