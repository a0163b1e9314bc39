"""What an operation asks of a device that runs `.cu` kernels; `kernels.cuda` is the one that users have.

An operation prepares its arguments once, for any Device: the tests pass one that runs the same `.cu` through g++, so
that what a GPU would compute is compared with the CPU backend bit for bit on a machine without a GPU.

A kernel takes plain numbers and pointers, strides over its work (any launch shape gives the same bits) and declares
`extern "C" __global__ void name(...)`; `parameters` reads that declaration, so a number is passed with the type that
the source says and an array of another type is refused before it reaches the device.
"""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

FOLDER = Path(__file__).parent
_DTYPES = {
    "int": np.int32,
    "unsigned int": np.uint32,
    "long long": np.int64,
    "unsigned long long": np.uint64,
    "float": np.float32,
    "double": np.float64,
    "signed char": np.int8,
    "unsigned char": np.uint8,
    "void": np.void,
}


class Device(Protocol):
    """Memory and launches of one device. Arrays are the device's own (NumPy on a CPU, CuPy on a GPU)."""

    def empty(self, shape: Sequence[int], dtype: DTypeLike) -> Any: ...

    def zeros(self, shape: Sequence[int], dtype: DTypeLike) -> Any: ...

    def put(self, host: NDArray[Any]) -> Any:
        """A copy of a NumPy array on the device."""

    def get(self, array: Any) -> NDArray[Any]:
        """A copy of a device array in NumPy."""

    def launch(self, source: str, kernel: str, blocks: int, threads: int, *arguments: Any) -> None:
        """Run `kernel` of kernels/`source`.cu on blocks x threads; arrays contiguous, None for a null pointer."""


class Parameter(NamedTuple):
    """One parameter of a kernel."""

    name: str
    dtype: np.dtype[Any]  # of the elements, for a pointer
    pointer: bool


@cache
def text(source: str) -> str:
    """The text of kernels/`source`.cu."""
    return (FOLDER / f"{source}.cu").read_text()


@cache
def parameters(source: str, kernel: str) -> tuple[Parameter, ...]:
    """Parameters of a kernel in their order; ValueError for a kernel or a type that is not known."""
    found = re.search(rf'extern "C" __global__ void\s+{kernel}\s*\(([^)]*)\)', text(source))
    if found is None:
        raise ValueError(f"kernels/{source}.cu has no kernel {kernel}")
    return tuple(_parameter(part) for part in found[1].split(","))


def checked(source: str, kernel: str, arguments: Sequence[Any]) -> list[Any]:
    """Arguments with the types of the declaration: NumPy scalars for numbers, arrays and None as they are.

    Raises ValueError for another number of arguments, an array of another dtype or one that is not contiguous.
    """
    declared = parameters(source, kernel)
    if len(arguments) != len(declared):
        raise ValueError(f"{kernel} takes {len(declared)} arguments, not {len(arguments)}")
    out = []
    for parameter, argument in zip(declared, arguments, strict=True):
        if not parameter.pointer:
            out.append(parameter.dtype.type(argument))
            continue
        if argument is not None:
            if parameter.dtype != np.void and argument.dtype != parameter.dtype:
                raise ValueError(f"{kernel}: {parameter.name} is {argument.dtype}, not {parameter.dtype}")
            if not argument.flags.c_contiguous:
                raise ValueError(f"{kernel}: {parameter.name} is not contiguous")
        out.append(argument)
    return out


def _parameter(declaration: str) -> Parameter:
    words = declaration.replace("*", " * ").replace("const ", " ").replace("__restrict__", " ").split()
    pointer, name = "*" in words, words[-1]
    kind = " ".join(word for word in words[:-1] if word != "*")
    if kind not in _DTYPES:
        raise ValueError(f"parameter {declaration.strip()!r} has a type that is not in {sorted(_DTYPES)}")
    return Parameter(name, np.dtype(_DTYPES[kind]), pointer)
