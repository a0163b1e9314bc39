"""Folds of a panel by date, with nothing of a test label in a training label.

    walk_forward    train on the past, test on what follows; the past grows (expanding) or keeps its length (rolling)
    k_fold          every date tested once by a model that saw the rest
    combinatorial   every choice of test blocks, so that each date is tested on several paths
    hold_out        the last sessions of a training set apart, to stop or to calibrate on

A frame holds one row per ticker and bar with `decided_utc` and `label_end_utc`; a row's label is about the time between
the two. Rows go by date, the UTC day of `decided_utc`: all tickers of a day are on one side. scikit-learn and skfolio
cut the dates into blocks. Purging is ours, by time, because a count of rows means nothing on a panel: a training row
goes when its label and a test block, from the block's first decision to its last label's end, have an instant in
common. An embargo keeps further sessions free: after a test block where training follows it, before it in walk-forward
(the time to train and deploy).

Purging and embargo as in M. Lopez de Prado, Advances in Financial Machine Learning (2018), chapters 7 and 12.
scikit-learn and skfolio take seconds to import, so they are imported inside functions.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fusion_alpha.errors import InputError

Rows = NDArray[np.int64]
CLOCK = ["decided_utc", "label_end_utc"]
_DAY_US = 86_400_000_000


@dataclass(frozen=True)
class Fold:
    """Positions of rows in the frame, ascending; no row is in both."""

    number: int
    train: Rows
    test: Rows
    path: Rows  # of each test row: along one path every tested date is tested once


def walk_forward(
    frame: pd.DataFrame, *, train_sessions: int, test_sessions: int, expanding: bool = True, embargo_sessions: int = 0
) -> list[Fold]:
    """Folds that train on the `train_sessions` dates before each test block, or on all that are before it if expanding.

    Every date from the `train_sessions`-th on is tested once; the last block may be shorter. Raises InputError where
    the dates do not suffice, or where purging leaves nothing to train on.
    """
    _require_counts(train_sessions=train_sessions, test_sessions=test_sessions)
    clock = _Clock(frame)
    if clock.n_dates <= train_sessions:
        raise _too_few(clock.n_dates, f"more than the {train_sessions} that the first model trains on")
    from skfolio.model_selection import WalkForward

    blocks = WalkForward(test_sessions, train_sessions, expand_train=expanding, reduce_test=True)
    folds = []
    for number, (before, tested) in enumerate(blocks.split(np.empty((clock.n_dates, 1)))):
        test = clock.rows_of(tested)
        train = clock.rows_of(before)
        train = train[clock.is_before(train, test, embargo_sessions)]
        folds.append(_fold(number, train, test, np.zeros(len(test), np.int64)))
    return folds


def k_fold(frame: pd.DataFrame, *, n_folds: int, embargo_sessions: int = 0) -> list[Fold]:
    """Purged k-fold: `n_folds` consecutive blocks of dates, each tested once.

    Raises InputError where the dates do not suffice, or where purging leaves nothing to train on.
    """
    if n_folds < 2:
        raise InputError(f"n_folds = {n_folds}", rule="at least 2")
    clock = _Clock(frame)
    if clock.n_dates < n_folds:
        raise _too_few(clock.n_dates, f"one for each of {n_folds} folds at least")
    from sklearn.model_selection import KFold

    folds = []
    for number, (others, tested) in enumerate(KFold(n_folds).split(np.empty(clock.n_dates))):
        train, test = clock.rows_of(others), clock.rows_of(tested)
        train = train[clock.is_clear(train, test, embargo_sessions)]
        folds.append(_fold(number, train, test, np.zeros(len(test), np.int64)))
    return folds


def combinatorial(frame: pd.DataFrame, *, n_folds: int, n_test_folds: int, embargo_sessions: int = 0) -> list[Fold]:
    """Combinatorial purged cross-validation: each choice of `n_test_folds` of `n_folds` blocks is tested together.

    There are C(n_folds, n_test_folds) folds and C(n_folds - 1, n_test_folds - 1) paths. Raises InputError where the
    dates do not suffice, or where purging leaves nothing to train on.
    """
    if not 2 <= n_test_folds < n_folds:
        raise InputError(f"n_test_folds = {n_test_folds} of n_folds = {n_folds}", rule="at least 2, below n_folds")
    clock = _Clock(frame)
    if clock.n_dates < 2 * n_folds:
        raise _too_few(clock.n_dates, f"two for each of {n_folds} folds at least")
    from skfolio.model_selection import CombinatorialPurgedCV

    blocks = CombinatorialPurgedCV(n_folds, n_test_folds)
    splits = zip(blocks.split(np.empty((clock.n_dates, 1))), blocks.get_path_ids(), strict=True)
    folds = []
    for number, ((others, tested), paths) in enumerate(splits):
        train = clock.rows_of(others)
        parts = [clock.rows_of(block) for block in tested]
        for part in parts:
            train = train[clock.is_clear(train, part, embargo_sessions)]
        path = np.repeat(paths, [len(part) for part in parts])
        test = np.concatenate(parts)
        order = np.argsort(test)
        folds.append(_fold(number, train, test[order], path[order].astype(np.int64)))
    return folds


def hold_out(frame: pd.DataFrame, rows: Rows, *, sessions: int, embargo_sessions: int = 0) -> tuple[Rows, Rows]:
    """Part `rows` into (earlier, last): the last `sessions` dates, and what is clear of them and of the embargo.

    Raises InputError where nothing is left of the earlier part.
    """
    _require_counts(sessions=sessions)
    clock = _Clock(frame)
    dates = np.unique(clock.date[rows])
    if len(dates) <= sessions:
        raise _too_few(len(dates), f"more than the {sessions} that are held out")
    last = rows[clock.date[rows] >= dates[-sessions]]
    earlier = rows[clock.date[rows] < dates[-sessions]]
    earlier = earlier[clock.is_before(earlier, last, embargo_sessions)]
    _require_rows(earlier, "the hold-out")
    return earlier, last


class _Clock:
    """The times of a frame's rows as whole microseconds, and the date that each row belongs to."""

    def __init__(self, frame: pd.DataFrame) -> None:
        for name in CLOCK:
            if frame[name].isna().any():
                raise InputError(
                    f"row {int(frame[name].isna().argmax())} has none", column=name, rule="no missing time"
                )
        self.decided, self.label_end = (_microseconds(frame[name]) for name in CLOCK)
        if (self.label_end < self.decided).any():
            row = int((self.label_end < self.decided).argmax())
            raise InputError(
                f"row {row}: {frame['label_end_utc'].iloc[row]} is before decided_utc {frame['decided_utc'].iloc[row]}",
                column="label_end_utc",
                rule="a label is known after the decision",
            )
        days, self.date = np.unique(self.decided // _DAY_US, return_inverse=True)
        self.n_dates = len(days)
        self.first_decision = np.full(self.n_dates, np.iinfo(np.int64).max)
        np.minimum.at(self.first_decision, self.date, self.decided)
        self.last_decision = np.full(self.n_dates, np.iinfo(np.int64).min)
        np.maximum.at(self.last_decision, self.date, self.decided)

    def rows_of(self, dates: NDArray[np.integer]) -> Rows:
        chosen = np.zeros(self.n_dates, bool)
        chosen[dates] = True
        return np.flatnonzero(chosen[self.date])

    def is_before(self, rows: Rows, block: Rows, embargo_sessions: int) -> NDArray[np.bool_]:
        """Which of the rows have labels that end before the `embargo_sessions` dates before the block."""
        free_from = self.date[block].min() - embargo_sessions
        if free_from < 0:
            return np.zeros(len(rows), bool)
        return self.label_end[rows] < min(self.first_decision[free_from], self.decided[block].min())

    def is_clear(self, rows: Rows, block: Rows, embargo_sessions: int) -> NDArray[np.bool_]:
        """Which of the rows have labels before the block, or decisions after the embargo that follows it."""
        end = self.label_end[block].max()
        free_from = np.searchsorted(self.last_decision, end, side="right") + embargo_sessions
        before = self.label_end[rows] < self.decided[block].min()
        after = (self.decided[rows] > end) & (self.date[rows] >= free_from)
        return before | after


def _fold(number: int, train: Rows, test: Rows, path: Rows) -> Fold:
    _require_rows(train, f"fold {number}")
    return Fold(number, train, test, path)


def _require_rows(train: Rows, name: str) -> None:
    if not len(train):
        raise InputError(
            f"{name} has no row to train on",
            rule="training labels end before a test block begins, or begin after its embargo",
            remedy="take more history, fewer folds or a shorter embargo",
        )


def _require_counts(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise InputError(f"{name} = {value}", rule="at least 1")


def _too_few(n_dates: int, rule: str) -> InputError:
    return InputError(f"the rows have {n_dates} dates", rule=rule, remedy="take more history, or fewer folds")


def _microseconds(times: pd.Series) -> NDArray[np.int64]:
    return times.to_numpy("datetime64[us]").astype("int64")
