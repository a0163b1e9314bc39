// Sticky masks for kernels/sticky.py: out [batch, time, features], 1 where a unit stays; the layout of the counters is
// in kernels/philox.py.
//
// One thread follows one unit (row, feature) through time, four times a counter; neighbouring threads hold neighbouring
// features, so that a warp writes neighbouring bytes. drop and hold are probabilities in units of 2^-16. step is read
// from memory: nothing waits for it, and a captured graph may change it.
#include "philox.cuh"

extern "C" __global__ void sticky_mask(unsigned char *out, long long units, long long time, long long features,
                                       unsigned int first_unit, unsigned int drop, unsigned int hold,
                                       unsigned long long seed, const long long *step, unsigned int layer) {
    long long stride = (long long)gridDim.x * blockDim.x;
    for (long long unit = (long long)blockIdx.x * blockDim.x + threadIdx.x; unit < units; unit += stride) {
        unsigned char *at = out + unit / features * time * features + unit % features;
        unsigned int keep = 0;
        for (long long t = 0; t < time;) {
            Words words = philox4x32((unsigned int)(t >> 2), first_unit + (unsigned int)unit, (unsigned int)*step,
                                     OP_STICKY_MASK << 24 | layer, seed);
            for (int j = 0; j < 4 && t < time; ++j, ++t, at += features) {
                unsigned int word = word_of(words, j);
                if (t == 0 || (word & 0xFFFFu) >= hold) keep = (word >> 16) >= drop;
                *at = (unsigned char)keep;
            }
        }
    }
}
