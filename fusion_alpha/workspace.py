"""Stages of the pipeline in a folder of their own: layers of another configuration than the one of params.yaml.

`data/`, `models/` and `metrics/` of the checkout hold the run that params.yaml describes. Simulated markets and
benchmarks need the same stages on other data, so they run here with the workspace as working folder: the real ones,
started by name as DVC starts them, each once. A stage that is done leaves a mark, so that an interrupted preparation
goes on where it was; a lock keeps a second process out meanwhile.

What stages depend on is said once, in dvc.yaml: `key` hashes the parameters and the files that it names for them. Files
that no stage writes (the head of the sentiment, a table of sectors) are linked into the workspace. Of the checkout's
caches only that of the embeddings is shared, so nothing that runs here leaves a trace in its records.
"""

import contextlib
import hashlib
import importlib
import json
import logging
import operator
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial, reduce
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from filelock import FileLock

from fusion_alpha import config, stage, tables
from fusion_alpha.config import Config
from fusion_alpha.files import sha256, write_text

REPOSITORY = Path(__file__).parents[1]
PARAMS = config.PARAMS  # below the workspace
_CODE = ("stages", "fusion_alpha", "kernels", "schemas")
_SHARED = Path(".cache/embeddings")
_OURS = ("fusion_alpha", "stages")


@dataclass(frozen=True)
class Workspace:
    """The folder, and the configuration of the stages that run in it."""

    folder: Path
    cfg: Config

    def run(self, *names: str, quiet: bool = False) -> None:
        """Run those of the stages that have not run here, in the given order.

        quiet: no progress and no log below errors, for many workspaces side by side. Raises what the stage raises.
        """
        for name in names:
            self.once(name, partial(self._run, name, quiet))

    def once(self, step: str, work: Callable[[], object]) -> None:
        """Do `work`, unless a step of that name is done; for what belongs between stages."""
        mark = self.folder / ".done" / step
        if not mark.exists():
            work()
            write_text(mark, "")

    def read(self, table: str, columns: list[str] | None = None) -> pd.DataFrame:
        return tables.read(table, self.folder / tables.schema(table).path, columns)

    def configuration(self, *overrides: str) -> Config:
        """The configuration of the workspace with `key=value` or `group=choice` changed."""
        return config.load(list(overrides), self.folder / PARAMS)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Work with the workspace as working folder and as main checkout; of the whole process, so not in threads."""
        before = os.environ.get("DVC_ROOT")
        os.environ["DVC_ROOT"] = str(self.folder)
        try:
            with contextlib.chdir(self.folder):
                yield
        finally:
            os.environ.pop("DVC_ROOT")
            if before is not None:
                os.environ["DVC_ROOT"] = before

    def _run(self, name: str, quiet: bool) -> None:
        module = importlib.import_module(f"stages.{name}")
        with self.inside(), hushed() if quiet else contextlib.nullcontext():
            module.main(self.cfg)


@contextlib.contextmanager
def opened(folder: Path, cfg: Config, stages: Sequence[str]) -> Iterator[Workspace]:
    """The workspace at `folder` for these stages, made where it is not there yet; other processes wait for the end.

    The folder's name should hold `key(cfg, stages)`: marks in it say nothing about what made them.
    """
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        shared = stage.root() / _SHARED
        shared.mkdir(parents=True, exist_ok=True)
        _link(folder / _SHARED, shared)
        for path in _inputs(cfg, stages):
            if not path.is_absolute() and path.parts[0] not in _CODE and (REPOSITORY / path).exists():
                _link(folder / path, REPOSITORY / path)
        write_text(folder / PARAMS, yaml.safe_dump(asdict(cfg), sort_keys=False))
        yield Workspace(folder, cfg)


def key(cfg: Config, stages: Sequence[str], also: Iterable[str] = ()) -> str:
    """Hash of all that the outputs of these stages depend on by dvc.yaml, and of whatever else the caller names."""
    chosen = [pipeline()[name] for name in stages]
    values = {param: _value(asdict(cfg), param) for one in chosen for param in one["params"]}
    parts = [*also, json.dumps(values, sort_keys=True)]
    parts += [f"{path} {digest}" for dep in _inputs(cfg, stages) for path, digest in _contents(REPOSITORY / dep)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Errors alone reach the terminal."""
    loggers = [logging.getLogger(name) for name in _OURS]
    levels = [logger.level for logger in loggers]
    shown = stage.console.quiet
    try:
        stage.console.quiet = True
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        stage.console.quiet = shown
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@cache
def pipeline() -> dict[str, dict[str, Any]]:
    """The stages of dvc.yaml."""
    stages: dict[str, dict[str, Any]] = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    return stages


def _inputs(cfg: Config, stages: Sequence[str]) -> list[Path]:
    """Files and folders that the stages depend on and that no stage writes, in order."""
    written = {out if isinstance(out, str) else next(iter(out)) for one in pipeline().values() for out in _outs(one)}
    plain = asdict(cfg)
    deps = {dep for name in stages for dep in pipeline()[name]["deps"]} - written
    return sorted(Path(re.sub(r"\$\{([\w.]+)\}", lambda found: str(_value(plain, found[1])), dep)) for dep in deps)


def _outs(one: dict[str, Any]) -> list[Any]:
    return [out for kind in ("outs", "metrics", "plots") for out in one.get(kind, [])]


def _value(plain: Any, name: str) -> Any:
    """What a dotted name stands for in nested mappings."""
    return reduce(operator.getitem, name.split("."), plain)


@cache
def _contents(path: Path) -> tuple[tuple[str, str], ...]:
    """(name, SHA-256) of a file, or of the files of a folder: as they were when this process first asked."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return tuple((os.path.relpath(file, REPOSITORY), sha256(file)) for file in files if "__pycache__" not in file.parts)


def _link(link: Path, target: Path) -> None:
    if not link.is_symlink():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target.resolve())
