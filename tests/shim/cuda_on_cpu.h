// Enough of CUDA for kernels/*.cu to run in one thread of a CPU, for tests/shim.py.
//
// Blocks run one after the other. Where a source waits (barriers, warp collectives), each thread of a block is a fiber
// that runs until it waits, in an order that the caller picks; where it does not, threads are a plain loop. Shared
// memory starts as rubbish in every block. What CUDA leaves undefined or does otherwise than a CPU is either missing
// here, so that it does not compile (float atomics, fast mathematics), or ends the launch with a message (a barrier
// that not all threads reach, an index outside an array, a misaligned access, a shift by 32, a signed overflow).
#pragma once
#include <limits.h>
#include <math.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __shared__ static __attribute__((section("shim_shared")))

struct dim3 {
    unsigned int x, y, z;
};
static dim3 threadIdx, blockIdx, blockDim, gridDim;
static const int warpSize = 32;

// ---- launch -------------------------------------------------------------------------------------------------------

extern "C" char __start_shim_shared[] __attribute__((weak, visibility("hidden")));
extern "C" char __stop_shim_shared[] __attribute__((weak, visibility("hidden")));

namespace shim {

enum Order : unsigned int { FORWARD, REVERSE, SHUFFLED };

static jmp_buf leave;  // out of a launch that failed
static char message[512];
static unsigned int random_state;

[[noreturn]] static void fail(const char *what) {
    snprintf(message, sizeof message, "%s, in thread %u of block %u", what, threadIdx.x, blockIdx.x);
    _longjmp(leave, 1);
}

static void arrange(unsigned int *order, unsigned int n, unsigned int kind) {
    for (unsigned int i = 0; i < n; ++i) order[i] = kind == REVERSE ? n - 1 - i : i;
    for (unsigned int i = n; kind == SHUFFLED && i > 1; --i) {
        random_state = random_state * 1664525u + 1013904223u;
        unsigned int j = (unsigned int)((unsigned long long)random_state * i >> 32), swapped = order[i - 1];
        order[i - 1] = order[j];
        order[j] = swapped;
    }
}

#ifdef SHIM_FIBERS

const unsigned int MOST = 1024;
const size_t STACK = 64 << 10;

// A collective waits until every lane of its mask that still runs has come to the same one.
using Combine = unsigned long long (*)(const unsigned long long *values, unsigned int members, int argument);

enum State { READY, AT_BARRIER, AT_COLLECTIVE, DONE };

struct Fiber {
    jmp_buf at;
    State state;
    Combine combine;
    unsigned int mask;
    int argument;
    unsigned long long value, result;
};

static Fiber fibers[MOST];
static jmp_buf scheduler;
static ucontext_t started_from;
static char *stacks;
static bool started[MOST];
static void (*body)(void *);
static void *body_arguments;

__attribute__((noinline)) static void pause_fiber() {
    if (!_setjmp(fibers[threadIdx.x].at)) _longjmp(scheduler, 1);
}

static bool complete(const Fiber &, unsigned int);

static void run_fiber() {
    for (;;) {  // once for each block
        body(body_arguments);
        fibers[threadIdx.x].state = DONE;
        for (unsigned int i = threadIdx.x & ~31u; i < blockDim.x && i <= (threadIdx.x | 31u); ++i)
            if (fibers[i].state == AT_COLLECTIVE) complete(fibers[i], i);  // it may have waited for this thread
        pause_fiber();
    }
}

__attribute__((noinline)) static void resume_fiber(unsigned int thread) {
    threadIdx = {thread, 0, 0};
    if (_setjmp(scheduler)) return;
    if (started[thread]) _longjmp(fibers[thread].at, 1);
    static ucontext_t context;
    started[thread] = true;
    getcontext(&context);
    context.uc_stack.ss_sp = stacks + thread * STACK;
    context.uc_stack.ss_size = STACK;
    context.uc_link = nullptr;
    makecontext(&context, run_fiber, 0);
    swapcontext(&started_from, &context);
}

static void run_block(unsigned int threads, unsigned int kind) {
    unsigned int order[MOST];
    for (unsigned int i = 0; i < threads; ++i) fibers[i].state = READY;
    for (;;) {
        unsigned int ran = 0, done = 0, at_barrier = 0;
        arrange(order, threads, kind);
        for (unsigned int i = 0; i < threads; ++i) {
            if (fibers[order[i]].state != READY) continue;
            resume_fiber(order[i]);
            ++ran;
        }
        for (unsigned int i = 0; i < threads; ++i) {
            done += fibers[i].state == DONE;
            at_barrier += fibers[i].state == AT_BARRIER;
        }
        if (done == threads) return;
        if (done + at_barrier == threads) {
            for (unsigned int i = 0; i < threads; ++i)
                if (fibers[i].state == AT_BARRIER) fibers[i].state = READY;
        } else if (!ran) {
            for (unsigned int i = 0; i < threads; ++i)
                if (fibers[i].state == AT_COLLECTIVE) threadIdx = {i, 0, 0};
            fail("deadlock: not every thread comes to a barrier or a warp collective");
        }
    }
}

// Give every lane of a collective its result, if none of them is still on its way.
static bool complete(const Fiber &one, unsigned int thread) {
    unsigned int first = thread & ~31u, members = 0, mask = one.mask;
    Combine combine = one.combine;
    unsigned long long values[32];
    for (unsigned int lane = 0; lane < 32; ++lane) {
        const Fiber &fiber = fibers[first + lane];
        values[lane] = 0xDEADBEEFDEADBEEFull;  // of a lane that does not take part: undefined in CUDA
        if (!(mask >> lane & 1) || first + lane >= blockDim.x || fiber.state == DONE) continue;
        if (fiber.state != AT_COLLECTIVE || fiber.combine != combine || fiber.mask != mask) return false;
        members |= 1u << lane;
        values[lane] = fiber.value;
    }
    for (unsigned int lane = 0; lane < 32; ++lane) {
        if (!(members >> lane & 1)) continue;
        Fiber &fiber = fibers[first + lane];
        fiber.result = combine(values, members, fiber.argument);
        fiber.state = READY;
    }
    return true;
}

static unsigned long long collective(unsigned int mask, unsigned long long value, int argument, Combine combine) {
    Fiber &own = fibers[threadIdx.x];
    if (!(mask >> (threadIdx.x & 31) & 1)) fail("a warp collective whose mask lacks the calling lane");
    own.state = AT_COLLECTIVE;
    own.combine = combine;
    own.mask = mask;
    own.argument = argument;
    own.value = value;
    if (!complete(own, threadIdx.x)) pause_fiber();
    return own.result;
}

#endif

// Run a kernel on blocks x threads; nullptr, or what went wrong.
template <typename Kernel>
const char *launch(unsigned int blocks, unsigned int threads, unsigned int order, unsigned int seed, Kernel kernel) {
    random_state = seed;
    unsigned int *block_order = (unsigned int *)malloc(blocks * sizeof(unsigned int));
    arrange(block_order, blocks, order);
    gridDim = {blocks, 1, 1};
    blockDim = {threads, 1, 1};
    message[0] = 0;
#ifdef SHIM_FIBERS
    if (!stacks) stacks = (char *)malloc(MOST * STACK);
    body = [](void *arguments) { (*(Kernel *)arguments)(); };
    body_arguments = &kernel;
#else
    unsigned int thread_order[1024];
#endif
    if (!_setjmp(leave)) {
        for (unsigned int i = 0; i < blocks; ++i) {
            blockIdx = {block_order[i], 0, 0};
            memset(__start_shim_shared, 0xA5, __stop_shim_shared - __start_shim_shared);
#ifdef SHIM_FIBERS
            run_block(threads, order);
#else
            arrange(thread_order, threads, order);
            for (unsigned int j = 0; j < threads; ++j) {
                threadIdx = {thread_order[j], 0, 0};
                kernel();
            }
#endif
        }
    }
#ifdef SHIM_FIBERS
    if (message[0]) memset(started, 0, sizeof started);  // their stacks hold the middle of a kernel
#endif
    free(block_order);
    return message[0] ? message : nullptr;
}

// What g++ calls where -fsanitize finds a fault; every description begins with the place in the source.
struct Place {
    const char *file;
    unsigned int line, column;
};

[[noreturn]] static void fail_at(const Place *place, const char *what) {
    char text[256];
    snprintf(text, sizeof text, "%s:%u: %s", place->file, place->line, what);
    fail(text);
}

}  // namespace shim

