"""tests/shim.py: what CUDA promises holds, and what a kernel does wrong comes to light."""

import numpy as np
import pytest
from shim import ORDERS, ShimDevice, ShimFault

REDUCTION = """
#define THREADS 256
extern "C" __global__ void __launch_bounds__(THREADS) total(const int *x, long long n, unsigned long long *out) {
    __shared__ int part[THREADS];
    int sum = 0;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (long long)gridDim.x * blockDim.x)
        sum += x[i];
    part[threadIdx.x] = sum;
    __syncthreads();  // after the writes
    for (unsigned int half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
        __syncthreads();  // after a level
    }
    if (threadIdx.x == 0) atomicAdd(out, (unsigned long long)part[0]);
}
"""
FAULTS = {
    "x[n] = 1;": "after an array of 256 bytes",
    "x[-1] = 1;": "before an array",
    "__shared__ int s[32]; s[threadIdx.x] = 1; x[threadIdx.x] = s[0];": r"k\.cu:\d+: index outside .* thread 32",
    "if (threadIdx.x) __syncthreads(); else __syncwarp();": "deadlock",
    "x[0] = threadIdx.x & 1 ? __shfl_sync(0xFFFFFFFFu, 1, 0) : __any_sync(0xFFFFFFFFu, 1);": "deadlock",
    "x[0] = __shfl_sync(0xFFFFFFFEu, 1, 1);": "lacks the calling lane",
    "x[0] = 1 << (int)n;": "shift",
    "x[0] = 2147483647 + (int)n;": "signed overflow",
    "x[0] = (int)(f * 1e10f);": "outside the integer type",
    "x[0] = 3 / x[1];": "division by zero",
    "*(int *)((char *)x + 1) = 3;": "misaligned",
    "int *p = n ? nullptr : x; *p = 1;": "null",
    "*(int4 *)(x + 1) = make_int4(1, 2, 3, 4);": "misaligned",
}
COLLECTIVES = {  # with i = threadIdx.x, of 64
    "x[i] = __shfl_sync(0xFFFFFFFFu, (int)i, 3);": lambda i: i // 32 * 32 + 3,
    "x[i] = __shfl_sync(0xFFFFFFFFu, (int)i, 9, 8);": lambda i: i // 8 * 8 + 1,
    "x[i] = __shfl_up_sync(0xFFFFFFFFu, (int)i, 2);": lambda i: np.where(i % 32 < 2, i, i - 2),
    "x[i] = __shfl_down_sync(0xFFFFFFFFu, (int)i, 5, 16);": lambda i: np.where(i % 16 > 10, i, i + 5),
    "x[i] = __shfl_xor_sync(0xFFFFFFFFu, (int)i, 17);": lambda i: i ^ 17,
    "x[i] = (int)(__shfl_xor_sync(0xFFFFFFFFu, 1ull << 40 | i, 1) - (1ull << 40));": lambda i: i ^ 1,
    "x[i] = (int)(__shfl_xor_sync(0xFFFFFFFFu, 0.5f * i, 1) * 2);": lambda i: i ^ 1,
    "x[i] = __ballot_sync(0xFFFFFFFFu, i % 3 == 0) & 63;": lambda i: np.where(i < 32, 0b001001, 0b010010),
    "x[i] = __any_sync(0xFFFFFFFFu, i == 5);": lambda i: i < 32,
    "x[i] = __all_sync(0xFFFFFFFFu, i != 5);": lambda i: i >= 32,
    "x[i] = __reduce_add_sync(0xFFFFFFFFu, (int)i);": lambda i: np.where(i < 32, 496, 1520),
    "x[i] = __reduce_min_sync(0xFFFFFFFFu, 7 - (int)i);": lambda i: np.where(i < 32, -24, -56),
    "x[i] = (int)__reduce_max_sync(0xFFFFFFFFu, i);": lambda i: np.where(i < 32, 31, 63),
    "if (i & 1) x[i] = __shfl_xor_sync(0xAAAAAAAAu, (int)i, 2);": lambda i: np.where(i % 2, i ^ 2, 0),
    "if (i < 40) x[i] = __reduce_add_sync(i < 32 ? 0xFFFFFFFFu : 0xFFu, 1);": lambda i: (
        (i < 32) * 32 + (i // 8 == 4) * 8
    ),
    "if (i >= 40) return; x[i] = __reduce_add_sync(0xFFFFFFFFu, 1);": lambda i: (i < 32) * 32 + (i // 8 == 4) * 8,
    "x[i] = __syncthreads_count(i < 9) + __syncthreads_or(i == 63) + __syncthreads_and(1);": lambda i: 11 + 0 * i,
}
INTRINSICS = {
    "__popc(0xF0F0u)": 8,
    "__popcll(0xF0F000000000ull)": 8,
    "__clz(0)": 32,
    "__clz(1)": 31,
    "__ffs(8)": 4,
    "(int)__brev(1u)": -(2**31),
    "(int)__byte_perm(0x33221100u, 0x77665544u, 0x7051u)": 0x77005511,
    "(int)__funnelshift_l(0x80000000u, 1u, 1)": 3,
    "(int)__funnelshift_r(0x80000000u, 1u, 31)": 3,
    "(int)__umulhi(0xFFFFFFFFu, 0xFFFFFFFFu)": -2,
    "__mulhi(-1, 1)": -1,
    "min(3, -4) + max(5, 2)": 1,
    "__float2int_rn(2.5f)": 2,
    "__float2int_rn(3.5f)": 4,
    "__float2int_rn(-1e20f)": -(2**31),
    "__float2int_rn(1e20f)": 2**31 - 1,
    "__float2int_rn(__int_as_float(0x7FC00000))": 0,
    "__float2int_rz(-2.7f) * 10 + __float2int_rd(-2.2f)": -23,
    "(int)__float2uint_rn(-3.0f)": 0,
    "__float_as_int(__uint2float_rn(0xFFFFFFFFu))": 0x4F800000,
    "__float_as_int(__fmul_rn(1e-30f, 1e-10f))": 71362,  # below 2^-126: not flushed to 0
    "__float_as_int(__fsqrt_rn(2.0f))": 0x3FB504F3,
    "__float_as_int(__fmaf_rn(16777215.0f, 16777215.0f, -281474943156224.0f))": 0x3F800000,
    "__float_as_int(__fadd_rn(__fmul_rn(16777215.0f, 16777215.0f), -281474943156224.0f))": 0,
}
X = np.random.default_rng(5).integers(0, 1000, 10_007, dtype=np.int32)


def total(blocks=3, threads=256, **options):
    shim = ShimDevice(sources={"reduction": REDUCTION}, **options)
    out = shim.zeros((1,), np.uint64)
    shim.launch("reduction", "total", blocks, threads, shim.put(X), len(X), out)
    return int(shim.get(out)[0])


def run(body, threads=64, blocks=1, n=64, order="forward", beside=()):
    """The ints that a kernel with this body leaves in x[n], which starts at 0.

    beside: bodies to compile with it, itself among them, so that a table of cases is compiled once.
    """
    bodies = list(beside) or [body]
    head = 'extern "C" __global__ void'
    text = "".join(f"{head} k{i}(int *x, float f, long long n) {{\n{one}\n}}\n" for i, one in enumerate(bodies))
    shim = ShimDevice(sources={"k": text}, order=order)
    x = shim.zeros((n,), np.int32)
    shim.launch("k", f"k{bodies.index(body)}", blocks, threads, x, 2.5, n)
    return shim.get(x)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 256), (7, 64), (40, 32)])
