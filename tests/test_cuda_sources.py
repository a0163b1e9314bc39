"""kernels/*.cu without a GPU: machine code for three cards that keeps to registers, and the bits of the headers."""

import re

import numpy as np
import pytest
from nvrtc import compiled
from shim import ORDERS, ShimDevice

from kernels import boxmuller, cuda, device, philox

SOURCES = sorted(path.stem for path in device.FOLDER.glob("*.cu"))
ARCHITECTURES = ("80", "89", "90")  # A100, RTX 4090, H100

# In PTX: a rounding that is dropped or added, an approximation, or a float sum in the order of arrival.
UNREPRODUCIBLE = re.compile(r"\S*\.(?:ftz|approx|full)\S*|(?:atom|red)\S*\.add\S*\.f\d\d")
FUSED = re.compile(r"fma\.r\S+\.f\d\d")

LOCAL_ARRAY = """
extern "C" __global__ void keeps_an_array(float *x, int n) {
    float a[64];
    for (int i = 0; i < 64; ++i) a[i] = x[i];
    a[n] = 3.0f;
    for (int i = 0; i < 64; ++i) x[i] = a[63 - i] + a[(n + i) & 63];
}
"""
SPILLS = """
extern "C" __global__ void __launch_bounds__(1024, 2) spills(float *x) {
    float a[64];
    for (int i = 0; i < 64; ++i) a[i] = x[i * 1024 + threadIdx.x];
    for (int j = 0; j < 100; ++j)
        for (int i = 0; i < 64; ++i) a[i] = a[i] * a[(i + 1) % 64] + x[j];
    for (int i = 0; i < 64; ++i) x[i * 1024 + threadIdx.x] = a[i];
}
"""
HEADERS = """
#include "boxmuller.cuh"
#include "philox.cuh"
extern "C" __global__ void words(const unsigned int *counters, unsigned long long seed, unsigned int *out, int n) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        const unsigned int *c = counters + 4 * i;
        Words words = philox4x32(c[0], c[1], c[2], c[3], seed);
        for (unsigned int j = 0; j < 4; ++j) out[4 * i + j] = word_of(words, j);
    }
}
extern "C" __global__ void uses(unsigned int block, unsigned int path, unsigned int problem, unsigned int stream,
                                unsigned long long seed, unsigned int *out) {
    Words walk = walk_words(block, path, problem, stream, seed);
    Words normal = normal_words(block, path, problem, stream, seed);
    for (unsigned int j = 0; j < 4; ++j) {
        out[j] = word_of(walk, j);
        out[4 + j] = word_of(normal, j);
    }
}
extern "C" __global__ void codes(unsigned int *out) {
    const unsigned int all[] = {OP_WALK_BITS,   OP_NORMALS, OP_DROPOUT_HALF, OP_DROPOUT_THRESHOLD,
                                OP_STICKY_MASK, OP_BRIDGE,  OP_DITHER,       OP_UNIFORMS};
    for (int i = 0; i < 8; ++i) out[i] = all[i];
}
extern "C" __global__ void normals(const unsigned int *radius, const unsigned int *angle, float *out, int n) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        Pair pair = normals32(radius[i], angle[i]);
        out[i] = pair.first;
        out[n + i] = pair.second;
    }
}
"""
PI = [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344]
EDGES = np.array(
    [0, 1, 2, 127, 2**24 - 1, 2**24 + 1, 2**29 - 1, 2**29, 2**30, 2**31 - 1, 2**31, 3 * 2**30, 2**32 - 129, 2**32 - 1],
    np.uint32,
)
WORDS = np.concatenate([EDGES, np.random.default_rng(3).integers(0, 2**32, 4099, dtype=np.uint32)])


def check(text: str, arch: str) -> None:
    """What every source must be: no local memory, no warning, nothing that another machine would compute otherwise."""
    code = compiled(text, cuda.OPTIONS, arch)
    assert code.cubin.startswith(b"\x7fELF")
    assert not code.warnings, code.log
    assert set(device.kernels(text)) <= set(code.resources), code.log
    assert {name: found for name, found in code.resources.items() if any(found)} == {}
    assert UNREPRODUCIBLE.findall(code.ptx) == []
    assert "__fma" in text or not FUSED.findall(code.ptx)


def test_there_are_sources():
    assert SOURCES


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("source", SOURCES)
def test_source_compiles_for_the_card_without_local_memory(source, arch):
    check(device.text(source), arch)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_headers_compile_for_the_card_without_local_memory(arch):
    check(device.inlined(HEADERS, "headers.cu"), arch)


