// Features of many random walks, for kernels/mc_features.py; the layout of the counters is in kernels/philox.py.
//
// A work item is one problem and as many neighbouring pairs of paths as a block has threads (a multiple of 32). A block
// takes a run of items, so that its threads keep the totals of a problem in registers and add them to memory once. A
// thread walks the paths 2i and 2i + 1 side by side: an antithetic partner costs no random words, and both share what
// they read of the problem. All totals are integers, so no launch shape changes a bit.
#include "philox.cuh"
#include "boxmuller.cuh"

#define BINS 512
#define TILE 128  // steps of a problem in shared memory
#define EVERY_LANE 0xFFFFFFFFu

struct Problems {
    int count, n_steps, curve;  // curve: amplitude is [count, n_steps], else [count]
    const unsigned int *ids;
    const int *amplitude, *drift, *limit, *limit_low;
    const long long *sd;
    const int *observed;  // null: nothing is ranked
};

struct Noise {
    unsigned long long seed;
    unsigned int stream;
    int antithetic;
};

struct Totals {
    unsigned long long *sums;  // [count, 6]: hits, hits_low, sum_mdd, sum_terminal, below, equal
    int *nearest;              // [count, 2]: next_below, next_above
    int *hist;                 // [count, BINS]; null: not wanted
};

struct Walk {
    int x, high, low, fall;
};

template <bool LOW, bool DRAWDOWN>
__device__ __forceinline__ void move(Walk &walk, int step) {
    walk.x += step;
    walk.high = max(walk.high, walk.x);
    if (LOW) walk.low = min(walk.low, walk.x);
    if (DRAWDOWN) walk.fall = max(walk.fall, walk.high - walk.x);
}

// ---- totals of one problem

struct Sums {
    unsigned int hits = 0, hits_low = 0, below = 0, equal = 0;
    int next_below = -2147483647 - 1, next_above = 2147483647;
    long long mdd = 0, terminal = 0;
};

__device__ void add(Sums &sums, const Walk &walk, const Problems &problems, int problem, bool hist, int *bins) {
    sums.hits += walk.high >= problems.limit[problem];
    sums.hits_low += walk.low <= problems.limit_low[problem];
    sums.mdd += walk.fall;
    sums.terminal += walk.x;
    if (hist) {
        long long sd = problems.sd[problem], distance = (long long)walk.x * (BINS / 16) + BINS / 2 * sd;
        unsigned long long bin = distance > 0 ? (unsigned long long)distance / (unsigned long long)sd : 0;
        atomicAdd(bins + (bin < BINS ? bin : BINS - 1), 1);
    }
    if (problems.observed) {
        int observed = problems.observed[problem];
        sums.below += walk.x < observed;
        sums.equal += walk.x == observed;
        if (walk.x < observed) sums.next_below = max(sums.next_below, walk.x);
        if (walk.x > observed) sums.next_above = min(sums.next_above, walk.x);
    }
}

__device__ __forceinline__ void add_warp(unsigned long long *total, long long value) {
    for (int lanes = 16; lanes; lanes >>= 1) value += __shfl_down_sync(EVERY_LANE, value, lanes);
    if ((threadIdx.x & 31) == 0) atomicAdd(total, (unsigned long long)value);
}

// Called by all threads of a block. Leaves the bins empty.
__device__ void flush(const Totals &totals, int problem, const Sums &sums, bool ranked, int *bins) {
    unsigned long long *total = totals.sums + 6ll * problem;
    add_warp(total, sums.hits);
    add_warp(total + 1, sums.hits_low);
    add_warp(total + 2, sums.mdd);
    add_warp(total + 3, sums.terminal);
    if (ranked) {
        add_warp(total + 4, sums.below);
        add_warp(total + 5, sums.equal);
        int below = __reduce_max_sync(EVERY_LANE, sums.next_below);
        int above = __reduce_min_sync(EVERY_LANE, sums.next_above);
        if ((threadIdx.x & 31) == 0) {
            atomicMax(totals.nearest + 2ll * problem, below);
            atomicMin(totals.nearest + 2ll * problem + 1, above);
        }
    }
    if (totals.hist) {
        __syncthreads();  // every thread has counted
        for (int bin = threadIdx.x; bin < BINS; bin += blockDim.x) {
            if (bins[bin]) atomicAdd(totals.hist + (long long)problem * BINS + bin, bins[bin]);
            bins[bin] = 0;
        }
        __syncthreads();  // no thread counts the next problem before
    }
}