def test_a_reduction_over_shared_memory(shape, order):
    assert total(*shape, order=order) == X.sum()


def is_wrong(order, edit):
    try:
        return total(order=order, edit=edit) != X.sum()
    except ShimFault:  # rubbish from shared memory overflows
        return True


@pytest.mark.parametrize("barrier", ["after the writes", "after a level"])
def test_a_removed_barrier_is_caught(barrier):
    def without(text):
        return text.replace(f"__syncthreads();  // {barrier}", "")

    assert any(is_wrong(order, without) for order in ORDERS)


def test_an_edit_that_changes_nothing_is_an_error():
    with pytest.raises(AssertionError, match="changes nothing"):
        total(edit=lambda text: text.replace("no such text", ""))


@pytest.mark.parametrize("body", FAULTS)
def test_a_fault_ends_the_launch_with_its_place(body):
    sound = "x[threadIdx.x] = 1;"
    beside = [*FAULTS, sound]
    with pytest.raises(ShimFault, match=FAULTS[body]):
        run(body, beside=beside)
    assert run(sound, beside=beside).sum() == 64  # and the next launch is sound


@pytest.mark.parametrize("body", ["x[0] = __float2int_rn(expf(f));", "float y = f; atomicAdd(&y, 1.0f);", "x[0] = y;"])
def test_what_has_no_reproducible_result_does_not_compile(body):
    with pytest.raises(AssertionError, match=r"error: "):
        run(body)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("body", COLLECTIVES)
