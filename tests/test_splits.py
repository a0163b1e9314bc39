"""Splits by date: expected folds spelled out, and properties over random calendars, panels and label lengths."""

from dataclasses import dataclass
from math import comb

import numpy as np
import pandas as pd
import pytest

from fusion_alpha import splits
from fusion_alpha.errors import InputError

RANDOM_PANELS = 1000
DAY = 1440  # minutes


def daily(n_dates: int, tickers: int = 2, label_days: float = 0.0) -> pd.DataFrame:
    """Rows in key order; decided at 21:01, the label known `label_days` later."""
    decided = pd.date_range("2024-01-01 21:01", periods=n_dates, tz="UTC")
    frame = pd.DataFrame({"decided_utc": decided.append([decided] * (tickers - 1))})
    return frame.assign(label_end_utc=frame["decided_utc"] + pd.Timedelta(days=label_days))


def days(frame: pd.DataFrame, rows) -> list[int]:
    return sorted(set(frame["decided_utc"].iloc[rows].dt.day_of_year - 1))


# folds spelled out


def test_walk_forward_expands():
    frame = daily(10)
    folds = splits.walk_forward(frame, train_sessions=4, test_sessions=3)
    assert [days(frame, fold.train) for fold in folds] == [[0, 1, 2, 3], [0, 1, 2, 3, 4, 5, 6]]
    assert [days(frame, fold.test) for fold in folds] == [[4, 5, 6], [7, 8, 9]]
    assert folds[0].test.tolist() == [4, 5, 6, 14, 15, 16], "both tickers"


def test_walk_forward_rolls_purges_and_keeps_an_embargo():
    frame = daily(11, label_days=1.5)
    folds = splits.walk_forward(frame, train_sessions=4, test_sessions=3, expanding=False, embargo_sessions=1)
    # the label of day 1 ends in the middle of day 2, before the embargoed day 3 decides; that of day 2 does not
    assert [days(frame, fold.train) for fold in folds] == [[0, 1], [3, 4], [6, 7]]
    assert [days(frame, fold.test) for fold in folds] == [[4, 5, 6], [7, 8, 9], [10]]


def test_k_fold_purges_on_both_sides_and_embargoes_after():
    frame = daily(12, label_days=1.5)
    folds = splits.k_fold(frame, n_folds=3, embargo_sessions=2)
    assert [days(frame, fold.test) for fold in folds] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    # labels of block 4..7 end in the morning of day 9: day 9 decides after it, 9 and 10 are the embargo
    assert [days(frame, fold.train) for fold in folds] == [[7, 8, 9, 10, 11], [0, 1, 2, 11], [0, 1, 2, 3, 4, 5, 6]]


def test_combinatorial_tests_every_choice_of_blocks_and_names_its_paths():
    frame = daily(8, tickers=1)
    folds = splits.combinatorial(frame, n_folds=4, n_test_folds=2)
    assert [fold.test.tolist() for fold in folds] == [
        [0, 1, 2, 3],
        [0, 1, 4, 5],
        [0, 1, 6, 7],
        [2, 3, 4, 5],
        [2, 3, 6, 7],
        [4, 5, 6, 7],
    ]
    # labels end with the decision, at the instant that the neighbour's block begins a day later: nothing to purge
    assert [fold.train.tolist() for fold in folds][:2] == [[4, 5, 6, 7], [2, 3, 6, 7]]
    assert [fold.path.tolist() for fold in folds] == [
        [0, 0, 0, 0],
        [1, 1, 0, 0],
        [2, 2, 0, 0],
        [1, 1, 1, 1],
        [2, 2, 1, 1],
        [2, 2, 2, 2],
    ]


def test_a_touching_label_is_purged():
    frame = daily(6, tickers=1, label_days=1.0)
    (first, second) = splits.walk_forward(frame, train_sessions=2, test_sessions=2)
    assert first.train.tolist() == [0], "the label of day 1 is known at the instant that day 2 decides"
    assert second.train.tolist() == [0, 1, 2]


def test_hold_out_takes_the_last_dates_of_the_given_rows():
    frame = daily(10, label_days=1.5)
    rows = np.flatnonzero(frame["decided_utc"].dt.day_of_year - 1 < 8)
    earlier, last = splits.hold_out(frame, rows, sessions=3, embargo_sessions=1)
    assert days(frame, last) == [5, 6, 7]
    assert days(frame, earlier) == [0, 1, 2]


