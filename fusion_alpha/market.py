"""Prices as a market to trade in: opens on one axis, who can trade when, and what is missing.

Times are UTC. A position is held from one open to the next.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fusion_alpha import sessions
from fusion_alpha.config import Config
from fusion_alpha.errors import InputError
from fusion_alpha.tables import BAR_KEY

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Market:
    """What can be traded when: G opens in order, N tickers in order of their names."""

    opens_utc: pd.DatetimeIndex  # [G]
    closes_utc: pd.DatetimeIndex  # [G], end of the bar
    session: pd.DatetimeIndex  # [G]
    tickers: pd.Index  # [N]
    price: Floats  # [G, N], adjusted open; the last close where the ticker has no bar
    mark: Floats  # [G, N], adjusted close; the last one where the ticker has no bar
    volume: Floats  # [G, N], mean dollar volume of the bars before; NaN where unknown
    tradable: Flags  # [G, N]
    leaves: Flags  # [G, N], the ticker's bars have ended: whatever is held is sold
    gaps: dict[str, int]  # counts of what is missing, see `market`


def market(panel: pd.DataFrame, cfg: Config) -> Market:
    """Opens of the panel (ticker, session, session_open_utc, bar_close_utc, open, close) on one axis.

    A ticker that misses a bar cannot trade there and keeps its last price: the position is stuck, not closed. A
    ticker whose bars end before the panel's do is sold at its last close, for want of anything better. Dollar volume
    (volume at quoted prices: columns volume and adjustment) is only needed where strategy.impact_bps is above 0.

    gaps counts n_missing_bars (no bar between a ticker's first and last), n_missing_sessions (in the calendar, without
    any bar), n_delisted (tickers whose bars end early) and n_late (tickers whose bars begin late).
    Raises InputError for prices that are not positive numbers, for bars that occur twice and for fewer than two opens.
    """
    _check(panel, cfg)
    opened = bar_open_utc(panel, cfg)
    row, times = pd.factorize(opened, sort=True)
    column, tickers = pd.factorize(panel["ticker"], sort=True)
    if len(times) < 2:
        raise InputError(
            f"prices of {len(times)} open",
            rule="a position is held from one open to the next: at least two",
            remedy="load more sessions",
        )

    def grid(values: pd.Series) -> Floats:
        result = np.full((len(times), len(tickers)), np.nan)
        result[row, column] = values.to_numpy(np.float64)
        return result

    opens, known = grid(panel["open"]), pd.DataFrame(grid(panel["close"])).ffill()
    has_bar = ~np.isnan(opens)
    first, last = has_bar.argmax(axis=0), len(opens) - 1 - has_bar[::-1].argmax(axis=0)
    leaves = np.zeros_like(has_bar)
    gone = np.flatnonzero(last < len(opens) - 1)
    leaves[last[gone] + 1, gone] = True
    bars = panel.groupby(row)[["bar_close_utc", "session"]].first()
    session = pd.DatetimeIndex(bars["session"])
    calendar = sessions.sessions(cfg.data.exchange, session[0], session[-1])["session"]
    return Market(
        opens_utc=pd.DatetimeIndex(times),
        closes_utc=pd.DatetimeIndex(bars["bar_close_utc"]),
        session=session,
        tickers=pd.Index(tickers, name="ticker"),
        price=np.where(has_bar, opens, known.shift()),
        mark=known.to_numpy(),
        volume=_trailing(grid(_dollars(panel, cfg)), cfg),
        tradable=has_bar | leaves,
        leaves=leaves,
        gaps={
            "n_missing_bars": int((last - first + 1 - has_bar.sum(axis=0)).sum()),
            "n_missing_sessions": int((~calendar.isin(session)).sum()),
            "n_delisted": len(gone),
            "n_late": int((first > 0).sum()),
        },
    )


def bar_open_utc(panel: pd.DataFrame, cfg: Config) -> pd.Series:
    """When each bar began: the session's opening, or for minutes a whole number of bars after it."""
    if cfg.bar_minutes is None:
        return panel["session_open_utc"]
    elapsed = (panel["bar_close_utc"] - panel["session_open_utc"]).dt.total_seconds().to_numpy(np.float64)
    whole = np.ceil(elapsed / (60 * cfg.bar_minutes)).astype(np.int64) - 1
    return panel["session_open_utc"] + pd.to_timedelta(whole * cfg.bar_minutes, unit="min").as_unit("us")


def _check(panel: pd.DataFrame, cfg: Config) -> None:
    again = "run clean and process again"
    if panel.empty:
        raise InputError("the panel has no bars", rule="at least two sessions", remedy="check tickers, start and end")
    for name in ("open", "close"):
        values = panel[name].to_numpy(np.float64)
        bad = ~(np.isfinite(values) & (values > 0))
        if bad.any():
            row = panel[bad].iloc[0]
            raise InputError(
                f"{row['ticker']} {row['bar_close_utc']}: {name} {row[name]} ({bad.sum()} such bars)",
                column=name,
                rule="prices are positive numbers; a bar without a trade is left out",
                remedy=again,
            )
    twice = panel.duplicated(BAR_KEY)
    if twice.any():
        row = panel[twice].iloc[0]
        what = f"{row['ticker']} {row['bar_close_utc']} occurs twice"
        raise InputError(what, rule="one bar per ticker and bar_close_utc", remedy=again)
    absent = {"volume", "adjustment"} - set(panel)
    if cfg.strategy.impact_bps > 0 and absent:
        raise InputError(
            f"the panel has no {' and no '.join(sorted(absent))}",
            rule="strategy.impact_bps above 0 charges for size beside trailing dollar volume",
            remedy="add the column, or set strategy.impact_bps=0",
        )


def _dollars(panel: pd.DataFrame, cfg: Config) -> pd.Series:
    """Traded value of each bar at quoted prices; unknown where nothing is charged for size."""
    if cfg.strategy.impact_bps == 0:
        return pd.Series(np.nan, panel.index)
    return panel["close"] / panel["adjustment"] * panel["volume"]


def _trailing(dollars: Floats, cfg: Config) -> Floats:
    """Mean over the bars before each open [G, N], strategy.volume_bars of them at most; NaN where there is none."""
    if cfg.strategy.impact_bps == 0:
        return dollars
    table = pd.DataFrame(dollars)
    return table.rolling(cfg.strategy.volume_bars, min_periods=1).mean().shift().to_numpy()
