// Standard normals from pairs of words, as in kernels/boxmuller.py: the same polynomials, every rounding written out.
#pragma once

struct Pair {
    float first, second;
};

__device__ __forceinline__ float log32(float u) {
    int bits = __float_as_int(u);
    int exponent = (bits - 0x3F3504F3) >> 23;
    float f = __fadd_rn(__int_as_float(bits - exponent * 0x800000), -1.0f);
    float square = __fmul_rn(f, f);
    float value = -0.08101558f;
    value = __fadd_rn(__fmul_rn(value, f), 0.12712307f);
    value = __fadd_rn(__fmul_rn(value, f), -0.12972239f);
    value = __fadd_rn(__fmul_rn(value, f), 0.14202175f);
    value = __fadd_rn(__fmul_rn(value, f), -0.16642247f);
    value = __fadd_rn(__fmul_rn(value, f), 0.20001468f);
    value = __fadd_rn(__fmul_rn(value, f), -0.25000298f);
    value = __fadd_rn(__fmul_rn(value, f), 0.33333328f);
    float tail = __fadd_rn(__fmul_rn(__fmul_rn(square, f), value), -__fmul_rn(0.5f, square));
    float e = (float)exponent;
    return __fadd_rn(__fmul_rn(e, 0.693359375f),
                     __fadd_rn(__fadd_rn(__fmul_rn(e, -2.12194440e-4f), tail), f));
}

// Sine (first) and cosine (second) of the angle of word 2^-32 turns.
__device__ __forceinline__ Pair sincos32(unsigned int word) {
    const float turn = 1.46291807926715968e-9f;  // 2 pi 2^-32
    unsigned int quarter = (word + (1u << 29)) >> 30;
    float x = __fmul_rn((float)(int)(word - (quarter << 30)), turn);
    float square = __fmul_rn(x, x);
    float s = __fadd_rn(__fmul_rn(-0.0001958795f, square), 0.0083327489f);
    s = __fadd_rn(__fmul_rn(s, square), -0.16666664f);
    float sine = __fadd_rn(x, __fmul_rn(__fmul_rn(square, x), s));
    float c = __fadd_rn(__fmul_rn(0.000024547991f, square), -0.0013888304f);
    c = __fadd_rn(__fmul_rn(c, square), 0.041666664f);
    float cosine = __fadd_rn(__fadd_rn(1.0f, -__fmul_rn(0.5f, square)), __fmul_rn(__fmul_rn(square, square), c));
    bool odd = quarter & 1u, minus_sine = quarter & 2u;
    float out_sine = odd ? cosine : sine, out_cosine = odd ? sine : cosine;
    return {minus_sine ? -out_sine : out_sine, minus_sine != odd ? -out_cosine : out_cosine};
}

__device__ __forceinline__ Pair normals32(unsigned int radius_word, unsigned int angle_word) {
    float u = __fadd_rn(__fmul_rn(__uint2float_rn(radius_word), 2.3283064365386963e-10f), 1.1641532182693481e-10f);
    float radius = __fsqrt_rn(__fmul_rn(-2.0f, log32(u)));
    Pair angle = sincos32(angle_word);
    return {__fmul_rn(radius, angle.second), __fmul_rn(radius, angle.first)};
}
