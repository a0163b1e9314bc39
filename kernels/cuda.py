"""The CUDA device: CuPy compiles kernels/*.cu with NVRTC and launches them on the stream in use.

Asking for CUDA where there is none is a RuntimeError, never a silent CPU run. Importing this module needs no CuPy.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

from numpy.typing import DTypeLike, NDArray

from kernels import device
from kernels.device import FOLDER

# no fused multiply-add behind our back: every rounding is in the source, so that the bits are those of the CPU
OPTIONS = ("--std=c++17", "-fmad=false", "-prec-sqrt=true", "-prec-div=true", "-ftz=false", f"-I{FOLDER}")


class Cuda:
    """A `kernels.device.Device` on the current CUDA device and CuPy's current stream."""

    def __init__(self) -> None:
        try:
            import cupy
        except ImportError as error:
            raise RuntimeError(
                "device='cuda' needs CuPy, which is not installed: `pip install nimbus-fusion[cuda]` on a GPU machine; "
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
        return self.cupy.asarray(host)

    def get(self, array: Any) -> NDArray[Any]:
        return self.cupy.asnumpy(array)

    def launch(self, source: str, kernel: str, blocks: int, threads: int, *arguments: Any) -> None:
        checked = device.checked(device.text(source), kernel, blocks, threads, arguments)
        passed = tuple(0 if argument is None else argument for argument in checked)
        _module(source, self.cupy.cuda.runtime.getDevice()).get_function(kernel)((blocks,), (threads,), passed)


@cache
def current() -> Cuda:
    """The CUDA device; RuntimeError where there is none."""
    return Cuda()


@cache
def _module(source: str, device_id: int) -> Any:
    """Compiled once a process and device: a module belongs to the device that was current when it was loaded."""
    import cupy

    return cupy.RawModule(code=device.text(source), options=OPTIONS, backend="nvrtc")
