"""Orders behind one small interface: a broker on paper, and one that only notes. Nothing here reaches a market.

The paper broker is the backtest, one open at a time (fusion_alpha/engine.py has the arithmetic): an order fills at the
open of its fill_utc, weights are shares of the equity at that open, costs come off the interval that the trade opens. A
bar tells its open when it ends, so fills are known then. An order whose open has no bar lapses for that ticker. Where
no decision was made the book is left alone, which the backtest never has to do.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from fusion_alpha import costs
from fusion_alpha.config import Config
from fusion_alpha.errors import InputError
from fusion_alpha.live.journal import Damaged, Record


@dataclass(frozen=True)
class Quote:
    """A ticker's bar: adjusted open and close, and the mean dollar volume of the bars before it (NaN if unknown)."""

    open: float
    close: float
    dollars: float


@dataclass(frozen=True)
class Order:
    """Target weights by ticker of one decision, for the open at `fill_utc`; a ticker that it does not name stays."""

    decided_utc: str
    fill_utc: str
    weights: dict[str, float]


@dataclass
class Book:
    """All that a paper broker knows; plain numbers, so that the journal can keep it."""

    equity: float = 1.0  # at the last open, in units of the start
    cost: float = 0.0  # share of it that the trades there cost
    weights: dict[str, float] = field(default_factory=dict)  # held since the last open
    opened: dict[str, float] = field(default_factory=dict)  # price of each ticker at the last open
    marks: dict[str, float] = field(default_factory=dict)  # latest price of each ticker
    orders: list[Order] = field(default_factory=list)  # not filled yet

    @classmethod
    def restored(cls, saved: dict[str, Any]) -> "Book":
        return cls(**saved | {"orders": [Order(**order) for order in saved["orders"]]})

    def saved(self) -> dict[str, Any]:
        return asdict(self)


class Broker(Protocol):
    """Who gets the orders."""

    name: str  # in the journal

    @property
    def book(self) -> Book: ...

    def held(self) -> pd.Series:
        """Weights by ticker at the latest known prices, for `decide`."""
        ...

    def equity(self) -> float:
        """Equity at the latest known prices, in units of the start."""
        ...

    def after(self, order: Order | None) -> dict[str, Any]:
        """The book, for the journal, as it will stand when the order has been sent."""
        ...

    def send(self, order: Order) -> None: ...

    def bar(self, opens_utc: pd.Timestamp, quotes: dict[str, Quote]) -> dict[str, Any] | None:
        """Take a bar of every ticker that has one; returns what was filled at its open, None where nothing was."""
        ...


class DryRun:
    """Takes orders and forgets them."""

    name = "dry run"

    def __init__(self) -> None:
        self.book = Book()

    def held(self) -> pd.Series:
        return pd.Series(dtype="float64")

    def equity(self) -> float:
        return 1.0

    def after(self, order: Order | None) -> dict[str, Any]:
        return self.book.saved()

    def send(self, order: Order) -> None:
        """The decision is in the journal; nothing trades."""

    def bar(self, opens_utc: pd.Timestamp, quotes: dict[str, Quote]) -> dict[str, Any] | None:
        return None


class PaperBroker:
    """Fills as the backtest does."""

    name = "paper"

    def __init__(self, cfg: Config, book: Book | None = None) -> None:
        self._cfg, self.book = cfg, book or Book()

    def held(self) -> pd.Series:
        book = self.book
        left = until_mark(book)
        weights = {
            name: weight * (book.marks[name] / book.opened[name]) / left
            for name, weight in sorted(book.weights.items())
        }
        return pd.Series(weights, dtype="float64").rename_axis("ticker")

    def equity(self) -> float:
        return self.book.equity * until_mark(self.book)

    def after(self, order: Order | None) -> dict[str, Any]:
        saved = self.book.saved()
        saved["orders"] += [] if order is None else [asdict(order)]
        return saved

    def send(self, order: Order) -> None:
        self.book.orders.append(order)

    def bar(self, opens_utc: pd.Timestamp, quotes: dict[str, Quote]) -> dict[str, Any] | None:
        book = self.book
        opens = {name: quotes[name].open if name in quotes else book.marks[name] for name in {*quotes, *book.marks}}
        book.equity, held = rolled(book, opens)
        due = [order for order in book.orders if pd.Timestamp(order.fill_utc) <= opens_utc]
        book.orders = [order for order in book.orders if order not in due]
        # Of several orders the last one counts; one whose own open was missed is void.
        order = due[-1] if due and pd.Timestamp(due[-1].fill_utc) == opens_utc else None
        filled = self._trade(held, order, quotes)
        book.opened = opens
        book.marks |= {name: quote.close for name, quote in quotes.items()}
        _close_if_ruined(book)
        return filled | {"opens_utc": opens_utc.isoformat(), "void": len(due) - (order is not None)} if due else None

    def _trade(self, held: dict[str, float], order: Order | None, quotes: dict[str, Quote]) -> dict[str, Any]:
        book, cfg = self.book, self._cfg
        target = {} if order is None or book.equity <= 0 else order.weights
        names = sorted({*held, *target})
        rates = costs.rates(pd.Index(names), cfg)
        impact = cfg.strategy.impact_bps * costs.BPS
        cost, weights, lapsed = 0.0, dict[str, float](), []
        for name, side, borrow in zip(names, rates.side.tolist(), rates.borrow.tolist(), strict=True):
            before = held.get(name, 0.0)
            weight = target.get(name, before)
            volume = quotes[name].dollars / cfg.strategy.capital if name in quotes else float("nan")
            if name not in quotes or (impact > 0 and not volume > 0):
                lapsed += [name] if weight != before else []
                weight = before
            traded = abs(weight - before)
            cost += side * traded + borrow * max(-weight, 0.0)
            if impact > 0 and volume > 0:
                cost += impact * (traded * book.equity / volume) ** 0.5 * traded
            weights[name] = weight
        book.weights = {name: weight for name, weight in weights.items() if weight != 0.0}
        book.cost = cost
        return {"equity": book.equity, "weights": book.weights, "cost": cost, "lapsed": lapsed}


