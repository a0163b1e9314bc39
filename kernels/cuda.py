"""The CUDA device: NVRTC compiles kernels/*.cu for the GPU at hand, CuPy holds the memory and launches.

Asking for CUDA where there is none is a RuntimeError, never a silent CPU run. Importing this module needs no CuPy.

The sources are compiled here and not by `cupy.RawModule`, which adds `-ftz=true` after the caller's options: numbers
below 2^-126 would become 0 and differ from the CPU's. A process compiles a source once, in a fraction of a second.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from kernels import device

if TYPE_CHECKING:
    import torch

# every rounding is in the source and none is added or dropped, so that the bits are those of the CPU
OPTIONS = ("--std=c++17", "-fmad=false", "-prec-sqrt=true", "-prec-div=true", "-ftz=false")


class Cuda:
    """A `kernels.device.Device` on the current CUDA device and CuPy's current stream."""

    def __init__(self) -> None:
        try:
            import cupy
        except ImportError as error:
            raise RuntimeError(
                "device='cuda' needs CuPy, which is not installed: `pip install 'cupy-cuda13x>=14'` on a GPU machine; "
                "or take device='cpu', a backend of its own with the same bits"
            ) from error
        try:
            count = cupy.cuda.runtime.getDeviceCount()
        except cupy.cuda.runtime.CUDARuntimeError as error:
            raise RuntimeError(f"device='cuda', but the CUDA runtime says: {error}") from error
        if count == 0:
            raise RuntimeError("device='cuda', but there is no CUDA device")
        self.cupy = cupy

    def empty(self, shape: Sequence[int], dtype: DTypeLike) -> Any:
        return self.cupy.empty(tuple(shape), dtype)

    def zeros(self, shape: Sequence[int], dtype: DTypeLike) -> Any:
        return self.cupy.zeros(tuple(shape), dtype)

    def put(self, host: NDArray[Any]) -> Any:
        return self.cupy.asarray(host, order="C", blocking=True)  # the caller may write to host at once

    def get(self, array: Any) -> NDArray[Any]:
        return self.cupy.asnumpy(array)

    def launch(self, source: str, kernel: str, blocks: int, threads: int, *arguments: Any) -> None:
        text = device.text(source)
        checked = device.checked(text, kernel, blocks, threads, arguments)
        passed = tuple(np.uint64(0) if argument is None else argument for argument in checked)
        _function(text, kernel, self.cupy.cuda.runtime.getDevice())((blocks,), (threads,), passed)


@cache
def current() -> Cuda:
    """The CUDA device; RuntimeError where there is none."""
    return Cuda()


@contextmanager
def on_stream_of(tensor: "torch.Tensor") -> Iterator[Cuda]:
    """The device of a CUDA tensor, whose launches go to torch's current stream there, for the time of a block.

    What torch queued before is done before, what it queues after waits; nothing is synchronised.
    """
    import torch

    cuda = current()
    with torch.cuda.device(tensor.device), cuda.cupy.cuda.Stream.from_external(torch.cuda.current_stream()):
        yield cuda


def view(tensor: "torch.Tensor") -> Any:
    """A CUDA tensor as a CuPy array in the same memory (DLPack); inside `on_stream_of`."""
    return current().cupy.from_dlpack(tensor.detach())


@cache
def _function(text: str, kernel: str, device_id: int) -> Any:
    return _module(text, device_id).get_function(kernel)


@cache
def _module(text: str, device_id: int) -> Any:
    """Loaded once a process and device: a module belongs to the device that is current when it is loaded."""
    import cupy

    module = cupy.cuda.function.Module()
    module.load(compiled(text, cupy.cuda.Device(device_id).compute_capability))
    return module


def compiled(text: str, arch: str) -> bytes:
    """Machine code (CUBIN) of a source for compute capability `arch`, such as "90"; needs no GPU.

    Raises RuntimeError with the compiler's messages for a text that does not compile.
    """
    from cupy.cuda import nvrtc

    program = nvrtc.createProgram(text, "kernel.cu", (), ())
    try:
        nvrtc.compileProgram(program, (*OPTIONS, f"-arch=sm_{arch}"))
        return nvrtc.getCUBIN(program)
    except nvrtc.NVRTCError as error:
        raise RuntimeError(f"{error}\n{nvrtc.getProgramLog(program)}") from error
    finally:
        nvrtc.destroyProgram(program)
