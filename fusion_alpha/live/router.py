"""The loop: poll, judge, extend the tables, predict, decide, write down, send.

What a bar leads to is written in one piece before anything is sent: its fills, a `signal` for each ticker (or a
`no_signal` with the reason), and a `bar` record that closes it and holds the book. A router that starts again goes on
after the last `bar` record; what stood after it is decided again, to the same records under the same keys.

A signal is given when nothing is wrong: the bar is whole, possible and in time, its texts are embedded, the ticker is
not halted, clocks agree, nobody has pulled the kill switch, and the disk takes the record. As in the backtest, a ticker
that is held and has no signal is closed by a decision on others; where nothing is decided the book is left alone.
"""

import gc
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from fusion_alpha.config import Config
from fusion_alpha.errors import InputError
from fusion_alpha.live.broker import Book, Broker, Order
from fusion_alpha.live.clock import Clock, Hours
from fusion_alpha.live.feed import Bar, Feed, Headline, History, Polled
from fusion_alpha.live.guards import REFUSED, BarGuard, Finding, SkewGuard
from fusion_alpha.live.journal import Entry, Journal, JournalError, Record, latched
from fusion_alpha.live.model import Engine, config_sha256
from fusion_alpha.live.monitor import Metrics
from fusion_alpha.live.state import State
from fusion_alpha.live.switch import KillSwitch, Stop
from fusion_alpha.live.texts import Texts
from fusion_alpha.tables import schema
from fusion_alpha.trading import decide

log = logging.getLogger(__name__)

OK, BROKEN = 0, 74  # exit status; EX_IOERR of sysexits.h where the journal could not be written
_TEXT_PATIENCE_S = 10.0  # of the wall's clock, for texts of a bar that is due
_GAPS = 2  # bars of the calendar for each bar of a ticker, at most
_NO_CHANGE = 1e-9  # of a weight
_FORGET_BARS = 100  # after as many, what no table needs any more is forgotten
_QUIET_POLL_S = 60.0  # between two looks at the feed while no bar is due; headlines come at any time
STALE, LATE = "STALE", "LATE"  # became too old here; was too old when it came


class Stopped(BaseException):
    """Raised by a signal's handler where the router waits for others."""


@dataclass
class Parts:
    """What a router is made of."""

    cfg: Config
    feed: Feed
    history: History
    clock: Clock
    journal: Journal
    engine: Engine
    texts: Texts
    broker: Broker
    switch: KillSwitch
    metrics: Metrics = field(default_factory=Metrics)


@dataclass(frozen=True)
class Decision:
    """What one bar leads to: what is said of each ticker that is predicted, of others that are held, and the order."""

    said: dict[str, dict[str, Any]]
    closed: dict[str, dict[str, Any]]
    order: Order


@dataclass(frozen=True)
class Row:
    """What people see of a ticker."""

    close_utc: pd.Timestamp
    data: dict[str, Any]
    latency_s: float


def resume_point(records: list[Record]) -> tuple[pd.Timestamp | None, Book]:
    """Close of the last bar that was dealt with, and the book after it."""
    for record in reversed(records):
        if record.kind == "bar":
            return pd.Timestamp(record.data["close_utc"]), Book.restored(record.data["book"])
    return None, Book()


