// Walks x [n_paths, n_steps + 1] for kernels/paths.py; the layout of the counters is in kernels/philox.py.
//
// A warp takes 32 paths, a lane each, and 32 columns at a time: every lane sums its path into a row of a tile in shared
// memory, then the warp writes the tile row by row, 128 bytes of one path at once. Column k is the sum before step k.
// A bridge needs its end first: it walks once more before, with the same words, and writes nothing.
//
// Arrays by step are padded with zeros to a multiple of 4, and 4 are taken at once.
#include "philox.cuh"
#include "boxmuller.cuh"

#define THREADS 256
#define WARPS 8
#define TILE 32

struct Address {
    unsigned int path, problem, stream;
    unsigned long long seed;
};

template <typename T>
struct __align__(16) Four {
    T at[4];
};

template <typename T>
__device__ __forceinline__ Four<T> four(const T *from) {
    return *(const Four<T> *)from;
}

// One bit a step: `first` where it is 1, `second` where it is 0, the other way round for an antithetic partner.
struct BitSteps {
    const int *up, *down;
    Words words;

    __device__ __forceinline__ BitSteps(const int *first, const int *second, bool partner)
        : up(partner ? second : first), down(partner ? first : second), words{0u, 0u, 0u, 0u} {}
    // Steps k .. k + 3; k a multiple of 4, one after the other.
    __device__ __forceinline__ Four<int> operator()(int k, const Address &at) {
        if ((k & 127) == 0) words = walk_words((unsigned int)k >> 7, at.path, at.problem, at.stream, at.seed);
        const unsigned int bits = word_of(words, (unsigned int)k >> 5 & 3u) >> (k & 31);
        const Four<int> rise = four(up + k), fall = four(down + k);
        Four<int> out;
#pragma unroll
        for (int j = 0; j < 4; ++j) out.at[j] = (bits >> j & 1u) ? rise.at[j] : fall.at[j];
        return out;
    }
};

// `first` holds amplitudes, `second` shifts; an antithetic partner has negated normals.
struct NormalSteps {
    const float *amplitude;
    const int *shift;
    float sign;

    __device__ __forceinline__ NormalSteps(const float *first, const int *second, bool partner)
        : amplitude(first), shift(second), sign(partner ? -1.0f : 1.0f) {}
    __device__ __forceinline__ Four<int> operator()(int k, const Address &at) const {
        const Words words = normal_words((unsigned int)k >> 2, at.path, at.problem, at.stream, at.seed);
        const Pair early = normals32(words.w0, words.w1), late = normals32(words.w2, words.w3);
        const float z[4] = {early.first, early.second, late.first, late.second};
        const Four<float> wide = four(amplitude + k);
        Four<int> out = four(shift + k);
#pragma unroll
        for (int j = 0; j < 4; ++j) out.at[j] += __float2int_rn(__fmul_rn(__fmul_rn(z[j], sign), wide.at[j]));
        return out;
    }
};

__device__ __forceinline__ float scaled(int value, float unit, float x0) {
    return __fadd_rn(__fmul_rn((float)value, unit), x0);
}

__device__ __forceinline__ double scaled(int value, double unit, double x0) {
    return __dadd_rn(__dmul_rn((double)value, unit), x0);
}

struct Job {
    long long n_paths;
    int n_steps;
    const int *ratio;
    int distance;
    bool antithetic;
    Address address;
};

