"""The paper broker earns what the backtest says, open after open, and comes back from a journal as it was."""

import copy
import inspect
import json
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trading_market import configuration, market

from fusion_alpha import trading
from fusion_alpha.errors import InputError
from fusion_alpha.live.broker import Book, DryRun, Order, PaperBroker, Quote, Reconciliation, reconciled
from fusion_alpha.live.journal import Damaged, Record
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


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_any_orders_on_any_market_earn_what_the_backtest_says(made, data):
    """Random weights, tickers that an order leaves out, bars that are missing, with and without impact and borrow."""
    cfg, panel, _ = made
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), label="seed"))
    impact = data.draw(st.sampled_from([0.0, 200.0]), label="impact")
    missing = data.draw(st.floats(0, 0.3), label="share of missing bars")
    named = data.draw(st.floats(0.3, 1), label="share of tickers that an order names")
    size = data.draw(st.sampled_from([0.2, 2.0]), label="weight")
    cfg = replace(cfg, strategy=replace(cfg.strategy, impact_bps=impact, borrow_bps=3e4, max_turnover=None))
    closes = sorted(panel["bar_close_utc"].unique())[-45:]
    short = panel[panel["bar_close_utc"] >= closes[0]]
    # Where nothing at all is decided the backtest closes everything and the router leaves it: T0 has every bar. First
    # and last bars stay: nobody is new, and nobody leaves.
    inside = (short["ticker"] != "T0") & ~short["bar_close_utc"].isin([closes[0], closes[-1]])
    short = short[~(inside & (rng.random(len(short)) < missing))]
    decisions = short.groupby("bar_close_utc", as_index=False)[["decided_utc", "fill_utc"]].first()
    decisions = decisions[decisions["bar_close_utc"].isin(closes[20:])]
    grid = exchange(short, cfg)
    decisions = decisions[decisions["fill_utc"].isin(grid.opens_utc)]
    orders = decisions.merge(pd.Series(grid.tickers, name="ticker"), how="cross")
    orders["weight"] = np.where(rng.random(len(orders)) < named, rng.normal(0, size, len(orders)), np.nan)
    sent = {
        close: Order(str(rows["decided_utc"].iloc[0]), rows["fill_utc"].iloc[0].isoformat(), weights.to_dict())
        for close, rows in orders.groupby("bar_close_utc")
        for weights in [rows.dropna(subset="weight").set_index("ticker")["weight"]]
    }
    broker, equity, records = PaperBroker(cfg), {}, []
    for number, close in enumerate(grid.closes_utc):
        filled = broker.bar(grid.opens_utc[number], quotes(grid, number))
        equity[grid.opens_utc[number]] = broker.book.equity
        records += [record("fill", filled)] if filled else []
        records.append(record("bar", {"close_utc": close.isoformat(), "book": broker.after(sent.get(close))}))
        if close in sent:
            broker.send(sent[close])
    result = trading.simulate(orders, grid, cfg)
    expected = np.maximum(np.cumprod(1 + result["net_ret"].to_numpy()), 0.0)[:-1]  # the last interval closes the book
    mine = np.array([equity[time] for time in result["opens_utc"]][1:])
    alive = mine > 0  # a book that is ruined by a close shows it there, the backtest at the open after it
    np.testing.assert_allclose(mine[alive], expected[alive], rtol=1e-9)
    assert not mine[expected == 0].any()
    close, book = reconciled(as_read(records))
    assert (close, book) == (grid.closes_utc[-1], broker.book)


def record(kind: str, data: dict) -> Record:
    return Record(0, "", kind, None, data, {})


def as_read(records: list[Record]) -> list[Record]:
    return [replace(one, data=json.loads(json.dumps(one.data))) for one in records]


@pytest.fixture
def journal() -> list[Record]:
    """A book that bought A and B, lost a bar of B, and sold A."""
    broker, records = PaperBroker(configuration(impact_bps=0.0)), []
    orders = {0: {"A": 0.3, "B": -0.2}, 1: {"A": 0.3}, 2: {"A": 0.0, "B": 0.1}}
    for hour in range(4):
        prices = {"A": Quote(10 + hour, 10.5 + hour, np.nan)}
        prices |= {} if hour == 3 else {"B": Quote(20 - hour, 19.5 - hour, np.nan)}
        filled = broker.bar(at(hour), prices)
        records += [record("fill", filled)] if filled else []
        order = Order("", at(hour + 1).isoformat(), orders[hour]) if hour in orders else None
        state = {"close_utc": (at(hour) + pd.Timedelta(minutes=50)).isoformat(), "book": broker.after(order)}
        records.append(record("bar", state))
        if order:
            broker.send(order)
    return as_read(records)


def test_a_journal_whose_books_follow_from_its_fills_gives_the_last_one(journal):
    close, book = reconciled(journal)
    assert close == at(3) + pd.Timedelta(minutes=50)
    assert book == Book.restored(journal[-1].data["book"])
    assert book.weights["B"] < -0.1  # its order lapsed
    assert reconciled([]) == (None, Book())


def spoilt(journal: list[Record], kind: str, number: int, change) -> list[Record]:
    made = copy.deepcopy(journal)
    change([one for one in made if one.kind == kind][number].data)
    return made