#define SHIM_FAULT(NAME, WHAT) \
    extern "C" __attribute__((visibility("hidden"))) void __ubsan_handle_##NAME(shim::Place *place, ...) { \
        shim::fail_at(place, WHAT); \
    }
SHIM_FAULT(out_of_bounds, "index outside an array")
SHIM_FAULT(type_mismatch_v1, "null or misaligned pointer")
SHIM_FAULT(shift_out_of_bounds, "shift by more bits than the type has")
SHIM_FAULT(add_overflow, "signed overflow")
SHIM_FAULT(sub_overflow, "signed overflow")
SHIM_FAULT(mul_overflow, "signed overflow")
SHIM_FAULT(negate_overflow, "signed overflow")
SHIM_FAULT(divrem_overflow, "division by zero")
SHIM_FAULT(float_cast_overflow, "float outside the integer type it is converted to")

// ---- barriers and warp collectives --------------------------------------------------------------------------------

static inline void __threadfence() {}
static inline void __threadfence_block() {}

#ifdef SHIM_FIBERS

static void __syncthreads() {
    shim::fibers[threadIdx.x].state = shim::AT_BARRIER;
    shim::pause_fiber();
}

namespace shim {

template <typename T>
unsigned long long bits_of(T value) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "warp collectives take 4 or 8 bytes");
    unsigned long long bits = 0;
    memcpy(&bits, &value, sizeof value);
    return bits;
}

