"""kernels.device reads declarations and refuses what does not fit them; kernels.cuda says what is missing."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from shim import ShimDevice

from kernels import cuda, device

SOURCE = """
#include "philox.cuh"
#define THREADS 128
/* not one: extern "C" __global__ void hidden(int n) */
extern "C" __global__ void every(const float *__restrict__ x,  // [n], of the caller
                                 unsigned char *flags, void *anything, int i, unsigned int j, long long n,
                                 unsigned long long seed, float a, double b) {}
extern "C" __global__ void __launch_bounds__(THREADS) bounded(int n) {}
extern "C" __global__ void __launch_bounds__(64, 2) literal() {}
__global__ void not_extern(int n) {}
"""
F, U8, SEED = np.zeros(3, np.float32), np.zeros(2, np.uint8), 2**64 - 1
GOOD = (F, U8, None, -1, 2**32 - 1, 2**40, SEED, 0.1, 0.1)


def test_declarations_are_read():
    found = device.kernels(SOURCE)
    assert list(found) == ["every", "bounded", "literal"]
    assert [(p.name, str(p.dtype), p.pointer) for p in found["every"].parameters] == [
        ("x", "float32", True),
        ("flags", "uint8", True),
        ("anything", "|V0", True),
        ("i", "int32", False),
        ("j", "uint32", False),
        ("n", "int64", False),
        ("seed", "uint64", False),
        ("a", "float32", False),
        ("b", "float64", False),
    ]
    assert [kernel.max_threads for kernel in found.values()] == [1024, 128, 64]
    assert found["literal"].parameters == ()


def test_arguments_get_the_declared_types():
    passed = device.checked(SOURCE, "every", 1, 1024, GOOD)
    assert passed[0] is F
    assert passed[2] is None
    assert [argument.dtype.str for argument in passed[3:]] == ["<i4", "<u4", "<i8", "<u8", "<f4", "<f8"]
    assert passed[6] == SEED
    assert passed[7] == np.float32(0.1)


def _with(index, value):
    return (*GOOD[:index], value, *GOOD[index + 1 :])


@pytest.mark.parametrize(
    ("kernel", "blocks", "threads", "arguments", "message"),
    [
        ("other", 1, 1, (), "no kernel other among"),
        ("every", 1, 1, GOOD[:-1], "takes 9 arguments, not 8"),
        ("every", 1, 1, _with(0, np.zeros(3)), "x is float64, not float32"),
        ("every", 1, 1, _with(0, np.zeros((4, 4), np.float32)[:, 1]), "x is not contiguous"),
        ("every", 1, 1, _with(3, 2**31), "i = 2147483648 does not fit int32"),
        ("every", 1, 1, _with(4, -1), "j = -1 does not fit uint32"),
        ("every", 1, 1, _with(6, 2**64), "seed = 18446744073709551616 does not fit uint64"),
        ("every", 0, 1, GOOD, "0 blocks"),
        ("every", 2**31, 1, GOOD, "2147483648 blocks"),
        ("every", 1, 1025, GOOD, "1025 threads"),
        ("bounded", 1, 129, (1,), "1 to 128 threads"),
        ("literal", 1, 65, (), "1 to 64 threads"),
    ],
)
def test_what_does_not_fit_is_refused(kernel, blocks, threads, arguments, message):
    with pytest.raises(ValueError, match=message):
        device.checked(SOURCE, kernel, blocks, threads, arguments)


def test_a_number_that_is_not_whole_is_refused():
    with pytest.raises(TypeError):
        device.checked(SOURCE, "bounded", 1, 1, (1.5,))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('extern "C" __global__ void k(size_t n) {}', "type that is not in"),
        ('extern "C" __global__ void __launch_bounds__(MANY) k(int n) {}', "no `#define MANY`"),
    ],
)
def test_a_declaration_that_cannot_be_read_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        device.kernels(text)


def test_every_source_declares_kernels_and_needs_no_other_file():
    for path in device.FOLDER.glob("*.cu"):
        text = device.text(path.stem)
        assert device.kernels(text)
        assert "#include" not in text


def test_headers_are_inlined_once_and_lines_keep_their_names():
    text = device.inlined('// first\n#include "philox.cuh"\n#include "philox.cuh"\nint here;\n', "mine.cu")
    assert text.count("struct Words {") == 1
    lines = text.splitlines()
    assert lines[0] == '#line 1 "mine.cu"'
    assert lines[lines.index("int here;") - 1] == '#line 4 "mine.cu"'
    assert text.count('"philox.cuh"') == 1


def test_messages_of_a_compiler_name_the_file_and_line():
    with pytest.raises(AssertionError, match=r"wrong\.cu:3:\d+: error"):
        ShimDevice(
            sources={"wrong": '#include "philox.cuh"\nextern "C" __global__ void k(int *x) {\n    x[0] = y;\n}\n'}
        ).launch("wrong", "k", 1, 1, None)


def test_cuda_without_cupy_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(RuntimeError, match=r"pip install 'cupy-cuda13x>=14'.*device='cpu'"):
        cuda.Cuda()


class _RuntimeError(Exception):
    pass


def _cupy(count):
    def devices():
        if isinstance(count, Exception):
            raise count
        return count

    runtime = SimpleNamespace(getDeviceCount=devices, CUDARuntimeError=_RuntimeError, getDevice=lambda: 0)
    return SimpleNamespace(cuda=SimpleNamespace(runtime=runtime))


@pytest.mark.parametrize(
    ("count", "message"),
    [(0, "there is no CUDA device"), (_RuntimeError("driver too old"), "CUDA runtime says: driver too old")],
)
def test_cuda_without_a_device_says_so(monkeypatch, count, message):
    monkeypatch.setitem(sys.modules, "cupy", _cupy(count))
    with pytest.raises(RuntimeError, match=message):
        cuda.Cuda()


def test_cuda_passes_typed_numbers_arrays_and_null_pointers(monkeypatch):
    launches = []
    monkeypatch.setitem(sys.modules, "cupy", _cupy(1))
    monkeypatch.setattr(device, "text", lambda source: SOURCE)
    monkeypatch.setattr(cuda, "_function", lambda *key: lambda *launch: launches.append((key, launch)))
    cuda.Cuda().launch("mine", "every", 7, 96, *GOOD)
    ((key, (grid, block, passed)),) = launches
    assert key == (SOURCE, "every", 0)
    assert (grid, block) == ((7,), (96,))
    assert passed[0] is F
    assert [type(argument) for argument in passed[2:]] == [
        np.uint64,  # a null pointer is eight bytes of 0
        np.int32,
        np.uint32,
        np.int64,
        np.uint64,
        np.float32,
        np.float64,
    ]
    assert passed[2] == 0


def test_cuda_compiles_with_our_options_alone(monkeypatch):
    nvrtc = pytest.importorskip("cupy", reason="CuPy is absent").cuda.nvrtc
    given = []
    compile_program = nvrtc.compileProgram
    monkeypatch.setattr(
        nvrtc, "compileProgram", lambda p, options: given.append(options) or compile_program(p, options)
    )
    try:
        code = cuda.compiled(SOURCE.replace("#include", "//"), "90")
    except RuntimeError as error:
        pytest.skip(f"CuPy finds no NVRTC: {error}")
    assert code.startswith(b"\x7fELF")
    assert given == [(*cuda.OPTIONS, "-arch=sm_90")]
    with pytest.raises(RuntimeError, match='identifier "y" is undefined'):
        cuda.compiled('extern "C" __global__ void k(int *x) { x[0] = y; }', "90")


@pytest.mark.gpu
def test_memory_on_the_gpu():
    gpu = cuda.current()
    host = np.arange(12, dtype=np.int32).reshape(3, 4)
    strided = gpu.put(host[:, ::2])
    assert strided.flags.c_contiguous
    np.testing.assert_array_equal(gpu.get(strided), host[:, ::2])
    assert not gpu.get(gpu.zeros((5,), np.uint64)).any()
    assert gpu.empty((0, 3), np.float32).shape == (0, 3)
    copy = gpu.get(strided)
    copy[:] = 0
    np.testing.assert_array_equal(gpu.get(strided), host[:, ::2])


@pytest.mark.gpu
def test_a_launch_follows_the_current_stream_of_torch_and_shares_its_memory(monkeypatch):
    torch = pytest.importorskip("torch")
    text = 'extern "C" __global__ void add(const float *x, float *out, int n) {\n' + (
        "for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)"
        " out[i] = __fadd_rn(__fmul_rn(x[i], 1e-10f), 0.0f);\n}"
    )
    monkeypatch.setattr(device, "text", lambda source: text)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        busy = torch.ones((4096, 4096), device="cuda")
        for _ in range(20):
            busy = busy @ busy / 4096
        x = busy.reshape(-1)[:1000] * 1e-30
        out = torch.empty_like(x)
        with cuda.on_stream_of(x) as gpu:
            assert gpu.cupy.cuda.get_current_stream().ptr == side.cuda_stream
            view = cuda.view(out)
            assert view.data.ptr == out.data_ptr()
            gpu.launch("add", "add", 2, 64, cuda.view(x), view, 1000)
    side.synchronize()
    expected = x.cpu().numpy() * np.float32(1e-10)  # below 2^-126: a flush to zero would show
    assert (expected > 0).all()
    np.testing.assert_array_equal(out.cpu().numpy(), expected)


@pytest.mark.gpu
def test_compiled_modules_are_kept():
    text = device.text("dropout")
    assert cuda._module(text, 0) is cuda._module(text, 0)
