"""The processes of a search: started, watched, replaced when they die, and ended at the end of an epoch.

Every worker is a process of its own with its own tables, so that a kill (by the user, by a lack of memory) costs one
trial, which another worker repeats. The parent runs no trial: it shows what goes on and records what is finished.
"""

import logging
import multiprocessing
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from multiprocessing.process import BaseProcess
from types import FrameType

import optuna
from optuna.trial import FrozenTrial, TrialState

from fusion_alpha import stage, training
from fusion_alpha.config import Config
from fusion_alpha.errors import InputError
from fusion_alpha.tuning import space
from fusion_alpha.tuning.objective import Development
from fusion_alpha.tuning.study import COUNTED, RETRIES, fail_dead, given_up, lock, open_study, run_trials

log = logging.getLogger(__name__)

_POLL_S = 0.5
_PATIENCE_S = 30.0  # for the epoch that runs when a worker is asked to end
_BAD_INPUT = 2  # exit status of a worker
Show = Callable[[Sequence[FrozenTrial]], None]


@dataclass(frozen=True)
class Search:
    name: str
    sampler: str
    trials: int
    workers: int
    timeout_s: float | None
    cfg: Config

    def target(self, trials: Sequence[FrozenTrial] = ()) -> int:
        """Trials to run: a grid may have fewer points than were asked for, and some that no process survives."""
        if self.sampler != "grid":
            return self.trials
        return min(self.trials, self._points - given_up(trials))

    @cached_property
    def _points(self) -> int:
        points = space.grid(self.cfg)
        own = space.present(self.cfg)
        return len(points) + (own is not None and own not in points)


class WorkerFailed(Exception):
    """A worker ended by an error that it has reported; `status` is its exit status."""

    def __init__(self, status: int, problem: str) -> None:
        super().__init__(problem)
        self.status = status


def run(search: Search, study: optuna.Study, show: Show) -> str:
    """Run the search's trials; returns "done", "interrupted" or "timeout".

    show: called with all trials about twice a second until then; trials that are finished while the workers end are the
    caller's to show. SIGINT and SIGTERM end the search at the end of the running epochs, a second one at once; the
    trials that were running are repeated when the search goes on. Raises WorkerFailed.
    """
    started = time.monotonic()
    with _signals() as signals, _Team(search) as team:
        while True:
            trials = study.get_trials(deepcopy=False)
            show(trials)
            counted = sum(trial.state in COUNTED for trial in trials)
            target = search.target(trials)
            if counted >= target:
                return "done"
            if signals:
                log.warning("ending after the running epochs; again to end at once")
                return "interrupted"
            if search.timeout_s is not None and time.monotonic() - started > search.timeout_s:
                return "timeout"
            died = team.reap(counted)
            if died or not team.members:
                with lock():
                    fail_dead(study)
                trials = study.get_trials(deepcopy=False)
            running = sum(trial.state == TrialState.RUNNING for trial in trials)
            if counted + running < target:
                team.fill(min(search.workers, target - counted))
            time.sleep(_POLL_S)


class _Team:
    """The worker processes; leaving the context ends them."""

    def __init__(self, search: Search) -> None:
        self.members: list[BaseProcess] = []
        self._search = search
        self._deaths = 0  # since a trial was finished
        self._counted = 0

    def __enter__(self) -> "_Team":
        return self

    def __exit__(self, *error: object) -> None:
        for process in self.members:
            process.terminate()
        deadline = time.monotonic() + _PATIENCE_S
        for process in self.members:
            try:
                process.join(max(deadline - time.monotonic(), 0))
            except KeyboardInterrupt:
                deadline = 0.0
            if process.is_alive():
                process.kill()
                process.join()

    def fill(self, size: int) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would share torch's and SQLite's state
        while len(self.members) < size:
            process = context.Process(target=_work, args=(self._search,), daemon=True)
            before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited: the terminal's Ctrl-C is the parent's
            try:
                process.start()
            finally:
                signal.signal(signal.SIGINT, before)
            self.members.append(process)

    def reap(self, counted: int) -> bool:
        """Let go of the ended; True when one was killed. Raises WorkerFailed for one that failed."""
        ended = [process for process in self.members if process.exitcode is not None]
        self.members = [process for process in self.members if process.exitcode is None]
        if counted > self._counted:
            self._counted, self._deaths = counted, 0
        for process in ended:
            status = process.exitcode or 0
            if status > 0:
                raise WorkerFailed(status, "a worker stopped with the error above")
            if status < 0:
                self._deaths += 1
                log.warning("a worker was killed (%s)", signal.Signals(-status).name)
        if self._deaths > (RETRIES + 1) * self._search.workers + 1:  # a deadly trial for each, and one more
            raise WorkerFailed(1, f"{self._deaths} workers were killed and no trial was finished; is memory short?")
        return any(process.exitcode for process in ended)


@contextmanager
def _signals() -> Iterator[list[int]]:
    """The signals that arrived; the second raises KeyboardInterrupt."""
    arrived: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        arrived.append(number)
        if len(arrived) > 1:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield arrived
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _work(search: Search) -> None:
    """A worker process, from its start to its end, which the parent's death brings too."""
    asked_to_end = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: asked_to_end.set())
    parent = multiprocessing.parent_process()
    stage.set_up("tune")

    def should_stop() -> bool:
        return asked_to_end.is_set() or parent is None or not parent.is_alive()

    try:
        device = training.set_up(search.cfg.train)
        study = open_study(search.name, search.sampler, search.cfg)
        run_trials(study, Development.read(search.cfg), search.cfg, device, search.trials, should_stop)
    except InputError as error:
        stage.console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        sys.exit(_BAD_INPUT)
