"""A kernels.device.Device that runs kernels/*.cu on the CPU: g++ compiles the same text with shim/cuda_on_cpu.h.

    device = ShimDevice()
    out = device.empty((n,), np.float32)
    device.launch("paths", "walk", 3, 64, device.put(words), out, n)
    device.get(out)

`order` picks which thread runs first ("forward", "reverse", "shuffled" with `seed`), so that a kernel which needs a
barrier that is not there gives other bits in one of them. `edit` changes the text before it is compiled, for planted
faults. `sources` holds texts that are not in kernels/. Memory is filled with rubbish before a kernel sees it and every
array has guards on both sides: a write past an array is an error after the launch. Arrays are opaque as CuPy's are:
only `get` brings them to NumPy.
"""

import ctypes
import hashlib
import shutil
import subprocess
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import DTypeLike, NDArray

from kernels import device

HEADER = Path(__file__).parent / "shim" / "cuda_on_cpu.h"
ORDERS = ("forward", "reverse", "shuffled")
GUARD, ALIGNMENT = 256, 256  # bytes before and after an array
RUBBISH = 0xA5
CHECKS = "bounds,alignment,null,shift-exponent,signed-integer-overflow,integer-divide-by-zero,float-cast-overflow"
OPTIONS = (
    "-O2 -std=c++17 -fPIC -ffp-contract=off -U_FORTIFY_SOURCE -fvisibility=hidden "
    f"-Werror=return-type -Werror=sign-compare -fsanitize={CHECKS}"
).split()


class ShimFault(AssertionError):
    """What a kernel did wrong."""


class _Memory:
    """The bytes of one array between two guards, aligned as a GPU's are, filled with rubbish."""

    def __init__(self, size: int) -> None:
        self.size = size
        raw = np.full(size + 2 * GUARD + ALIGNMENT, RUBBISH, np.uint8)
        start = GUARD + -(raw.ctypes.data + GUARD) % ALIGNMENT
        self.before, self.data, self.after = raw[:start], raw[start : start + size], raw[start + size :]


class ShimArray:
    """An array on the device; `reshape`, basic slices and `view` share its memory."""

    def __init__(self, host: NDArray[Any], memory: _Memory) -> None:
        self._host, self._memory = host, memory

    shape = property(lambda self: self._host.shape)
    dtype = property(lambda self: self._host.dtype)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    nbytes = property(lambda self: self._host.nbytes)
    flags = property(lambda self: self._host.flags)

    def __len__(self) -> int:
        return len(self._host)

    def __getitem__(self, index: Any) -> "ShimArray":
        return ShimArray(self._host[index], self._memory)

    def reshape(self, *shape: Any) -> "ShimArray":
        return ShimArray(self._host.reshape(*shape), self._memory)

    def view(self, dtype: DTypeLike) -> "ShimArray":
        return ShimArray(self._host.view(dtype), self._memory)

    def fill(self, value: Any) -> None:
        self._host.fill(value)

    def __array__(self, *args: Any, **kwargs: Any) -> NDArray[Any]:
        raise TypeError("a device array does not turn into NumPy by itself; use device.get")


