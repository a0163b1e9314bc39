"""From positions to money: target weights traded at the opens of a panel, every cost taken off.

Weights are shares of equity, returns are simple, times are UTC. A decision made at decided_utc trades at the open
fill_utc and holds to the next open, so that nothing a weight depends on may be dated after decided_utc.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fusion_alpha import costs, engine
from fusion_alpha.config import Config
from fusion_alpha.decision import turnover_limit
from fusion_alpha.errors import InputError
from fusion_alpha.market import Market

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Placement:
    """Where orders go on a market's axes, computed once for all strategies that trade them."""

    rows: Indices  # [K], the orders that fill
    opens: Indices  # [K], counted from `first`
    columns: Indices  # [K]
    first: int  # intervals first .. end - 1 are simulated
    end: int
    late: Flags  # [end - first], the bar before the open was not over when the decision was made
    between: Flags  # [end - first], no order fills at this open, but one did earlier in the session


def simulate(orders: pd.DataFrame, market: Market, cfg: Config, passive: bool = False) -> pd.DataFrame:
    """Trade the target weights of `orders` (ticker, decided_utc, fill_utc, weight): `simulate_all` of one strategy."""
    weights = orders[["weight"]]
    return simulate_all(weights, orders, market, cfg, passive=["weight"] if passive else [])["weight"]


def simulate_all(
    weights: pd.DataFrame, orders: pd.DataFrame, market: Market, cfg: Config, passive: Collection[str] = ()
) -> dict[str, pd.DataFrame]:
    """Trade every column of target weights (rows as in `orders`: ticker, decided_utc, fill_utc) from open to open.

    At each open the book is rebalanced from where prices have drifted it to the weights that fill there, as far as
    strategy.max_turnover lets one decision go (`decision.toward`, from the book at the prices known at decided_utc).
    Of several decisions for one open the last counts. A null weight leaves the position alone. A ticker without an
    order is closed; but where no order at all fills and one did earlier in the session (minute bars: the session's
    second open), nothing is decided and all is left alone. A ticker that cannot trade keeps its position: its order
    lapses. Where impact is charged, a ticker without trailing volume cannot trade. Strategies named in `passive` leave
    a ticker without an order alone and have no limit on turnover. All costs come off the interval that the trade
    opens. The last positions are closed at the open that ends them, those of halted tickers at their last price. Idle
    cash earns nothing. A book that loses everything stays at zero.

    Returns for each strategy one row per interval between opens: opens_utc, session (in which it was opened);
    gross_ret, cost (trading + impact + borrow), trading (side costs), impact, borrow, net_ret = gross_ret - cost;
    turnover = sum of |change of weight|, exposure = sum of |weight|, net_exposure = sum of weight, all as shares of
    the equity at the open; n_halted = positions that could not trade, n_lapsed = orders that could not, n_delisted =
    positions sold because their bars have ended; sent_share = share of the wanted change that max_turnover let pass.
    Raises InputError when an order would fill before it is decided, for a ticker without prices, for an infinite
    weight, for two orders of one decision, and when nothing can be held to a next open.
    """
    placed = place(orders, market)
    _check_weights(weights, orders)
    intervals = _intervals(market, placed, cfg)
    results = {}
    for name in map(str, weights):
        rows, _, _ = intervals.trade(weights[name].to_numpy(np.float64), placed, name in passive)
        results[name] = _report(rows, market, placed)
    return results