def _kernel(body: str) -> str:
    return f'extern "C" __global__ void k(float *x, const float *y) {{ {body} }}'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (LOCAL_ARRAY, r"keeps_an_array.*stack=256, spill_stores=0"),
        (SPILLS, r"spills.*spill_stores=[1-9]"),
        (_kernel("x[0] = __sinf(y[0]);"), r"sin\.approx"),
        (_kernel("x[0] = __fdividef(y[0], y[1]);"), r"div\.approx"),
        (_kernel("atomicAdd(x, y[threadIdx.x]);"), r"atom\S*add\.f32"),
        (_kernel("x[0] = fmaf(y[0], y[1], y[2]);"), r"fma\.rn\.f32"),
        (_kernel("int unused; x[0] = y[0];"), "warning.*never referenced"),
        (_kernel("x[0] = z;"), "undefined"),
    ],
    ids=["stack", "spill", "sine", "division", "float atomic", "fused", "warning", "error"],
)
def test_a_bad_source_fails(text, reason):
    compiled("", cuda.OPTIONS, "90")  # skips without NVRTC
    with pytest.raises(AssertionError, match=reason):
        check(text, "90")


def test_each_operation_is_rounded_once_and_denormals_stay():
    text = _kernel("x[0] = y[0] * y[1] + y[2]; x[1] = y[3] / y[4]; x[2] = __fsqrt_rn(y[5]);")
    ptx = compiled(text, cuda.OPTIONS, "90").ptx
    for operation in ("mul.rn.f32", "add.rn.f32", "div.rn.f32", "sqrt.rn.f32"):
        assert operation in ptx
    assert FUSED.search(compiled(text, ["-ftz=true"], "90").ptx)
    assert UNREPRODUCIBLE.search(compiled(text, ["-ftz=true"], "90").ptx)


@pytest.mark.parametrize(
    ("counter", "seed", "words"),
    [
        ([0] * 4, 0, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([0xFFFFFFFF] * 4, 2**64 - 1, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (PI, 0xA4093822 | 0x299F31D0 << 32, "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_known_answers(counter, seed, words):
    shim = ShimDevice(sources={"headers": HEADERS})
    out = shim.empty((4,), np.uint32)
    shim.launch("headers", "words", 1, 32, shim.put(np.array(counter, np.uint32)), seed, out, 1)
    assert " ".join(f"{word:08x}" for word in shim.get(out)) == words


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("seed", [0, 2**32 + 5, 2**64 - 1])
def test_philox_gives_the_bits_of_the_reference(order, seed):
    counters = np.stack([np.roll(WORDS, shift) for shift in range(4)], axis=1)
    shim = ShimDevice(order=order, sources={"headers": HEADERS})
    out = shim.empty(counters.shape, np.uint32)
    shim.launch("headers", "words", 3, 96, shim.put(counters), seed, out, len(counters))
    np.testing.assert_array_equal(shim.get(out), np.stack(philox.philox4x32(tuple(counters.T), seed), axis=1))


def test_counters_of_walks_and_normals_follow_the_layout():
    shim = ShimDevice(sources={"headers": HEADERS})
    out = shim.empty((8,), np.uint32)
    shim.launch("headers", "uses", 1, 1, 7, 11, 13, 2**24 - 1, 5, out)
    walk = philox.philox4x32(philox.walk_counter(7 << 7, 11, 13, 2**24 - 1), 5)
    normal = philox.philox4x32(philox.normal_counter(7 << 2, 11, 13, 2**24 - 1), 5)
    np.testing.assert_array_equal(shim.get(out), np.array([*walk, *normal]))


def test_codes_of_the_uses_are_the_same():
    shim = ShimDevice(sources={"headers": HEADERS})
    out = shim.empty((len(philox.Op),), np.uint32)
    shim.launch("headers", "codes", 1, 1, out)
    names = re.findall(r"OP_(\w+)", HEADERS)
    assert dict(zip(names, shim.get(out).tolist(), strict=True)) == {op.name: int(op) for op in philox.Op}


@pytest.mark.parametrize("shape", [(1, 1), (3, 96), (40, 128)])
def test_normals_give_the_bits_of_the_reference(shape):
    radius, angle = (np.ascontiguousarray(words.ravel()) for words in np.meshgrid(EDGES, WORDS))
    shim = ShimDevice(sources={"headers": HEADERS})
    out = shim.empty((2, len(radius)), np.float32)
    shim.launch("headers", "normals", *shape, shim.put(radius), shim.put(angle), out, len(radius))
    expected = np.stack(boxmuller.normals32(radius, angle))
    np.testing.assert_array_equal(shim.get(out).view(np.uint32), expected.view(np.uint32))


@pytest.mark.gpu
def test_normals_on_the_gpu_give_the_bits_of_the_reference(monkeypatch):
    gpu = cuda.current()
    monkeypatch.setattr(device, "text", lambda source: device.inlined(HEADERS, "headers.cu"))
    radius, angle = WORDS, np.roll(WORDS, 5)
    out = gpu.empty((2, len(WORDS)), np.float32)
    gpu.launch("headers", "normals", 3, 96, gpu.put(radius), gpu.put(angle), out, len(WORDS))
    expected = np.stack(boxmuller.normals32(radius, angle))
    np.testing.assert_array_equal(gpu.get(out).view(np.uint32), expected.view(np.uint32))
