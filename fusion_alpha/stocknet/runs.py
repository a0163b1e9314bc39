"""Learning and answering, once for each (system, setting, fold, seed), spread over processes and kept in a cache.

Every run is a task of the executor and leaves one file, so that an interrupted benchmark goes on where it was. Its name
is a hash of the layers, of the code that learns, of the setting, of the samples and of the seed.
"""

import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusion_alpha import executor
from fusion_alpha.config import ExecutorConfig
from fusion_alpha.files import sha256, write_atomic
from fusion_alpha.stocknet import networks
from fusion_alpha.stocknet.layers import Layers
from fusion_alpha.stocknet.systems import SYSTEMS, Setting
from fusion_alpha.stocknet.walkforward import Fold
from fusion_alpha.workspace import REPOSITORY

Floats = NDArray[np.float64]

_TABULAR = ("benchmark", "stocknet/features", "stocknet/tabular", "stocknet/tweets")
_NETWORK = (
    *("augmentation", "benchmark", "contradiction", "fusionnet", "nulls", "plain_dropout", "ranks", "samples"),
    *("train_state", "training"),
    *("stocknet/features", "stocknet/networks", "stocknet/tweets"),
)


@dataclass(frozen=True)
class Run:
    """One run; `setting` as a system's grid has it, learning stops at setting["stops"] where there is such a thing."""

    layers: Layers
    system: str
    setting: Setting
    fold: Fold
    seed: int


def answers(runs: Sequence[Run], settings: ExecutorConfig, *, label: str) -> list[Floats]:
    """P(up) [stops, judged samples] of every run, in their order; known ones from the cache."""
    paths = [path_of(run) for run in runs]
    todo = {path: run for path, run in zip(paths, runs, strict=True) if not path.exists()}
    tasks = sorted(todo.items(), key=lambda task: task[1].setting.get("control") or "")  # few changes of material
    if not tasks:
        return [np.load(path) for path in paths]
    with warnings.catch_warnings():
        # joblib renews a worker that has grown, as they do when they first read the layers, and says so each time
        warnings.filterwarnings("ignore", message="A worker stopped while some jobs were given")
        for _ in executor.in_order(learn, tasks, settings, label=f"{label}: {len(tasks)} of {len(runs)} runs"):
            pass
    return [np.load(path) for path in paths]


def learn(task: tuple[Path, Run]) -> None:
    """One run, in whatever process, and its file."""
    file, run = task
    p = np.asarray(SYSTEMS[run.system].learn(run.layers, run.setting, run.fold, run.seed), np.float64)
    stops = len(run.setting.get("stops", (0,)))
    if p.shape != (stops, len(run.fold.judge)) or not np.isfinite(p).all():
        raise ValueError(f"{run.system} {run.setting} answers {p.shape}, not ({stops}, {len(run.fold.judge)}) numbers")

    def fill(path: Path) -> None:
        with path.open("wb") as handle:
            np.save(handle, p)

    write_atomic(file, fill)


def path_of(run: Run) -> Path:
    """File of the run's answers. Systems that learn alike under one setting share it."""
    system = SYSTEMS[run.system]
    is_network = system.learn is networks.network
    parts = [
        run.layers.key,
        _code(_NETWORK if is_network else _TABULAR),
        "network" if is_network else run.system,
        json.dumps(run.setting, sort_keys=True),
        hashlib.sha256(run.fold.learn.tobytes() + b"|" + run.fold.judge.tobytes()).hexdigest(),
        str(run.seed),
    ]
    name = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:20]
    return run.layers.folder.parent / "runs" / name[:2] / f"{name}.npy"


def configuration_hash(layers: Layers, *settings: object) -> str:
    """Of the layers, the code of all systems and scores, and further settings: names a look at test."""
    modules = sorted(f"stocknet/{path.stem}" for path in Path(__file__).parent.glob("*.py"))
    parts = [layers.key, _code(tuple(dict.fromkeys([*_NETWORK, *modules]))), json.dumps(settings, sort_keys=True)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


@lru_cache(maxsize=8)
def _code(modules: tuple[str, ...]) -> str:
    files = [REPOSITORY / "fusion_alpha" / f"{name}.py" for name in modules]
    if "training" in modules:
        files += sorted((REPOSITORY / "kernels").glob("*.py"))
    return hashlib.sha256("\n".join(map(_content, files)).encode()).hexdigest()


@cache
def _content(path: Path) -> str:
    return f"{path.name} {sha256(path)}"