def test_collectives(body, order):
    declared = {f"unsigned int i = threadIdx.x; {one}": expected for one, expected in COLLECTIVES.items()}
    found = run(f"unsigned int i = threadIdx.x; {body}", order=order, beside=declared)
    np.testing.assert_array_equal(found, COLLECTIVES[body](np.arange(64)))


def test_a_value_of_a_lane_that_takes_no_part_is_rubbish():
    assert run("x[threadIdx.x] = __shfl_down_sync(0xFFFFFFFFu, 1, 1);", threads=31)[29:31].tolist() == [1, -559038737]


def test_intrinsics():
    body = "\n".join(f"x[{i}] = {expression};" for i, expression in enumerate(INTRINSICS))
    found = run(body, threads=1)[: len(INTRINSICS)].tolist()
    assert dict(zip(INTRINSICS, found, strict=True)) == INTRINSICS


def test_atomics_return_what_was_there():
    body = """
    int a = 5, b = 5, c = 12, d = 3;
    unsigned int word = 1u;
    unsigned long long large = ~0ull;
    long long small = -1;
    x[0] = atomicAdd(&a, 2); x[1] = a;
    x[2] = atomicMax(&b, 9); x[3] = b;
    x[4] = atomicAnd(&c, 6); x[5] = c;
    x[6] = atomicCAS(&d, 3, 8); x[7] = d;
    x[8] = (int)atomicExch(&word, 4u); x[9] = (int)word;
    x[10] = (int)(atomicAdd(&large, 2ull) >> 32); x[11] = (int)large;
    x[12] = (int)atomicMin(&small, -7ll); x[13] = (int)small;
    """
    assert run(body, threads=1)[:14].tolist() == [5, 7, 5, 9, 12, 4, 3, 8, 1, 4, -1, 1, -1, -7]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("barrier", ["", " __syncthreads();"])
def test_every_thread_of_every_block_runs_once(order, barrier):
    body = f"atomicAdd(x + blockIdx.x, 1 << threadIdx.x);{barrier}"
    assert run(body, threads=5, blocks=64, order=order).tolist() == [31] * 64


@pytest.mark.parametrize("barrier", ["", " __syncthreads();"])
def test_orders_differ(barrier):
    last = {order: run(f"x[0] = (int)threadIdx.x;{barrier}", order=order)[0] for order in ORDERS}
    assert (last["forward"], last["reverse"]) == (63, 0)
    assert last["shuffled"] not in (0, 63)


def test_memory_starts_as_rubbish():
    shim = ShimDevice()
    assert np.isnan(shim.get(shim.empty((3,), np.float32))).all()
    assert (shim.get(shim.empty((3,), np.uint32)) == 0xA5A5A5A5).all()
    assert (run("__shared__ int s[64]; x[threadIdx.x] = s[threadIdx.x]; s[threadIdx.x] = 1;", blocks=2) != 1).all()


def test_arrays_are_of_their_device():
    shim, other = ShimDevice(sources={"reduction": REDUCTION}), ShimDevice()
    for foreign in (X, other.put(X)):
        with pytest.raises(TypeError, match="not on this device"):
            shim.launch("reduction", "total", 1, 32, foreign, len(X), shim.zeros((1,), np.uint64))
    with pytest.raises(TypeError, match=r"device\.get"):
        np.asarray(shim.put(X))


def test_views_share_memory():
    shim = ShimDevice(sources={"reduction": REDUCTION})
    x = shim.put(np.stack([X, X]))
    out = shim.zeros((2,), np.uint64)
    shim.launch("reduction", "total", 2, 64, x[1].reshape(-1)[:100], 100, out[1:])
    assert shim.get(out).tolist() == [0, X[:100].sum()]
    assert shim.launches == ["total"]
