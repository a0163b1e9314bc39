"""The study and its trials: which settings come next, one trial after the other, and what a death leaves.

The database is tuning.db at `stage.root()` (SQLite, write-ahead log). Processes take trials in turn, under one lock:
whoever holds it fails the trials of dead processes and puts them back in the queue, counts, and takes the next trial,
so that no trial is lost, doubled or one too many. A process is dead when the file that it keeps locked is free: the
system lets go of it at once, and nothing else does, neither a long epoch nor a machine that sleeps.

The sampler is made anew for every trial, seeded by `tune.seed` and the trial's place among those that count. So no two
processes draw the same, and a search by one process that was killed and goes on takes the settings that it would have
taken anyway (with cmaes other ones: Optuna seeds it by the trial's number too, which a repeated trial moves). The first
trial has the configuration's own settings: what the search has to beat.
"""

import hashlib
import json
import logging
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
import torch
from filelock import FileLock, Timeout
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import DatabaseError

from fusion_alpha import files, samples, stage, tables, tracking
from fusion_alpha.config import Config
from fusion_alpha.errors import InputError
from fusion_alpha.tuning import space
from fusion_alpha.tuning.objective import Development, mean_loss, score

log = logging.getLogger(__name__)

SAMPLERS = ("tpe", "random", "cmaes", "grid")
COUNTED = (TrialState.COMPLETE, TrialState.PRUNED)  # what --trials counts
RETRIES = 3  # of a trial whose process died; a search that is killed thrice loses none
_BUSY_S = 60.0
_STARTUP_TRIALS = 5  # finished before any is pruned


class Interrupted(Exception):
    """The user, the clock or the death of the parent ends a trial; it goes back in the queue."""


def database_url() -> str:
    return f"sqlite:///{stage.root() / 'tuning.db'}"


def lock() -> FileLock:
    """Held while a trial is taken or put back."""
    return FileLock(stage.root() / "tuning.db.lock")


@contextmanager
def _presence() -> Iterator[str]:
    """A name for this process, by which others can tell that it lives: that of a file that is locked until then."""
    name = f"{os.getpid()}.{secrets.token_hex(4)}"
    path = _presence_file(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path):
            yield name
    finally:
        path.unlink(missing_ok=True)


def _is_gone(name: str) -> bool:
    path = _presence_file(name)
    if path.exists():
        try:
            with FileLock(path, timeout=0):
                path.unlink(missing_ok=True)
        except Timeout:
            return False
    return True


def _presence_file(name: str) -> Path:
    return stage.root() / ".cache" / "tuning" / f"{name}.lock"


def open_study(name: str, sampler: str, cfg: Config) -> optuna.Study:
    """The study of this name, made where there is none.

    Raises InputError where it was begun with other settings or data, or where the database cannot be used.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space.check(cfg)
    database = stage.root() / "tuning.db"
    try:
        with lock():
            with closing(sqlite3.connect(database)) as plain:
                plain.execute("PRAGMA journal_mode=WAL")
            options = {"connect_args": {"timeout": _BUSY_S}}
            storage = optuna.storages.RDBStorage(database_url(), engine_kwargs=options)
            study = optuna.create_study(
                storage=storage, study_name=name, direction="minimize", pruner=_pruner(cfg), load_if_exists=True
            )
            _begin(study, sampler, cfg)
            return study
    except (sqlite3.DatabaseError, DatabaseError, RuntimeError, UnicodeDecodeError) as error:
        raise InputError(
            f"the database of searches cannot be used ({str(error).splitlines()[0]})",
            file=database,
            rule="a SQLite file of this version of Optuna",
            remedy=f"`optuna storage upgrade --storage {database_url()}` if Optuna is newer, else move the file away",
        ) from None


def _begin(study: optuna.Study, sampler: str, cfg: Config) -> None:
    """Settings and first trial of a new study; of an old one, that they are the present ones."""
    asked = question(sampler, cfg)
    known = study.user_attrs.get("question")
    if known is None:
        study.set_user_attr("question", asked)
        point = space.present(cfg)
        if point is None:
            log.warning("the present settings lie outside tune.space: the search has nothing to compare with")
        else:
            study.enqueue_trial(point, user_attrs={"present": True})
        return
    for key in sorted({*known, *asked}):
        if known.get(key) != asked.get(key):
            raise InputError(
                f"study {study.study_name!r} was begun with {key} = {known.get(key)}, now it is {asked.get(key)}",
                rule="the trials of one study answer one question",
                remedy="set it back, or begin another with --study NAME",
            )


def question(sampler: str, cfg: Config) -> dict[str, Any]:
    """{name: value} of all that the score of a point depends on, and of what chooses points."""
    parts = {name: asdict(getattr(cfg, name)) for name in ("train", "model", "contradiction", "tune")}
    flat = dict(tracking.leaves({"sampler": sampler} | parts))
    paths = {name: tables.schema(name).path for name in samples.INPUTS}
    return json.loads(json.dumps(flat | {str(path): files.sha256(path) for path in paths.values() if path.exists()}))


def run_trials(
    study: optuna.Study,
    development: Development,
    cfg: Config,
    device: torch.device,
    trials: int,
    should_stop: Callable[[], bool],
) -> None:
    """Run one trial after the other until the study has, or other processes have begun, `trials` of them.

    should_stop: asked after every epoch and between trials. A trial that is stopped, or ends in an error, is put back.
    """
    grid = _grid(cfg) if study.user_attrs["question"]["sampler"] == "grid" else None
    with _presence() as name:
        while not should_stop():
            with lock():
                if not take_next(study, cfg, trials, grid):
                    return
                trial = study.ask()
                point = _begin_trial(trial, name, cfg)
            try:
                value = _score(trial, point, development, cfg, device, should_stop)
            except optuna.TrialPruned:
                study.tell(trial, state=TrialState.PRUNED)
            except BaseException as error:
                study.tell(trial, state=TrialState.FAIL)
                with lock():
                    _put_back(study, study.get_trials(deepcopy=False)[trial.number])
                if not isinstance(error, Interrupted):
                    raise
            else:
                study.tell(trial, value)


def take_next(study: optuna.Study, cfg: Config, trials: int, grid: list[space.Point] | None) -> bool:
    """Make the next trial ready to be asked for; False where none is left to take. Call with the lock held."""
    fail_dead(study)
    known = study.get_trials(deepcopy=False)
    taken = [trial for trial in known if trial.state in (*COUNTED, TrialState.RUNNING)]
    if len(taken) >= trials:
        return False
    sampler = study.user_attrs["question"]["sampler"]
    study.sampler = _sampler(sampler, cfg.tune.seed, len(taken), given_up(known))
    if grid is None or any(trial.state == TrialState.WAITING for trial in known):
        return True
    visited = [trial.user_attrs.get("settings") for trial in known]
    point = next((point for point in grid if point not in visited), None)
    if point is None:
        return False
    study.enqueue_trial(point)
    return True


def _grid(cfg: Config) -> list[space.Point]:
    """The points of the grid in the order in which they are tried."""
    return sorted(space.grid(cfg), key=lambda point: _draw(cfg.tune.seed, json.dumps(point)))


def fail_dead(study: optuna.Study) -> None:
    """Fail the running trials of dead processes and put them back in the queue. Call with the lock held."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        process = trial.user_attrs.get("process")  # written under the lock: without it, the process died in between
        if process is not None and not _is_gone(process):
            continue
        told = study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
        if told.state == TrialState.FAIL:
            _put_back_after_death(study, trial)