template <typename T>
T of_bits(unsigned long long bits) {
    T value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

template <typename T>
T from_lane(unsigned int mask, T value, int lane) {
    Combine chosen = [](const unsigned long long *values, unsigned int, int from) { return values[from]; };
    return of_bits<T>(collective(mask, bits_of(value), lane, chosen));
}

template <typename T, T (*FOLD)(T, T)>
T folded(unsigned int mask, T value) {
    Combine fold = [](const unsigned long long *values, unsigned int members, int) {
        int lane = __builtin_ctz(members);
        T total = of_bits<T>(values[lane]);
        while (++lane < 32)
            if (members >> lane & 1) total = FOLD(total, of_bits<T>(values[lane]));
        return bits_of(total);
    };
    return of_bits<T>(collective(mask, bits_of(value), 0, fold));
}

static inline unsigned int fold_add(unsigned int a, unsigned int b) { return a + b; }
static inline unsigned int fold_and(unsigned int a, unsigned int b) { return a & b; }
static inline unsigned int fold_or(unsigned int a, unsigned int b) { return a | b; }
static inline unsigned int fold_xor(unsigned int a, unsigned int b) { return a ^ b; }
template <typename T>
T fold_min(T a, T b) {
    return b < a ? b : a;
}
template <typename T>
T fold_max(T a, T b) {
    return a < b ? b : a;
}

static inline int lane() { return (int)(threadIdx.x & 31); }

}  // namespace shim

static inline void __syncwarp(unsigned int mask = 0xFFFFFFFFu) {
    shim::collective(mask, 0, 0, [](const unsigned long long *, unsigned int, int) { return 0ull; });
}

template <typename T>
T __shfl_sync(unsigned int mask, T value, int source, int width = 32) {
    return shim::from_lane(mask, value, (shim::lane() & -width) | (source & (width - 1)));
}
template <typename T>
T __shfl_up_sync(unsigned int mask, T value, unsigned int delta, int width = 32) {
    int from = shim::lane() - (int)delta;
    return shim::from_lane(mask, value, from < (shim::lane() & -width) ? shim::lane() : from);
}
template <typename T>
T __shfl_down_sync(unsigned int mask, T value, unsigned int delta, int width = 32) {
    int from = shim::lane() + (int)delta;
    return shim::from_lane(mask, value, from > (shim::lane() | (width - 1)) ? shim::lane() : from);
}
template <typename T>
T __shfl_xor_sync(unsigned int mask, T value, int bits, int width = 32) {
    int from = shim::lane() ^ bits;
    return shim::from_lane(mask, value, from > (shim::lane() | (width - 1)) ? shim::lane() : from);
}