def positions(
    orders: pd.DataFrame, market: Market, cfg: Config, passive: bool = False
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(weights, held) of `simulate`, each [opens, tickers]: what is held after each open's trades, as shares of the
    equity before its costs; and what was held before at the prices known when its decision was made, which is what
    the live router hands to `decide` at that time.
    """
    placed = place(orders, market)
    _check_weights(orders[["weight"]], orders)
    weight = orders["weight"].to_numpy(np.float64)
    _, weights, held = _intervals(market, placed, cfg).trade(weight, placed, passive, keep_positions=True)
    opens = market.opens_utc[placed.first : placed.end]
    return pd.DataFrame(weights, opens, market.tickers), pd.DataFrame(held, opens, market.tickers)


def place(orders: pd.DataFrame, market: Market) -> Placement:
    """Find each order's open and ticker. An order whose fill_utc is no open of the market lapses; see `lapsed`."""
    _check_orders(orders)
    row, column = _cells(orders, market)
    rows = _counted(orders, row)
    last = len(market.opens_utc) - 1
    if not len(rows) or row[rows].min() >= last:
        raise InputError(
            "no order can be filled and held to a next open",
            rule="prices go on for two opens after a decision",
            remedy="choose data.test_start before the last sessions of the data",
        )
    first, end = int(row[rows].min()), min(int(row[rows].max()) + 1, last)
    rows = rows[row[rows] < end]
    opens, columns = row[rows] - first, column[rows]
    found, counts = np.unique(opens * len(market.tickers) + columns, return_counts=True)
    if (counts > 1).any():
        cell = found[counts > 1][0]
        raise InputError(
            f"{market.tickers[cell % len(market.tickers)]}: two orders of one decision fill at "
            f"{market.opens_utc[first + cell // len(market.tickers)]}",
            rule="one order per ticker and decision",
            remedy="predict each bar once",
        )
    never = np.iinfo(np.int64).min
    decided = np.full(end - first, never)
    decided[opens] = _microseconds(orders["decided_utc"])[rows]
    closed = np.append(never, _microseconds(market.closes_utc))[first:end]
    session, ordered = pd.Series(market.session[first:end]), pd.Series(decided > never)
    between = (~ordered & (session.where(ordered).ffill() == session)).to_numpy()
    return Placement(rows, opens, columns, first, end, decided < closed, between)


def _check_orders(orders: pd.DataFrame) -> None:
    if orders.empty:
        raise InputError("no orders", rule="at least one decision to trade", remedy="predict rows of the test period")
    early = (orders["fill_utc"] < orders["decided_utc"]).to_numpy()
    if early.any():
        row = orders[early].iloc[0]
        raise InputError(
            f"{row['ticker']}: decided {row['decided_utc']}, filled {row['fill_utc']}",
            column="fill_utc",
            rule="an order fills after its decision",
            remedy="run the process stage again",
        )


def _cells(orders: pd.DataFrame, market: Market) -> tuple[Indices, Indices]:
    """Open (-1: none of the market's) and ticker of each order."""
    codes, names = pd.factorize(orders["ticker"])
    column = market.tickers.get_indexer(pd.Index(names))[codes]
    if (column < 0).any():
        raise InputError(
            f"orders for {orders['ticker'].to_numpy()[column < 0][0]}, which has no prices",
            column="ticker",
            rule="every ordered ticker is in the panel",
            remedy="predict and trade the same tickers",
        )
    codes, times = pd.factorize(orders["fill_utc"])
    return np.append(market.opens_utc.get_indexer(pd.DatetimeIndex(times)), -1)[codes], column


def _counted(orders: pd.DataFrame, row: Indices) -> Indices:
    """Orders that fill at an open of the market, of several decisions for one open those of the last."""
    rows, decided = np.flatnonzero(row >= 0), _microseconds(orders["decided_utc"])
    latest = np.full(row.max() + 1, np.iinfo(np.int64).min)
    np.maximum.at(latest, row[rows], decided[rows])
    return rows[decided[rows] == latest[row[rows]]]


def _microseconds(times: pd.Series | pd.DatetimeIndex) -> Indices:
    return np.asarray(pd.DatetimeIndex(times).as_unit("us").asi8)


def lapsed(orders: pd.DataFrame, market: Market) -> dict[str, int]:
    """Orders that no simulation can fill, by why: n_after_end (no prices yet), n_no_bar (the ticker, or the whole
    market, has no bar at fill_utc) and n_replaced (a later decision fills at the same open)."""
    row, column = _cells(orders, market)
    after = (orders["fill_utc"] > market.opens_utc[-1]).to_numpy()
    absent = (row < 0) | ~market.tradable[row, column] | market.leaves[row, column]
    return {
        "n_orders": len(orders),
        "n_after_end": int(after.sum()),
        "n_no_bar": int((absent & ~after).sum()),
        "n_replaced": int((row >= 0).sum() - len(_counted(orders, row))),
    }


def held_back(result: pd.DataFrame) -> dict[str, float | int]:
    """What kept one simulated strategy from its weights: n_halted, n_lapsed, n_delisted summed over its opens, and
    share_capped, the share of opens at which strategy.max_turnover bound."""
    counts = {name: int(result[name].sum()) for name in ("n_halted", "n_lapsed", "n_delisted")}
    return counts | {"share_capped": round(float((result["sent_share"] < 1).mean()), 6)}


def _check_weights(weights: pd.DataFrame, orders: pd.DataFrame) -> None:
    for name in weights:
        infinite = np.isinf(weights[name].to_numpy(np.float64))
        if infinite.any():
            row = orders[infinite].iloc[0]
            raise InputError(
                f"{name}: infinite weight of {row['ticker']} decided {row['decided_utc']}",
                column="weight",
                rule="a weight is a share of equity, or null to leave the position alone",
                remedy="check what made the weights",
            )


@dataclass(frozen=True)
class _Intervals:
    """A market's simulated part, shared by all strategies: T intervals, N tickers. See `engine.run`."""

    tradable: Flags  # [T + 1, N]
    leaves: Flags  # [T, N]
    to_next: Floats  # [T, N]
    to_mark: Floats  # [T, N]
    volume: Floats  # [T + 1, N]
    side: Floats  # [N]
    borrow: Floats  # [N]
    impact: float
    most: float

    def trade(
        self, weight: Floats, placed: Placement, passive: bool, keep_positions: bool = False
    ) -> tuple[pd.DataFrame, Floats, Floats]:
        """The engine's columns and n_lapsed; with keep_positions also weights and weights before, [T, N] each."""
        shape = self.to_next.shape
        target, ordered = np.full(shape, np.nan), np.zeros(shape, np.bool_)
        target[placed.opens, placed.columns] = weight[placed.rows]
        ordered[placed.opens, placed.columns] = True
        if not passive:
            target[~ordered & ~placed.between[:, None]] = 0.0
        absent = ~self.tradable[:-1] | self.leaves
        rows = np.zeros((len(target), len(engine.COLUMNS)))
        weights, before = np.zeros((2, len(target) if keep_positions else 0, shape[1]))
        engine.run(
            *(target, self.tradable, self.leaves, self.to_next, self.to_mark, self.volume),
            *(self.side, self.borrow, self.impact, np.inf if passive else self.most),
            *(rows, weights, before),
        )
        frame = pd.DataFrame(rows, columns=engine.COLUMNS)
        return frame.assign(n_lapsed=(ordered & absent & ~np.isnan(target)).sum(axis=1)), weights, before


def _intervals(market: Market, placed: Placement, cfg: Config) -> _Intervals:
    first, end = placed.first, placed.end
    price, volume = (values[first : end + 1] for values in (market.price, market.volume))
    tradable = market.tradable[first : end + 1]
    if cfg.strategy.impact_bps > 0:
        tradable = tradable & ((volume > 0) | market.leaves[first : end + 1])
    # What a position was last seen at when the next decision was made: the bar's close if the bar was over, else the
    # open where it traded, or where it did not the close before that.
    late, before = np.append(placed.late[1:], True)[:, None], market.mark[max(first - 1, 0) : end - 1]
    seen = np.where(placed.between[:, None], before if first > 0 else np.vstack([price[:1], before]), price[:-1])
    known = np.where(late, seen, market.mark[first:end])
    rates = costs.rates(market.tickers, cfg)
    # null before a ticker's first bar, when nothing is held
    to_next, to_mark = (np.nan_to_num(after / price[:-1] - 1, nan=0.0) for after in (price[1:], known))
    return _Intervals(
        tradable=np.ascontiguousarray(tradable),
        leaves=np.ascontiguousarray(market.leaves[first:end]),
        to_next=np.ascontiguousarray(to_next),
        to_mark=np.ascontiguousarray(to_mark),
        volume=np.ascontiguousarray(volume / cfg.strategy.capital),
        side=rates.side,
        borrow=rates.borrow,
        impact=cfg.strategy.impact_bps * costs.BPS,
        most=turnover_limit(cfg),
    )


def _report(rows: pd.DataFrame, market: Market, placed: Placement) -> pd.DataFrame:
    cost = rows["trading"] + rows["impact"] + rows["borrow"]
    counts = {name: rows[name].astype("int64") for name in ("n_halted", "n_lapsed", "n_delisted")}
    span = slice(placed.first, placed.end)
    return rows.assign(
        cost=cost,
        net_ret=rows["gross_ret"] - cost,
        **counts,
        opens_utc=market.opens_utc[span],
        session=market.session[span],
    )