def rolled(book: Book, opens: dict[str, float]) -> tuple[float, dict[str, float]]:
    """Equity and weights at these prices before anything trades there, from those of the book's last open."""
    gross = 0.0
    for name in sorted(book.weights):
        gross += book.weights[name] * (opens[name] / book.opened[name] - 1)
    growth = 1.0 + gross - book.cost
    if growth <= 0.0:  # nothing is left, and nothing can be traded again
        return 0.0, {}
    moved = {name: weight * (opens[name] / book.opened[name]) / growth for name, weight in book.weights.items()}
    return book.equity * growth, moved


def until_mark(book: Book) -> float:
    """Growth of the equity from the last open to the latest prices."""
    left = 1.0 - book.cost
    for name in sorted(book.weights):
        left += book.weights[name] * (book.marks[name] / book.opened[name] - 1)
    return left


def _close_if_ruined(book: Book) -> None:
    """A book that has lost everything by the prices of the next decision stays at nothing, as in the backtest."""
    if until_mark(book) <= 0.0:
        book.equity, book.cost, book.weights = 0.0, 0.0, {}


def require_same(records: Iterable[Record], about: dict[str, str], file: Path | None = None) -> None:
    """Raise InputError where a router with another feed, interval or kind of orders wrote in the journal.

    about: these of the router that goes on with it, as its `start` record has them.
    """
    for record in records:
        if record.kind != "start":
            continue
        for name, value in about.items():
            before = record.data.get(name, value)
            if before != value:
                raise InputError(
                    f"the journal is of a router with {name} {before!r}, this one has {value!r}",
                    file=file,
                    rule="a journal has one feed, one interval and one kind of orders, because its book goes on",
                    remedy="the options of before, or another file: --log FILE",
                )


def reconciled(records: Iterable[Record], file: Path | None = None) -> tuple[pd.Timestamp | None, Book]:
    """Close of the last bar in a journal and the book after it, once every book in it agrees with its fills.

    Raises Damaged where a book is not what the one before it, the prices at the open and the fill there make of it.
    """
    close, book, fill = None, Book(), None
    for record in records:
        if record.kind == "fill":
            fill = record.data
        elif record.kind == "bar":
            after = Book.restored(record.data["book"])
            wrong = _disagreement(book, after, record.data["close_utc"], fill)
            if wrong:
                raise Damaged(
                    f"the book does not agree with its fills: {wrong}",
                    file=file,
                    line=record.seq + 1,
                    rule="a book is the one before it, moved by prices and changed by fills",
                    remedy="keep the file for inspection and start with another one: --log FILE",
                )
            close, book, fill = pd.Timestamp(record.data["close_utc"]), after, None
    return close, book


def _disagreement(before: Book, after: Book, close_utc: str, fill: dict[str, Any] | None) -> str:
    """What of the book after a bar does not follow; empty where all does. Equal to the bit: the sums are the same."""
    close = pd.Timestamp(close_utc)
    due = [order for order in before.orders if pd.Timestamp(order.fill_utc) < close]
    left = [order for order in before.orders if order not in due]
    if bool(due) != (fill is not None):
        return f"{len(due)} orders were due, {'a' if fill else 'no'} fill is there"
    if after.orders[: len(left)] != left or len(after.orders) > len(left) + 1:
        return "orders that were not due have changed"
    if not {*before.weights, *after.weights} <= {*after.opened} & {*after.marks}:
        return "a position has no price"
    equity, held = rolled(before, after.opened)
    expected = Book(equity, after.cost, held, after.opened, after.marks, after.orders)
    if fill is not None:
        if fill["equity"] != equity:
            return f"the fill has equity {fill['equity']!r}, by its prices it is {equity!r}"
        expected.cost = fill["cost"]
        if pd.Timestamp(due[-1].fill_utc) == pd.Timestamp(fill["opens_utc"]) and equity > 0:
            expected.weights |= {name: to for name, to in due[-1].weights.items() if name not in fill["lapsed"]}
    expected.weights = {name: weight for name, weight in expected.weights.items() if weight != 0.0}
    if fill is not None and fill["weights"] != expected.weights:
        return f"the fill has weights {fill['weights']}, by its order they are {expected.weights}"
    _close_if_ruined(expected)
    for name in ("equity", "cost", "weights"):
        if getattr(expected, name) != getattr(after, name):
            return f"{name} {getattr(after, name)!r}, by prices and fills {getattr(expected, name)!r}"
    return ""