// Walks all paths of all problems by `pair(problem, path, even, odd)`, which every thread of a block calls.
template <typename Pair>
__device__ __forceinline__ void run(const Problems &problems, long long n_paths, const Totals &totals, int *bins,
                                    Pair pair) {
    long long pairs = n_paths / 2 + n_paths % 2, per_problem = (pairs + blockDim.x - 1) / blockDim.x;
    long long items = per_problem * problems.count, share = (items + gridDim.x - 1) / gridDim.x;
    long long begin = share * blockIdx.x, end = min(begin + share, items);
    for (int bin = threadIdx.x; bin < BINS; bin += blockDim.x) bins[bin] = 0;
    __syncthreads();  // bins, and what the caller prepared in shared memory
    Sums sums;
    for (long long item = begin; item < end; ++item) {
        int problem = (int)(item / per_problem);
        long long path = 2 * (item % per_problem * blockDim.x + threadIdx.x);
        Walk even = {0, 0, 0, 0}, odd = {0, 0, 0, 0};
        pair(problem, (unsigned int)path, even, odd);
        if (path < n_paths) add(sums, even, problems, problem, totals.hist, bins);
        if (path + 1 < n_paths) add(sums, odd, problems, problem, totals.hist, bins);
        if (item + 1 == end || (item + 1) % per_problem == 0) {
            flush(totals, problem, sums, problems.observed, bins);
            sums = Sums();
        }
    }
}

// ---- walks step by step

// What a step adds: for bits (move up, move down), for normals (amplitude, drift).
struct Step {
    int first, second;
};

// Steps begin .. begin + TILE - 1 of a problem; those beyond the last do not move. All threads of a block call it.
__device__ __forceinline__ void load(Step *tile, const Problems &problems, int problem, unsigned int begin, bool bits) {
    const int *amplitude = problems.amplitude + (problems.curve ? (long long)problem * problems.n_steps : problem);
    __syncthreads();  // every thread is done with the steps before
    for (unsigned int k = threadIdx.x; k < TILE; k += blockDim.x) {
        int a = 0, m = 0;
        if (begin + k < (unsigned int)problems.n_steps) {
            a = amplitude[problems.curve ? begin + k : 0];
            m = problems.drift[problem];
        }
        tile[k] = bits ? Step{m + a, m - a} : Step{a, m};
    }
    __syncthreads();
}

template <bool LOW, bool DRAWDOWN>
__device__ __forceinline__ void bits(const Problems &problems, const Noise &noise, long long n_paths,
                                     const Totals &totals, int *bins, Step *tile) {
    run(problems, n_paths, totals, bins, [&](int problem, unsigned int path, Walk &even, Walk &odd) {
        unsigned int id = problems.ids[problem], n = problems.n_steps;
        for (unsigned int begin = 0; begin < n; begin += TILE) {
            load(tile, problems, problem, begin, true);
            Words ours = walk_words(begin >> 7, path, id, noise.stream, noise.seed);
            Words theirs = {~ours.w0, ~ours.w1, ~ours.w2, ~ours.w3};
            if (!noise.antithetic) theirs = walk_words(begin >> 7, path + 1, id, noise.stream, noise.seed);
            for (unsigned int k = 0; k < TILE && begin + k < n; k += 8) {
                unsigned int our_bits = word_of(ours, k >> 5) >> (k & 31);
                unsigned int their_bits = word_of(theirs, k >> 5) >> (k & 31);
#pragma unroll
                for (int j = 0; j < 8; ++j) {
                    Step step = tile[k + j];
                    move<LOW, DRAWDOWN>(even, our_bits >> j & 1 ? step.first : step.second);
                    move<LOW, DRAWDOWN>(odd, their_bits >> j & 1 ? step.first : step.second);
                }
            }
        }
    });
}

