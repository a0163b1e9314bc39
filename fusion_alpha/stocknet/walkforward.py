"""Purged walk-forward on dates: every setting of every system is chosen on these folds, inside train + dev.

A fold learns from all samples before its block and is judged on the block (`splits.walk_forward`): whose answer was
known before the block's first question, and the days of whose tweets were over (embargo). Samples of test are in no
fold. In the end (`final`) all of train + dev is learned from and test is asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fusion_alpha import splits
from fusion_alpha.config import BenchmarkConfig
from fusion_alpha.errors import InputError

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Fold:
    """Positions of samples to learn from and to be judged on."""

    learn: Rows
    judge: Rows


def folds(samples: pd.DataFrame, settings: BenchmarkConfig) -> list[Fold]:
    """The last `folds` blocks of `fold_sessions` days of train + dev, each with all that is before it.

    samples: decided_utc, label_end_utc, split. Raises InputError where train + dev has too few days.
    """
    inside = np.flatnonzero(samples["split"].isin(["train", "dev"]))
    known = samples.iloc[inside]
    n_days = known["decided_utc"].dt.normalize().nunique()
    first = n_days - settings.folds * settings.fold_sessions
    if first <= settings.embargo_sessions:
        raise InputError(
            f"parameters benchmark.folds = {settings.folds}, fold_sessions = {settings.fold_sessions}: "
            f"train and dev have {n_days} days",
            rule="days are left before the first fold and its embargo",
            remedy="take fewer or shorter folds",
        )
    found = splits.walk_forward(
        known,
        train_sessions=first,
        test_sessions=settings.fold_sessions,
        embargo_sessions=settings.embargo_sessions,
    )
    return [Fold(inside[fold.train], inside[fold.test]) for fold in found]


def final(samples: pd.DataFrame) -> Fold:
    """What is learned from and asked in the end: all of train and dev, and test."""
    learn = np.flatnonzero(samples["split"].isin(["train", "dev"]))
    return Fold(learn, np.flatnonzero(samples["split"] == "test"))


def judged(chosen: Sequence[Fold]) -> Rows:
    """All samples that the folds judge, in the order of the folds."""
    return np.concatenate([fold.judge for fold in chosen])
