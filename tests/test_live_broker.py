"""The paper broker earns what the backtest says, open after open, and comes back from a journal as it was."""

import json

import numpy as np
import pandas as pd
import pytest
from trading_market import configuration, market

from fusion_alpha import trading
from fusion_alpha.live.broker import Book, DryRun, Order, PaperBroker, Quote
from fusion_alpha.market import market as exchange

BARS = 60


@pytest.fixture(scope="module")
def made():
    cfg = configuration(max_turnover=0.3)
    tables = market(cfg, n_tickers=4)
    panel = tables["panel"]
    start = sorted(panel["bar_close_utc"].unique())[-BARS]
    rows = tables["predictions"][tables["predictions"]["bar_close_utc"] >= start]
    rows = rows.merge(panel[["ticker", "bar_close_utc", "fill_utc"]], on=["ticker", "bar_close_utc"])
    rows = rows.drop(rows[(rows["ticker"] == "T3") & (rows["bar_close_utc"] == rows["bar_close_utc"].iloc[7])].index)
    return cfg, panel, rows.reset_index(drop=True)


def quotes(grid, number: int) -> dict[str, Quote]:
    return {
        name: Quote(grid.price[number, n], grid.mark[number, n], grid.volume[number, n])
        for n, name in enumerate(grid.tickers)
        if grid.tradable[number, n]
    }


def run(cfg, panel, rows, broker: PaperBroker, restart: bool = False) -> pd.DataFrame:
    """Every bar as the router has it: fills at its open, then the decision at its close."""
    grid, log = exchange(panel, cfg), []
    for number, close in enumerate(grid.closes_utc):
        if close < rows["bar_close_utc"].min():
            continue
        if restart:
            broker = PaperBroker(cfg, Book.restored(json.loads(json.dumps(broker.book.saved()))))
        filled = broker.bar(grid.opens_utc[number], quotes(grid, number))
        if filled:
            log.append((grid.opens_utc[number], broker.book.equity, dict(broker.book.weights)))
        now = rows[rows["bar_close_utc"] == close]
        held = broker.held()
        weights = trading.decide(now, cfg, held=held)
        fill = now["fill_utc"].iloc[0]
        broker.send(Order(now["decided_utc"].iloc[0].isoformat(), fill.isoformat(), weights.to_dict()))
    return pd.DataFrame(log, columns=["opens_utc", "equity", "weights"])


def test_positions_and_equity_are_the_backtests(made):
    cfg, panel, rows = made
    assert cfg.strategy.impact_bps > 0
    found = run(cfg, panel, rows, PaperBroker(cfg))
    orders = rows.assign(weight=trading.decide(rows, cfg))
    grid = exchange(panel, cfg)
    weights, _ = trading.positions(orders, grid, cfg)
    result = trading.simulate(orders, grid, cfg)
    known = found[found["opens_utc"].isin(weights.index)]
    mine = (
        pd.DataFrame(known["weights"].tolist(), index=known["opens_utc"]).reindex(columns=weights.columns).fillna(0.0)
    )
    assert len(mine) == len(weights) > BARS - 5
    np.testing.assert_allclose(mine, weights, rtol=0, atol=1e-12)
    equity = np.cumprod(1 + result["net_ret"].to_numpy())[:-1]  # the last interval also closes the book
    np.testing.assert_allclose(known["equity"].to_numpy()[1:], equity, rtol=1e-12)
    assert abs(equity[-1] - 1) > 1e-4


def test_a_book_from_the_journal_goes_on_to_the_bit(made):
    cfg, panel, rows = made
    pd.testing.assert_frame_equal(
        run(cfg, panel, rows, PaperBroker(cfg)), run(cfg, panel, rows, PaperBroker(cfg), True)
    )


def at(hour: int) -> pd.Timestamp:
    return pd.Timestamp("2019-12-02T00:00Z") + pd.Timedelta(hours=hour)


def test_a_ticker_without_a_bar_keeps_its_position_and_its_order_lapses():
    cfg = configuration(impact_bps=0.0)
    broker = PaperBroker(cfg)
    broker.bar(at(0), {"A": Quote(10, 10, np.nan), "B": Quote(10, 10, np.nan)})
    broker.send(Order("", at(1).isoformat(), {"A": 0.1, "B": 0.1}))
    filled = broker.bar(at(1), {"A": Quote(10, 11, np.nan)})
    assert filled["lapsed"] == ["B"]
    assert filled["weights"] == {"A": 0.1}
    assert broker.held()["A"] == pytest.approx(0.11 / (1.01 - filled["cost"]))


def test_an_order_whose_open_was_missed_is_void():
    broker = PaperBroker(configuration(impact_bps=0.0))
    broker.bar(at(0), {"A": Quote(10, 10, np.nan)})
    broker.send(Order("", at(1).isoformat(), {"A": 0.1}))
    filled = broker.bar(at(2), {"A": Quote(10, 10, np.nan)})
    assert (filled["void"], filled["weights"]) == (1, {})
    assert broker.book.orders == []


def test_without_an_order_the_book_is_left_alone():
    broker = PaperBroker(configuration(impact_bps=0.0))
    broker.bar(at(0), {"A": Quote(10, 10, np.nan)})
    broker.send(Order("", at(1).isoformat(), {"A": -0.2}))
    broker.bar(at(1), {"A": Quote(10, 10, np.nan)})
    assert broker.bar(at(2), {"A": Quote(11, 11, np.nan)}) is None
    assert broker.book.weights["A"] == pytest.approx(-0.22 / (0.98 - 0), rel=1e-3)
    assert broker.equity() < 0.98


def test_a_dry_run_holds_nothing():
    broker = DryRun()
    broker.send(Order("", "", {"A": 1.0}))
    assert broker.bar(at(0), {"A": Quote(1, 1, 1)}) is None
    assert broker.held().empty
    assert broker.equity() == 1.0
