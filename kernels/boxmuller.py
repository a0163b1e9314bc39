"""Standard normals in float32 from pairs of Philox words, the same bits on every backend.

    u = (w0 + 1/2) 2^-32,  z0 = sqrt(-2 ln u) cos(2 pi w1 2^-32),  z1 = sqrt(-2 ln u) sin(2 pi w1 2^-32)

The mathematical libraries of two machines differ in the last bit, so logarithm, sine and cosine are polynomials of
our own, evaluated with single roundings (multiply, then add; no fused multiply-add) that every IEEE machine does
alike. The polynomials are least-squares fits on Chebyshev nodes; worst relative error before rounding 2.4e-8.

Source of the transform: Box and Muller (1958), "A note on the generation of random normal deviates".
"""

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]

# ln(1 + f) = f - f^2 / 2 + f^3 LOG(f) on [sqrt(1/2) - 1, sqrt(2) - 1], lowest power first
LOG = np.array(
    [0.33333328, -0.25000298, 0.20001468, -0.16642247, 0.14202175, -0.12972239, 0.12712307, -0.08101558], np.float32
)
# sin x = x + x^3 SIN(x^2), cos x = 1 - x^2 / 2 + x^4 COS(x^2) on [-pi/4, pi/4]
SIN = np.array([-0.16666664, 0.0083327489, -0.0001958795], np.float32)
COS = np.array([0.041666664, -0.0013888304, 0.000024547991], np.float32)
LN2_HIGH, LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)  # their sum is ln 2; HIGH times e is exact
TURN = np.float32(2.0 * np.pi * 2.0**-32)  # radians of one unit of a word
REACH = 7.0  # no normal is larger: sqrt(-2 ln 2^-33) = 6.76


def normals32(radius_word: NDArray[np.uint32], angle_word: NDArray[np.uint32]) -> tuple[Float32, Float32]:
    """Two standard normals for each pair of words; arrays of one shape in, two float32 arrays of that shape out."""
    u = radius_word.astype(np.float32) * np.float32(2.0**-32) + np.float32(2.0**-33)
    radius = np.sqrt(np.float32(-2.0) * log32(u))
    sine, cosine = sincos32(angle_word)
    return radius * cosine, radius * sine


def log32(u: Float32) -> Float32:
    """Natural logarithm of normal positive float32 numbers."""
    bits = u.view(np.int32)
    exponent = (bits - np.int32(0x3F3504F3)) >> 23  # 0x3F3504F3 is sqrt(1/2): mantissas fall in [sqrt(1/2), sqrt(2))
    f = (bits - (exponent << 23)).view(np.float32) - np.float32(1.0)
    square = f * f
    tail = square * f * _horner(LOG, f) - np.float32(0.5) * square
    e = exponent.astype(np.float32)
    return e * LN2_HIGH + ((e * LN2_LOW + tail) + f)


def sincos32(word: NDArray[np.uint32]) -> tuple[Float32, Float32]:
    """Sine and cosine of the angle of `word` 2^-32 turns."""
    quarter = (word + np.uint32(1 << 29)) >> np.uint32(30)  # nearest quarter of a turn; 4 wraps to 0
    x = (word - (quarter << np.uint32(30))).view(np.int32).astype(np.float32) * TURN
    square = x * x
    sine = x + square * x * _horner(SIN, square)
    cosine = (np.float32(1.0) - np.float32(0.5) * square) + square * square * _horner(COS, square)
    odd = (quarter & np.uint32(1)).astype(bool)
    out_sine, out_cosine = np.where(odd, cosine, sine), np.where(odd, sine, cosine)
    minus_sine = (quarter & np.uint32(2)).astype(bool)  # third and fourth quarter
    return np.where(minus_sine, -out_sine, out_sine), np.where(minus_sine ^ odd, -out_cosine, out_cosine)


def _horner(coefficients: Float32, x: Float32) -> Float32:
    value = np.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = value * x + coefficient
    return value
