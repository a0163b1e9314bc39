"""Sixteen steps of a walk in one vector: what Numba's loops alone do not turn into vector instructions.

A prefix sum carries from step to step, so LLVM leaves a plain loop scalar; here it is four shifts and additions
(Hillis and Steele 1986, "Data parallel algorithms") and the total so far. Written as LLVM vectors of a fixed width,
which every processor gets in the widest instructions that it has. The functions are called from Numba kernels; arrays
are contiguous, and reach at least one vector beyond the index.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16
RATIO_BITS = 30  # of a share in fixed point
LINE_BYTES = 64  # a streamed vector fills one line of the cache and starts at one

_BIT, _HALF_WORD, _WORD = ir.IntType(1), ir.IntType(16), ir.IntType(32)
_WORDS, _FLOATS = ir.VectorType(_WORD, LANES), ir.VectorType(ir.FloatType(), LANES)


@intrinsic
def bit_walk(typing_context: Any, word: Any, steps: Any, up: Any, down: Any, total: Any, tile: Any, i: Any) -> Any:
    """tile[i + j] = total + the first j + 1 of the steps, steps[up + j] where bit j of the word is 1, else
    steps[down + j]; returns the last."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        word, steps, up, down, total, tile, i = _with_pointers(context, builder, signature, args)
        bits = builder.bitcast(builder.trunc(word, _HALF_WORD), ir.VectorType(_BIT, LANES))
        moves = builder.select(bits, _load(builder, steps, up, _WORDS), _load(builder, steps, down, _WORDS))
        return _accumulate(builder, moves, total, tile, i)

    return types.int32(word, steps, up, down, total, tile, i), generate


@intrinsic
def normal_walk(
    typing_context: Any, z: Any, m: Any, amplitude: Any, a: Any, shift: Any, k: Any, total: Any, tile: Any, i: Any
) -> Any:
    """tile[i + j] = total + the first j + 1 of the steps rint(z[m + j] amplitude[a + j]) + shift[k + j]; returns the
    last."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        z, m, amplitude, a, shift, k, total, tile, i = _with_pointers(context, builder, signature, args)
        move = builder.fmul(_load(builder, z, m, _FLOATS), _load(builder, amplitude, a, _FLOATS))
        rint = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_FLOATS, [_FLOATS]), f"llvm.rint.v{LANES}f32"
        )
        nearest = builder.fptosi(builder.call(rint, [move]), _WORDS)
        return _accumulate(builder, builder.add(nearest, _load(builder, shift, k, _WORDS)), total, tile, i)

    return types.int32(z, m, amplitude, a, shift, k, total, tile, i), generate


@intrinsic
def tie(typing_context: Any, tile: Any, i: Any, ratio: Any, k: Any, off: Any) -> Any:
    """tile[i + j] -= ratio[k + j] off 2^-RATIO_BITS, rounded half up; int32, the product in 64 bits."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        tile, i, ratio, k, off = _with_pointers(context, builder, signature, args)
        longs = ir.VectorType(ir.IntType(64), LANES)
        shares = builder.sext(_load(builder, ratio, k, _WORDS), longs)
        product = builder.mul(shares, builder.sext(_splat(builder, off, _WORDS), longs))
        rounded = builder.add(product, ir.Constant(longs, [1 << RATIO_BITS - 1] * LANES))
        move = builder.trunc(builder.ashr(rounded, ir.Constant(longs, [RATIO_BITS] * LANES)), _WORDS)
        value = builder.sub(_load(builder, tile, i, _WORDS), move)
        builder.store(value, _vector_pointer(builder, tile, i, _WORDS), align=4)
        return context.get_dummy_value()

    return types.void(tile, i, ratio, k, off), generate


@intrinsic
def stream(typing_context: Any, tile: Any, i: Any, unit: Any, start: Any, out: Any, j: Any) -> Any:
    """out[j ..] = tile[i ..] unit + start for one line of the cache, past the cache; &out[j] starts a line.

    A usual store first reads the line that it will overwrite; this one does not, and halves the traffic.
    """
    real = ir.FloatType() if out.dtype == types.float32 else ir.DoubleType()
    lanes = LINE_BYTES // (out.dtype.bitwidth // 8)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        tile, i, unit, start, out, j = _with_pointers(context, builder, signature, args)
        reals = ir.VectorType(real, lanes)
        total = builder.sitofp(_load(builder, tile, i, ir.VectorType(_WORD, lanes)), reals)
        value = builder.fadd(builder.fmul(total, _splat(builder, unit, reals)), _splat(builder, start, reals))
        stored = builder.store(value, _vector_pointer(builder, out, j, reals), align=LINE_BYTES)
        stored.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(_WORD, 1)]))
        return context.get_dummy_value()

    return types.void(tile, i, unit, start, out, j), generate


@intrinsic
def fence(typing_context: Any) -> Any:
    """Everything streamed before is visible to other threads after."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


def _accumulate(builder: ir.IRBuilder, steps: Any, total: Any, tile: Any, i: Any) -> Any:
    """Store total + prefix sums of the steps in tile[i ..] and return the last of them."""
    zeros = ir.Constant(_WORDS, [0] * LANES)
    shift = 1
    while shift < LANES:
        lanes = [*[LANES] * shift, *range(LANES - shift)]  # LANES: the first zero
        shifted = builder.shuffle_vector(steps, zeros, ir.Constant(_WORDS, lanes))
        steps = builder.add(steps, shifted)
        shift *= 2
    sums = builder.add(steps, _splat(builder, total, _WORDS))
    builder.store(sums, _vector_pointer(builder, tile, i, _WORDS), align=4)
    return builder.add(builder.extract_element(steps, ir.Constant(_WORD, LANES - 1)), total)


def _with_pointers(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> list[Any]:
    """The arguments, with the address of the first element in place of an array."""
    return [
        context.make_array(kind)(context, builder, value).data if isinstance(kind, types.Array) else value
        for kind, value in zip(signature.args, args, strict=True)
    ]


def _vector_pointer(builder: ir.IRBuilder, first: Any, index: Any, vector: ir.VectorType) -> Any:
    return builder.bitcast(builder.gep(first, [index]), vector.as_pointer())


def _load(builder: ir.IRBuilder, first: Any, index: Any, vector: ir.VectorType) -> Any:
    return builder.load(_vector_pointer(builder, first, index, vector), align=4)


def _splat(builder: ir.IRBuilder, value: Any, vector: ir.VectorType) -> Any:
    undefined = ir.Constant(vector, ir.Undefined)
    single = builder.insert_element(undefined, value, ir.Constant(_WORD, 0))
    firsts = ir.Constant(ir.VectorType(_WORD, vector.count), [0] * vector.count)
    return builder.shuffle_vector(single, undefined, firsts)
