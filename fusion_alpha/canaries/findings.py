"""What a canary found, what was asked of it, and whether that holds."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fusion_alpha.recovery import Criterion
from fusion_alpha.statistics import rounded

_FAR = 1.5  # shares of what is allowed are shown up to here


@dataclass(frozen=True)
class Finding:
    """value: null where it is undefined, which passes nothing; used: share of what is allowed, 1 being the limit."""

    value: float | None
    criterion: str
    passed: bool
    used: float
    low: float | None = None  # interval of the value where there is one
    high: float | None = None

    def as_metric(self) -> dict[str, Any]:
        return {"value": self.value, "criterion": self.criterion, "passed": self.passed}


def at_most(value: float | None, limit: float) -> Finding:
    return _finding(value, f"<= {limit:g}", lambda found: found <= limit, lambda found: _share(found, limit))


def at_least(value: float | None, limit: float) -> Finding:
    return _finding(value, f">= {limit:g}", lambda found: found >= limit, lambda found: _share(limit, found))


def above(value: float | None, limit: float) -> Finding:
    return _finding(value, f"> {limit:g}", lambda found: found > limit, lambda found: 0.0 if found > limit else _FAR)


def size_at_most(value: float | None, limit: float) -> Finding:
    return _finding(
        value, f"abs <= {limit:.3g}", lambda found: abs(found) <= limit, lambda found: _share(abs(found), limit)
    )


def within(value: float | None, centre: float, reach: float) -> Finding:
    return _finding(
        value,
        f"{centre:g} +- {reach:.3g}",
        lambda found: abs(found - centre) <= reach,
        lambda found: _share(abs(found - centre), reach),
    )


def of_criterion(one: Criterion) -> Finding:
    """The same verdict as the criterion's own."""
    make = {"at least": at_least, "above": above, "size at most": size_at_most}[one.rule]
    if one.criterion is None:
        return Finding(one.value, "undefined", passed=False, used=_FAR)
    found = make(one.value, one.criterion)
    assert found.passed == one.passed, f"{found} and {one} disagree"
    return found


def passed(findings: Mapping[str, Finding], mutants: Mapping[str, Any]) -> bool:
    """Whether every canary passed and every mutant was caught."""
    return all(one.passed for one in findings.values()) and all(one["caught_by"] for one in mutants.values())


def _finding(value: float | None, criterion: str, holds: Any, used: Any) -> Finding:
    if value is None or not math.isfinite(value):
        return Finding(None, criterion, passed=False, used=_FAR)
    return Finding(rounded(value), criterion, passed=bool(holds(value)), used=used(value))


def _share(value: float, limit: float) -> float:
    if value <= 0:
        return 0.0
    return min(value / limit, _FAR) if limit > 0 else _FAR
