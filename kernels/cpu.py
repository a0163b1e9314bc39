"""Building blocks of the CPU backend: Numba functions in 32-bit words that LLVM turns into vector instructions.

Numba's own `+`, `*` and `>>` of two uint32 give 64 bits and halve the vector width, so the word arithmetic below is
written as LLVM instructions. Kernels are compiled at their first call in a process and kept in memory only: Numba's
cache on disk does not notice a change in a function that a kernel calls, and would bring old results back.

Floating point is single operations in the order written; Numba fuses no multiply-add without `fastmath`, which no
kernel here uses. That is what makes the bits equal to those of `kernels/*.cu` and of the NumPy references.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from kernels import boxmuller, philox

jit = numba.njit(nogil=True, error_model="numpy")
inline = numba.njit(nogil=True, error_model="numpy", inline="always")
# for a function that only kernels call: without an entry from Python it compiles faster
inner = numba.njit(nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)

_WORD, _LONG, _FLOAT = ir.IntType(32), ir.IntType(64), ir.FloatType()


def _binary(build: Callable[..., Any]) -> Any:
    """An operation on two uint32, or on two int32, whose result has the same type."""

    @intrinsic
    def instruction(typing_context: Any, a: Any, b: Any) -> Any:
        if a != b or a not in (types.uint32, types.int32):
            return None  # Numba then says that the types do not fit

        def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            return build(builder, *args)

        return a(a, b), generate

    return instruction


def _unary(source: Any, target: Any, build: Callable[..., Any]) -> Any:
    """An operation from one 32-bit type to another."""

    @intrinsic
    def instruction(typing_context: Any, a: Any) -> Any:
        if a != source:
            return None

        def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            return build(builder, args[0])

        return target(source), generate

    return instruction


def _high_product(builder: ir.IRBuilder, a: Any, b: Any) -> Any:
    product = builder.mul(builder.zext(a, _LONG), builder.zext(b, _LONG))
    return builder.trunc(builder.lshr(product, ir.Constant(_LONG, 32)), _WORD)


def _nearest(builder: ir.IRBuilder, a: Any) -> Any:
    rint = builder.module.declare_intrinsic("llvm.rint", [_FLOAT])
    return builder.fptosi(builder.call(rint, [a]), _WORD)


add = _binary(lambda builder, a, b: builder.add(a, b))
subtract = _binary(lambda builder, a, b: builder.sub(a, b))
multiply_low = _binary(lambda builder, a, b: builder.mul(a, b))
multiply_high = _binary(_high_product)  # of unsigned words
xor = _binary(lambda builder, a, b: builder.xor(a, b))
conjunction = _binary(lambda builder, a, b: builder.and_(a, b))
shift_left = _binary(lambda builder, a, b: builder.shl(a, b))
shift_right = _binary(lambda builder, a, b: builder.lshr(a, b))  # fills with zeros
shift_right_signed = _binary(lambda builder, a, b: builder.ashr(a, b))  # fills with the sign
maximum = _binary(lambda builder, a, b: builder.select(builder.icmp_signed(">", a, b), a, b))  # of signed words
minimum = _binary(lambda builder, a, b: builder.select(builder.icmp_signed("<", a, b), a, b))
popcount = _unary(types.uint32, types.uint32, lambda builder, a: builder.ctpop(a))
signed = _unary(types.uint32, types.int32, lambda builder, a: a)
unsigned = _unary(types.int32, types.uint32, lambda builder, a: a)
float_of_bits = _unary(types.uint32, types.float32, lambda builder, a: builder.bitcast(a, _FLOAT))
bits_of_float = _unary(types.float32, types.uint32, lambda builder, a: builder.bitcast(a, _WORD))
float_of_word = _unary(types.uint32, types.float32, lambda builder, a: builder.uitofp(a, _FLOAT))
float_of_int = _unary(types.int32, types.float32, lambda builder, a: builder.sitofp(a, _FLOAT))
nearest_int = _unary(types.float32, types.int32, _nearest)  # ties to even; the value must fit


_M0, _M1 = np.uint32(philox.M0), np.uint32(philox.M1)
_W0, _W1 = np.uint32(philox.W0), np.uint32(philox.W1)


@inline
def philox4x32(c0, c1, c2, c3, k0, k1):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Four words of one counter; uint32 in, uint32 out. k0, k1: low and high half of the seed (`split_seed`)."""
    for _ in range(philox.ROUNDS):
        high0, low0 = multiply_high(_M0, c0), multiply_low(_M0, c0)
        high1, low1 = multiply_high(_M1, c2), multiply_low(_M1, c2)
        c0, c1, c2, c3 = xor(xor(high1, c1), k0), low1, xor(xor(high0, c3), k1), low0
        k0, k1 = add(k0, _W0), add(k1, _W1)
    return c0, c1, c2, c3


_LOG = tuple(boxmuller.LOG)
_SIN = tuple(boxmuller.SIN)
_COS = tuple(boxmuller.COS)
_LN2_HIGH, _LN2_LOW, _TURN = boxmuller.LN2_HIGH, boxmuller.LN2_LOW, boxmuller.TURN
_CELL, _HALF_CELL = np.float32(2.0**-32), np.float32(2.0**-33)
_ONE, _HALF, _MINUS_TWO = np.float32(1.0), np.float32(0.5), np.float32(-2.0)
_SQRT_HALF = np.uint32(0x3F3504F3)
_U1, _U2, _U23, _U30, _EIGHTH = np.uint32(1), np.uint32(2), np.uint32(23), np.uint32(30), np.uint32(1 << 29)


@inline
def log32(u):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """`boxmuller.log32` of one number."""
    bits = bits_of_float(u)
    exponent = shift_right_signed(subtract(bits, _SQRT_HALF), _U23)
    f = float_of_bits(subtract(bits, shift_left(exponent, _U23))) - _ONE
    square = f * f
    value = _LOG[7]
    value = value * f + _LOG[6]
    value = value * f + _LOG[5]
    value = value * f + _LOG[4]
    value = value * f + _LOG[3]
    value = value * f + _LOG[2]
    value = value * f + _LOG[1]
    value = value * f + _LOG[0]
    tail = square * f * value - _HALF * square
    e = float_of_int(signed(exponent))
    return e * _LN2_HIGH + ((e * _LN2_LOW + tail) + f)


@inline
def sincos32(word):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """`boxmuller.sincos32` of one word."""
    quarter = shift_right(add(word, _EIGHTH), _U30)
    x = float_of_int(signed(subtract(word, shift_left(quarter, _U30)))) * _TURN
    square = x * x
    sine = x + square * x * ((_SIN[2] * square + _SIN[1]) * square + _SIN[0])
    cosine = (_ONE - _HALF * square) + square * square * ((_COS[2] * square + _COS[1]) * square + _COS[0])
    # signs are flipped in the bits: no branch
    odd = conjunction(quarter, _U1)
    minus_sine = shift_left(conjunction(quarter, _U2), _U30)
    minus_cosine = xor(minus_sine, shift_left(odd, np.uint32(31)))
    out_sine = cosine if odd else sine
    out_cosine = sine if odd else cosine
    return float_of_bits(xor(bits_of_float(out_sine), minus_sine)), float_of_bits(
        xor(bits_of_float(out_cosine), minus_cosine)
    )


@inline
def normals32(radius_word, angle_word):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """`boxmuller.normals32` of one pair of words."""
    u = float_of_word(radius_word) * _CELL + _HALF_CELL
    radius = np.sqrt(_MINUS_TWO * log32(u))
    sine, cosine = sincos32(angle_word)
    return radius * cosine, radius * sine
