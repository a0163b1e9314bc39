"""What an operation asks of a device that runs `.cu` kernels; `kernels.cuda` is the one that users have.

An operation prepares its arguments once, for any Device: the tests pass one that runs the same `.cu` through g++, so
that what a GPU would compute is compared with the CPU backend bit for bit on a machine without a GPU.

A kernel takes plain numbers and pointers, strides over its work (any launch shape gives the same bits) and declares
`extern "C" __global__ void name(...)`, with or without `__launch_bounds__`; `checked` reads that declaration, so a
number is passed with the type that the source says and an array of another type is refused before it reaches the
device.
"""

import operator
import re
from collections.abc import Mapping, Sequence
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
MAX_BLOCKS, MAX_THREADS = 2**31 - 1, 1024
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_INCLUDE = re.compile(r'#include "([\w.]+)".*')
_KERNEL = re.compile(
    r'extern "C" __global__ void\s+(?:__launch_bounds__\(\s*(?P<bound>\w+)[^)]*\)\s*)?'
    r"(?P<name>\w+)\s*\((?P<parameters>[^)]*)\)"
)


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


class Kernel(NamedTuple):
    """The declaration of a kernel."""

    name: str
    parameters: tuple[Parameter, ...]
    max_threads: int  # a block
    declaration: str  # of the parameters, as in the source


@cache
def text(source: str) -> str:
    """The text of kernels/`source`.cu with its own headers in it: all that a compiler needs."""
    return inlined((FOLDER / f"{source}.cu").read_text(), f"{source}.cu")


def inlined(text: str, name: str) -> str:
    """Text of a `.cu` with every `#include "x.cuh"` replaced, once, by kernels/x.cuh.

    A compiler's cache of one text then cannot miss a change in a header. Messages keep the file and line.
    """
    return "\n".join(_lines(text, name, set()))


@cache
def kernels(text: str) -> Mapping[str, Kernel]:
    """The kernels that a source declares, by name; ValueError for a parameter whose type is not known."""
    plain = _COMMENT.sub(" ", text)
    return {
        match["name"]: Kernel(
            match["name"],
            tuple(_parameter(part) for part in match["parameters"].split(",") if part.strip()),
            _bound(match["bound"], plain),
            match["parameters"],
        )
        for match in _KERNEL.finditer(plain)
    }


def checked(text: str, kernel: str, blocks: int, threads: int, arguments: Sequence[Any]) -> list[Any]:
    """Arguments with the types of the declaration: NumPy scalars for numbers, arrays and None as they are.

    Raises ValueError for a kernel that the text does not declare, a launch outside its bounds, another number of
    arguments, a number that its type cannot hold, an array of another dtype or one that is not contiguous.
    """
    declared = kernels(text).get(kernel)
    if declared is None:
        raise ValueError(f"no kernel {kernel} among {sorted(kernels(text))}")
    if not 1 <= blocks <= MAX_BLOCKS or not 1 <= threads <= declared.max_threads:
        limits = f"1 to {MAX_BLOCKS} blocks of 1 to {declared.max_threads} threads"
        raise ValueError(f"{kernel} on {blocks} blocks of {threads} threads, not {limits}")
    if len(arguments) != len(declared.parameters):
        raise ValueError(f"{kernel} takes {len(declared.parameters)} arguments, not {len(arguments)}")
    return [
        _array(kernel, parameter, argument) if parameter.pointer else _number(kernel, parameter, argument)
        for parameter, argument in zip(declared.parameters, arguments, strict=True)
    ]


def _array(kernel: str, parameter: Parameter, argument: Any) -> Any:
    if argument is None:
        return None
    if parameter.dtype != np.void and argument.dtype != parameter.dtype:
        raise ValueError(f"{kernel}: {parameter.name} is {argument.dtype}, not {parameter.dtype}")
    if not argument.flags.c_contiguous:
        raise ValueError(f"{kernel}: {parameter.name} is not contiguous")
    return argument


def _number(kernel: str, parameter: Parameter, argument: Any) -> Any:
    dtype = parameter.dtype
    if dtype.kind in "iu":
        whole, limits = operator.index(argument), np.iinfo(dtype)
        if not limits.min <= whole <= limits.max:
            raise ValueError(f"{kernel}: {parameter.name} = {whole} does not fit {dtype}")
    return dtype.type(argument)


def _bound(threads: str | None, text: str) -> int:
    if threads is None:
        return MAX_THREADS
    if not threads.isdigit():
        defined = re.search(rf"#define\s+{threads}\s+(\d+)", text)
        if defined is None:
            raise ValueError(f"__launch_bounds__({threads}): no `#define {threads}` with a number")
        threads = defined[1]
    return int(threads)


def _parameter(declaration: str) -> Parameter:
    words = declaration.replace("*", " * ").replace("const ", " ").replace("__restrict__", " ").split()
    pointer, name = "*" in words, words[-1]
    kind = " ".join(word for word in words[:-1] if word != "*")
    if kind not in _DTYPES:
        raise ValueError(f"parameter {declaration.strip()!r} has a type that is not in {sorted(_DTYPES)}")
    return Parameter(name, np.dtype(_DTYPES[kind]), pointer)


def _lines(text: str, name: str, seen: set[str]) -> list[str]:
    out = [f'#line 1 "{name}"']
    for number, line in enumerate(text.splitlines(), 1):
        header = _INCLUDE.fullmatch(line.strip())
        if header is None:
            out.append("" if line.strip() == "#pragma once" else line)
            continue
        if header[1] not in seen:
            seen.add(header[1])
            out += _lines((FOLDER / header[1]).read_text(), header[1], seen)
        out.append(f'#line {number + 1} "{name}"')
    return out
