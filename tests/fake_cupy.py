"""As much of CuPy as the benchmark asks for, in NumPy: its host code can run where there is no GPU."""

import ctypes
import time
from types import SimpleNamespace
from typing import Any

import numpy as np


class CompileException(Exception):
    pass


class Array(np.ndarray):
    """An array whose `data.ptr` is its address, as CuPy's."""

    @property
    def data(self) -> Any:  # type: ignore[override]
        return SimpleNamespace(ptr=self.ctypes.data)


class Memory:
    def __init__(self, size: int) -> None:
        self.bytes = np.empty(size, np.uint8)

    def memset_async(self, value: int, size: int) -> None:
        self.bytes[:size] = value

    def copy_from_device_async(self, source: "Memory", size: int) -> None:
        self.bytes[:size] = source.bytes[:size]


class Event:
    def record(self) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        pass


class RawModule:
    def __init__(self, **_: Any) -> None:
        raise CompileException('cannot open source file "curand_kernel.h"')


def module(name: str = "NVIDIA Imagined Card") -> SimpleNamespace:
    """What `import cupy` gives."""
    rng = np.random.default_rng(3)
    runtime = SimpleNamespace(
        getDevice=lambda: 0,
        getDeviceProperties=lambda device: {"name": name.encode()},
        driverGetVersion=lambda: 13000,
        deviceSynchronize=lambda: None,
    )
    curand = SimpleNamespace(
        CURAND_RNG_PSEUDO_PHILOX4_32_10=161,
        createGenerator=lambda kind: kind,
        setPseudoRandomGeneratorSeed=lambda generator, seed: None,
        setGeneratorOffset=lambda generator, offset: None,
        generateNormal=lambda generator, to, n, mean, sd: _put(to, rng.normal(mean, sd, n)),
        generateUniform=lambda generator, to, n: _put(to, rng.random(n)),
    )
    cuda = SimpleNamespace(
        runtime=runtime,
        curand=curand,
        compiler=SimpleNamespace(CompileException=CompileException),
        Event=Event,
        Device=lambda: SimpleNamespace(attributes={"MultiProcessorCount": 2}),
        alloc=Memory,
        get_elapsed_time=lambda start, end: 1e3 * (end.at - start.at),
        get_cuda_path=lambda: None,
    )
    random = SimpleNamespace(Generator=np.random.Generator, Philox4x3210=np.random.Philox)
    arrays = {name: _wrapped(getattr(np, name)) for name in ("empty", "zeros", "ones", "empty_like", "asarray")}
    functions = {name: getattr(np, name) for name in ("cumsum", "multiply", "stack")}
    return SimpleNamespace(cuda=cuda, random=random, asnumpy=np.asarray, RawModule=RawModule, **arrays, **functions)


def _wrapped(make: Any) -> Any:
    return lambda *args, **kwargs: make(*args, **kwargs).view(Array)


def _put(to: int, values: Any) -> None:
    values = values.astype(np.float32)
    ctypes.memmove(to, values.ctypes.data, values.nbytes)
