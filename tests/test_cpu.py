"""kernels.cpu: the Numba building blocks give the bits of the NumPy references."""

import numpy as np
import pytest

from kernels import boxmuller, cpu, philox

WORDS = np.concatenate(
    [
        np.array([0, 1, 2**29 - 1, 2**29, 2**30, 2**31 - 1, 2**31, 2**31 + 1, 3 * 2**30, 2**32 - 1], np.uint32),
        np.random.default_rng(1).integers(0, 2**32, 100_003, dtype=np.uint32),
    ]
)


@cpu.jit
def _philox(c0, c1, c2, c3, k0, k1, out):
    for i in range(len(c0)):
        out[0, i], out[1, i], out[2, i], out[3, i] = cpu.philox4x32(c0[i], c1[i], c2[i], c3[i], k0, k1)


@cpu.jit
def _normals(radius, angle, out):
    for i in range(len(radius)):
        out[0, i], out[1, i] = cpu.normals32(radius[i], angle[i])


@cpu.jit
def _words(a, b, out):
    for i in range(len(a)):
        out[0, i] = cpu.add(a[i], b[i])
        out[1, i] = cpu.subtract(a[i], b[i])
        out[2, i] = cpu.multiply_low(a[i], b[i])
        out[3, i] = cpu.multiply_high(a[i], b[i])
        out[4, i] = cpu.xor(a[i], b[i])
        out[5, i] = cpu.popcount(a[i])
        out[6, i] = cpu.unsigned(cpu.shift_right_signed(cpu.signed(a[i]), np.int32(7)))


@pytest.mark.parametrize("seed", [0, 1, 2**32 + 5, 2**64 - 1])
def test_philox_gives_the_bits_of_the_reference(seed):
    counters = [np.roll(WORDS, shift) for shift in range(4)]
    out = np.empty((4, len(WORDS)), np.uint32)
    _philox(*counters, np.uint32(seed & 0xFFFFFFFF), np.uint32(seed >> 32), out)
    np.testing.assert_array_equal(out, np.stack(philox.philox4x32(tuple(counters), seed)))


def test_normals_give_the_bits_of_the_reference():
    out = np.empty((2, len(WORDS)), np.float32)
    angle = np.roll(WORDS, 5)
    _normals(WORDS, angle, out)
    np.testing.assert_array_equal(out.view(np.uint32), np.stack(boxmuller.normals32(WORDS, angle)).view(np.uint32))


def test_word_arithmetic_wraps_at_32_bits():
    a, b = WORDS, np.roll(WORDS, 3)
    out = np.empty((7, len(a)), np.uint32)
    _words(a, b, out)
    product = a.astype(np.uint64) * b
    expected = [a + b, a - b, a * b, (product >> np.uint64(32)).astype(np.uint32), a ^ b, np.bitwise_count(a)]
    np.testing.assert_array_equal(out, [*expected, (a.view(np.int32) >> 7).view(np.uint32)])
