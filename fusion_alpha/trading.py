"""From predictions to positions, and from positions to money: one `decide`, one `simulate`, and the baselines.

Weights are shares of equity (0.2 = 20%; negative = short). Returns are simple, costs are in bps per side of traded
value. A decision made at decided_utc trades at the open fill_utc and holds to the next open, so that nothing a
weight depends on may be dated after decided_utc. The live router calls the same `decide` as the backtest.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fusion_alpha import sessions
from fusion_alpha.config import Config
from fusion_alpha.errors import InputError

Floats = NDArray[np.float64]

_BPS = 1e-4


def decide(predictions: pd.DataFrame, cfg: Config) -> pd.Series:
    """Target weight of every row, from ticker, decided_utc, mean_ret and sd_ret (simple returns over one bar).

    The edge is what mean_ret leaves after a round trip and the demanded minimum; a short also pays its borrow:

        edge = max(|mean_ret| - 2 side_cost - edge_min - borrow per bar of a short, 0), with the sign of mean_ret
        wanted weight = edge / sd_ret^2                                       [Kelly 1956; Merton 1969]

    `under_limits` then scales the rows of one decision time down together. So a row is sized by its edge until the
    limits bind, and by its edge beside the other rows' from then on. Rows of different times do not see each other.
    Raises InputError for a mean that is not finite or a deviation that is not positive: such a row may not trade.
    """
    strategy = cfg.strategy
    mean, sd = (predictions[name].to_numpy(np.float64) for name in ("mean_ret", "sd_ret"))
    bad = ~(np.isfinite(mean) & np.isfinite(sd) & (sd > 0))
    if bad.any():
        row = predictions[bad].iloc[0]
        raise InputError(
            f"{row['ticker']} at {row['decided_utc']}: mean_ret {row['mean_ret']}, sd_ret {row['sd_ret']}",
            rule="mean_ret is finite, sd_ret finite and positive",
            remedy="train the model again; its predictions are not usable",
        )
    hurdle = 2 * strategy.side_cost_bps * _BPS + strategy.edge_min
    edge = np.maximum(mean - hurdle, 0.0)
    if strategy.allow_short:
        edge -= np.maximum(-mean - hurdle - borrow_per_bar(cfg), 0.0)
    return under_limits(pd.Series(edge / sd**2, predictions.index), sd, predictions["decided_utc"], cfg)


def under_limits(wanted: pd.Series, sd: Floats, decided: pd.Series, cfg: Config) -> pd.Series:
    """Scale the wanted weights of each decision time down to the limits of cfg.strategy.

    The book's volatility over one bar, with the assumed correlation r between any two names, is

        sqrt((1 - r) sum (w sd)^2 + r (sum w sd)^2)  <=  vol_target / sqrt(bars per year)

    First the book is scaled to that, then each weight is clipped to max_weight, then the book is scaled again so
    that volatility and max_gross both hold. Shorts are dropped first where the strategy may not have them.
    """
    strategy = cfg.strategy
    weight = wanted.to_numpy(np.float64)
    if not strategy.allow_short:
        weight = np.maximum(weight, 0.0)
    group, times = pd.factorize(decided)
    budget = strategy.vol_target / np.sqrt(bars_per_year(cfg))

    def total(values: Floats) -> Floats:
        return np.bincount(group, values, minlength=len(times)).astype(np.float64)

    def volatility(weight: Floats) -> Floats:
        common, own = total(weight * sd) ** 2, total((weight * sd) ** 2)
        return np.sqrt((1 - strategy.correlation) * own + strategy.correlation * common)

    weight = weight * _down(budget, volatility(weight))[group]
    weight = weight.clip(-strategy.max_weight, strategy.max_weight)
    factor = np.minimum(_down(budget, volatility(weight)), _down(strategy.max_gross, total(np.abs(weight))))
    return pd.Series(weight * factor[group], wanted.index, name="weight")


def _down(limit: float, value: Floats) -> Floats:
    """Factor in [0, 1] that brings `value` to at most `limit`."""
    return limit / np.maximum(value, limit)


@cache
def _bars_per_year(exchange: str, minutes: int | None) -> float:
    table = sessions.sessions(exchange, "2010-01-01", "2019-12-31")
    if minutes is None:
        return float(round(len(table) / 10))
    length = (table["session_close_utc"] - table["session_open_utc"]).dt.total_seconds() / 60
    return float(round(np.ceil(length / minutes).sum() / 10))


def bars_per_year(cfg: Config) -> float:
    """Bars of cfg.interval in a year of the exchange: the mean of its calendar over 2010 to 2019 (XNYS 1d: 252)."""
    return _bars_per_year(cfg.data.exchange, cfg.bar_minutes)


def borrow_per_bar(cfg: Config) -> float:
    """Cost of being short one unit of value for one bar; the yearly rate spread evenly over the year's bars."""
    return cfg.strategy.borrow_bps * _BPS / bars_per_year(cfg)


