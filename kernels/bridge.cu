// out = window + a Brownian bridge for kernels/bridge.py; window, out [batch, points], sigma [batch]; the layout of the
// counters is in kernels/philox.py.
//
// One thread makes one row, twice: first the walk's end, then its points, for which it makes the same words again
// (nothing is stored between). step is read from memory: nothing waits for it, and a captured graph may change it.
#include "philox.cuh"
#include "boxmuller.cuh"

// Four steps of the walk in integer units.
struct NormalSteps {
    static const int count = 4;
    static const unsigned int kind = 0u;
    int steps[4];

    __device__ __forceinline__ NormalSteps(const Words &words, float amplitude) {
        Pair first = normals32(words.w0, words.w1), second = normals32(words.w2, words.w3);
        steps[0] = __float2int_rn(__fmul_rn(first.first, amplitude));
        steps[1] = __float2int_rn(__fmul_rn(first.second, amplitude));
        steps[2] = __float2int_rn(__fmul_rn(second.first, amplitude));
        steps[3] = __float2int_rn(__fmul_rn(second.second, amplitude));
    }
    __device__ __forceinline__ int operator[](int j) const {
        return j == 0 ? steps[0] : j == 1 ? steps[1] : j == 2 ? steps[2] : steps[3];
    }
};

// 128 steps of the walk, one bit each.
struct BitSteps {
    static const int count = 128;
    static const unsigned int kind = 1u;
    Words words;

    __device__ __forceinline__ BitSteps(const Words &words, float) : words(words) {}
    __device__ __forceinline__ int operator[](int j) const {
        return 2 * (int)(word_of(words, (unsigned int)j >> 5) >> (j & 31) & 1u) - 1;
    }
};

template <typename Steps>
__device__ void bridges(const float *window, const float *sigma, float *out, long long batch, int points,
                        unsigned int first_row, unsigned long long seed, unsigned int step, float amplitude) {
    const int n = points - 1;
    const unsigned int tag = OP_BRIDGE << 24 | Steps::kind;
    long long stride = (long long)gridDim.x * blockDim.x;
    for (long long row = (long long)blockIdx.x * blockDim.x + threadIdx.x; row < batch; row += stride) {
        unsigned int address = first_row + (unsigned int)row;
        int total = 0;
        for (int s = 0; s < n;) {
            Steps steps(philox4x32((unsigned int)(s / Steps::count), address, step, tag, seed), amplitude);
            for (int j = 0; j < Steps::count && s < n; ++j, ++s) total += steps[j];
        }
        const float end = (float)total, unit = __fmul_rn(sigma[row], __fdiv_rn(1.0f, amplitude));
        const float *from = window + row * points;
        float *to = out + row * points;
        to[0] = from[0];
        total = 0;
        for (int s = 0; s < n;) {
            Steps steps(philox4x32((unsigned int)(s / Steps::count), address, step, tag, seed), amplitude);
            for (int j = 0; j < Steps::count && s < n; ++j) {
                total += steps[j];
                ++s;
                float share = __fdiv_rn((float)s, (float)n);
                float noise = __fmul_rn(__fadd_rn((float)total, -__fmul_rn(share, end)), unit);
                float value = from[s];
                to[s] = noise == 0.0f ? value : __fadd_rn(value, noise);
            }
        }
    }
}

extern "C" __global__ void bridge_normal(const float *window, const float *sigma, float *out, long long batch,
                                         int points, unsigned int first_row, unsigned long long seed,
                                         const long long *step, float amplitude) {
    bridges<NormalSteps>(window, sigma, out, batch, points, first_row, seed, (unsigned int)*step, amplitude);
}

extern "C" __global__ void bridge_bits(const float *window, const float *sigma, float *out, long long batch,
                                       int points, unsigned int first_row, unsigned long long seed,
                                       const long long *step, float amplitude) {
    bridges<BitSteps>(window, sigma, out, batch, points, first_row, seed, (unsigned int)*step, amplitude);
}
