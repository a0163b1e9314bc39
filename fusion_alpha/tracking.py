"""The record of every training and every test in MLflow: one experiment per data source, one run per training.

A search for settings is a run of its own with one child per trial: trials count among what was tried on the data.

The database is mlflow.db at `stage.root()`, the artifacts stand beside it; DVC knows neither, because both hold
times and identifiers of runs. Nothing here leaves the machine, and no model is logged: the checkpoint is DVC's.

MLflow takes seconds to import, so it is imported inside functions.
"""

import hashlib
import logging
import os
import socket
import sqlite3
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from filelock import FileLock

from fusion_alpha import files, stage
from fusion_alpha.config import Config
from fusion_alpha.errors import InputError

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

log = logging.getLogger(__name__)

INPUTS = (Path("data/processed"), Path("data/features"))  # layers that a training reads
_BATCH = 1000  # MLflow's limit of metrics a call
_MAX_RUNS = 50_000  # MLflow's limit of runs a search
_LOCK_S = 120.0


class TrainingRun:
    """A run that is open; `training_run` makes it and closes it."""

    def __init__(self, client: "MlflowClient", run_id: str, cfg: Config) -> None:
        self.id = run_id
        self._client = client
        self._cfg = cfg

    def log_curves(self, curves: pd.DataFrame) -> None:
        """Log one metric per column and epoch; a column `epoch` gives the steps, else rows count from 0.

        Missing values are left out, e.g. of a loss that is computed every other epoch.
        """
        from mlflow.entities import Metric

        steps = curves["epoch"] if "epoch" in curves else pd.RangeIndex(len(curves))
        now = _now_ms()
        points = [
            Metric(str(name), float(value), now, int(step))
            for name in curves.columns.drop("epoch", errors="ignore")
            for step, value in zip(steps, curves[name], strict=True)
            if np.isfinite(value)
        ]
        for start in range(0, len(points), _BATCH):
            self._client.log_batch(self.id, metrics=points[start : start + _BATCH])

    def finish(self, model_id: str, metrics: Mapping[str, Any], artifacts: Sequence[Path] = ()) -> None:
        """Name the checkpoint that came out, with its final numbers and its files (or folders)."""
        name = _experiment_name() or f"{self._cfg.model.name}-{model_id}"
        _log(self._client, self.id, metrics, {"model_id": model_id, "mlflow.runName": name}, artifacts)

    def record(self, metrics: Mapping[str, Any], tags: Mapping[str, str], artifacts: Sequence[Path] = ()) -> None:
        """Log numbers, tags and files of a run that makes no checkpoint."""
        _log(self._client, self.id, metrics, tags, artifacts)


@dataclass(frozen=True)
class Trial:
    """A finished trial of a search: its whole configuration and what it scored."""

    number: int
    cfg: Config
    metrics: Mapping[str, Any]
    folds: pd.DataFrame  # one row a fold, in order; its columns become metrics with the fold as step
    tags: Mapping[str, str]
    start_ms: int
    end_ms: int


class SearchRun:
    """The run of a search that is open; `search_run` makes it and closes it."""

    def __init__(self, client: "MlflowClient", experiment: str, run_id: str, cfg: Config) -> None:
        self.id = run_id
        self._client = client
        self._experiment = experiment
        self._tags = _tags(cfg)

    def add(self, trials: Sequence[Trial]) -> None:
        """Record trials that are not there yet as children; safe to repeat, whatever interrupted it before."""
        from mlflow.entities import Metric

        with _lock():
            known = {run.data.tags["trial"]: run.info for run in self._children()}
            for trial in trials:
                found = known.get(str(trial.number))
                if found is not None and found.status == "FINISHED":
                    continue
                tags = self._tags | {"mlflow.parentRunId": self.id, "trial": str(trial.number)} | dict(trial.tags)
                tags |= {"config": config_hash(trial.cfg), "model": trial.cfg.model.name}
                run_id = found.run_id if found else self._create(f"trial-{trial.number}", trial.start_ms, tags)
                _log_params(self._client, run_id, trial.cfg)
                points = [
                    Metric(f"fold/{name}", float(value), trial.end_ms, step)
                    for name in trial.folds.columns
                    for step, value in enumerate(trial.folds[name], start=1)
                ]
                self._client.log_batch(run_id, metrics=points)
                _log(self._client, run_id, trial.metrics, {}, ())
                self._client.set_terminated(run_id, "FINISHED", end_time=trial.end_ms)

    def finish(self, metrics: Mapping[str, Any], artifacts: Sequence[Path]) -> None:
        _log(self._client, self.id, metrics, {}, artifacts)

    def _create(self, name: str, start_ms: int, tags: dict[str, str]) -> str:
        return str(self._client.create_run(self._experiment, start_time=start_ms, run_name=name, tags=tags).info.run_id)

    def _children(self) -> "list[Run]":
        return list(
            self._client.search_runs(
                [self._experiment], f"tags.`mlflow.parentRunId` = '{self.id}'", max_results=_MAX_RUNS
            )
        )