@dataclass(frozen=True)
class Market:
    """What can be traded when: G opens in order, N tickers."""

    opens_utc: pd.DatetimeIndex  # [G]
    session: pd.DatetimeIndex  # [G]
    tickers: pd.Index  # [N]
    price: Floats  # [G, N], adjusted open; the last known one where the ticker has no bar
    tradable: NDArray[np.bool_]  # [G, N]
    leaves: NDArray[np.bool_]  # [G, N], the ticker's bars have ended: whatever is held is sold


def market(panel: pd.DataFrame, cfg: Config) -> Market:
    """Opens of the panel (ticker, session, session_open_utc, bar_close_utc, open, close) on one axis.

    A ticker that misses a bar cannot trade there and keeps its last price: the position is stuck, not closed. A
    ticker whose bars end before the panel's do is sold at its last close, for want of anything better.
    """
    opened = bar_open_utc(panel, cfg)
    grid = panel.assign(bar_open_utc=opened).pivot(index="bar_open_utc", columns="ticker", values=["open", "close"])
    price = grid["open"].to_numpy(np.float64, copy=True)
    close = grid["close"].to_numpy(np.float64)
    tradable = ~np.isnan(price)
    last = len(price) - 1 - tradable[::-1].argmax(axis=0)
    leaves = np.zeros_like(tradable)
    gone = np.flatnonzero(last < len(price) - 1)
    leaves[last[gone] + 1, gone] = True
    price[last[gone] + 1, gone] = close[last[gone], gone]
    days = panel["session"].groupby(opened).first()
    return Market(
        opens_utc=pd.DatetimeIndex(grid.index),
        session=pd.DatetimeIndex(days.loc[grid.index]),
        tickers=grid["open"].columns,
        price=pd.DataFrame(price).ffill().to_numpy(),
        tradable=tradable | leaves,
        leaves=leaves,
    )


def bar_open_utc(panel: pd.DataFrame, cfg: Config) -> pd.Series:
    """When each bar began: the session's opening, or for minutes a whole number of bars after it."""
    if cfg.bar_minutes is None:
        return panel["session_open_utc"]
    elapsed = (panel["bar_close_utc"] - panel["session_open_utc"]).dt.total_seconds().to_numpy(np.float64)
    whole = np.ceil(elapsed / (60 * cfg.bar_minutes)).astype(np.int64) - 1
    return panel["session_open_utc"] + pd.to_timedelta(whole * cfg.bar_minutes, unit="min").as_unit("us")


