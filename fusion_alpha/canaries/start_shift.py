"""Start shift: the live window alone must give what the whole history gives, or the feature is not for live use.

For some sessions the raw data is trimmed to the last bars that a live run keeps, and the real stages run on that. The
features of the last session are compared with those of the whole history, and so are its forecasts by the model that
is kept. A difference is relative to the larger of the feature's own size and its standard deviation: a feature that
crosses zero differs there by the rounding of its parts.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fusion_alpha import tables, technical
from fusion_alpha.canaries import findings, forecasts, layers, market
from fusion_alpha.canaries.attacks import trim
from fusion_alpha.canaries.findings import Finding
from fusion_alpha.canaries.tasks import Task
from fusion_alpha.canaries.time_machine import TOLERANCE as FORECAST_TOLERANCE
from fusion_alpha.config import Config
from fusion_alpha.tables import BAR_KEY
from fusion_alpha.workspace import Workspace

TOLERANCE = 1e-6
FEATURES = ("technical", "contradiction")
_STREAM = 21


def live_window(cfg: Config) -> int:
    """Bars of the shortest history that must do: the longest memory of a feature and the model's look-back.

    Fewer where a live run keeps fewer, which the canary then shows. Severity ranks scores of `severity_bars`, each of
    which needs the bars of its own moments and null.
    """
    settings = cfg.contradiction
    score = settings.severity_bars + max(settings.window_bars, settings.null_sessions) + 1
    memory = max(*technical.WARMUPS.values(), cfg.technical.warmup_bars, score)
    return min(memory + max(cfg.model.sessions, cfg.model.news_lookback_bars), cfg.live.window_bars)


def sessions(cfg: Config) -> list[str]:
    """Sessions whose features are computed again, as YYYY-MM-DD, all with bars before their window where there are."""
    days = [f"{day:%Y-%m-%d}" for day in market.clock(cfg)["session"]]
    late = days[min(live_window(cfg), len(days) - 1) :]
    chosen = market.order(len(late), cfg.canaries.seed, _STREAM)[: cfg.canaries.start_sessions]
    return [late[place] for place in sorted(chosen)]


def tasks(whole: Workspace, home: Path) -> list[Task]:
    return [
        Task(f"window that ends {day}", home / f"start-{day}.json", partial(at_session, whole, day))
        for day in sessions(whole.cfg)
    ]


def at_session(whole: Workspace, day: str, stages: tuple[str, ...] = (*layers.FEATURES, "predict")) -> dict[str, Any]:
    """features: largest relative difference of each one; forecast: largest difference, null where there is none."""
    clock = market.clock(whole.cfg)
    place = int(np.flatnonzero(clock["session"] == pd.Timestamp(day))[0])
    first = clock["session"].iloc[max(place + 1 - live_window(whole.cfg), 0)]
    with layers.copied(whole, f"start-{day}", model=True) as part:
        trim(part.folder / "data/raw", f"{first:%Y-%m-%d}", day, clock["close_utc"].iloc[place])
        part.once("ingest", lambda: None)
        part.run(*stages, quiet=True)
        found: dict[str, float] = {}
        for name in FEATURES:
            if name in stages:
                found |= {f"{name}.{key}": value for key, value in relative(name, whole, part, day).items()}
        forecast = forecasts.live_difference(whole, part, day, only_last=True) if "predict" in stages else None
    return {"features": found, "forecast": forecast}


def relative(name: str, whole: Workspace, part: Workspace, day: str) -> dict[str, float]:
    """Of each column of a table, the largest relative difference in the rows of a session; 1 for a null on one side."""
    every, window = whole.read(name), part.read(name)
    before, after = (
        frame[frame["bar_close_utc"].dt.strftime("%Y-%m-%d") == day].set_index(BAR_KEY) for frame in (every, window)
    )
    assert len(before), f"{name}: no row of {day}"
    after = after.reindex(before.index)
    found = {}
    for column in before:
        if tables.schema(name).columns[str(column)]["dtype"] == "string":
            found[str(column)] = float((before[column] != after[column]).any())
        else:
            spread = float(every[column].astype("float64").std())
            found[str(column)] = _largest(
                before[column].to_numpy("float64", na_value=np.nan),
                after[column].to_numpy("float64", na_value=np.nan),
                spread,
            )
    return found


def _largest(a: NDArray[np.float64], b: NDArray[np.float64], spread: float) -> float:
    null = np.isnan(a) | np.isnan(b)
    scale = np.maximum(np.maximum(np.abs(a), np.abs(b)), spread if np.isfinite(spread) else 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        difference = np.where(scale > 0, np.abs(a - b) / scale, 0.0)
    return float(np.where(null, (np.isnan(a) != np.isnan(b)).astype(float), difference).max())


def not_live_eligible(answers: dict[str, Any]) -> dict[str, float]:
    """Features that differ by more than TOLERANCE, with their largest difference."""
    largest: dict[str, float] = {}
    for answer in answers.values():
        for name, value in answer["features"].items():
            largest[name] = max(value, largest.get(name, 0.0))
    return {name: value for name, value in largest.items() if value > TOLERANCE}


def judged(answers: dict[str, Any]) -> dict[str, Finding]:
    """start_shift: largest relative difference of a feature; start_shift_forecast: of a forecast."""
    features = max(value for answer in answers.values() for value in answer["features"].values())
    forecast = max(answer["forecast"] for answer in answers.values())
    return {
        "start_shift": findings.at_most(features, TOLERANCE),
        "start_shift_forecast": findings.at_most(forecast, FORECAST_TOLERANCE),
    }
