"""Check, then time: the providers of one job and its ceilings, in alternating rounds."""

import math
import time
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any, NamedTuple, Protocol

import numpy as np

from kernels.bench.ceilings import Ceilings
from kernels.bench.jobs import CEILINGS, Job, check
from kernels.bench.peers import Provider

Call = Callable[[], Any]


class Plan(NamedTuple):
    """How long a job is measured: rounds until `seconds` are over, between `least` and `most` of them."""

    least: int
    most: int
    seconds: float
    sample_s: float  # a call that is shorter is repeated until a sample takes so long


class Clock(Protocol):
    def seconds(self, call: Call, times: int) -> float:
        """Time of that many calls, one after the other."""


class HostClock:
    """The clock of the machine."""

    def seconds(self, call: Call, times: int) -> float:
        start = time.perf_counter()
        for _ in range(times):
            call()
        return time.perf_counter() - start


class CudaClock:
    """Events on the current stream of the CUDA device; torch and CuPy launch on the same default stream."""

    def __init__(self) -> None:
        import cupy

        self.cuda = cupy.cuda

    def seconds(self, call: Call, times: int) -> float:
        start, end = self.cuda.Event(), self.cuda.Event()
        self.cuda.runtime.deviceSynchronize()
        start.record()
        for _ in range(times):
            call()
        end.record()
        end.synchronize()
        return self.cuda.get_elapsed_time(start, end) / 1e3


class Timing(NamedTuple):
    """One provider at one job: seconds of a call in each round, and the share of the ceiling at their median."""

    job: Job
    provider: str
    seconds: list[float]
    ceiling_share: float


def measure(job: Job, providers: Iterable[Provider], ceilings: Ceilings, clock: Clock, plan: Plan) -> list[Timing]:
    """Check the result of every provider that can do the job, then time them; AssertionError for a wrong result."""
    calls: dict[str, Call] = {}
    for provider in providers:
        call = provider.prepare(job)
        if call is not None:
            check(job, provider.steps(job), provider.host(call()))
            provider.verify(job)
            calls[provider.name] = call
    floors = [ceilings.prepare(name, job) for name in CEILINGS[job.operation]]
    taken = iter(_rounds([*calls.values(), *chain.from_iterable(floors)], clock, plan))
    seconds = {name: next(taken) for name in calls}
    floor = max(min(float(np.median(next(taken))) for _ in ways) for ways in floors)
    return [Timing(job, name, taken_s, floor / float(np.median(taken_s))) for name, taken_s in seconds.items()]


def _rounds(calls: list[Call], clock: Clock, plan: Plan) -> list[list[float]]:
    """Seconds of one call, for each call and round."""
    times = []
    for call in calls:
        clock.seconds(call, 1)  # warms up
        times.append(max(1, math.ceil(plan.sample_s / max(clock.seconds(call, 1), 1e-9))))
    taken: list[list[float]] = [[] for _ in calls]
    spent = 0.0
    while len(taken[0]) < plan.least or (len(taken[0]) < plan.most and spent < plan.seconds):
        for samples, call, n in zip(taken, calls, times, strict=True):
            seconds = clock.seconds(call, n)
            samples.append(seconds / n)
            spent += seconds
    return taken
