// y = x * keep / (1 - p) for kernels/dropout.py; the layout of the counters is in kernels/philox.py.
//
// One thread makes one counter's words and writes what they serve: 4 (threshold: 8) neighbouring units of one row, for up
// to 32 samples (threshold: one antithetic pair). Work items are (row, holder of samples, block of units), blocks of
// units fastest, so that a warp reads and writes whole lines. x and out are [1 or samples, rows, units] and
// [samples, rows, units]. step is read from memory: nothing waits for it, and a captured graph may change it.
#include "philox.cuh"

template <typename T>
__device__ void half_masks(const T *x, T *out, int stacked, int samples, int rows, long long units,
                           long long first_unit, unsigned long long seed, const long long *step, int layer, T factor) {
    long long begin = first_unit >> 2, blocks = ((first_unit + units + 3) >> 2) - begin;
    long long holders = (samples + 31) / 32, work = blocks * holders * rows;
    long long stride = (long long)gridDim.x * blockDim.x;
    for (long long item = (long long)blockIdx.x * blockDim.x + threadIdx.x; item < work; item += stride) {
        long long block = begin + item % blocks, holder = item / blocks % holders, row = item / blocks / holders;
        Words words = philox4x32((unsigned int)block, (unsigned int)holder, (unsigned int)*step,
                                 OP_DROPOUT_HALF << 24 | (unsigned int)layer, seed);
        int end = samples < 32 * (holder + 1) ? samples : (int)(32 * (holder + 1));
        for (int sample = (int)(32 * holder); sample < end; ++sample) {
            long long to = ((long long)sample * rows + row) * units;
            long long from = stacked ? to : row * units;
            for (int j = 0; j < 4; ++j) {
                long long unit = 4 * block + j - first_unit;
                if (unit < 0 || unit >= units) continue;
                unsigned int keep = (word_of(words, j) >> (sample & 30) & 1u) ^ (sample & 1u);
                out[to + unit] = x[from + unit] * (keep ? factor : (T)0);
            }
        }
    }
}

template <typename T>
__device__ void threshold_masks(const T *x, T *out, int stacked, int samples, int rows, long long units,
                                long long first_unit, unsigned long long seed, const long long *step, int layer,
                                unsigned int threshold, T factor) {
    long long begin = first_unit >> 3, blocks = ((first_unit + units + 7) >> 3) - begin;
    long long pairs = (samples + 1) / 2, work = blocks * pairs * rows;
    long long stride = (long long)gridDim.x * blockDim.x;
    for (long long item = (long long)blockIdx.x * blockDim.x + threadIdx.x; item < work; item += stride) {
        long long block = begin + item % blocks, pair = item / blocks % pairs, row = item / blocks / pairs;
        Words words = philox4x32((unsigned int)block, (unsigned int)(2 * pair), (unsigned int)*step,
                                 OP_DROPOUT_THRESHOLD << 24 | (unsigned int)layer, seed);
        int end = samples < 2 * (pair + 1) ? samples : (int)(2 * (pair + 1));
        for (int sample = (int)(2 * pair); sample < end; ++sample) {
            long long to = ((long long)sample * rows + row) * units;
            long long from = stacked ? to : row * units;
            unsigned int flip = sample & 1 ? 0xFFFFu : 0u;
            for (int j = 0; j < 8; ++j) {
                long long unit = 8 * block + j - first_unit;
                if (unit < 0 || unit >= units) continue;
                unsigned int draw = word_of(words, j >> 1) >> (16 * (j & 1)) & 0xFFFFu;
                out[to + unit] = x[from + unit] * ((draw ^ flip) >= threshold ? factor : (T)0);
            }
        }
    }
}

extern "C" __global__ void dropout_half_float(const float *x, float *out, int stacked, int samples, int rows,
                                              long long units, long long first_unit, unsigned long long seed,
                                              const long long *step, int layer, unsigned int threshold, float factor) {
    half_masks(x, out, stacked, samples, rows, units, first_unit, seed, step, layer, factor);
}

extern "C" __global__ void dropout_half_double(const double *x, double *out, int stacked, int samples, int rows,
                                               long long units, long long first_unit, unsigned long long seed,
                                               const long long *step, int layer, unsigned int threshold,
                                               double factor) {
    half_masks(x, out, stacked, samples, rows, units, first_unit, seed, step, layer, factor);
}

extern "C" __global__ void dropout_threshold_float(const float *x, float *out, int stacked, int samples, int rows,
                                                   long long units, long long first_unit, unsigned long long seed,
                                                   const long long *step, int layer, unsigned int threshold,
                                                   float factor) {
    threshold_masks(x, out, stacked, samples, rows, units, first_unit, seed, step, layer, threshold, factor);
}

extern "C" __global__ void dropout_threshold_double(const double *x, double *out, int stacked, int samples, int rows,
                                                    long long units, long long first_unit, unsigned long long seed,
                                                    const long long *step, int layer, unsigned int threshold,
                                                    double factor) {
    threshold_masks(x, out, stacked, samples, rows, units, first_unit, seed, step, layer, threshold, factor);
}
