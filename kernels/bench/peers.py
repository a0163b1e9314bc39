"""How NumPy, torch and torchsde do the jobs of `jobs`. A provider has one method for each operation that it knows.

The method takes the job and returns the call that is timed; buffers that the library can write into are made before.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kernels.bench.jobs import SAMPLES, VOL, Job, P, Steps

Call = Callable[[], Any]
_CHUNK = 1 << 27  # path-steps of a fused job that are in memory together; more than any CPU job has


class Provider:
    """A library. Every job starts from the same seed, so that a check cannot fail by chance on one run in many."""

    name: str

    def steps(self, job: Job) -> Steps:
        """What its walks are made of."""
        return "normal"

    def prepare(self, job: Job) -> Call | None:
        """The call that does the job; None where the provider has no way to do it, or none that ends soon."""
        self.seed()
        method = getattr(self, job.operation, None)
        return None if method is None else method(job)

    def seed(self) -> None:
        """Bring the generator back to its start."""

    def host(self, result: Any) -> NDArray[Any]:
        """The result in NumPy."""
        return np.asarray(result)

    def verify(self, job: Job) -> None:
        """Raise AssertionError unless the results are what they must be beyond their law."""


class Numpy(Provider):
    """Generator.standard_normal (PCG64, ziggurat), cumsum, maximum.accumulate."""

    name = "numpy"

    def seed(self) -> None:
        self.generator = np.random.default_rng(1)

    def _draw(self, job: Job) -> Callable[[], NDArray[np.float32]]:
        steps = np.empty((job.n_paths, job.n_steps), np.float32)
        vol = np.asarray(job.vol, np.float32)

        def draw() -> NDArray[np.float32]:
            self.generator.standard_normal(dtype=np.float32, out=steps)
            return np.multiply(steps, vol, out=steps)

        return draw

    def paths_normal(self, job: Job) -> Call:
        draw, out = self._draw(job), np.zeros((job.n_paths, job.n_steps + 1), np.float32)

        def run() -> NDArray[np.float32]:
            np.cumsum(draw(), axis=1, out=out[:, 1:])
            return out

        return run

    paths_bits = paths_normal

    def fused_barrier_normal(self, job: Job) -> Call:
        walk = self._walk(job)
        return lambda: [(walk().max(axis=1) >= job.barrier).mean()]

    def fused_barrier_bits(self, job: Job) -> Call:
        walk = self._walk(job)

        def run() -> list[np.floating]:
            x = walk()
            return [(x.max(axis=1) >= job.barrier).mean(), x[:, -1].mean(dtype=np.float64)]

        return run

    def fused_mdd_bits(self, job: Job) -> Call:
        walk = self._walk(job)
        high = np.empty((job.n_paths, job.n_steps), np.float32)

        def run() -> list[np.floating]:
            x = walk()
            np.maximum.accumulate(x, axis=1, out=high)
            np.maximum(high, 0, out=high)
            return [np.subtract(high, x, out=high).max(axis=1).mean(dtype=np.float64)]

        return run

    def terminal_bits(self, job: Job) -> Call:
        steps = np.empty((job.n_paths, job.n_steps), np.float32)

        def run() -> list[np.floating]:
            self.generator.standard_normal(dtype=np.float32, out=steps)
            return [VOL * steps.sum(axis=1).mean(dtype=np.float64)]

        return run

    def dropout(self, job: Job) -> Call:
        x, out = np.ones((job.n_paths, job.n_steps), np.float32), np.empty((job.n_paths, job.n_steps), np.float32)

        def run() -> NDArray[np.float32]:
            self.generator.random(dtype=np.float32, out=out)
            np.greater_equal(out, P, out=out)
            np.multiply(out, np.float32(1 / (1 - P)), out=out)
            return np.multiply(x, out, out=out)

        return run

    def _walk(self, job: Job) -> Callable[[], NDArray[np.float32]]:
        draw = self._draw(job)

        def walk() -> NDArray[np.float32]:
            x = draw()
            return np.cumsum(x, axis=1, out=x)

        return walk


class Torch(Provider):
    """randn, cumsum, cummax and torch.nn.functional.dropout, on the CPU or on a CUDA device."""

    name = "torch"

    def __init__(self, device: str = "cpu") -> None:
        torch.set_num_threads(1)
        self.device = device

    def seed(self) -> None:
        self.generator = torch.Generator(self.device).manual_seed(1)

    def host(self, result: Any) -> NDArray[Any]:
        return result.detach().cpu().numpy()

    def draw(self, steps: torch.Tensor) -> torch.Tensor:
        return torch.randn(steps.shape, generator=self.generator, out=steps)

    def paths_normal(self, job: Job) -> Call:
        steps, out = self._empty(job.n_paths, job.n_steps), self._empty(job.n_paths, job.n_steps + 1)
        out[:, 0] = 0

        def run() -> torch.Tensor:
            torch.cumsum(self.draw(steps).mul_(VOL), dim=1, out=out[:, 1:])
            return out

        return run

    paths_bits = paths_normal

    def fused_barrier_normal(self, job: Job) -> Call:
        return self._fused(job, lambda x: [(x.amax(dim=1) >= job.barrier).sum(dtype=torch.float64)])

    def fused_barrier_bits(self, job: Job) -> Call:
        return self._fused(
            job, lambda x: [(x.amax(dim=1) >= job.barrier).sum(dtype=torch.float64), x[:, -1].sum(dtype=torch.float64)]
        )

    def fused_mdd_bits(self, job: Job) -> Call:
        def fall(x: torch.Tensor) -> list[torch.Tensor]:
            high = torch.cummax(x, dim=1).values.clamp_(min=0)
            return [high.sub_(x).amax(dim=1).sum(dtype=torch.float64)]

        return self._fused(job, fall)

    def terminal_bits(self, job: Job) -> Call:
        steps, shares = self._chunks(job)

        def run() -> torch.Tensor:
            ends = [self.draw(steps[:share]).sum(dim=1).sum(dtype=torch.float64) for share in shares]
            return (VOL / job.n_paths) * torch.stack(ends).sum(dim=0, keepdim=True)

        return run

    def dropout(self, job: Job) -> Call:
        x = torch.ones(job.n_paths, job.n_steps, device=self.device)
        return lambda: torch.nn.functional.dropout(x, P)

    def dropout_train(self, job: Job) -> Call:
        x = torch.ones(job.n_paths, job.n_steps, device=self.device, requires_grad=True)
        return with_gradient(x, lambda: torch.nn.functional.dropout(x, P))

    def dropout_s32(self, job: Job) -> Call:
        x = torch.ones(job.n_paths // SAMPLES, job.n_steps, device=self.device).expand(SAMPLES, -1, -1)
        return lambda: torch.nn.functional.dropout(x, P)

    def _empty(self, *shape: int) -> torch.Tensor:
        return torch.empty(shape, device=self.device)

    def _chunks(self, job: Job) -> tuple[torch.Tensor, list[int]]:
        """Memory for as many walks as are made together, and the numbers of walks that make up the job."""
        most = max(1, min(job.n_paths, _CHUNK // job.n_steps))
        shares = [min(most, job.n_paths - first) for first in range(0, job.n_paths, most)]
        return self._empty(most, job.n_steps), shares

    def _fused(self, job: Job, totals: Callable[[torch.Tensor], list[torch.Tensor]]) -> Call:
        """Means over all walks of what `totals` adds up over some; one chunk unless the job is larger than memory."""
        steps, shares = self._chunks(job)
        vol = torch.as_tensor(job.vol, device=self.device)

        def run() -> torch.Tensor:
            parts = []
            for share in shares:
                x = self.draw(steps[:share]).mul_(vol)
                parts.append(torch.stack(totals(torch.cumsum(x, dim=1, out=x))))
            return torch.stack(parts).sum(dim=0) / job.n_paths

        return run


class TorchBits(Torch):
    """torch with the steps that BICEP takes: signs, 32 of them from each random word."""

    name = "torch_bits"

    def steps(self, job: Job) -> Steps:
        return "bits"

    def draw(self, steps: torch.Tensor) -> torch.Tensor:
        words = torch.empty(len(steps), -(-steps.shape[1] // 32), 1, dtype=torch.int32, device=self.device)
        words.random_(-(1 << 31), 1 << 31, generator=self.generator)
        bits = (words >> torch.arange(32, dtype=torch.int32, device=self.device)) & 1
        return torch.sub(bits.flatten(1)[:, : steps.shape[1]].mul_(2), 1, out=steps)

    def prepare(self, job: Job) -> Call | None:
        return super().prepare(job) if job.operation.endswith("_bits") else None


class TorchSde(Provider):
    """torchsde.BrownianInterval, asked for one step after the other."""

    name = "torchsde"

    def host(self, result: Any) -> NDArray[Any]:
        return result.numpy()

    def paths_normal(self, job: Job) -> Call:
        out = torch.zeros(job.n_paths, job.n_steps + 1)

        def run() -> torch.Tensor:
            for k, step in enumerate(_increments(job)):
                torch.add(out[:, k], step, alpha=VOL, out=out[:, k + 1])
            return out

        return run

    def fused_barrier_normal(self, job: Job) -> Call:
        def run() -> torch.Tensor:
            x, high = torch.zeros(job.n_paths), torch.zeros(job.n_paths)
            for step in _increments(job):
                torch.maximum(high, x.add_(step, alpha=VOL), out=high)
            return (high >= job.barrier).mean(dtype=torch.float64).reshape(1)

        return run


def _increments(job: Job) -> Any:
    import torchsde

    motion = torchsde.BrownianInterval(0.0, float(job.n_steps), size=(job.n_paths,), dt=1.0, entropy=1)
    return (motion(float(k), float(k + 1)) for k in range(job.n_steps))


def with_gradient(x: torch.Tensor, forward: Callable[[], torch.Tensor]) -> Call:
    """A call of `forward` and of its gradient with respect to x; the result is the gradient."""
    upstream = torch.ones_like(x)

    def run() -> torch.Tensor:
        (gradient,) = torch.autograd.grad(forward(), x, upstream)
        return gradient

    return run