@contextmanager
def search_run(cfg: Config, name: str, known: str | None) -> Iterator[SearchRun]:
    """Open the run of a search: the `known` one where it exists, else a new one. KILLED when the body raises."""
    from mlflow.exceptions import MlflowException

    client, experiment = _open(cfg)
    _close_orphans(client, experiment)
    try:
        run_id = client.get_run(known).info.run_id if known else None
    except MlflowException:  # another database than when the search began
        run_id = None
    if run_id is None:
        tags = _tags(cfg) | {"search": name}
        run_id = client.create_run(experiment, run_name=name, tags=tags).info.run_id
        _log_params(client, run_id, cfg)
    client.set_tag(run_id, "process", process_name())
    client.update_run(run_id, status="RUNNING")
    try:
        yield SearchRun(client, experiment, str(run_id), cfg)
    except BaseException:
        client.set_terminated(run_id, "KILLED")
        raise
    client.set_terminated(run_id, "FINISHED")


@contextmanager
def training_run(cfg: Config, experiment_name: str | None = None) -> Iterator[TrainingRun]:
    """Open a run for one training: parameters and tags at once, FAILED when the body raises or is interrupted.

    experiment_name: for what is no trial of a strategy; else the data source's. A run whose process was killed is
    marked FAILED by the next training on the same machine.
    """
    client, experiment = _open(cfg, experiment_name)
    _close_orphans(client, experiment)
    tags = _tags(cfg) | {"process": process_name()}
    run = client.create_run(experiment, run_name=_experiment_name() or cfg.model.name, tags=tags)
    run_id = run.info.run_id
    _log_params(client, run_id, cfg)
    try:
        yield TrainingRun(client, run_id, cfg)
    except BaseException:
        client.set_terminated(run_id, "FAILED")
        raise
    client.set_terminated(run_id, "FINISHED")


def record_evaluation(cfg: Config, model_id: str, metrics: Mapping[str, Any], artifacts: Sequence[Path] = ()) -> str:
    """Attach test metrics, as `test/NAME`, to the run of this model, configuration and experiment; returns its id.

    Nested metrics get dotted names; what is no finite number is left out.

    DVC trains a configuration once and may then take the checkpoint from its cache, or evaluate it under other
    parameters. Then no such run exists and one is made, tagged `reconciled` and, where it is known, `trained_in`.
    Doing it again changes nothing.
    """
    client, experiment = _open(cfg)
    trained = client.search_runs([experiment], f"tags.model_id = '{model_id}'", order_by=["attributes.start_time DESC"])
    tags = _tags(cfg)
    same = [run for run in trained if all(run.data.tags.get(key) == tags[key] for key in ("config", "dvc.exp_name"))]
    named = {f"test/{name}": value for name, value in leaves(metrics)}
    if same:
        _log(client, same[0].info.run_id, named, {}, artifacts)
        return str(same[0].info.run_id)
    tags |= {"model_id": model_id, "reconciled": "true"}
    tags |= {"trained_in": trained[-1].info.run_id} if trained else {}
    name = _experiment_name() or f"{cfg.model.name}-{model_id}"
    run_id = str(client.create_run(experiment, run_name=name, tags=tags).info.run_id)
    _log_params(client, run_id, cfg)
    _log(client, run_id, named, {}, artifacts)
    client.set_terminated(run_id, "FINISHED")
    return run_id