@pytest.mark.parametrize(
    ("kind", "number", "change", "said"),
    [
        ("bar", 3, lambda data: data["book"].update(equity=2.0), "equity"),
        ("bar", 3, lambda data: data["book"]["weights"].update(B=0.5), "weights"),
        ("bar", 2, lambda data: data["book"]["weights"].update(A=0.30000000001), "weights"),
        ("bar", 3, lambda data: data["book"]["opened"].pop("B"), "no price"),
        ("bar", 1, lambda data: data["book"]["orders"].clear(), "0 orders were due, a fill"),
        ("bar", 0, lambda data: data["book"]["orders"][0]["weights"].update(A=0.2), "weights"),
        ("fill", 1, lambda data: data.update(cost=0.0), "cost"),
        ("fill", 2, lambda data: data.update(lapsed=[]), "weights"),
    ],
)
def test_a_book_that_does_not_follow_is_refused_with_its_place(kind, number, change, said, journal, tmp_path):
    with pytest.raises(Damaged, match=said) as caught:
        reconciled(spoilt(journal, kind, number, change), tmp_path / "live.log")
    assert "live.log, line" in str(caught.value)
    assert "--log FILE" in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.update(close_utc="2019-12-00T00:00Z"),
        lambda data: data.update(close_utc=None),
        lambda data: data.update(close_utc="2019-12-02T00:50"),
        lambda data: data.pop("book"),
        lambda data: data.update(book=[]),
        lambda data: data["book"].pop("orders"),
        lambda data: data["book"].update(more=1),
        lambda data: data["book"].update(cost="0"),
        lambda data: data["book"].update(weights=None),
        lambda data: data["book"]["orders"][0].update(fill_utc="soon"),
    ],
)
@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_record_of_another_form_is_damage(change, number, journal):
    with pytest.raises(Damaged, match="the book does not agree with its fills"):
        reconciled(spoilt(journal, "bar", number, change))


def test_a_fill_that_is_missing_or_too_many_is_refused(journal):
    fills = [number for number, one in enumerate(journal) if one.kind == "fill"]
    with pytest.raises(Damaged, match="1 orders were due, no fill"):
        reconciled([one for number, one in enumerate(journal) if number != fills[0]])
    with pytest.raises(Damaged, match="0 orders were due, a fill"):
        reconciled([journal[fills[0]], *journal])


@pytest.mark.parametrize("other", [{"orders": "dry run"}, {"feed": "replay"}, {"interval": "1m"}])
def test_a_journal_is_of_one_feed_one_interval_and_one_kind_of_orders(other, tmp_path):
    about = {"feed": "lab", "interval": "1d", "orders": "paper"}
    Reconciliation(about).take(record("start", about))
    with pytest.raises(InputError, match=r"live.log: the journal is of a router with .*(?s:.*)--log FILE"):
        Reconciliation(about | other, tmp_path / "live.log").take(record("start", about))


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


def test_whoever_looks_while_a_bar_is_taken_sees_one_book_or_the_other():
    """The display's thread may run between any two lines of the broker's."""
    names, broker, now, seen = "ABCDE", PaperBroker(configuration(impact_bps=0.0)), [1.0, 1.0], Counter[float]()

    def look(frame, event, _):
        if event == "line":
            assert broker.equity() in now  # the one before the bar, or the one after it
            assert list(broker.held().index) in held
            seen[broker.equity()] += 1
        return look

    for number in range(6):
        prices = {name: Quote(10.0 + number, 10.5 + number, np.nan) for name in names[: 5 - number % 3]}
        after = copy.copy(broker)
        filled = after.bar(at(number), prices)
        now, held = [broker.equity(), after.equity()], [list(broker.held().index), list(after.held().index)]
        sys.settrace(lambda frame, *_: look if frame.f_code.co_filename == inspect.getfile(PaperBroker) else None)
        try:
            assert broker.bar(at(number), prices) == filled
        finally:
            sys.settrace(None)
        assert broker.book == after.book
        broker.send(Order("", at(number + 1).isoformat(), dict.fromkeys(names[number % 2 :], 0.1 * (-1) ** number)))
    assert len(seen) == 6
    assert sum(seen.values()) > 100


def test_equity_is_that_of_one_book_when_another_takes_its_place_meanwhile():
    broker = PaperBroker(configuration(impact_bps=0.0))
    books = [
        Book(2.0, 0.0, {"A": 0.5}, {"A": 10.0}, {"A": 11.0}),
        Book(3.0, 0.0, {"B": 0.5}, {"B": 10.0}, {"B": 12.0}),
    ]
    expected = []
    for book in books:
        broker.book = book
        expected.append(broker.equity())

    def replaced_before(instruction: int) -> float:
        """Equity, when the second book comes before that instruction of its function."""
        left = instruction

        def count(frame, event, _):
            nonlocal left
            frame.f_trace_opcodes = True
            left -= event == "opcode"
            if left < 0:
                broker.book = books[1]
            return count if frame.f_code is PaperBroker.equity.__code__ else None

        broker.book = books[0]
        sys.settrace(count)
        try:
            return broker.equity()
        finally:
            sys.settrace(None)

    assert {replaced_before(instruction) for instruction in range(20)} == set(expected)


def test_a_dry_run_holds_nothing():
    broker = DryRun()
    order = Order("", "", {"A": 1.0})
    assert broker.after(order) == Book().saved()
    broker.send(order)
    assert broker.bar(at(0), {"A": Quote(1, 1, 1)}) is None
    assert broker.held().empty
    assert broker.equity() == 1.0
