// A fused Monte Carlo with cuRAND's device interface, the peer of kernels/mc_features.cu: one walk a thread, normal
// steps, no walk in memory. STATISTIC_0: walks that reach the barrier; _1: sum of the largest falls; _2: sum of the
// ends. Only what is defined is computed. The fast mathematics of the compiler is left to it (fused multiply-add).
#include <curand_kernel.h>

extern "C" __global__ void walks(long long n_paths, int n_steps, const float *vol, float barrier,
                                 unsigned long long seed, double *totals) {
    double total[3] = {0.0, 0.0, 0.0};
    long long stride = (long long)gridDim.x * blockDim.x;
    for (long long path = (long long)blockIdx.x * blockDim.x + threadIdx.x; path < n_paths; path += stride) {
        curandStatePhilox4_32_10_t state;
        curand_init(seed, path, 0, &state);
        float x = 0.0f, high = 0.0f, fall = 0.0f;
        for (int k = 0; k < n_steps; k += 4) {
            float4 z = curand_normal4(&state);
            float steps[4] = {z.x, z.y, z.z, z.w};
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                if (k + j < n_steps) x += steps[j] * vol[k + j];
#if defined(STATISTIC_0) || defined(STATISTIC_1)
                high = fmaxf(high, x);
#endif
#ifdef STATISTIC_1
                fall = fmaxf(fall, high - x);
#endif
            }
        }
        total[0] += high >= barrier;
        total[1] += fall;
        total[2] += x;
    }
    for (int j = 0; j < 3; ++j) {
        for (int lane = 16; lane > 0; lane >>= 1) total[j] += __shfl_down_sync(0xFFFFFFFFu, total[j], lane);
        if (threadIdx.x % 32 == 0) atomicAdd(totals + j, total[j]);
    }
}