class ShimDevice:
    """Runs kernels on NumPy memory, one thread after another."""

    def __init__(
        self,
        *,
        order: str = "forward",
        seed: int = 1,
        edit: Callable[[str], str] | None = None,
        sources: Mapping[str, str] | None = None,
    ) -> None:
        if shutil.which("g++") is None:
            pytest.skip("g++ is absent: kernels/*.cu cannot run on the CPU")
        self.order, self.seed, self.edit = ORDERS.index(order), seed, edit
        self.sources = dict(sources or {})
        self.launches: list[str] = []  # names of the kernels that ran
        self._memory: weakref.WeakSet[_Memory] = weakref.WeakSet()

    def empty(self, shape: Sequence[int], dtype: DTypeLike) -> ShimArray:
        dtype = np.dtype(dtype)
        memory = _Memory(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)
        self._memory.add(memory)
        array = ShimArray(memory.data.view(dtype).reshape(tuple(shape)), memory)
        if dtype.kind == "f":
            array.fill(np.nan)
        return array

    def zeros(self, shape: Sequence[int], dtype: DTypeLike) -> ShimArray:
        array = self.empty(shape, dtype)
        array.fill(0)
        return array

    def put(self, host: NDArray[Any]) -> ShimArray:
        array = self.empty(host.shape, host.dtype)
        array._host[...] = host
        return array

    def get(self, array: ShimArray) -> NDArray[Any]:
        return array._host.copy()

    def launch(self, source: str, kernel: str, blocks: int, threads: int, *arguments: Any) -> None:
        """Raises ShimFault for what the kernel does wrong, ValueError as `device.checked` does."""
        text = self._text(source)
        for argument in arguments:
            foreign = isinstance(argument, ShimArray) and argument._memory not in self._memory
            if foreign or isinstance(argument, np.ndarray):
                raise TypeError(f"{kernel}: an array that is not on this device")
        passed = device.checked(text, kernel, blocks, threads, arguments)
        call = getattr(_compiled(text, source), f"shim_{kernel}")
        call.restype = ctypes.c_char_p
        head = [ctypes.c_uint(value) for value in (blocks, threads, self.order, self.seed)]
        message = call(*head, *(_as_ctypes(argument) for argument in passed))
        if message is not None:
            raise ShimFault(f"{kernel}: {message.decode()}")
        self._check_guards(kernel)
        self.launches.append(kernel)

    def _text(self, source: str) -> str:
        text = device.inlined(self.sources[source], f"{source}.cu") if source in self.sources else device.text(source)
        if self.edit is None:
            return text
        edited = self.edit(text)
        assert edited != text, f"the edit changes nothing in {source}.cu"
        return edited

    def _check_guards(self, kernel: str) -> None:
        for memory in self._memory:
            for side, guard in (("before", memory.before), ("after", memory.after)):
                if (guard != RUBBISH).any():
                    raise ShimFault(f"{kernel} wrote {side} an array of {memory.size} bytes")


def _as_ctypes(argument: Any) -> Any:
    if argument is None or isinstance(argument, ShimArray):
        return ctypes.c_void_p(None if argument is None else argument._host.ctypes.data)
    return np.ctypeslib.as_ctypes_type(argument.dtype)(argument.item())


@cache
def _folder() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="kernels-shim-")


@cache
def _compiled(text: str, source: str) -> ctypes.CDLL:
    """The text as a shared library with one `shim_NAME` for each kernel NAME; compiled once a process."""
    unit = "\n".join([f'#include "{HEADER}"', text, *map(_wrapper, device.kernels(text).values())])
    stem = Path(_folder().name) / f"{source}-{hashlib.sha256(unit.encode()).hexdigest()[:16]}"
    fibers = ["-DSHIM_FIBERS"] if "__sync" in text or "_sync(" in text else []
    _gxx(*OPTIONS, *fibers, "-x", "c++", "-c", "-", "-o", f"{stem}.o", text=unit)
    # linked without -fsanitize: the header has the handlers, so no runtime library is needed
    _gxx("-shared", f"{stem}.o", "-o", f"{stem}.so")
    return ctypes.CDLL(f"{stem}.so")


def _wrapper(kernel: device.Kernel) -> str:
    launch = ", ".join(f"unsigned int shim_{name}" for name in ("blocks", "threads", "order", "seed"))
    declaration = f", {kernel.declaration}" if kernel.parameters else ""
    call = f"{kernel.name}({', '.join(parameter.name for parameter in kernel.parameters)});"
    return (
        f'#line 1 "wrapper"\nextern "C" __attribute__((visibility("default"))) const char *shim_{kernel.name}'
        f"({launch}{declaration}) {{"
        f" return shim::launch(shim_blocks, shim_threads, shim_order, shim_seed, [=] {{ {call} }}); }}"
    )


def _gxx(*arguments: str, text: str = "") -> None:
    done = subprocess.run(["g++", *arguments], input=text, text=True, capture_output=True, check=False)
    assert done.returncode == 0, f"g++ {' '.join(arguments)}:\n{done.stderr[:8000]}"
