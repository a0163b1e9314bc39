// What kernels/bench measures its kernels against: the rate at which a card makes Philox words, and normals of them.
//
// Nothing is done with the words but an exclusive or, nothing with the normals but a sum, so no operation that needs as
// many of them is faster. One number a warp is written, so that the compiler keeps the work and the host can check it.
#include "boxmuller.cuh"
#include "philox.cuh"

#define FULL 0xFFFFFFFFu

// Words of a counter by its number, 1024 to a block as on the CPU.
__device__ __forceinline__ Words counted(long long item, unsigned int op, unsigned long long seed) {
    return philox4x32((unsigned int)(item >> 10), (unsigned int)item & 1023u, 0u, op << 24, seed);
}

// Exclusive or of the words of n counters; out: [warps].
extern "C" __global__ void words(long long n, unsigned long long seed, unsigned int *out) {
    long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x, stride = (long long)gridDim.x * blockDim.x;
    unsigned int total = 0u;
    for (long long item = thread; item < n; item += stride) {
        Words made = counted(item, OP_WALK_BITS, seed);
        total ^= made.w0 ^ made.w1 ^ made.w2 ^ made.w3;
    }
    for (int lane = 16; lane > 0; lane >>= 1) total ^= __shfl_xor_sync(FULL, total, lane);
    if (threadIdx.x % 32 == 0) out[thread / 32] = total;
}

// Sum of the four normals of each of n counters; out: [warps].
extern "C" __global__ void normals(long long n, unsigned long long seed, float *out) {
    long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x, stride = (long long)gridDim.x * blockDim.x;
    float total = 0.0f;
    for (long long item = thread; item < n; item += stride) {
        Words made = counted(item, OP_NORMALS, seed);
        Pair first = normals32(made.w0, made.w1), second = normals32(made.w2, made.w3);
        total = __fadd_rn(total, __fadd_rn(__fadd_rn(first.first, first.second), __fadd_rn(second.first, second.second)));
    }
    for (int lane = 16; lane > 0; lane >>= 1) total = __fadd_rn(total, __shfl_xor_sync(FULL, total, lane));
    if (threadIdx.x % 32 == 0) out[thread / 32] = total;
}