static inline unsigned int __ballot_sync(unsigned int mask, int predicate) {
    return shim::folded<unsigned int, shim::fold_or>(mask, predicate ? 1u << shim::lane() : 0u);
}
static inline int __any_sync(unsigned int mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
static inline int __all_sync(unsigned int mask, int predicate) { return __ballot_sync(mask, !predicate) == 0; }

static inline unsigned int __reduce_add_sync(unsigned int mask, unsigned int value) {
    return shim::folded<unsigned int, shim::fold_add>(mask, value);
}
static inline int __reduce_add_sync(unsigned int mask, int value) {
    return (int)__reduce_add_sync(mask, (unsigned int)value);
}
static inline unsigned int __reduce_and_sync(unsigned int mask, unsigned int value) {
    return shim::folded<unsigned int, shim::fold_and>(mask, value);
}
static inline unsigned int __reduce_or_sync(unsigned int mask, unsigned int value) {
    return shim::folded<unsigned int, shim::fold_or>(mask, value);
}
static inline unsigned int __reduce_xor_sync(unsigned int mask, unsigned int value) {
    return shim::folded<unsigned int, shim::fold_xor>(mask, value);
}
static inline unsigned int __reduce_min_sync(unsigned int mask, unsigned int value) {
    return shim::folded<unsigned int, shim::fold_min<unsigned int>>(mask, value);
}
static inline int __reduce_min_sync(unsigned int mask, int value) {
    return shim::folded<int, shim::fold_min<int>>(mask, value);
}
static inline unsigned int __reduce_max_sync(unsigned int mask, unsigned int value) {
    return shim::folded<unsigned int, shim::fold_max<unsigned int>>(mask, value);
}
static inline int __reduce_max_sync(unsigned int mask, int value) {
    return shim::folded<int, shim::fold_max<int>>(mask, value);
}

static inline int __syncthreads_count(int predicate) {
    static int count;
    __syncthreads();
    count = 0;
    __syncthreads();
    count += predicate != 0;
    __syncthreads();
    return count;
}
static inline int __syncthreads_or(int predicate) { return __syncthreads_count(predicate) != 0; }
static inline int __syncthreads_and(int predicate) { return __syncthreads_count(!predicate) == 0; }

#endif

// ---- words --------------------------------------------------------------------------------------------------------

static inline int __popc(unsigned int x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __clz(int x) { return x ? __builtin_clz((unsigned int)x) : 32; }
static inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __ffsll(long long x) { return __builtin_ffsll(x); }
static inline unsigned int __brev(unsigned int x) {
    unsigned int out = 0;
    for (int i = 0; i < 32; ++i) out |= (x >> i & 1u) << (31 - i);
    return out;
}
static inline unsigned int __byte_perm(unsigned int x, unsigned int y, unsigned int selector) {
    unsigned long long bytes = (unsigned long long)y << 32 | x;
    unsigned int out = 0;
    for (int i = 0; i < 4; ++i) {
        unsigned int chosen = selector >> (4 * i) & 15u, byte = (unsigned int)(bytes >> (8 * (chosen & 7u))) & 255u;
        if (chosen & 8u) byte = byte & 128u ? 255u : 0u;
        out |= byte << (8 * i);
    }
    return out;
}
static inline unsigned int __funnelshift_l(unsigned int low, unsigned int high, unsigned int shift) {
    return (unsigned int)(((unsigned long long)high << 32 | low) << (shift & 31u) >> 32);
}
static inline unsigned int __funnelshift_r(unsigned int low, unsigned int high, unsigned int shift) {
    return (unsigned int)(((unsigned long long)high << 32 | low) >> (shift & 31u));
}
static inline unsigned int __umulhi(unsigned int a, unsigned int b) {
    return (unsigned int)((unsigned long long)a * b >> 32);
}
static inline int __mulhi(int a, int b) { return (int)((long long)a * b >> 32); }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
static inline long long __mul64hi(long long a, long long b) { return (long long)((__int128)a * b >> 64); }

#define SHIM_MIN_MAX(T) \
    static inline T min(T a, T b) { return b < a ? b : a; } \
    static inline T max(T a, T b) { return a < b ? b : a; }
SHIM_MIN_MAX(int)
SHIM_MIN_MAX(unsigned int)
SHIM_MIN_MAX(long long)
SHIM_MIN_MAX(unsigned long long)
static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }
static inline double min(double a, double b) { return fmin(a, b); }
static inline double max(double a, double b) { return fmax(a, b); }

// ---- floating point: one rounding an operation ----------------------------------------------------------------------

template <typename To, typename From>
static inline To shim_same_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
static inline int __float_as_int(float x) { return shim_same_bits<int>(x); }
static inline unsigned int __float_as_uint(float x) { return shim_same_bits<unsigned int>(x); }
static inline float __int_as_float(int x) { return shim_same_bits<float>(x); }
static inline float __uint_as_float(unsigned int x) { return shim_same_bits<float>(x); }
static inline long long __double_as_longlong(double x) { return shim_same_bits<long long>(x); }
static inline double __longlong_as_double(long long x) { return shim_same_bits<double>(x); }

static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __frcp_rn(float a) { return 1.0f / a; }
static inline float __fsqrt_rn(float a) { return sqrtf(a); }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline double __dsub_rn(double a, double b) { return a - b; }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline double __ddiv_rn(double a, double b) { return a / b; }
static inline double __dsqrt_rn(double a) { return sqrt(a); }
static inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }

