"""Work in pieces whose answers are files, so that an interrupted run goes on where it was.

A file's name must hold a hash of all that its answer depends on (`home`).
"""

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fusion_alpha import executor, lab_runs, stage, workspace
from fusion_alpha.config import Config, ExecutorConfig
from fusion_alpha.files import read_json, sha256, write_json
from fusion_alpha.workspace import Workspace

log = logging.getLogger(__name__)

_BESIDE = ("lab_runs", "recovery", "selection", "statistics", "splits", "baselines", *lab_runs.OWN)


@dataclass(frozen=True)
class Task:
    name: str
    path: Path  # of its answer, which JSON can hold
    work: Callable[[], Any]  # importable by name, or a partial of such


def home(cfg: Config, stages: Sequence[str]) -> Path:
    """Folder of the answers that depend on these stages under this configuration, and on the canaries themselves."""
    package = Path(__file__).parent
    modules = [*sorted(package.glob("*.py")), *(package.parent / f"{name}.py" for name in sorted({*_BESIDE}))]
    also = [f"torch {torch.__version__}", repr(cfg.canaries), repr(cfg.recovery), *map(sha256, modules)]
    return stage.root() / ".cache" / "canaries" / workspace.key(cfg, stages, also)


def run(tasks: Sequence[Task], settings: ExecutorConfig, label: str) -> dict[str, Any]:
    """The answer of every task by name; those that are files already are read, the others are worked out."""
    todo = [task for task in tasks if not task.path.exists()]
    if len(todo) < len(tasks):
        log.info("%s: %d of %d are known from before", label, len(tasks) - len(todo), len(tasks))
    results = executor.in_order(fill_in, todo, settings, label=label)
    for number, (task, _) in enumerate(zip(todo, results, strict=True), start=1):
        log.info("%s, %d of %d: %s", label, number, len(todo), task.name)
    return {task.name: read_json(task.path, remedy="delete it: it is a cache") for task in tasks}


def fill_in(task: Task) -> None:
    write_json(task.path, task.work())


def run_in(
    space: Workspace, stages: Sequence[str], tasks: Sequence[Task], settings: ExecutorConfig, label: str
) -> dict[str, Any]:
    """`run` with tasks that read a workspace in which these stages have run; it is there while a task is missing."""
    if any(not task.path.exists() for task in tasks):
        with workspace.opened(space.folder, space.cfg, stages) as whole:
            log.info("%s: the market", label)
            whole.run(*stages, quiet=True)
            found = run(tasks, settings, label)
    else:
        found = run(tasks, settings, label)
    if space.folder.exists():
        shutil.rmtree(space.folder)
    return found
