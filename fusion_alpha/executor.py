"""Independent work, spread over processes: tickers, rows of the null, folds, trials.

One function over many tasks, results in the order of the tasks, whatever runs them: `executor=pool` is joblib's pool
of processes on this machine (none for one worker), `executor=ray` is Ray, here or on the cluster that RAY_ADDRESS
names. `executor=ddp` concerns the training of one model (fusion_alpha/ranks.py); everything else runs in the pool.
"""

import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import joblib
from rich.progress import track

from fusion_alpha.config import ExecutorConfig
from fusion_alpha.errors import InputError
from fusion_alpha.stage import console

Task = TypeVar("Task")
Result = TypeVar("Result")
HERE = ExecutorConfig("pool", workers=1, ranks=1)  # one task after the other in this process
_AHEAD = 2  # tasks handed to Ray per worker, so that a slow one at the head does not leave the others idle
_SHIPPED = ("fusion_alpha", "kernels")  # what a cluster's nodes need of this repository
_LOCAL_RAY = {"address": "local", "include_dashboard": False, "_node_ip_address": "127.0.0.1"}


def in_order(
    function: Callable[[Task], Result], tasks: Sequence[Task], settings: ExecutorConfig, *, label: str
) -> Iterator[Result]:
    """`function` of each task, in the order of the tasks, with a progress bar named `label`.

    function: importable by name, or a partial of one, and free of side effects; tasks and results travel between
    processes. What it raises is raised here. Raises InputError for executor=ray without Ray, or without the cluster.
    """
    run = _on_ray if settings.name == "ray" else _in_pool
    results = run(function, tasks, settings.workers)
    return iter(track(results, label, total=len(tasks), console=console, disable=not console.is_terminal))


def _in_pool(function: Callable[[Task], Result], tasks: Sequence[Task], workers: int) -> Iterator[Result]:
    pool = joblib.Parallel(n_jobs=min(workers, max(len(tasks), 1)), return_as="generator")
    yield from pool(joblib.delayed(function)(task) for task in tasks)


def _on_ray(function: Callable[[Task], Result], tasks: Sequence[Task], workers: int) -> Iterator[Result]:
    ray = _start_ray(workers)
    remote = ray.remote(lambda task: function(task))  # Ray takes plain functions, not partials
    waiting, running = iter(tasks), deque[Any]()
    try:
        for task in waiting:
            running.append(remote.remote(task))
            if len(running) == _AHEAD * workers:
                yield ray.get(running.popleft())
        while running:
            yield ray.get(running.popleft())
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None


def _start_ray(workers: int) -> Any:
    """The module `ray`, connected; nothing is reported to its makers, nothing listens beyond this machine."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ModuleNotFoundError:
        raise InputError(
            "parameter executor.name = 'ray', but Ray is not installed",
            rule="the executor that is asked for is there; there is no fallback",
            remedy="pip install nimbus-fusion[ray], or use executor=pool",
        ) from None
    if ray.is_initialized():  # Ray ends with the process: its start takes longer than most work
        return ray
    address = os.environ.get("RAY_ADDRESS")
    where: dict[str, Any] = _LOCAL_RAY | {"num_cpus": workers}
    if address:
        root = Path(__file__).parents[1]
        where = {"address": address, "runtime_env": {"py_modules": [str(root / name) for name in _SHIPPED]}}
    try:
        ray.init(**where, logging_level=logging.ERROR, log_to_driver=False)
    except ConnectionError as error:
        raise InputError(
            f"no Ray cluster answers at RAY_ADDRESS = {address} ({error})",
            rule="the cluster that is asked for is there; there is no fallback",
            remedy="start it (`ray start --head`) with the same RAY_AUTH_MODE as here, or unset RAY_ADDRESS",
        ) from None
    return ray