static inline float __int2float_rn(int x) { return (float)x; }
static inline float __uint2float_rn(unsigned int x) { return (float)x; }
static inline float __ll2float_rn(long long x) { return (float)x; }
static inline float __ull2float_rn(unsigned long long x) { return (float)x; }
static inline double __int2double_rn(int x) { return (double)x; }
static inline double __uint2double_rn(unsigned int x) { return (double)x; }
static inline double __ll2double_rn(long long x) { return (double)x; }
static inline double __ull2double_rn(unsigned long long x) { return (double)x; }
static inline float __double2float_rn(double x) { return (float)x; }

// A GPU clamps to the range of the type. NaN gives 0 in 32 bits and the most negative number in 64.
#define SHIM_TO_INTEGER(NAME, FROM, TO, ROUND, LEAST, MOST, END, NAN_VALUE) \
    static inline TO NAME(FROM x) { \
        x = ROUND(x); \
        return x != x ? (TO)(NAN_VALUE) : x >= (FROM)(END) ? (MOST) : x <= (FROM)(LEAST) ? (LEAST) : (TO)x; \
    }
#define SHIM_TO_INTEGERS(FROM, NAME, RINT, TRUNC, FLOOR) \
    SHIM_TO_INTEGER(__##NAME##2int_rn, FROM, int, RINT, INT_MIN, INT_MAX, 2147483648.0, 0) \
    SHIM_TO_INTEGER(__##NAME##2int_rz, FROM, int, TRUNC, INT_MIN, INT_MAX, 2147483648.0, 0) \
    SHIM_TO_INTEGER(__##NAME##2int_rd, FROM, int, FLOOR, INT_MIN, INT_MAX, 2147483648.0, 0) \
    SHIM_TO_INTEGER(__##NAME##2uint_rn, FROM, unsigned int, RINT, 0u, UINT_MAX, 4294967296.0, 0) \
    SHIM_TO_INTEGER(__##NAME##2uint_rz, FROM, unsigned int, TRUNC, 0u, UINT_MAX, 4294967296.0, 0) \
    SHIM_TO_INTEGER(__##NAME##2ll_rn, FROM, long long, RINT, LLONG_MIN, LLONG_MAX, 9223372036854775808.0, LLONG_MIN) \
    SHIM_TO_INTEGER(__##NAME##2ll_rz, FROM, long long, TRUNC, LLONG_MIN, LLONG_MAX, 9223372036854775808.0, LLONG_MIN) \
    SHIM_TO_INTEGER(__##NAME##2ll_rd, FROM, long long, FLOOR, LLONG_MIN, LLONG_MAX, 9223372036854775808.0, LLONG_MIN)
SHIM_TO_INTEGERS(float, float, rintf, truncf, floorf)
SHIM_TO_INTEGERS(double, double, rint, trunc, floor)

// Their results differ between mathematical libraries, and so between a GPU and a CPU.
#pragma GCC poison expf exp2f expm1f logf log2f log10f log1pf sinf cosf tanf sincosf asinf acosf atanf atan2f
#pragma GCC poison sinhf coshf tanhf powf cbrtf hypotf erff erfcf tgammaf lgammaf

// ---- memory -------------------------------------------------------------------------------------------------------

#define SHIM_LOAD(NAME) \
    template <typename T> \
    static inline T NAME(const T *from) { \
        return *from; \
    }
#define SHIM_STORE(NAME) \
    template <typename T> \
    static inline void NAME(T *to, T value) { \
        *to = value; \
    }
SHIM_LOAD(__ldg)
SHIM_LOAD(__ldcg)
SHIM_LOAD(__ldcs)
SHIM_STORE(__stcg)
SHIM_STORE(__stcs)

#define SHIM_ATOMIC(NAME, T, VALUE) \
    static inline T NAME(T *to, T operand) { \
        T old = *to; \
        *to = VALUE; \
        return old; \
    }
#define SHIM_ATOMICS(T) \
    SHIM_ATOMIC(atomicExch, T, operand) \
    SHIM_ATOMIC(atomicAnd, T, old & operand) \
    SHIM_ATOMIC(atomicOr, T, old | operand) \
    SHIM_ATOMIC(atomicXor, T, old ^ operand) \
    SHIM_ATOMIC(atomicMin, T, min(old, operand)) \
    SHIM_ATOMIC(atomicMax, T, max(old, operand)) \
    static inline T atomicCAS(T *to, T expected, T operand) { \
        T old = *to; \
        if (old == expected) *to = operand; \
        return old; \
    }
SHIM_ATOMICS(int)
SHIM_ATOMICS(unsigned int)
SHIM_ATOMICS(unsigned long long)
SHIM_ATOMIC(atomicMin, long long, min(old, operand))
SHIM_ATOMIC(atomicMax, long long, max(old, operand))
SHIM_ATOMIC(atomicAdd, int, (int)((unsigned int)old + (unsigned int)operand))
SHIM_ATOMIC(atomicAdd, unsigned int, old + operand)
SHIM_ATOMIC(atomicAdd, unsigned long long, old + operand)
SHIM_ATOMIC(atomicSub, int, (int)((unsigned int)old - (unsigned int)operand))
SHIM_ATOMIC(atomicSub, unsigned int, old - operand)

#define SHIM_VECTOR(NAME, T) \
    struct alignas(2 * sizeof(T)) NAME##2 { \
        T x, y; \
    }; \
    struct alignas(4 * sizeof(T) > 16 ? 16 : 4 * sizeof(T)) NAME##4 { \
        T x, y, z, w; \
    }; \
    static inline NAME##2 make_##NAME##2(T x, T y) { return {x, y}; } \
    static inline NAME##4 make_##NAME##4(T x, T y, T z, T w) { return {x, y, z, w}; }
SHIM_VECTOR(char, signed char)
SHIM_VECTOR(uchar, unsigned char)
SHIM_VECTOR(short, short)
SHIM_VECTOR(ushort, unsigned short)
SHIM_VECTOR(int, int)
SHIM_VECTOR(uint, unsigned int)
SHIM_VECTOR(float, float)
SHIM_VECTOR(double, double)
SHIM_VECTOR(longlong, long long)
SHIM_VECTOR(ulonglong, unsigned long long)