def _put_back_after_death(study: optuna.Study, trial: FrozenTrial) -> None:
    retries = trial.user_attrs.get("retries", 0) + 1
    if retries <= RETRIES:
        log.warning("trial %d: its process is gone; it is repeated", trial.number)
        _put_back(study, trial, retries)
    else:
        log.warning("trial %d: its process is gone for the %dth time; it is given up", trial.number, retries)


def _put_back(study: optuna.Study, trial: FrozenTrial, retries: int | None = None) -> None:
    """Queue a failed trial again: its settings, where all were known, and what its sampler keeps in the study."""
    whole = "settings" in trial.user_attrs
    kept: dict[str, Any] = {key: trial.user_attrs[key] for key in ("present", "retries") if key in trial.user_attrs}
    kept |= {"repeats": trial.number} | ({} if retries is None else {"retries": retries})
    study.add_trial(
        optuna.create_trial(
            state=TrialState.WAITING,
            params=trial.params if whole else {},
            distributions=trial.distributions if whole else {},
            user_attrs=kept,
            system_attrs={
                key: value for key, value in trial.system_attrs.items() if key.startswith(("cma:", "fixed_params"))
            },
        )
    )


def given_up(trials: Sequence[FrozenTrial]) -> int:
    """Failed trials that were not put back."""
    failed = sum(trial.state == TrialState.FAIL for trial in trials)
    return failed - sum("repeats" in trial.user_attrs for trial in trials)


def _begin_trial(trial: optuna.Trial, process: str, cfg: Config) -> space.Point:
    """Say in the study whose trial it is and with which settings. Call with the lock held."""
    trial.set_user_attr("process", process)
    point = space.suggest(trial, cfg)
    if "present" not in trial.user_attrs:
        point = space.settings(point)
    trial.set_user_attr("settings", point)
    return point


def _score(
    trial: optuna.Trial,
    point: space.Point,
    development: Development,
    base: Config,
    device: torch.device,
    should_stop: Callable[[], bool],
) -> float:
    def on_block(results: list[dict[str, Any]]) -> None:
        trial.set_user_attr("blocks", results)
        trial.report(mean_loss(results), step=len(results))
        if len(results) < len(development.blocks) and trial.should_prune():
            raise optuna.TrialPruned(f"after block {len(results)}")

    def on_epoch() -> None:
        if should_stop():
            raise Interrupted

    try:
        return score(development, base, space.apply(base, point), device, on_block, on_epoch)
    except InputError as error:  # settings that exclude each other, or a training that diverges: no good point
        trial.set_user_attr("refused", str(error).splitlines()[0])
        raise optuna.TrialPruned("refused") from None


def _sampler(name: str, seed: int, place: int, n_given_up: int) -> optuna.samplers.BaseSampler:
    """The sampler of one trial; a trial that was given up is not drawn again."""
    own = _draw(seed, f"{place} {n_given_up}") % (1 << 32)
    if name == "tpe":
        return optuna.samplers.TPESampler(seed=own)
    if name == "cmaes":
        return optuna.samplers.CmaEsSampler(seed=own, warn_independent_sampling=False)
    return optuna.samplers.RandomSampler(seed=own)  # grid: every parameter is given, nothing is sampled


def _pruner(cfg: Config) -> optuna.pruners.BasePruner:
    if cfg.tune.pruner == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=_STARTUP_TRIALS)
    if cfg.tune.pruner == "asha":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
    return optuna.pruners.NopPruner()


def _draw(seed: int, what: str) -> int:
    """64 random bits that depend on the seed and the words alone."""
    return int.from_bytes(hashlib.sha256(f"{seed} {what}".encode()).digest()[:8])