def prepare() -> str:
    """Create the tracking database where there is none and return its URI; safe from many processes at once.

    Raises InputError where the file is damaged, or of another version of MLflow.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    database = stage.root() / "mlflow.db"
    uri = f"sqlite:///{database}"
    try:
        with _lock():
            with closing(sqlite3.connect(database)) as plain:
                plain.execute("PRAGMA schema_version")
            MlflowClient(tracking_uri=uri).search_experiments(max_results=1)
    except (sqlite3.DatabaseError, MlflowException, UnicodeDecodeError) as error:
        raise InputError(
            f"the tracking database cannot be used ({str(error).splitlines()[0]})",
            file=database,
            rule="a SQLite file of this version of MLflow",
            remedy=f"`mlflow db upgrade {uri}` if MLflow is newer than the file, else move it away: a new one is made",
        ) from None
    return uri


def _lock() -> FileLock:
    return FileLock(stage.root() / "mlflow.db.lock", timeout=_LOCK_S)


def _open(cfg: Config, experiment_name: str | None = None) -> "tuple[MlflowClient, str]":
    uri = prepare()
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    name = experiment_name or cfg.data.source
    with _lock():
        found = client.get_experiment_by_name(name)
        if found is not None:
            return client, str(found.experiment_id)
        folder = stage.root() / "mlartifacts" / name
        return client, str(client.create_experiment(name, artifact_location=folder.as_uri()))


def _log_params(client: "MlflowClient", run_id: str, cfg: Config) -> None:
    from mlflow.entities import Param
    from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH, MAX_PARAMS_TAGS_PER_BATCH

    params = [Param(key, value[:MAX_PARAM_VAL_LENGTH]) for key, value in flatten(cfg).items()]
    for start in range(0, len(params), MAX_PARAMS_TAGS_PER_BATCH):
        client.log_batch(run_id, params=params[start : start + MAX_PARAMS_TAGS_PER_BATCH])


def _log(
    client: "MlflowClient",
    run_id: str,
    metrics: Mapping[str, Any],
    tags: Mapping[str, str],
    artifacts: Sequence[Path],
) -> None:
    """Log the finite numbers that differ from what the run already holds; a repetition adds no history."""
    from mlflow.entities import Metric, RunTag

    known = client.get_run(run_id).data.metrics
    now = _now_ms()
    finite = {
        name: float(value)
        for name, value in leaves(metrics)
        if isinstance(value, int | float | np.number) and not isinstance(value, bool) and np.isfinite(value)
    }
    points = [Metric(name, value, now, 0) for name, value in finite.items() if known.get(name) != value]
    client.log_batch(run_id, metrics=points[:_BATCH], tags=[RunTag(key, value) for key, value in tags.items()])
    for start in range(_BATCH, len(points), _BATCH):
        client.log_batch(run_id, metrics=points[start : start + _BATCH])
    for path in artifacts:
        if path.is_dir():
            client.log_artifacts(run_id, str(path), artifact_path=path.name)
        else:
            client.log_artifact(run_id, str(path))


def flatten(cfg: Config) -> dict[str, str]:
    """Configuration -> {dotted key: value as text}, without absent blocks and without what only a search reads."""

    absent = {f"data.{block}" for block in ("lab", "stocknet", "csv", "yahoo") if getattr(cfg.data, block) is None}
    kept = {name: part for name, part in asdict(cfg).items() if name != "tune"}
    return {key: str(value) for key, value in leaves(kept) if key not in absent}


def config_hash(cfg: Config) -> str:
    """One configuration, as the tag `config` of its runs."""
    return hashlib.sha256(repr(sorted(flatten(cfg).items())).encode()).hexdigest()[:16]


def leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of all that nested mappings hold."""
    for name, child in node.items():
        if isinstance(child, Mapping):
            yield from leaves(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", child


def _tags(cfg: Config) -> dict[str, str]:
    commit, dirty = git_state()
    return {
        "dvc.exp_name": _experiment_name() or "workspace",
        "git.commit": commit,
        "git.dirty": dirty,
        "config": config_hash(cfg),
        "model": cfg.model.name,
        "hypothesis": cfg.hypothesis,
        "verdict": "open",
        "simulated": str(cfg.data.simulated).lower(),
    } | _data_hashes()


def _data_hashes() -> dict[str, str]:
    """SHA-256 of each table that a training can read, taken from the files themselves."""
    paths = [path for layer in INPUTS for path in sorted(layer.glob("*.parquet"))]
    return {f"data.{path.stem}": files.sha256(path) for path in paths}


def git_state() -> tuple[str, str]:
    """(commit, "true" or "false" for uncommitted changes); ("none", "unknown") outside git."""
    try:
        commit = _git_output("rev-parse", "HEAD")
        return commit, str(bool(_git_output("status", "--porcelain", "--untracked-files=no"))).lower()
    except (FileNotFoundError, subprocess.CalledProcessError):
        return "none", "unknown"


def _git_output(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()


def _experiment_name() -> str | None:
    return os.environ.get("DVC_EXP_NAME") or None


def process_name() -> str:
    """This process, for those who must know later whether it still lives."""
    return f"{socket.gethostname()}:{os.getpid()}"


def is_gone(process: str) -> bool:
    """True for the name of a process of this machine that has ended; one of another machine may live."""
    host, _, pid = process.rpartition(":")
    return host == socket.gethostname() and not _alive(int(pid))


def _close_orphans(client: "MlflowClient", experiment: str) -> None:
    """Mark the RUNNING runs of this machine whose process is gone: a killed process cannot say so itself."""
    for run in client.search_runs([experiment], "attributes.status = 'RUNNING'"):
        if is_gone(run.data.tags.get("process", "")):
            log.warning("run %s: its process is gone; marked FAILED", run.info.run_name)
            client.set_terminated(run.info.run_id, "FAILED")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _now_ms() -> int:
    return pd.Timestamp.now("UTC").value // 1_000_000