struct Four {
    float z[4];
};

__device__ __forceinline__ Four four_normals(unsigned int block, unsigned int path, unsigned int id,
                                             const Noise &noise) {
    Words words = normal_words(block, path, id, noise.stream, noise.seed);
    Pair front = normals32(words.w0, words.w1), back = normals32(words.w2, words.w3);
    return {{front.first, front.second, back.first, back.second}};
}

template <bool LOW, bool DRAWDOWN>
__device__ __forceinline__ void normals(const Problems &problems, const Noise &noise, long long n_paths,
                                        const Totals &totals, int *bins, Step *tile) {
    run(problems, n_paths, totals, bins, [&](int problem, unsigned int path, Walk &even, Walk &odd) {
        unsigned int id = problems.ids[problem], n = problems.n_steps;
        for (unsigned int begin = 0; begin < n; begin += TILE) {
            load(tile, problems, problem, begin, false);
            for (unsigned int k = 0; k < TILE && begin + k < n; k += 4) {
                Four ours = four_normals((begin + k) >> 2, path, id, noise);
                Four theirs = {{-ours.z[0], -ours.z[1], -ours.z[2], -ours.z[3]}};
                if (!noise.antithetic) theirs = four_normals((begin + k) >> 2, path + 1, id, noise);
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    float amplitude = (float)tile[k + j].first;
                    int drift = tile[k + j].second;
                    move<LOW, DRAWDOWN>(even, drift + __float2int_rn(__fmul_rn(ours.z[j], amplitude)));
                    move<LOW, DRAWDOWN>(odd, drift + __float2int_rn(__fmul_rn(theirs.z[j], amplitude)));
                }
            }
        }
    });
}

// ---- lattice walks: steps of one size and, where an extreme is followed, no drift

// Net move (low half) and highest point over the start (high half) of the eight steps in each byte.
__device__ void fill(int *table) {
    for (int byte = threadIdx.x; byte < 256; byte += blockDim.x) {
        int net = 0, peak = 0;
        for (int k = 0; k < 8; ++k) {
            net += byte >> k & 1 ? 1 : -1;
            peak = max(peak, net);
        }
        table[byte] = peak << 16 | (net & 0xFFFF);
    }
}

__device__ __forceinline__ void climb(int &x, int &high, unsigned int word, const int *table) {
#pragma unroll
    for (int k = 0; k < 32; k += 8) {
        int byte = table[word >> k & 255u];
        high = max(high, x + (byte >> 16));
        x += (short)byte;
    }
}

// Steps that a word has no use for (bits not in `used`) count as steps down, which raise no maximum.
template <bool HIGH, bool LOW>
__device__ __forceinline__ void follow(Walk &walk, unsigned int word, unsigned int used, const int *table) {
    int mirrored = -walk.x;
    if (LOW) climb(mirrored, walk.low, ~word & used, table);  // the highest point of the mirrored walk
    if (HIGH) climb(walk.x, walk.high, word & used, table);
    else walk.x += 2 * __popc(word & used) - 32;
}

