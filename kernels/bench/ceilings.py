"""What a machine cannot exceed: filling and copying memory, making Philox words, making normals.

Memory is filled in two ways, and the faster one counts: by the C library's memset, and on a CPU by stores past the
cache, which do not read the lines that they overwrite.
"""

import ctypes
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from kernels import cpu, simd
from kernels.bench.jobs import Ceiling, Job
from kernels.device import Device
from kernels.philox import Op

Call = Callable[[], Any]
_THREADS = 256
_LANES = 1024  # counters side by side, as the vectors of a CPU want them; also in bench.cu


class Ceilings(Protocol):
    """The ceilings of one device."""

    def prepare(self, ceiling: Ceiling, job: Job) -> list[Call]:
        """Calls that do that part of the job and nothing else, in different ways."""


class CpuCeilings:
    """One thread of this machine."""

    def prepare(self, ceiling: Ceiling, job: Job) -> list[Call]:
        if ceiling in ("words", "normals"):
            n = job.counters(ceiling)
            return [lambda: words(n) if ceiling == "words" else normals(n)]
        to = np.ones(job.n_bytes // 4, np.float32)
        if ceiling == "memset":
            tile = np.ones(simd.LANES, np.int32)
            return [lambda: ctypes.memset(to.ctypes.data, 1, to.nbytes), lambda: _streamed(tile, to)]
        source = np.ones_like(to)
        return [lambda: ctypes.memmove(to.ctypes.data, source.ctypes.data, to.nbytes)]


class CudaCeilings:
    """The CUDA device; kernels/bench.cu makes words and normals."""

    def __init__(self, device: Device) -> None:
        import cupy

        self.device, self.cupy = device, cupy
        self.blocks = 16 * cupy.cuda.Device().attributes["MultiProcessorCount"]

    def prepare(self, ceiling: Ceiling, job: Job) -> list[Call]:
        size = job.n_bytes
        if ceiling in ("words", "normals"):
            return [on_device(self.device, ceiling, job.counters(ceiling), self.blocks)[0]]
        to = self.cupy.cuda.alloc(size)
        if ceiling == "memset":
            return [lambda: to.memset_async(1, size)]
        source = self.cupy.cuda.alloc(size)
        return [lambda: to.copy_from_device_async(source, size)]


def words(n: int, seed: int = 0) -> int:
    """Exclusive or of the words of n counters: (i / 1024, i % 1024), i = 0 .. n - 1."""
    return int(np.bitwise_xor.reduce(_words(n, *_address(Op.WALK_BITS, seed))))


def normals(n: int, seed: int = 0) -> float:
    """Sum of the normals of the same n counters."""
    return float(_normals(n, *_address(Op.NORMALS, seed)).sum(dtype=np.float64))


def on_device(device: Device, kernel: str, n: int, blocks: int) -> tuple[Call, Any]:
    """A call of a kernel of bench.cu for n counters, and the array that it writes: one number a warp."""
    blocks = max(1, min(blocks, -(-n // _THREADS)))
    out = device.empty((blocks * _THREADS // 32,), np.uint32 if kernel == "words" else np.float32)
    return lambda: device.launch("bench", kernel, blocks, _THREADS, n, 0, out), out


@cpu.jit
def _streamed(tile: Any, to: Any) -> None:
    """Fill the whole lines of the cache that lie in `to`."""
    start = -(to.ctypes.data // 4) % 16
    for i in range(start, len(to) - 15, 16):
        simd.stream(tile, 0, np.float32(1.0), np.float32(0.0), to, i)


def _address(op: Op, seed: int) -> tuple[np.uint32, np.uint32, np.uint32]:
    return np.uint32(int(op) << 24), np.uint32(seed & 0xFFFFFFFF), np.uint32(seed >> 32)


@cpu.jit
def _words(n: Any, tag: Any, k0: Any, k1: Any) -> Any:
    total = np.zeros(_LANES, np.uint32)
    zero = np.uint32(0)
    for begin in range(0, n, _LANES):
        block = np.uint32(begin // _LANES)
        for lane in range(min(_LANES, n - begin)):
            w0, w1, w2, w3 = cpu.philox4x32(block, np.uint32(lane), zero, tag, k0, k1)
            total[lane] = cpu.xor(total[lane], cpu.xor(cpu.xor(w0, w1), cpu.xor(w2, w3)))
    return total


@cpu.jit
def _normals(n: Any, tag: Any, k0: Any, k1: Any) -> Any:
    total = np.zeros(_LANES, np.float32)
    words = np.empty((4, _LANES), np.uint32)
    zero = np.uint32(0)
    for begin in range(0, n, _LANES):
        block = np.uint32(begin // _LANES)
        lanes = min(_LANES, n - begin)
        for lane in range(lanes):
            made = cpu.philox4x32(block, np.uint32(lane), zero, tag, k0, k1)
            words[0, lane], words[1, lane], words[2, lane], words[3, lane] = made
        for j in range(0, 4, 2):
            for lane in range(lanes):
                a, b = cpu.normals32(words[j, lane], words[j + 1, lane])
                total[lane] += a + b
    return total
