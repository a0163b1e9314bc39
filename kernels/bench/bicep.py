"""How BICEP does the jobs of `jobs`: its CPU backend, its NumPy references, and the CUDA device."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kernels import mc_features, paths, torch_front
from kernels.bench.jobs import SAMPLES, VOL, Job, P, Steps
from kernels.bench.peers import Call, Provider, with_gradient
from kernels.device import Device
from kernels.dropout import keep_mask

SEED = 1
_VERIFIED_PATHS = 1056  # of a job, beside the reference: more than one block of 1024, and whole rows of 32 samples
_REFERENCE_STEPS = 1 << 22  # of the largest job that the reference is timed at


class Bicep(Provider):
    """The CPU backend."""

    name = "bicep"
    torch_device = "cpu"

    def steps(self, job: Job) -> Steps:
        return "normal" if job.operation.endswith("_normal") else "bits"

    def host(self, result: Any) -> NDArray[Any]:
        return result.detach().numpy() if isinstance(result, torch.Tensor) else np.asarray(result)

    def verify(self, job: Job) -> None:
        """Bit equality with the reference, on the first walks of the job."""
        first = job._replace(n_paths=min(job.n_paths, _VERIFIED_PATHS))
        reference = BicepNumpy()
        result, expected = self.host(self.must(first)()), reference.host(reference.must(first)())
        assert np.array_equal(result, expected), f"{first}: {result} is not what the reference gives: {expected}"

    def _plan(self, job: Job) -> paths.Plan:
        return paths.plan(job.n_paths, job.n_steps, vol=VOL, seed=SEED, increments=self.steps(job))

    def must(self, job: Job) -> Call:
        """As `prepare`, for a job that the provider must be able to do."""
        call = self.prepare(job)
        assert call is not None, f"{self.name} does not do {job}"
        return call

    def paths_bits(self, job: Job) -> Call:
        out = np.empty((job.n_paths, job.n_steps + 1), np.float32)
        arguments: dict[str, Any] = {"vol": VOL, "seed": SEED, "increments": self.steps(job)}
        return lambda: paths.paths(job.n_paths, job.n_steps, **arguments, out=out)

    def paths_normal(self, job: Job) -> Call:
        return self.paths_bits(job)

    def fused_barrier_normal(self, job: Job) -> Call:
        return self._features(job, "hits")

    def fused_barrier_bits(self, job: Job) -> Call:
        return self._features(job, "hits", "sum_terminal")

    def fused_mdd_bits(self, job: Job) -> Call:
        return self._features(job, "sum_mdd")

    def terminal_bits(self, job: Job) -> Call:
        return self._features(job, "sum_terminal")

    def dropout(self, job: Job) -> Call:
        x = torch.ones(job.n_paths, job.n_steps, device=self.torch_device)
        return self._masked(x)

    def dropout_train(self, job: Job) -> Call:
        x = torch.ones(job.n_paths, job.n_steps, device=self.torch_device, requires_grad=True)
        return with_gradient(x, self._masked(x))

    def dropout_s32(self, job: Job) -> Call:
        x = torch.ones(job.n_paths // SAMPLES, job.n_steps, device=self.torch_device)
        return self._masked(x, SAMPLES)

    def _masked(self, x: torch.Tensor, samples: int = 1) -> Callable[[], torch.Tensor]:
        step = torch.zeros(1, dtype=torch.int64, device=self.torch_device)
        return lambda: torch_front.dropout(x, P, seed=SEED, step=step, layer=0, samples=samples)

    def _features(self, job: Job, *names: str) -> Call:
        """Means over the walks of what `mc_features` totals; only that is asked for."""
        arguments = _arguments(job, names, self.steps(job))
        return lambda: _means(mc_features.mc_features(**arguments), names, job.n_paths)


class BicepNumpy(Bicep):
    """The references, which the tests compare every backend with."""

    name = "bicep_numpy"

    def prepare(self, job: Job) -> Call | None:
        return super().prepare(job) if job.n_paths * job.n_steps <= _REFERENCE_STEPS else None

    def verify(self, job: Job) -> None:
        """There is nothing beyond it."""

    def paths_bits(self, job: Job) -> Call:
        what = self._plan(job)
        return lambda: paths.paths_reference(what)

    def _features(self, job: Job, *names: str) -> Call:
        what = mc_features.plan(**_arguments(job, names, self.steps(job)))
        return lambda: _means(mc_features.mc_features_reference(what), names, job.n_paths)

    def dropout(self, job: Job) -> Call:
        x = np.ones((job.n_paths, job.n_steps), np.float32)

        def run() -> NDArray[np.float32]:
            keep = keep_mask(x.size, P, seed=SEED, step=0, layer=0).reshape(x.shape)
            return x * np.where(keep, np.float32(1 / (1 - P)), np.float32(0))

        return run

    dropout_train = dropout  # the gradient of ones is the mask and its scale again

    def dropout_s32(self, job: Job) -> Call:
        x = np.ones((job.n_paths // SAMPLES, job.n_steps), np.float32)

        def run() -> NDArray[np.float32]:
            keep = keep_mask(x.size, P, seed=SEED, step=0, layer=0, samples=SAMPLES).reshape(SAMPLES, *x.shape)
            return x * np.where(keep, np.float32(1 / (1 - P)), np.float32(0))

        return run


class BicepCuda(Bicep):
    """A device that runs kernels/*.cu. Arguments are there before the clock starts and results stay there."""

    def __init__(self, device: Device, torch_device: str = "cuda") -> None:
        self.device, self.torch_device = device, torch_device

    def host(self, result: Any) -> NDArray[Any]:
        if isinstance(result, torch.Tensor):
            return result.detach().cpu().numpy()
        return result() if callable(result) else self.device.get(result)

    def verify(self, job: Job) -> None:
        """Bit equality of all of the job's results with the CPU backend."""
        here = Bicep()
        results = self.host(self.must(job)()), here.host(here.must(job)())
        device, cpu = (hashlib.sha256(np.ascontiguousarray(result).tobytes()).hexdigest() for result in results)
        assert device == cpu, f"{job}: the device's result has the hash {device}, the CPU's {cpu}"

    def paths_bits(self, job: Job) -> Call:
        what = self._plan(job)
        there, out = paths.send(self.device, what), self.device.empty(what.shape, what.dtype)

        def run() -> Any:
            paths.on_device(self.device, what, out, there)
            return out

        return run

    def _features(self, job: Job, *names: str) -> Call:
        what = mc_features.plan(**_arguments(job, names, self.steps(job)))
        there = mc_features.send(self.device, what)

        def run() -> Any:
            there.sums.fill(0)
            mc_features.walk(self.device, what, there)
            return lambda: np.array(_means(mc_features.receive(self.device, what, there), names, job.n_paths))

        return run


def _arguments(job: Job, names: Sequence[str], increments: Steps) -> dict[str, Any]:
    """Arguments of `mc_features` for one problem."""
    vol = np.asarray(job.vol, np.float32)
    return {
        "vol": vol.reshape(1, -1) if vol.ndim else vol.reshape(1),
        "drift": [0.0],
        "barrier": [job.barrier if "hits" in names else np.inf],
        "n_paths": job.n_paths,
        "n_steps": job.n_steps,
        "seed": SEED,
        "increments": increments,
        "antithetic": False,  # as independent as those of the peers
        "drawdown": "sum_mdd" in names,
        "hist": False,
    }


def _means(totals: mc_features.McFeatures, names: Sequence[str], n_paths: int) -> list[float]:
    unit = 2.0 ** -int(totals.scale[0])
    return [int(getattr(totals, name)[0]) / n_paths * (1.0 if name == "hits" else unit) for name in names]
