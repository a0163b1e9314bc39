"""What is measured: an operation at a size, and what a right result of it looks like.

    paths_bits, paths_normal   walks written out, float32 [n_paths, n_steps + 1]
    fused_barrier_normal       share of the walks that reach the barrier
    fused_mdd_bits             mean of the largest fall, with a volatility of its own for every step
    fused_barrier_bits         share that reaches the barrier, and mean of the end points
    terminal_bits              mean of the end points
    dropout                    x [n_paths, n_steps] * mask / (1 - p), p = 1/2
    dropout_train              the same and its gradient
    dropout_s32                32 masks of x [n_paths / 32, n_steps]

The peers draw normal steps, which is the fastest that their libraries make, where BICEP takes bits; the provider
`torch_bits` draws the bits in torch, so that the gain of the kernel and the gain of the bits can be told apart.

The law of a walk of signs is exact (reflection, on the lattice). That of normal steps that are watched at the steps
only is the law of Brownian motion with the barrier moved by 0.5826 standard deviations of a step: Broadie, Glasserman,
Kou (1997), "A continuity correction for discrete barrier options". The fall takes two such corrections.
"""

import math
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

VOL = 0.01
P = 0.5
SAMPLES = 32
Steps = Literal["bits", "normal"]
Ceiling = Literal["memset", "memcpy", "words", "normals"]
_CORRECTION = 0.5826
_Z = 4.0
_FALL_BIAS = 0.03  # relative: the corrections are of first order, and volatility moves from step to step

CEILINGS: dict[str, tuple[Ceiling, ...]] = {
    "paths_bits": ("memset", "words"),
    "paths_normal": ("memset", "normals"),
    "fused_barrier_normal": ("normals",),
    "fused_mdd_bits": ("words",),
    "fused_barrier_bits": ("words",),
    "terminal_bits": ("words",),
    "dropout": ("memcpy", "words"),
    "dropout_train": ("memcpy", "words"),
    "dropout_s32": ("memset", "words"),
}


class Job(NamedTuple):
    """One operation at one size."""

    operation: str
    n_paths: int
    n_steps: int

    @property
    def is_dropout(self) -> bool:
        return self.operation.startswith("dropout")

    @property
    def vol(self) -> float | NDArray[np.float32]:
        """Standard deviation of a step; for the largest fall, one for every step: float32 [n_steps]."""
        if self.operation != "fused_mdd_bits":
            return VOL
        season = np.sin(np.linspace(0.0, 4.0 * np.pi, self.n_steps))
        return (VOL * (1.0 + 0.5 * season)).astype(np.float32)

    @property
    def level(self) -> int:
        """Steps up at which a walk of signs reaches the barrier: one standard deviation of the end point."""
        return math.ceil(math.sqrt(self.n_steps))

    @property
    def barrier(self) -> float:
        """Between two levels of the lattice, so that no rounding decides."""
        return VOL * (self.level - 0.5)

    @property
    def n_bytes(self) -> int:
        """Bytes that the operation writes (memset) or copies (memcpy)."""
        if self.is_dropout:
            return 4 * self.n_paths * self.n_steps * (2 if self.operation == "dropout_train" else 1)
        return 4 * self.n_paths * (self.n_steps + 1)

    def counters(self, ceiling: Ceiling) -> int:
        """Philox counters that the operation needs in the layout of kernels/philox.py: 128 bits of a walk or 4 normals
        each; of dropout 4 units each, for up to 32 masks, and again for the gradient."""
        if not self.is_dropout:
            return self.n_paths * -(-self.n_steps // (4 if ceiling == "normals" else 128))
        units = self.n_paths * self.n_steps // (SAMPLES if self.operation == "dropout_s32" else 1)
        return -(-units // 4) * (2 if self.operation == "dropout_train" else 1)


def check(job: Job, steps: Steps, result: NDArray[Any]) -> None:
    """Raise AssertionError unless the result of a provider that takes such steps has the law of the job.

    result: the walks, the masked array (of ones), or the statistics that the job names, float64.
    """
    if job.is_dropout:
        _check_dropout(result)
    elif job.operation.startswith("paths"):
        _check_walks(job, result)
    else:
        expected, error = law(job, steps)
        far = np.abs(np.asarray(result, np.float64) - expected) / error
        assert (far < 1).all(), f"{job}: {result} is not within {error} of {expected}"


def law(job: Job, steps: Steps) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Expected statistics of a fused operation, and how far from them a right result may be."""
    scale = _Z / math.sqrt(job.n_paths)
    sd = math.sqrt(float(np.sum(np.broadcast_to(job.vol, job.n_steps).astype(np.float64) ** 2)))
    if job.operation == "fused_mdd_bits":
        fall = math.sqrt(math.pi / 2) * sd - 2 * _CORRECTION * VOL
        return np.array([fall]), np.array([_FALL_BIAS * fall + 0.5 * sd * scale])
    hit = _lattice_hit(job.n_steps, job.level) if steps == "bits" else _normal_hit(job.barrier, VOL, job.n_steps)
    statistics = {"barrier": (hit, math.sqrt(hit * (1 - hit)) * scale), "terminal": (0.0, sd * scale)}
    names = {"fused_barrier_normal": ["barrier"], "fused_barrier_bits": ["barrier", "terminal"]}
    chosen = [statistics[name] for name in names.get(job.operation, ["terminal"])]
    return np.array([value for value, _ in chosen]), np.array([error for _, error in chosen])


def _lattice_hit(n_steps: int, level: int) -> float:
    """P(max S >= level) = P(S_n >= level) + P(S_n > level), counted."""

    def ways(least: int) -> int:
        ups = -(-(n_steps + least) // 2)
        return sum(math.comb(n_steps, k) for k in range(ups, n_steps + 1))

    return (ways(level) + ways(level + 1)) / (1 << n_steps)


def _normal_hit(barrier: float, vol: float, n_steps: int) -> float:
    moved = barrier + _CORRECTION * vol
    return math.erfc(moved / (vol * math.sqrt(n_steps)) / math.sqrt(2.0))


def _check_walks(job: Job, walks: NDArray[Any]) -> None:
    """Shape, start, and mean and variance of the end points within four standard errors."""
    assert walks.shape == (job.n_paths, job.n_steps + 1), walks.shape
    assert (walks[:, 0] == 0).all()
    z = np.asarray(walks[:, -1], np.float64) / (VOL * math.sqrt(job.n_steps))
    assert abs(z.mean()) * math.sqrt(z.size) < _Z, z.mean()
    assert abs((z**2).mean() - 1) * math.sqrt(z.size / 2) < _Z, (z**2).mean()


def _check_dropout(y: NDArray[Any]) -> None:
    kept = np.count_nonzero(y)
    assert np.isin(y[..., :1], (0.0, 1 / (1 - P))).all(), "ones become 0 or 1 / (1 - p)"
    assert abs(kept / y.size - (1 - P)) < _Z * math.sqrt(P * (1 - P) / y.size), kept / y.size