def test_bars_within_a_day_stay_together():
    decided = pd.date_range("2024-03-04 14:31", periods=390, freq="min", tz="UTC").append(
        pd.date_range("2024-03-05 14:31", periods=390, freq="min", tz="UTC")
    )
    frame = pd.DataFrame({"decided_utc": decided, "label_end_utc": decided + pd.Timedelta(minutes=30)})
    (fold,) = splits.walk_forward(frame, train_sessions=1, test_sessions=1)
    assert fold.train.tolist() == list(range(390))
    assert fold.test.tolist() == list(range(390, 780))


# properties


@dataclass(frozen=True)
class Panel:
    """A random calendar with gaps, tickers that miss days, labels of minutes to weeks, rows shuffled; in minutes."""

    decided: np.ndarray
    label_end: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Panel":
        n_dates, tickers, bars = rng.integers(25, 50), rng.integers(1, 4), rng.choice([1, 1, 1, 3])
        day = np.cumsum(rng.choice([1, 1, 1, 3, 5], n_dates))
        calendar = (day[:, None] * DAY + 900 + np.sort(rng.integers(0, 400, (n_dates, bars)))).ravel()
        decided = np.tile(calendar, tickers)
        decided = rng.permutation(decided[rng.random(len(decided)) < rng.uniform(0.7, 1.0)])
        longest = rng.choice([10, DAY, 4 * DAY, 14 * DAY])
        length = rng.integers(0, longest, len(decided)) if rng.random() < 0.5 else np.full(len(decided), longest)
        return cls(decided, decided + length)

    @property
    def date(self) -> np.ndarray:
        return self.decided // DAY

    def frame(self) -> pd.DataFrame:
        times = {"decided_utc": self.decided, "label_end_utc": self.label_end}
        start = pd.Timestamp("2020-01-01", tz="UTC")
        return pd.DataFrame({name: start + pd.to_timedelta(value, unit="min") for name, value in times.items()})

    def overlaps(self, fold: splits.Fold) -> np.ndarray:
        """Which training labels have an instant in common with a test label, by comparing all pairs."""
        start, end = self.decided[:, None], self.label_end[:, None]
        return ((start[fold.train] <= end.T[:, fold.test]) & (end[fold.train] >= start.T[:, fold.test])).any(axis=1)

    def times_tested(self, folds: list[splits.Fold]) -> list[int]:
        """By date, where all rows of a date are tested equally often."""
        counts = sum(np.bincount(fold.test, minlength=len(self.date)) for fold in folds)
        pairs = np.unique(np.stack([self.date, counts]), axis=1)
        assert len(pairs.T) == len(np.unique(self.date)), "a date is cut in two"
        return pairs[1].tolist()

    def embargo(self, block: np.ndarray, sessions: int) -> list[int]:
        """The first dates that still decide after the last label of a block is known."""
        return sorted(set(self.date[self.decided > self.label_end[block].max()]))[:sessions]


@pytest.fixture(scope="module")
def panels() -> list[Panel]:
    rng = np.random.default_rng(20240)
    return [Panel.draw(rng) for _ in range(RANDOM_PANELS)]


def folds_of(make, panel: Panel, **sizes: int) -> list[splits.Fold]:
    """Empty where purging leaves nothing; else folds without overlap, their rows ascending."""
    try:
        folds = make(panel.frame(), **sizes)
    except InputError as error:
        if "no row to train on" not in str(error):
            raise
        return []
    for fold in folds:
        assert len(fold.train)
        assert len(fold.test) == len(fold.path)
        assert not panel.overlaps(fold).any()
        for rows in (fold.train, fold.test):
            assert (np.diff(rows) > 0).all()
    return folds


