"""A search on screen while it runs: a line for each finished trial, and on a terminal a live view below them."""

import logging
import time
from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fusion_alpha import stage
from fusion_alpha.tuning.objective import mean_loss
from fusion_alpha.tuning.report import best, present
from fusion_alpha.tuning.study import COUNTED

log = logging.getLogger(__name__)


class Screen:
    """Progress, the best so far and what it has to beat."""

    def __init__(self, target: int, n_blocks: int) -> None:
        self._target, self._n_blocks = target, n_blocks
        self._said: set[int] | None = None
        self._started, self._done_before = time.monotonic(), 0
        self._live = Live(console=stage.console, transient=True) if stage.console.is_terminal else None

    def __enter__(self) -> "Screen":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, trials: Sequence[FrozenTrial]) -> None:
        counted = {trial.number: trial for trial in trials if trial.state in COUNTED}
        if self._said is None:  # what was done before
            self._said, self._done_before = set(counted), len(counted)
        for number in sorted(counted.keys() - self._said):
            self._said.add(number)
            leads = best([counted[said] for said in self._said]) is counted[number]
            place = f"{len(self._said)} of {self._target}"
            log.info("%s: %s", place, outcome(counted[number], "the best so far" if leads else ""))
        if self._live:
            self._live.update(self._view(trials))

    def _view(self, trials: Sequence[FrozenTrial]) -> RenderableType:
        counted = sum(trial.state in COUNTED for trial in trials)
        running = [trial for trial in trials if trial.state == TrialState.RUNNING]
        grid = Table.grid(padding=(0, 2))
        grid.add_row(
            ProgressBar(total=self._target, completed=counted, width=40),
            f"{counted} of {self._target} trials{self._time(counted)}",
        )
        for trial in running:
            done = len(trial.user_attrs.get("blocks", ()))
            grid.add_row(
                ProgressBar(total=self._n_blocks, completed=done, width=40),
                f"trial {trial.number}: {done} of {self._n_blocks} blocks",
            )
        leader, own = best(trials), present(trials)
        said = Text(f"best so far: {outcome(leader)}" if leader else "no trial is whole yet")
        against = Text(f"settings of conf/: {outcome(own)}" if own and own is not leader else "")
        return Group(grid, said, against)

    def _time(self, counted: int) -> str:
        """Time since the start, and what is left at the pace of the trials since then."""
        gone, done = time.monotonic() - self._started, counted - self._done_before
        left = f", about {_minutes(gone / done * (self._target - counted))} left" if done else ""
        return f", {_minutes(gone)}{left}"


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def outcome(trial: FrozenTrial, remark: str = "") -> str:
    """One line about a finished trial."""
    settings = ", ".join(f"{key}={value}" for key, value in trial.user_attrs["settings"].items())
    if "refused" in trial.user_attrs:
        return f"trial {trial.number}: refused, {trial.user_attrs['refused']}; {settings}"
    blocks = trial.user_attrs.get("blocks", [])
    pruned = f" so far, pruned after block {len(blocks)}" if trial.state == TrialState.PRUNED else ""
    return f"trial {trial.number}: loss {mean_loss(blocks):.4f}{pruned}{', ' * bool(remark)}{remark}; {settings}"