class Router:
    """One run. tickers: those that get signals; the tables hold all of the history's."""

    def __init__(self, parts: Parts, tickers: list[str], once: bool = False) -> None:
        self.parts, self.tickers, self.once = parts, tickers, once
        self.stop = Stop()
        self.waiting = False  # in a call that a signal may interrupt
        self.rows: dict[str, Row] = {}
        self.failed: str | None = None  # why the journal cannot be written
        self.latched = latched(parts.journal.records)
        self.on_bar: Callable[[], None] = lambda: None
        self._hours = Hours(parts.cfg)
        self._guard = BarGuard(parts.cfg.live, self._hours)
        self._skew = SkewGuard(parts.cfg.live)
        self._key = (parts.engine.sha256[:16], config_sha256(parts.cfg)[:16])
        self._last, _ = resume_point(parts.journal.records)
        self._groups: dict[pd.Timestamp, dict[str, Bar]] = {}
        self._arrived: dict[pd.Timestamp, float] = {}  # when a group's first bar came, monotonic
        self._behind: set[pd.Timestamp] = set()  # groups that came after their time
        self._polled: pd.Timestamp | None = None
        self._failures = 0
        self._said: dict[str, str] = {}
        self._steps: dict[str, float] = {}  # seconds of each step of the bar that is dealt with
        self._done, self._dealt = False, 0

    def run(self) -> int:
        """Until the feed ends, `stop` is set, or with `once` a bar is dealt with; returns the exit status."""
        try:
            with self._interruptible():
                self._start()
            while not (self.stop.is_set() or self._done):
                now = self.parts.clock.now()
                polled = None
                if self._worth_asking(now):
                    with self._interruptible():
                        polled = self.parts.feed.poll(now)
                    self._polled = now
                with self.parts.texts.held():
                    if polled is not None:
                        self._take(polled, self.parts.clock.now())
                    self._settle_texts()
                    self._due()
                if polled is not None and polled.bars:
                    self._tell_feed()
                self._watch(self.parts.clock.now())
                self._look_at_switch()
                self._pause()
            if self._done and not self._dealt:
                log.warning("the feed has no bar after %s: nothing was decided", self._last)
        except Stopped:
            log.info("stopping")
        finally:
            gc.unfreeze()
        self._look_at_switch()
        self._write(Entry("stop", {"reason": "signal" if self.stop.is_set() else "done"}))
        return OK if self.failed is None else BROKEN

    def interrupt(self) -> None:
        """For handlers of signals: stop soon, at once where the router waits for others."""
        self.stop.set()
        if self.waiting:
            raise Stopped

    def health(self) -> dict[str, Any]:
        """What /health says."""
        failing = self._failures >= self.parts.cfg.live.breaker_failures or self._skew.judge(None, None) == "halt"
        return {
            "ok": self.failed is None and self.latched is None and not failing,
            "journal": self.failed or "ok",
            "killed": self.latched,
            "feed_failures": self._failures,
            "clock_skew_s": self._skew.skew_s,
            "last_bar_utc": None if self._last is None else self._last.isoformat(),
            "simulated": self.parts.feed.simulated,
        }

    def _worth_asking(self, now: pd.Timestamp) -> bool:
        """Is a bar due, or has the feed been left alone for a while?"""
        if now - self._hours.last_close(now) <= pd.Timedelta(seconds=self.parts.cfg.live.stale_s):
            return True
        return self._polled is None or now - self._polled >= pd.Timedelta(seconds=_QUIET_POLL_S)

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        """Time a step, for the metrics and for the bar's record."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._steps[name] = time.monotonic() - began
            self.parts.metrics.latency.labels(name).observe(self._steps[name])

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        self.waiting = True
        try:
            if self.stop.is_set():
                raise Stopped
            yield
        finally:
            self.waiting = False

    def _start(self) -> None:
        parts = self.parts
        missing = sorted(set(self.tickers) - set(parts.history.prices["ticker"]))
        if missing:
            known = ", ".join(sorted(set(parts.history.prices["ticker"])))
            raise InputError(f"no history of {', '.join(missing)}", rule=f"tickers with history: {known}")
        history, polled = self._caught_up()
        parts.texts.load(history.news["text"])
        self._state = State(history, parts.texts.vectors, parts.cfg)
        end = history.prices["bar_close_utc"].max()
        firsts = history.prices.groupby("ticker")["bar_close_utc"].min()
        begins = {str(name): close.isoformat() for name, close in firsts.items()}
        if self._last is not None:
            self._require_same_prices(begins)
            log.info("%s: goes on after the bar of %s", parts.journal.path, self._last)
        before, self._last = self._last, end if self._last is None else max(self._last, end)
        start = {
            "tickers": self.tickers,
            "interval": parts.cfg.interval,
            "feed": parts.feed.name,
            "simulated": parts.feed.simulated,
            "orders": parts.broker.name,
            "model_id": parts.engine.model_id,
            "model_sha256": parts.engine.sha256,
            "config_sha256": config_sha256(parts.cfg),
            "after_utc": self._last.isoformat(),
            "history_from_utc": begins,
        }
        self._write(Entry("start", start))
        if before is not None:
            self._bring_up(sorted(close for close in history.prices["bar_close_utc"].unique() if before < close))
        if self.latched:
            log.error("the kill switch is latched (%s); no signals until --release", self.latched)
        self._report_latch()
        parts.metrics.equity.set(parts.broker.equity())
        parts.metrics.last_bar.set(self._last.timestamp())
        self._tell_feed()
        self._warm_up(history.prices["bar_close_utc"].max())
        self._take(polled, parts.clock.now())

    def _require_same_prices(self, begins: dict[str, str]) -> None:
        """Raise InputError where prices of the book are not prices of this history, whose first bar is their unit."""
        book, file = self.parts.broker.book, self.parts.journal.path
        held = {*book.weights, *(name for order in book.orders for name in order.weights)}
        remedy = "the run that the router followed before (its data.* and tickers), or another file: --log FILE"
        before: dict[str, str] = {}
        for record in self.parts.journal.records:
            if record.kind == "start":
                before = record.data.get("history_from_utc", {})
        for name in sorted(held):
            if name not in begins:
                rule = "what the book holds has a history"
                raise InputError(f"the book holds {name}, which has none", file=file, rule=rule, remedy=remedy)
            if before.get(name, begins[name]) != begins[name]:
                problem = f"the book holds {name} at prices of a history from {before[name]}, not from {begins[name]}"
                rule = "adjusted prices are in units of a history's first bar"
                raise InputError(problem, file=file, rule=rule, remedy=remedy)

    def _bring_up(self, closes: list[pd.Timestamp]) -> None:
        """Take the book through bars that the history has and the journal has not, since the pipeline ran meanwhile."""
        broker = self.parts.broker
        for close in closes:
            quotes = self._state.quotes(close)
            if not quotes:
                continue  # so long ago that no table has it
            filled, ended = broker.bar(self._hours.open_of(close), quotes), close.isoformat()
            entries = [] if filled is None else [Entry("fill", filled, ("fill", filled["opens_utc"], *self._key))]
            state = {"close_utc": ended, "equity": broker.equity(), "book": broker.after(None)}
            self._write(*entries, Entry("bar", state, ("bar", ended, *self._key)))

    def _warm_up(self, close: pd.Timestamp) -> None:
        """Go the way of a bar once, to no effect: what first use compiles or loads is not missing at the first bar."""
        data, rows = self._state.samples(close, self.tickers)
        if len(rows):
            found = self.parts.engine.predict(data, rows).assign(ticker=data.rows["ticker"].iloc[rows].tolist())
            decide(found.assign(decided_utc=close), self.parts.cfg, held=pd.Series(dtype="float64"))
        gc.collect()
        gc.freeze()  # tables and models are not looked through for garbage while a bar waits

    def _caught_up(self) -> tuple[History, Polled]:
        """History with what the feed has of the time before the resume point, and the rest of its answer."""
        parts, now = self.parts, self.parts.clock.now()
        self._guard.learn(parts.history.prices)
        self._tell_feed()
        polled = parts.feed.poll(now)
        if self._last is None:
            return parts.history, polled
        good = (Finding.GOOD, Finding.LATE)
        old = [self._guard.adjusted(bar) for bar in polled.bars if bar.close_utc <= self._last]
        bars = [bar for bar in old if self._guard.judge(bar, now).finding in good]
        known = self._cutoff(self._last)
        items = [item for item in polled.headlines if item.published_utc < known]
        rest = Polled(
            [bar for bar in polled.bars if bar.close_utc > self._last],
            [item for item in polled.headlines if item.published_utc >= known],
            polled.problems,
            polled.server_utc,
            polled.received_utc,
            polled.answered,
        )
        return History(self._with_bars(bars), self._with_items(items)), rest

    def _with_bars(self, bars: list[Bar]) -> pd.DataFrame:
        prices = self.parts.history.prices
        rows = pd.DataFrame([vars(bar) for bar in bars], columns=[*Bar.__dataclass_fields__])
        rows = rows.rename(columns={"close_utc": "bar_close_utc"})
        rows["session"] = [self._hours.session(close) for close in rows["bar_close_utc"]]
        rows = rows[list(prices)].astype(prices.dtypes.to_dict())
        return pd.concat([prices, rows]).sort_values(["ticker", "bar_close_utc"], ignore_index=True)

    def _with_items(self, items: list[Headline]) -> pd.DataFrame:
        news = self.parts.history.news
        rows = []
        for item in items:
            news_id, text = self.parts.texts.cleaned(item)
            known = {"news_id": news_id, "ticker": item.ticker, "published_utc": item.published_utc, "text": text}
            rows.append(known | {"source": self.parts.feed.name, "is_repost": item.is_repost})
        made = pd.DataFrame(rows, columns=list(schema("news").columns)).astype(news.dtypes.to_dict())
        return (
            pd.concat([news, made])
            .drop_duplicates(["ticker", "news_id"])
            .sort_values(["ticker", "news_id"], ignore_index=True)
        )

    def _take(self, polled: Polled, now: pd.Timestamp) -> None:
        self._note_problems(polled)
        verdict = self._skew.judge(polled.server_utc, polled.received_utc)
        self.parts.metrics.skew.set(self._skew.skew_s)
        self._say("clock", verdict, {"skew_s": self._skew.skew_s}, quiet="ok")
        for item in polled.headlines:
            if item.ticker in self._state.tickers:
                self.parts.texts.take(item)
        received = time.monotonic()
        for bar in polled.bars:
            self._judge(self._guard.adjusted(bar), now, received)

    def _judge(self, bar: Bar, now: pd.Timestamp, received: float) -> None:
        verdict = self._guard.judge(bar, now)
        self.parts.metrics.bars.labels(verdict.finding).inc()
        numbers = {name: value for name, value in asdict(bar).items() if name not in ("ticker", "close_utc")}
        shown = {name: value if np.isfinite(value) else str(value) for name, value in numbers.items()}
        about = {"ticker": bar.ticker, "close_utc": bar.close_utc.isoformat()}
        key = (verdict.finding.value, bar.ticker, bar.close_utc.isoformat())
        if verdict.finding in REFUSED:
            self._write(Entry("reject", about | {"finding": verdict.finding, "rule": verdict.rule, "bar": shown}, key))
        elif verdict.finding is Finding.REVISED:
            self._write(Entry("revised", about | {"bar": shown}, (*key, repr(sorted(shown.items())))))
        elif verdict.finding in (Finding.GOOD, Finding.LATE):
            self._groups.setdefault(bar.close_utc, {})[bar.ticker] = bar
            self._arrived.setdefault(bar.close_utc, received)
            if verdict.backfill:
                self._behind.add(bar.close_utc)

    def _note_problems(self, polled: Polled) -> None:
        for problem in polled.problems:
            self.parts.metrics.problems.labels(problem.kind).inc()
            if problem.kind == "rejected":  # a row or an item of its source, named once
                about = {"finding": "rejected", "tickers": list(problem.tickers), "rule": problem.detail}
                self._write(Entry("reject", about, ("rejected", problem.detail)))
        if polled.answered is None:
            return
        self._failures = 0 if polled.answered else self._failures + 1
        worst = next((problem for problem in polled.problems if problem.kind != "rejected"), None)
        state = "ok" if worst is None else "degraded"
        state = "down" if self._failures >= self.parts.cfg.live.breaker_failures else state
        self.parts.metrics.feed_is(state)
        detail = {} if worst is None else {"kind": worst.kind, "detail": worst.detail, "sha256": worst.quarantined}
        self._say("feed", state if worst is None else f"{state}: {worst.kind}", detail, quiet="ok")

    def _settle_texts(self) -> None:
        """Hand items whose texts are embedded to the tables."""
        self.parts.metrics.queue.set(self.parts.texts.queued)
        ready = self.parts.texts.ready()
        for item, close in zip(ready, self._state.add_news(*ready), strict=True):
            if close is not None:
                about = {"ticker": item.ticker, "news_id": item.news_id, "close_utc": close.isoformat()}
                self._write(Entry("late_news", about, ("late_news", item.ticker, item.news_id)))

    def _tell_feed(self) -> None:
        self.parts.feed.seen(self._guard.seen(self.tickers))

    def _due(self) -> None:
        """Deal with the bars that are complete, or whose time of grace is over, oldest first."""
        live = self.parts.cfg.live
        for close in sorted(self._groups):
            grace = close + pd.Timedelta(seconds=live.settle_s + live.grace_s)
            complete = set(self._state.tickers) <= set(self._groups[close])
            if not complete and self.parts.clock.now() < grace:
                return
            self._deal(close, self._groups.pop(close))
            if self._done:
                return

    def _deal(self, close: pd.Timestamp, bars: dict[str, Bar]) -> None:
        assert self._last is not None
        if self.failed is not None:
            return
        parts, began = self.parts, self._arrived.pop(close)
        self._steps = {name: seconds for name, seconds in self._steps.items() if name == "journal"}  # the write before
        self._steps["wait"] = time.monotonic() - began
        waited = self._texts_of(close)
        with self._step("features"):
            self._state.add(close, list(bars.values()))
        if close <= self._last:
            ended = close.isoformat()
            self._write(
                *(Entry("late", {"ticker": name, "close_utc": ended}, ("late", name, ended)) for name in sorted(bars))
            )
            return
        filled = parts.broker.bar(self._hours.open_of(close), self._state.quotes(close))
        entries = [] if filled is None else [Entry("fill", filled, ("fill", filled["opens_utc"], *self._key))]
        parts.metrics.equity.set(parts.broker.equity())
        decided, fill = self._state.clock(close)
        reasons = {name: self._why_not(name, close, bars, waited) for name in self.tickers}
        wanted = [name for name in self.tickers if reasons[name] is None]
        in_time = parts.clock.now() <= self._guard.deadline(close)  # else what was missed is caught up quickly
        decision = self._decision(close, decided, fill, wanted) if in_time else None
        self._emit(close, reasons, entries, decision, began)
        self._last = close
        self._behind.discard(close)
        parts.metrics.last_bar.set(close.timestamp())
        self._done = self.once
        self.on_bar()
        self._dealt += 1
        if self._dealt % _FORGET_BARS == 0:
            self.parts.texts.forget_but(self._state.forget())

    def _texts_of(self, close: pd.Timestamp) -> bool:
        """Are the texts of the bar in the tables, after some patience?"""
        texts, cutoff = self.parts.texts, self._cutoff(close)
        done = not texts.missing(cutoff)
        if not done:
            with self._interruptible(), self._step("texts"):
                done = texts.wait(cutoff, _TEXT_PATIENCE_S)
        self._settle_texts()
        return done

    def _cutoff(self, close: pd.Timestamp) -> pd.Timestamp:
        return close - pd.Timedelta(seconds=self.parts.cfg.target.news_delay_s)

    def _why_not(self, ticker: str, close: pd.Timestamp, bars: dict[str, Bar], texts: bool) -> str | None:
        if ticker not in bars:
            return "no bar"
        if self._guard.halted(ticker):
            return "halted: waiting for good bars"
        bars_back = self.parts.cfg.contradiction.window_bars
        if self._state.span(ticker, bars_back) > _GAPS * bars_back:
            return "gap: most of its recent bars are missing"
        return None if texts else "texts are not embedded"

    def _look_at_switch(self) -> None:
        """Latch as soon as the switch is seen pulled: a file may go, and a signal dies with this process."""
        pulled = self.parts.switch.pulled()
        if pulled is not None and self.latched is None:
            self._write(Entry("latch", {"reason": pulled}))
            self.latched = pulled
            log.error("kill switch: %s", pulled)
        self._report_latch()

    def _blocked(self, close: pd.Timestamp) -> str | None:
        """What forbids every signal of the bar now."""
        self._look_at_switch()
        if self.latched is not None:
            return f"killed: {self.latched}"
        if self._skew.judge(None, None) == "halt":
            return f"clock skew of {self._skew.skew_s:.1f} s"
        if self.parts.clock.now() > self._guard.deadline(close):
            return LATE if close in self._behind else STALE
        return None

    def _decision(
        self, close: pd.Timestamp, decided: pd.Timestamp, fill: pd.Timestamp, tickers: list[str]
    ) -> Decision | None:
        """What follows for the tickers that can be predicted and for those that are held; None without a prediction."""
        with self._step("samples"):
            data, rows = self._state.samples(close, tickers)
        if not len(rows):
            return None
        with self._step("predict"):
            found = self.parts.engine.predict(data, rows)
        names = data.rows["ticker"].iloc[rows].tolist()
        with self._step("decide"):
            held = self.parts.broker.held()
            weights = decide(found.assign(ticker=names, decided_utc=decided), self.parts.cfg, held=held)
        moves = {}
        for name, weight in zip(weights.index, weights.tolist(), strict=True):
            before = float(held.get(name, 0.0))
            change = weight - before
            action = "hold" if abs(change) < _NO_CHANGE else "buy" if change > 0 else "sell"
            moves[str(name)] = {"held": before, "weight": weight, "action": action}
        columns = {str(name): found[name].tolist() for name in found}
        said = {
            name: dict(zip(columns, row, strict=True)) | {"decided_utc": decided.isoformat()} | moves[name]
            for name, *row in zip(names, *columns.values(), strict=True)
        }
        order = Order(decided.isoformat(), fill.isoformat(), {name: move["weight"] for name, move in moves.items()})
        closed = {name: move for name, move in moves.items() if name not in said}
        return Decision(said, closed, order)

    def _emit(
        self,
        close: pd.Timestamp,
        reasons: dict[str, str | None],
        entries: list[Entry],
        decision: Decision | None,
        began: float,
    ) -> None:
        """Write the bar down, then send. Checked last, so that nothing that happened meanwhile is missed."""
        blocked = self._blocked(close)
        decision = None if blocked else decision
        order = decision.order if decision else None
        if order is not None and self.parts.clock.now() > pd.Timestamp(order.fill_utc):
            log.warning("%s: no order, the open at %s is over", close, order.fill_utc)
            order = None  # on paper it would be filled at a price that is known by now
        latency = time.monotonic() - began
        timing: dict[str, Any] = {"at_utc": pd.Timestamp.now("UTC").isoformat(), "latency_s": round(latency, 6)}
        steps = {name: round(seconds, 6) for name, seconds in self._steps.items()}
        ended = close.isoformat()
        for name in self.tickers:
            reason = reasons[name] or blocked or (None if decision and name in decision.said else "warm-up")
            kind = "stale" if reason in (STALE, LATE) else "signal" if reason is None else "no_signal"
            data: dict[str, Any] = {"reason": reason} | (decision.closed.get(name, {}) if decision else {})
            if decision and reason is None:
                data = decision.said[name] | ({} if order else {"order": "too late for its open"})
            if reasons[name] != "no bar":
                data = data | self._state.row(name, close)
            key = (name, ended, *self._key, kind)  # a bar may be decided again, and differently, after a power cut
            entries.append(Entry(kind, {"ticker": name, "close_utc": ended} | data, key, timing))
            self.rows[name] = Row(close, data, latency)
        book = self.parts.broker.after(order)
        state = {"close_utc": ended, "equity": self.parts.broker.equity(), "book": book}
        entries.append(Entry("bar", state, ("bar", ended, *self._key), timing | {"steps_s": steps}))
        self._write(*entries)
        if order is not None and self.failed is None:
            self.parts.broker.send(order)
        self.parts.metrics.latency.labels("bar_to_journal").observe(time.monotonic() - began)

    def _watch(self, now: pd.Timestamp) -> None:
        """Say of each ticker whose bars stay away that it is stale, once, and whether others still trade."""
        live, minutes = self.parts.cfg.live, self.parts.cfg.bar_minutes
        due_s = self.parts.feed.delay_s + live.settle_s + live.grace_s  # after its close nobody waits longer for a bar
        patience_s = max(live.stale_s - 60 * (minutes or 0), due_s)
        closes = {name: self._guard.last_close(name) for name in self.tickers}
        newest = max(close for close in closes.values() if close is not None)
        for name, close in closes.items():
            assert close is not None  # every ticker has history
            overdue = (now - self._hours.next_close(close)).total_seconds()
            if overdue <= patience_s:
                continue
            silent = self._hours.bars_between(close, newest) >= live.silent_bars
            data = {"ticker": name, "close_utc": close.isoformat(), "reason": "HALTED?" if silent else STALE}
            self._write(Entry("stale", data, ("stale", name, close.isoformat(), data["reason"])))

    def _say(self, kind: str, state: str, data: dict[str, Any], quiet: str) -> None:
        """A record where a state changes; none for a start in the quiet one."""
        if self._said.get(kind, quiet) != state:
            log.log(logging.INFO if state == quiet else logging.WARNING, "%s: %s %s", kind, state, data or "")
            self._write(Entry(kind, {"state": state}, timing=data))
        self._said[kind] = state

    def _report_latch(self) -> None:
        self.parts.metrics.killed.set(self.latched is not None)

    def _write(self, *entries: Entry) -> None:
        if self.failed is not None:
            return
        try:
            with self._step("journal"):
                records = self.parts.journal.append(*entries)
        except JournalError as error:
            self.failed = str(error)
            log.error("the journal cannot be written (%s); nothing is sent from here on", error)
            return
        for record in records:
            self.parts.metrics.records.labels(record.kind).inc()

    def _pause(self) -> None:
        """Wait for the next bar, in steps that leave room for headlines, signals and the kill switch."""
        clock, live = self.parts.clock, self.parts.cfg.live
        now = clock.now()
        quiet = not self._groups and not self._worth_asking(now)
        if quiet and not self._hours.daily and not self._hours.is_open(now):
            clock.skip(self._hours.next_open(now))
        if self.parts.feed.ended(now) and not self._groups:
            self._done = True
        if self._done:
            return
        settle = pd.Timedelta(seconds=live.settle_s)
        times = [self._hours.next_close(now - settle) + settle]
        times += [close + settle + pd.Timedelta(seconds=live.grace_s) for close in self._groups]
        seconds = max((min(times) - now).total_seconds(), 0.001)
        clock.wait(min(seconds, clock.longest_s), self.stop)