template <bool HIGH, bool LOW>
__device__ __forceinline__ void lattice(const Problems &problems, const Noise &noise, long long n_paths,
                                        const Totals &totals, int *bins, const int *table) {
    run(problems, n_paths, totals, bins, [&](int problem, unsigned int path, Walk &even, Walk &odd) {
        unsigned int id = problems.ids[problem], n = problems.n_steps;
        for (unsigned int begin = 0; begin < n; begin += 128) {
            Words ours = walk_words(begin >> 7, path, id, noise.stream, noise.seed);
            Words theirs = {~ours.w0, ~ours.w1, ~ours.w2, ~ours.w3};
            if (!noise.antithetic) theirs = walk_words(begin >> 7, path + 1, id, noise.stream, noise.seed);
            for (unsigned int k = 0; k < 128 && begin + k < n; k += 32) {
                unsigned int left = n - begin - k, used = left < 32 ? (1u << left) - 1u : 0xFFFFFFFFu;
                follow<HIGH, LOW>(even, word_of(ours, k >> 5), used, table);
                follow<HIGH, LOW>(odd, word_of(theirs, k >> 5), used, table);
            }
        }
        int a = problems.amplitude[problem], drift = (int)n * problems.drift[problem], unused = -n & 31u;
        even = {a * (even.x + unused) + drift, a * even.high, -a * even.low, 0};
        odd = {a * (odd.x + unused) + drift, a * odd.high, -a * odd.low, 0};
    });
}

// ---- kernels; low, high, drawdown: whether these are followed

extern "C" __global__ void __launch_bounds__(256) walk_bits(
    const unsigned int *ids, const int *amplitude, const int *drift, const int *limit, const int *limit_low,
    const long long *sd, const int *observed, int count, int n_steps, int curve, long long n_paths,
    unsigned long long seed, unsigned int stream, int antithetic, int low, int drawdown, unsigned long long *sums,
    int *nearest, int *hist) {
    __shared__ int bins[BINS];
    __shared__ Step tile[TILE];
    Problems problems = {count, n_steps, curve, ids, amplitude, drift, limit, limit_low, sd, observed};
    Noise noise = {seed, stream, antithetic};
    Totals totals = {sums, nearest, hist};
    if (low && drawdown) bits<true, true>(problems, noise, n_paths, totals, bins, tile);
    else if (low) bits<true, false>(problems, noise, n_paths, totals, bins, tile);
    else if (drawdown) bits<false, true>(problems, noise, n_paths, totals, bins, tile);
    else bits<false, false>(problems, noise, n_paths, totals, bins, tile);
}

extern "C" __global__ void __launch_bounds__(256) walk_normals(
    const unsigned int *ids, const int *amplitude, const int *drift, const int *limit, const int *limit_low,
    const long long *sd, const int *observed, int count, int n_steps, int curve, long long n_paths,
    unsigned long long seed, unsigned int stream, int antithetic, int low, int drawdown, unsigned long long *sums,
    int *nearest, int *hist) {
    __shared__ int bins[BINS];
    __shared__ Step tile[TILE];
    Problems problems = {count, n_steps, curve, ids, amplitude, drift, limit, limit_low, sd, observed};
    Noise noise = {seed, stream, antithetic};
    Totals totals = {sums, nearest, hist};
    if (low && drawdown) normals<true, true>(problems, noise, n_paths, totals, bins, tile);
    else if (low) normals<true, false>(problems, noise, n_paths, totals, bins, tile);
    else if (drawdown) normals<false, true>(problems, noise, n_paths, totals, bins, tile);
    else normals<false, false>(problems, noise, n_paths, totals, bins, tile);
}

extern "C" __global__ void __launch_bounds__(256) walk_lattice(
    const unsigned int *ids, const int *amplitude, const int *drift, const int *limit, const int *limit_low,
    const long long *sd, const int *observed, int count, int n_steps, int curve, long long n_paths,
    unsigned long long seed, unsigned int stream, int antithetic, int high, int low, unsigned long long *sums,
    int *nearest, int *hist) {
    __shared__ int bins[BINS];
    __shared__ int table[256];
    Problems problems = {count, n_steps, curve, ids, amplitude, drift, limit, limit_low, sd, observed};
    Noise noise = {seed, stream, antithetic};
    Totals totals = {sums, nearest, hist};
    fill(table);  // the barrier in run comes before its first use
    if (high && low) lattice<true, true>(problems, noise, n_paths, totals, bins, table);
    else if (high) lattice<true, false>(problems, noise, n_paths, totals, bins, table);
    else if (low) lattice<false, true>(problems, noise, n_paths, totals, bins, table);
    else lattice<false, false>(problems, noise, n_paths, totals, bins, table);
}