def simulate(orders: pd.DataFrame, market: Market, cfg: Config, passive: bool = False) -> pd.DataFrame:
    """Trade the target weights of `orders` (ticker, decided_utc, fill_utc, weight) from open to open.

    At each open the book is rebalanced from where prices have drifted it to the weights that fill there. A ticker
    without an order is closed (left alone where `passive`), a null weight leaves the position alone, and a ticker
    that cannot trade keeps it. All costs come off the interval that the trade opens. The last positions are closed
    at the open that ends them. Idle cash earns nothing. A book that loses everything stays at zero.

    Returns one row per interval between opens: opens_utc, session (in which it was opened), gross_ret, cost (of
    trading and borrowing), borrow (the latter), net_ret = gross_ret - cost, turnover = sum of |change of weight|,
    exposure = sum of |weight|, net_exposure = sum of weight, all as shares of the equity at the open.
    Raises InputError when an order would fill before it is decided, or when nothing can be held to a next open.
    """
    early = orders["fill_utc"] < orders["decided_utc"]
    if early.any():
        row = orders[early].iloc[0]
        raise InputError(
            f"{row['ticker']}: decided {row['decided_utc']}, filled {row['fill_utc']}",
            column="fill_utc",
            rule="an order fills after its decision",
            remedy="run the process stage again",
        )
    target, first, end = _targets(orders, market, np.nan if passive else 0.0)
    side, borrow = cfg.strategy.side_cost_bps * _BPS, borrow_per_bar(cfg)
    returns = market.price[first + 1 : end + 1] / market.price[first:end] - 1
    returns = np.nan_to_num(returns, nan=0.0)  # before a ticker's first bar; nothing is held there
    keep = ~market.tradable[first:end] | np.isnan(target)
    held = np.zeros(len(market.tickers))
    rows = np.zeros((end - first, 5))  # gross_ret, borrow, turnover, exposure, net_exposure
    for number in range(end - first):
        weight = np.where(keep[number], held, target[number])
        turnover, exposure, net = np.abs(weight - held).sum(), np.abs(weight).sum(), weight.sum()
        lent, ends = borrow * (exposure - net) / 2, weight * (1 + returns[number])
        gross = float(weight @ returns[number])
        turnover += np.abs(ends).sum() if number == end - first - 1 else 0.0
        change = gross - lent - side * turnover
        if change <= -1:
            rows[number] = lent + side * turnover - 1, lent, turnover, exposure, net
            break
        held = ends / (1 + change)
        rows[number] = gross, lent, turnover, exposure, net
    result = pd.DataFrame(rows, columns=["gross_ret", "borrow", "turnover", "exposure", "net_exposure"])
    result["cost"] = side * result["turnover"] + result["borrow"]
    result["net_ret"] = result["gross_ret"] - result["cost"]
    return result.assign(opens_utc=market.opens_utc[first:end], session=market.session[first:end])


def _targets(orders: pd.DataFrame, market: Market, without_order: float) -> tuple[Floats, int, int]:
    """Weights on the axis of opens [end - first, N], and the intervals' range first .. end - 1.

    An order whose ticker has no bar at its fill lapses; of two orders that fill at the same open the later counts.
    """
    row = market.opens_utc.get_indexer(pd.Index(orders["fill_utc"]))
    column = market.tickers.get_indexer(pd.Index(orders["ticker"]))
    by_decision = np.argsort(pd.DatetimeIndex(orders["decided_utc"]).asi8, kind="stable")
    order = by_decision[(row >= 0)[by_decision] & (column >= 0)[by_decision]]
    row, column, weight = row[order], column[order], orders["weight"].to_numpy(np.float64)[order]
    last = len(market.opens_utc) - 1
    if not len(row) or row.min() >= last:
        raise InputError(
            "no order can be filled and held to a next open",
            rule="prices go on for two opens after a decision",
            remedy="choose data.test_start before the last sessions of the data",
        )
    first, end = int(row.min()), min(int(row.max()) + 1, last)
    target = np.full((end - first, len(market.tickers)), without_order)
    inside = row < end
    target[row[inside] - first, column[inside]] = weight[inside]  # of equal places the last one stays
    target[market.leaves[first:end]] = 0.0
    return target, first, end
