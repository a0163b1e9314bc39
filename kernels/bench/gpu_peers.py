"""How CuPy and cuRAND do the jobs of `jobs` on a CUDA device; torch does them as on the CPU (`peers.Torch`)."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.bench.jobs import VOL, Job, P
from kernels.bench.peers import Call, Provider

log = logging.getLogger(__name__)
_CHUNK = 1 << 27  # path-steps of a fused job that are in memory together
_THREADS = 256


class Cupy(Provider):
    """cupy.random (Philox), cumsum. There is no running maximum in CuPy, so it takes no part in `fused_mdd_bits`."""

    name = "cupy"

    def __init__(self) -> None:
        import cupy

        self.cupy = cupy

    def seed(self) -> None:
        self.generator = self.cupy.random.Generator(self.cupy.random.Philox4x3210(1))

    def host(self, result: Any) -> NDArray[Any]:
        return self.cupy.asnumpy(result)

    def fill(self, steps: Any, sd: float) -> None:
        """Overwrite steps with normals of that standard deviation."""
        self.generator.standard_normal(dtype=np.float32, out=steps)
        steps *= np.float32(sd)

    def paths_normal(self, job: Job) -> Call:
        steps = self.cupy.empty((job.n_paths, job.n_steps), np.float32)
        out = self.cupy.zeros((job.n_paths, job.n_steps + 1), np.float32)

        def run() -> Any:
            self.fill(steps, VOL)
            self.cupy.cumsum(steps, axis=1, out=out[:, 1:])
            return out

        return run

    paths_bits = paths_normal

    def fused_barrier_normal(self, job: Job) -> Call:
        return self._fused(job, lambda x: [(x.max(axis=1) >= job.barrier).sum(dtype=np.float64)])

    def fused_barrier_bits(self, job: Job) -> Call:
        return self._fused(
            job, lambda x: [(x.max(axis=1) >= job.barrier).sum(dtype=np.float64), x[:, -1].sum(dtype=np.float64)]
        )

    def terminal_bits(self, job: Job) -> Call:
        return self._fused(job, lambda steps: [steps.sum(axis=1).sum(dtype=np.float64)], walks=False)

    def dropout(self, job: Job) -> Call:
        x = self.cupy.ones((job.n_paths, job.n_steps), np.float32)
        out = self.cupy.empty_like(x)

        def run() -> Any:
            self.generator.random(dtype=np.float32, out=out)
            return self.cupy.multiply(x, (out >= P) * np.float32(1 / (1 - P)), out=out)

        return run

    def _fused(self, job: Job, totals: Callable[[Any], list[Any]], walks: bool = True) -> Call:
        """Means over all walks of what `totals` adds up over as many as fit into the memory at once."""
        most = max(1, min(job.n_paths, _CHUNK // job.n_steps))
        memory = self.cupy.empty((most, job.n_steps), np.float32)

        def run() -> Any:
            parts = []
            for first in range(0, job.n_paths, most):
                x = memory[: min(most, job.n_paths - first)]
                self.fill(x, VOL)
                parts.append(self.cupy.stack(totals(self.cupy.cumsum(x, axis=1, out=x) if walks else x)))
            return self.cupy.stack(parts).sum(axis=0) / job.n_paths

        return run


class Curand(Cupy):
    """cuRAND's Philox: its host interface fills arrays; its device interface inside a fused kernel, curand.cu.

    The fused kernel is what one would write by hand today, one walk a thread. It needs cuRAND's headers.
    """

    name = "curand"

    def __init__(self) -> None:
        super().__init__()
        from cupy.cuda import curand

        self.curand = curand
        self.handle = curand.createGenerator(curand.CURAND_RNG_PSEUDO_PHILOX4_32_10)

    def seed(self) -> None:
        self.curand.setPseudoRandomGeneratorSeed(self.handle, 1)
        self.curand.setGeneratorOffset(self.handle, 0)

    def fill(self, steps: Any, sd: float) -> None:
        self.curand.generateNormal(self.handle, steps.data.ptr, steps.size, 0.0, sd)

    def fused_barrier_normal(self, job: Job) -> Call:
        return self._kernel(job, [0])

    def fused_barrier_bits(self, job: Job) -> Call:
        return self._kernel(job, [0, 2])

    def fused_mdd_bits(self, job: Job) -> Call:
        return self._kernel(job, [1])

    def terminal_bits(self, job: Job) -> Call:
        return self._kernel(job, [2])

    def dropout(self, job: Job) -> Call:
        x = self.cupy.ones((job.n_paths, job.n_steps), np.float32)
        out = self.cupy.empty_like(x)

        def run() -> Any:
            self.curand.generateUniform(self.handle, out.data.ptr, out.size)
            return self.cupy.multiply(x, (out >= P) * np.float32(1 / (1 - P)), out=out)

        return run

    def prepare(self, job: Job) -> Call | None:
        if job.is_dropout or job.operation.startswith("paths"):
            return super().prepare(job)
        try:
            return super().prepare(job)
        except self.cupy.cuda.compiler.CompileException as error:
            log.warning("curand: no %s, for its headers are not here: %s", job.operation, error)
            return None

    def _kernel(self, job: Job, chosen: list[int]) -> Call:
        """Call of curand.cu for the statistics: share that hits, mean fall, mean end."""
        text = (Path(__file__).parent / "curand.cu").read_text()
        folder = f"{self.cupy.cuda.get_cuda_path()}/include"
        options = ("--std=c++17", f"-I{folder}", *(f"-DSTATISTIC_{index}" for index in chosen))
        walks = self.cupy.RawModule(code=text, options=options, backend="nvrtc").get_function("walks")
        vol = self.cupy.asarray(np.broadcast_to(np.asarray(job.vol, np.float32), job.n_steps))
        totals = self.cupy.zeros(3, np.float64)
        size = (np.int64(job.n_paths), np.int32(job.n_steps), vol, np.float32(job.barrier))
        blocks = min(-(-job.n_paths // _THREADS), 1 << 16)

        def run() -> Any:
            totals.fill(0)
            walks((blocks,), (_THREADS,), (*size, np.uint64(1), totals))
            return totals[chosen] / job.n_paths

        return run
