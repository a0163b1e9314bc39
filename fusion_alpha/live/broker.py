"""Orders behind one small interface: a broker on paper, and one that only notes. Nothing here reaches a market.

The paper broker is the backtest, one open at a time (fusion_alpha/engine.py has the arithmetic): an order fills at the
open of its fill_utc, weights are shares of the equity at that open, costs come off the interval that the trade opens. A
bar tells its open when it ends, so fills are known then. An order whose open has no bar lapses for that ticker. Where
no decision was made the book is left alone, which the backtest never has to do.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
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


@dataclass(frozen=True)
class Book:
    """All that a paper broker knows; plain numbers, so that the journal can keep it.

    A book is never changed: the display and the metrics, on threads of their own, look at one while the next is made.
    """

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
        book = self.book
        return book.equity * until_mark(book)

    def after(self, order: Order | None) -> dict[str, Any]:
        saved = self.book.saved()
        saved["orders"] += [] if order is None else [asdict(order)]
        return saved

    def send(self, order: Order) -> None:
        self.book = replace(self.book, orders=[*self.book.orders, order])

    def bar(self, opens_utc: pd.Timestamp, quotes: dict[str, Quote]) -> dict[str, Any] | None:
        book = self.book
        opens = {name: quotes[name].open if name in quotes else book.marks[name] for name in {*quotes, *book.marks}}
        equity, held = rolled(book, opens)
        due = [order for order in book.orders if pd.Timestamp(order.fill_utc) <= opens_utc]
        waiting = [order for order in book.orders if order not in due]
        # Of several orders the last one counts; one whose own open was missed is void.
        order = due[-1] if due and pd.Timestamp(due[-1].fill_utc) == opens_utc else None
        weights, cost, lapsed = self._traded(equity, held, order, quotes)
        marks = book.marks | {name: quote.close for name, quote in quotes.items()}
        self.book = _unless_ruined(Book(equity, cost, weights, opens, marks, waiting))
        if not due:
            return None
        filled = {"equity": equity, "weights": weights, "cost": cost, "lapsed": lapsed}
        return filled | {"opens_utc": opens_utc.isoformat(), "void": len(due) - (order is not None)}

    def _traded(
        self, equity: float, held: dict[str, float], order: Order | None, quotes: dict[str, Quote]
    ) -> tuple[dict[str, float], float, list[str]]:
        """Weights after an order, share of the equity that it cost, and tickers for which it lapsed."""
        cfg = self._cfg
        target = {} if order is None or equity <= 0 else order.weights
        names = sorted({*held, *target})
        rates = costs.rates(pd.Index(names), cfg)
        impact = cfg.strategy.impact_bps * costs.BPS
        cost, weights, lapsed = 0.0, dict[str, float](), list[str]()
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
                cost += impact * (traded * equity / volume) ** 0.5 * traded
            weights[name] = weight
        return {name: weight for name, weight in weights.items() if weight != 0.0}, cost, lapsed


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


def _unless_ruined(book: Book) -> Book:
    """A book that has lost everything by the prices of the next decision stays at nothing, as in the backtest."""
    return book if until_mark(book) > 0.0 else replace(book, equity=0.0, cost=0.0, weights={})


class Reconciliation:
    """Follows a journal, given its records in order. close: of the last bar; book: the one after it.

    about: feed, interval and kind of orders of the router that goes on with it, as its `start` record has them. Raises
    InputError where a router with others wrote, and Damaged where a book is not what the one before it, the prices at
    the open and the fill there make of it.
    """

    def __init__(self, about: dict[str, str], file: Path | None = None) -> None:
        self._about, self._file = about, file
        self._fill: dict[str, Any] | None = None
        self.close: pd.Timestamp | None = None
        self.book = Book()

    def take(self, record: Record) -> None:
        if record.kind == "start":
            self._require_same(record.data)
        elif record.kind == "fill":
            self._fill = record.data
        elif record.kind == "bar":
            try:
                close, after = pd.Timestamp(record.data["close_utc"]), Book.restored(record.data["book"])
                if close.tzinfo is None:  # nor has a time that is none
                    raise ValueError("its close has no time zone")
                wrong = _disagreement(self.book, after, close, self._fill)
            except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
                wrong = f"it is not as a router writes it ({type(error).__name__}: {error})"
            if wrong:
                raise Damaged(
                    f"the book does not agree with its fills: {wrong}",
                    file=self._file,
                    line=record.seq + 1,
                    rule="a book is the one before it, moved by prices and changed by fills",
                    remedy="keep the file for inspection and start with another one: --log FILE",
                )
            self.close, self.book, self._fill = close, after, None

    def _require_same(self, started: dict[str, Any]) -> None:
        for name, value in self._about.items():
            before = started.get(name, value)
            if before != value:
                raise InputError(
                    f"the journal is of a router with {name} {before!r}, this one has {value!r}",
                    file=self._file,
                    rule="a journal has one feed, one interval and one kind of orders, because its book goes on",
                    remedy="the options of before, or another file: --log FILE",
                )


def reconciled(records: Iterable[Record], file: Path | None = None) -> tuple[pd.Timestamp | None, Book]:
    """Close of the last bar in a journal and the book after it, once every book in it agrees with its fills."""
    found = Reconciliation({}, file)
    for record in records:
        found.take(record)
    return found.close, found.book


def _disagreement(before: Book, after: Book, close: pd.Timestamp, fill: dict[str, Any] | None) -> str:
    """What of the book after a bar does not follow; empty where all does. Equal to the bit: the sums are the same."""
    due = [order for order in before.orders if pd.Timestamp(order.fill_utc) < close]
    left = [order for order in before.orders if order not in due]
    if bool(due) != (fill is not None):
        return f"{len(due)} orders were due, {'a' if fill else 'no'} fill is there"
    if after.orders[: len(left)] != left or len(after.orders) > len(left) + 1:
        return "orders that were not due have changed"
    if not {*before.weights, *after.weights} <= {*after.opened} & {*after.marks}:
        return "a position has no price"
    equity, weights = rolled(before, after.opened)
    cost = after.cost
    if fill is not None:
        if fill["equity"] != equity:
            return f"the fill has equity {fill['equity']!r}, by its prices it is {equity!r}"
        cost = fill["cost"]
        if pd.Timestamp(due[-1].fill_utc) == pd.Timestamp(fill["opens_utc"]) and equity > 0:
            weights |= {name: to for name, to in due[-1].weights.items() if name not in fill["lapsed"]}
    weights = {name: weight for name, weight in weights.items() if weight != 0.0}
    if fill is not None and fill["weights"] != weights:
        return f"the fill has weights {fill['weights']}, by its order they are {weights}"
    expected = _unless_ruined(replace(after, equity=equity, cost=cost, weights=weights))
    for name in ("equity", "cost", "weights"):
        if getattr(expected, name) != getattr(after, name):
            return f"{name} {getattr(after, name)!r}, by prices and fills {getattr(expected, name)!r}"
    return ""
