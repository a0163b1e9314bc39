// Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011) and the layout of its counters, as in kernels/philox.py.
#pragma once

#define OP_WALK_BITS 1u
#define OP_NORMALS 2u
#define OP_DROPOUT_HALF 3u
#define OP_DROPOUT_THRESHOLD 4u
#define OP_STICKY_MASK 5u
#define OP_BRIDGE 6u
#define OP_DITHER 7u
#define OP_UNIFORMS 8u

struct Words {
    unsigned int w0, w1, w2, w3;
};

__device__ __forceinline__ Words philox4x32(unsigned int c0, unsigned int c1, unsigned int c2, unsigned int c3,
                                            unsigned long long seed) {
    unsigned int k0 = (unsigned int)seed, k1 = (unsigned int)(seed >> 32);
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        unsigned int high0 = __umulhi(0xD2511F53u, c0), low0 = 0xD2511F53u * c0;
        unsigned int high1 = __umulhi(0xCD9E8D57u, c2), low1 = 0xCD9E8D57u * c2;
        c0 = high1 ^ c1 ^ k0;
        c1 = low1;
        c2 = high0 ^ c3 ^ k1;
        c3 = low0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return {c0, c1, c2, c3};
}

// Words of steps 128 block .. 128 block + 127 of a bit walk.
__device__ __forceinline__ Words walk_words(unsigned int block, unsigned int path, unsigned int problem,
                                            unsigned int stream, unsigned long long seed) {
    return philox4x32(block, path, problem, OP_WALK_BITS << 24 | stream, seed);
}

// Words of the normals of steps 4 block .. 4 block + 3.
__device__ __forceinline__ Words normal_words(unsigned int block, unsigned int path, unsigned int problem,
                                              unsigned int stream, unsigned long long seed) {
    return philox4x32(block, path, problem, OP_NORMALS << 24 | stream, seed);
}

__device__ __forceinline__ unsigned int word_of(const Words &words, unsigned int index) {
    return index == 0 ? words.w0 : index == 1 ? words.w1 : index == 2 ? words.w2 : words.w3;
}