template <bool PINNED, typename Real, typename Steps, typename First>
__device__ __forceinline__ void walk(Real *out, Real unit, Real x0, Real end, const First *first, const int *second,
                                     const Job &job, int (*tile)[TILE + 1]) {
    const int lane = threadIdx.x & 31, warps = blockDim.x >> 5, width = job.n_steps + 1;
    if ((int)threadIdx.x >> 5 >= warps) return;  // threads that do not fill a warp
    const long long stride = (long long)TILE * warps * gridDim.x;
    long long group = TILE * (warps * (long long)blockIdx.x + (threadIdx.x >> 5));
    for (; group < job.n_paths; group += stride) {
        const unsigned int path = (unsigned int)(group + lane);
        const bool partner = job.antithetic && (path & 1u);
        Address address = job.address;
        address.path = path - partner;
        int off = -job.distance;  // of the end from where it is pinned
        if (PINNED) {
            Steps steps(first, second, partner);
            for (int k = 0; k < job.n_steps; k += 4) {
                const Four<int> move = steps(k, address);
                off += move.at[0] + move.at[1] + move.at[2] + move.at[3];
            }
        }
        Steps steps(first, second, partner);
        int total = 0;
        for (int k0 = 0; k0 < width; k0 += TILE) {
#pragma unroll
            for (int j = 0; j < TILE; j += 4) {
                if (k0 + j >= width) continue;
                Four<int> move = {{0, 0, 0, 0}}, ratio = {{0, 0, 0, 0}};
                if (k0 + j < job.n_steps) move = steps(k0 + j, address);
                if (PINNED) ratio = four(job.ratio + k0 + j);
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const int share = PINNED ? (int)(((long long)ratio.at[i] * off + (1 << 29)) >> 30) : 0;
                    tile[lane][j + i] = total - share;
                    total += move.at[i];
                }
            }
            __syncwarp();
            const int rows = (int)min((long long)TILE, job.n_paths - group), k = k0 + lane;
            Real *to = out + group * width + k;
            if (k < width) {
                const bool pinned = PINNED && k == job.n_steps;
#pragma unroll 4
                for (int row = 0; row < rows; ++row, to += width)
                    *to = pinned ? end : scaled(tile[row][lane], unit, x0);
            }
            __syncwarp();
        }
    }
}

template <typename Steps, typename First>
__device__ __forceinline__ void choose(float *out32, double *out64, double unit, double x0, double end,
                                       const First *first, const int *second, const Job &job,
                                       int (*tile)[TILE + 1]) {
    if (out64 && job.ratio) walk<true, double, Steps>(out64, unit, x0, end, first, second, job, tile);
    else if (out64) walk<false, double, Steps>(out64, unit, x0, end, first, second, job, tile);
    else if (job.ratio)
        walk<true, float, Steps>(out32, (float)unit, (float)x0, (float)end, first, second, job, tile);
    else walk<false, float, Steps>(out32, (float)unit, (float)x0, (float)end, first, second, job, tile);
}

// out32, out64: one of them is null. up, down [n_steps]. ratio [n_steps + 1]: share of the variance that has passed at
// each column, in 2^-30; null where no end is pinned. distance: from x0 to the pinned end, in fixed point like steps.
extern "C" __global__ void __launch_bounds__(THREADS)
    paths_bits(float *out32, double *out64, long long n_paths, int n_steps, const int *up, const int *down,
               const int *ratio, int distance, double end, double unit, double x0, int antithetic,
               unsigned long long seed, unsigned int stream, unsigned int problem) {
    __shared__ int tiles[WARPS][TILE][TILE + 1];  // + 1: the 32 values of a column are in 32 banks
    const Job job = {n_paths, n_steps, ratio, distance, antithetic != 0, {0u, problem, stream, seed}};
    choose<BitSteps>(out32, out64, unit, x0, end, up, down, job, tiles[threadIdx.x >> 5]);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    paths_normal(float *out32, double *out64, long long n_paths, int n_steps, const float *amplitude, const int *shift,
                 const int *ratio, int distance, double end, double unit, double x0, int antithetic,
                 unsigned long long seed, unsigned int stream, unsigned int problem) {
    __shared__ int tiles[WARPS][TILE][TILE + 1];
    const Job job = {n_paths, n_steps, ratio, distance, antithetic != 0, {0u, problem, stream, seed}};
    choose<NormalSteps>(out32, out64, unit, x0, end, amplitude, shift, job, tiles[threadIdx.x >> 5]);
}
