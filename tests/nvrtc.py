"""NVRTC without a GPU: compiles CUDA text to PTX and machine code and reads what ptxas says of each kernel."""

import ctypes
import ctypes.util
import re
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

_RESOURCES = re.compile(
    r"Function properties for (?P<function>\w+)\s+ptxas\s+\.\s+(?P<stack>\d+) bytes stack frame, "
    r"(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads"
)


class Resources(NamedTuple):
    """Bytes of local memory that one function needs; a kernel that keeps to registers needs none."""

    stack: int
    spill_stores: int
    spill_loads: int


class Compiled(NamedTuple):
    ptx: str
    cubin: bytes
    log: str

    @property
    def resources(self) -> dict[str, Resources]:
        return {m["function"]: Resources(*map(int, m.group(2, 3, 4))) for m in _RESOURCES.finditer(self.log)}

    @property
    def warnings(self) -> list[str]:
        return [line for line in self.log.splitlines() if "warning" in line]


def compiled(text: str, options: Sequence[str], arch: str) -> Compiled:
    """Raises AssertionError with the compiler's messages for a text that does not compile; skips without NVRTC."""
    library = _library()
    program = ctypes.c_void_p()
    _check(library.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"kernel.cu", 0, None, None))
    try:
        arguments = [option.encode() for option in (*options, "-Xptxas=-v", f"-arch=sm_{arch}")]
        rc = library.nvrtcCompileProgram(program, len(arguments), (ctypes.c_char_p * len(arguments))(*arguments))
        log = _read(program, "ProgramLog").decode(errors="replace")
        assert rc == 0, log
        return Compiled(_read(program, "PTX").decode(), _read(program, "CUBIN"), log)
    finally:
        _check(library.nvrtcDestroyProgram(ctypes.byref(program)))


def _read(program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    _check(getattr(_library(), f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    content = ctypes.create_string_buffer(size.value)
    _check(getattr(_library(), f"nvrtcGet{what}")(program, content))
    return content.raw.rstrip(b"\0") if what != "CUBIN" else content.raw


def _check(rc: int) -> None:
    assert rc == 0, f"NVRTC returned {rc}"


@cache
def _library() -> ctypes.CDLL:
    nvidia = find_spec("nvidia")  # the folder that all wheels of NVIDIA share
    folders = list(nvidia.submodule_search_locations or []) if nvidia is not None else []
    wheels = [path for folder in folders for path in Path(folder).glob("*/lib/libnvrtc.so.*")]
    newest = max(wheels, key=lambda path: int(path.suffix[1:]), default=None)
    if newest is None:
        name = ctypes.util.find_library("nvrtc")
    else:
        name = str(newest)
        for builtins in newest.parent.glob("libnvrtc-builtins.so.*"):
            ctypes.CDLL(str(builtins))  # NVRTC looks for it by name only
    if name is None:
        pytest.skip("NVRTC is absent (pip install nvidia-cuda-nvrtc): kernels/*.cu are not compiled for GPUs")
    return ctypes.CDLL(name)