def test_walk_forward_over_random_panels(panels):
    rng = np.random.default_rng(1)
    kept = 0
    for panel in panels:
        train, test, embargo = (int(value) for value in (rng.integers(4, 12), rng.integers(1, 8), rng.integers(0, 4)))
        expanding = bool(rng.integers(2))
        sizes = {"train_sessions": train, "test_sessions": test, "expanding": expanding, "embargo_sessions": embargo}
        folds = folds_of(splits.walk_forward, panel, **sizes)
        if not folds:
            continue
        kept += 1
        dates = np.unique(panel.date)
        assert panel.times_tested(folds) == [0] * train + [1] * (len(dates) - train)
        for fold in folds:
            first = int(np.searchsorted(dates, panel.date[fold.test].min()))
            opening = panel.decided[panel.date == dates[first - embargo]].min()
            assert panel.label_end[fold.train].max() < opening
            allowed = np.flatnonzero(np.isin(panel.date, dates[0 if expanding else first - train : first]))
            assert np.isin(fold.train, allowed).all()
            dropped = np.setdiff1d(allowed, fold.train)
            assert (panel.label_end[dropped] >= opening).all(), "no more is purged than must be"
    assert kept > 0.6 * RANDOM_PANELS


@pytest.mark.parametrize("n_test", [1, 2])
def test_cross_validation_over_random_panels(panels, n_test):
    rng = np.random.default_rng(2)
    kept = 0
    for panel in panels:
        n_folds, embargo = int(rng.integers(3, 6)), int(rng.integers(0, 4))
        sizes = {"n_folds": n_folds, "embargo_sessions": embargo} | ({"n_test_folds": n_test} if n_test > 1 else {})
        folds = folds_of(splits.combinatorial if n_test > 1 else splits.k_fold, panel, **sizes)
        if not folds:
            continue
        kept += 1
        paths = comb(n_folds - 1, n_test - 1)
        assert len(folds) == comb(n_folds, n_test)
        assert set(panel.times_tested(folds)) == {paths}
        tested = np.concatenate([fold.path * len(panel.date) + fold.test for fold in folds])
        assert len(set(tested.tolist())) == len(tested), "each row once on each path"
        for fold in folds:
            for path in np.unique(fold.path):
                block = fold.test[fold.path == path]
                if len(set(fold.path.tolist())) == n_test:  # else two blocks share a path, see the test below
                    assert not np.isin(panel.date[fold.train], panel.embargo(block, embargo)).any()
    assert kept > 0.5 * RANDOM_PANELS


def test_every_test_block_has_its_own_embargo():
    frame = daily(24, tickers=1, label_days=0.5)
    for fold in splits.combinatorial(frame, n_folds=6, n_test_folds=2, embargo_sessions=2):
        for last in (day for day in fold.test if day + 1 not in fold.test and day < 23):
            assert not {last + 1, last + 2} & set(fold.train)
            assert last + 3 in fold.train or last + 3 in fold.test or last + 3 > 23


# misuse


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda frame: splits.walk_forward(frame, train_sessions=10, test_sessions=1), "10 dates"),
        (lambda frame: splits.walk_forward(frame, train_sessions=0, test_sessions=1), "train_sessions = 0"),
        (lambda frame: splits.walk_forward(frame, train_sessions=2, test_sessions=0), "test_sessions = 0"),
        (
            lambda frame: splits.walk_forward(frame, train_sessions=3, test_sessions=2, embargo_sessions=3),
            "fold 0 has no",
        ),
        (lambda frame: splits.k_fold(frame, n_folds=1), "n_folds = 1"),
        (lambda frame: splits.k_fold(frame, n_folds=11), "10 dates"),
        (lambda frame: splits.combinatorial(frame, n_folds=4, n_test_folds=1), "n_test_folds = 1"),
        (lambda frame: splits.combinatorial(frame, n_folds=4, n_test_folds=4), "n_test_folds = 4"),
        (lambda frame: splits.combinatorial(frame, n_folds=6, n_test_folds=2), "10 dates"),
        (lambda frame: splits.hold_out(frame, np.arange(5), sessions=5), "5 dates"),
        (lambda frame: splits.hold_out(frame, np.arange(5), sessions=4, embargo_sessions=1), "hold-out has no row"),
    ],
)
def test_what_cannot_be_split_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call(daily(10))


def test_times_that_make_no_sense_are_refused():
    frame = daily(10)
    with pytest.raises(InputError, match=r"(?s)label_end_utc.*row 3.*before decided_utc"):
        splits.k_fold(
            frame.assign(label_end_utc=frame["label_end_utc"].where(frame.index != 3, frame["decided_utc"][0])),
            n_folds=2,
        )
    with pytest.raises(InputError, match=r"decided_utc.*row 2"):
        splits.k_fold(frame.assign(decided_utc=frame["decided_utc"].where(frame.index != 2)), n_folds=2)
