"""The time machine's market, its clock by a second calendar, and the instants at which time is cut (SIMULATED).

What is known at an instant is judged by a calendar of its own (pandas_market_calendars), never by the pipeline's: a
pipeline that is wrong about when a session closes must not be asked when it closes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from fusion_alpha import config, executor, lab_runs
from fusion_alpha.config import Config
from fusion_alpha.errors import InputError
from kernels import philox

Item = TypeVar("Item")

STAGES = (*lab_runs.LAYERS, "train", "predict")
HALF_DAY, CLOCK_CHANGE, MONTH_END, FOLD_EDGE, RANDOM = "half day", "clock change", "month end", "fold edge", "random"
_CALENDARS = {"XNYS": "NYSE"}  # of pandas_market_calendars, which mirrors the pipeline's own under its own name
_END = "2030-12-01"
_NEWS_A_BAR = 10  # noise included, all around the clock: a cut shows nothing where no news follows within the hours


@dataclass(frozen=True)
class Cut:
    """An instant: bars that closed by then and news from before it are known, the rest is the future."""

    kind: str
    utc: pd.Timestamp

    @property
    def name(self) -> str:
        return f"{self.utc:%Y-%m-%dT%H:%MZ}"


def configuration(base: Config) -> Config:
    """Of the market: conf/data/lab.yaml with odd rows, conf/target/next_open.yaml, and `base` for all else.

    Nothing is refused for having too many odd rows, since poisoned data has many.
    """
    own = base.canaries
    base = config.changed(base, list(lab_runs.SINGLE))
    days = [f"{day:%Y-%m-%d}" for day in clock(base)["session"]]
    if len(days) < own.learn_sessions + own.fold_sessions + 2:
        raise InputError(
            f"parameters canaries.first_session to last_session are {len(days)} sessions",
            rule=f"at least {own.learn_sessions + own.fold_sessions + 2}: learn_sessions, a fold and the last labels",
        )
    overrides = [
        f"data.lab.n_tickers={own.n_tickers}",
        f"data.lab.first_session='{own.first_session}'",
        f"data.lab.last_session='{own.last_session}'",
        f"data.lab.n_news={_NEWS_A_BAR * own.n_tickers * len(days)}",
        f"data.train_start='{days[0]}'",
        f"data.dev_start='{days[own.learn_sessions - own.fold_sessions]}'",
        f"data.test_start='{days[own.learn_sessions]}'",
        f"data.test_end='{_END}'",
        "clean.max_rejected_share=1.0",
    ]
    return replace(config.changed(base, overrides), executor=executor.HERE)


def clock(cfg: Config) -> pd.DataFrame:
    """Sessions of the market's span by the second calendar: session, open_utc, close_utc."""
    return schedule(cfg.data.exchange, cfg.canaries.first_session, cfg.canaries.last_session)


@cache
def schedule(exchange: str, first: str, last: str) -> pd.DataFrame:
    """Sessions by the second calendar; InputError for an exchange whose name there is not known here."""
    import pandas_market_calendars

    if exchange not in _CALENDARS:
        raise InputError(f"parameter data.exchange = {exchange!r}", rule=f"canaries know {', '.join(_CALENDARS)}")
    table = pandas_market_calendars.get_calendar(_CALENDARS[exchange]).schedule(first, last)
    return pd.DataFrame(
        {
            "session": table.index.astype("datetime64[us]"),
            "open_utc": table["market_open"].array,
            "close_utc": table["market_close"].array,
        }
    )


def last_known(cfg: Config, cut: Cut) -> str:
    """The last session that is over at the cut, as YYYY-MM-DD."""
    table = clock(cfg)
    return f"{table['session'][table['close_utc'] <= cut.utc].iloc[-1]:%Y-%m-%d}"


def cuts(cfg: Config) -> list[Cut]:
    """The cuts of a configuration, by time; those of a kind are spread over the market, its last sessions left out."""
    own, table = cfg.canaries, clock(cfg).iloc[:-2]
    closes, opens = table["close_utc"], table["open_utc"].dt.tz_localize(None)
    usual = closes.dt.tz_convert("America/New_York").dt.hour == 16
    at_another_hour = (opens - opens.dt.normalize()).diff().fillna(pd.Timedelta(0)) != pd.Timedelta(0)
    ends = table["session"].dt.month != table["session"].dt.month.shift(
        -1, fill_value=table["session"].dt.month.iloc[-1]
    )
    edges = range(own.learn_sessions, len(table) - 1, own.fold_sessions)
    beside = [closes.iloc[edge + step] for edge in edges for step in (-1, 1)][1:]  # no fold before the first
    chosen: dict[pd.Timestamp, str] = {}
    for kind, times in (
        (HALF_DAY, list(closes[~usual])),
        (CLOCK_CHANGE, list(closes[at_another_hour])),
        (FOLD_EDGE, beside),
        (MONTH_END, list(closes[ends])),
    ):
        for utc in spread([time for time in times if time not in chosen], own.cuts_of_a_kind):
            chosen[utc] = kind
    first, last = closes.iloc[20], closes.iloc[-1]
    for share in uniforms(own.random_cuts, own.seed, stream=1):
        chosen.setdefault((first + share * (last - first)).floor("s"), RANDOM)
    return [Cut(kind, utc) for utc, kind in sorted(chosen.items())]


def forecast_cuts(cfg: Config) -> list[Cut]:
    """Those of the cuts at which walk-forward models are trained: after the first fold began, of different kinds."""
    begins = clock(cfg)["close_utc"].iloc[cfg.canaries.learn_sessions]
    late = [cut for cut in cuts(cfg) if cut.utc >= begins]
    by_kind = [
        [cut for cut in late if cut.kind == kind] for kind in (FOLD_EDGE, HALF_DAY, CLOCK_CHANGE, MONTH_END, RANDOM)
    ]
    turns = max(map(len, by_kind), default=0)
    in_turn = [group[turn] for turn in range(turns) for group in by_kind if turn < len(group)]
    return sorted(in_turn[: cfg.canaries.forecast_cuts], key=lambda cut: cut.utc)


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """At most `count` of the items, the first and the last among them where it is more than one."""
    if len(items) <= count:
        return list(items)
    return [items[place] for place in np.linspace(0, len(items) - 1, count).round().astype(int)]


def uniforms(count: int, seed: int, stream: int, row: int = 0) -> Any:
    """float64 [count] in (0, 1), addressed by (seed, stream, row)."""
    blocks = np.arange(0, count, 4)
    counter = philox.normal_counter(blocks, 0, row, stream, op=philox.Op.UNIFORMS)
    return philox.uniforms(counter, seed).reshape(-1)[:count]


def order(count: int, seed: int, stream: int, row: int = 0) -> Any:
    """A permutation of `count` items, addressed likewise."""
    return np.argsort(uniforms(count, seed, stream, row), kind="stable")
