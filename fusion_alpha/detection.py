"""How well rules find the contradictions that a laboratory planted, each rule beside the others on the same rows.

A rule flags a kind for each row and may have a signed score (positive for overhype, negative for underhype). A hit is
a flag of the right kind:

    precision = hits / flags    recall = hits / planted    f1 = their harmonic mean
    auc       = area under the ROC of the score for overhype against all other rows, and of its negative for underhype;
                the mean of the two

Intervals come from the stationary bootstrap of sessions: the rows of a session stay together, and runs of sessions.
All rules see the same samples, so that their differences have intervals too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fusion_alpha.config import EvaluateConfig
from fusion_alpha.statistics import Measures, bootstrap_interval, rounded

Floats = NDArray[np.float64]
KINDS = ("overhype", "underhype")
MEASURES = ("precision", "recall", "f1", "auc")


@dataclass(frozen=True)
class Rule:
    """kind: overhype, underhype or none, a row each; score: see above, or None."""

    kind: pd.Series
    score: pd.Series | None = None


@dataclass(frozen=True)
class _Rows:
    """One rule against the truth, a value a row."""

    hit: Floats
    flagged: Floats
    planted: Floats
    level: NDArray[np.intp] | None  # rank of the score among its distinct values
    is_kind: tuple[NDArray[np.bool_], ...]  # planted as each of KINDS


def compare(
    rules: Mapping[str, Rule], truth: pd.Series, session: pd.Series, settings: EvaluateConfig, *, reference: str
) -> dict[str, Any]:
    """By rule: n_flagged and MEASURES, each with _lo and _hi; `NAME_less_REFERENCE`: the same of the differences.

    truth: planted kinds; session: of each row. A measure is None where it is undefined (no flag, nothing planted, no
    score), an interval where that happens in a sample.
    """
    rows = {name: _against(rule, truth) for name, rule in rules.items()}
    code, sessions = pd.factorize(session, sort=True)
    statistic = partial(_all_measures, rows=rows, code=code, reference=list(rows).index(reference))
    every = np.arange(len(sessions), dtype=np.float64)
    low, high = bootstrap_interval(statistic, every, settings.block_sessions, settings)
    found, low, high = (np.reshape(part, (2, len(rows), len(MEASURES))) for part in (statistic(every), low, high))
    result: dict[str, Any] = {}
    for number, (name, row) in enumerate(rows.items()):
        flags = {"n_flagged": int(row.flagged.sum())}
        result[name] = flags | _named(found[0, number], low[0, number], high[0, number])
        if name != reference:
            result[f"{name}_less_{reference}"] = _named(found[1, number], low[1, number], high[1, number])
    return result


def _named(found: Floats, low: Floats, high: Floats) -> Measures:
    measures: Measures = {}
    for name, *values in zip(MEASURES, found, low, high, strict=True):
        measures |= {f"{name}{end}": rounded(value) for end, value in zip(("", "_lo", "_hi"), values, strict=True)}
    return measures


def _against(rule: Rule, truth: pd.Series) -> _Rows:
    flagged, planted = (kind.isin(KINDS).to_numpy().astype(np.float64) for kind in (rule.kind, truth))
    return _Rows(
        hit=flagged * (rule.kind.to_numpy() == truth.to_numpy()),
        flagged=flagged,
        planted=planted,
        level=None if rule.score is None else np.unique(rule.score, return_inverse=True)[1],
        is_kind=tuple((truth == kind).to_numpy() for kind in KINDS),
    )


def _all_measures(sample: Floats, rows: Mapping[str, _Rows], code: NDArray[np.intp], reference: int) -> Floats:
    """[2 x rules x MEASURES], flat: each rule's measures, then less those of the reference.

    sample: numbers of the sessions drawn, [m]; code: each row's session.
    """
    weight = np.bincount(sample.astype(np.int64), minlength=int(code.max(initial=0)) + 1)[code].astype(np.float64)
    values = np.array([_measures(row, weight) for row in rows.values()])
    return np.concatenate([values, values - values[reference]]).ravel()


def _measures(rows: _Rows, weight: Floats) -> tuple[float, ...]:
    hits, flagged, planted = (float(part @ weight) for part in (rows.hit, rows.flagged, rows.planted))
    ratios = (_ratio(hits, flagged), _ratio(hits, planted), _ratio(2 * hits, flagged + planted))
    if rows.level is None:
        return *ratios, np.nan
    over, under = (_area(rows.level, is_kind, weight) for is_kind in rows.is_kind)
    areas = [area for area in (over, 1 - under) if not np.isnan(area)]
    return *ratios, float(np.mean(areas)) if areas else np.nan


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else np.nan


def _area(level: NDArray[np.intp], positive: NDArray[np.bool_], weight: Floats) -> float:
    """Share of pairs (positive, other) in which the positive has the higher level; equal ones count half."""
    n_levels = int(level.max(initial=0)) + 1
    yes = np.bincount(level, weight * positive, n_levels)
    no = np.bincount(level, weight * ~positive, n_levels)
    below = np.cumsum(no) - no
    return _ratio(float(yes @ (below + no / 2)), float(yes.sum() * no.sum()))
