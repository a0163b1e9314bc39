"""What is wrong with a bar, with an answer, or with a clock: checks that stand before everything else.

A ticker is halted by a bar that cannot be true, or by one that jumps, and is released by `clean_bars` good ones in a
row. A jump is that of any of the four prices, and is measured from the last possible close, refused or not, so that a
market that really moved is followed again after three bars at its new level, while a single wrong print needs the same
three to be forgotten. A late bar is measured from the known bars beside it, and has to be near one of them; where it
was refused in its turn and comes with other numbers, it is measured from the same close again.
"""

import hashlib
import json
import logging
import math
import os
import struct
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from fusion_alpha import sealed
from fusion_alpha.cleaning import TOLERANCE
from fusion_alpha.config import LiveConfig
from fusion_alpha.files import write_bytes
from fusion_alpha.live.clock import Hours
from fusion_alpha.live.feed import QUOTES, Bar

log = logging.getLogger(__name__)

_RETURNS = 60  # trailing bars whose standard deviation a jump is measured in
_LEAST = 20  # returns before that is known
_FLOOR = 1e-4  # of that deviation: a quiet name may move by ten basis points
_PRICES = 1e-50, 1e50  # so far apart that none is meant to be one; products and ratios within stay finite
_BACK = 30  # bars among which one that is missing is asked for again
_KEPT_FILES, _KEPT_BYTES = 1000, 256 << 20  # of quarantined answers


class Finding(StrEnum):
    """What a bar is."""

    GOOD = "good"
    PARTIAL = "partial"  # not over yet: comes again
    DUPLICATE = "duplicate"
    OLD = "old"  # from before what is remembered: nothing
    REVISED = "revised"  # known, with other numbers: the first ones stay
    LATE = "late"  # good, but not the latest: history only
    OFF_CALENDAR = "off_calendar"
    IMPOSSIBLE = "impossible"
    JUMP = "jump"


REFUSED = (Finding.OFF_CALENDAR, Finding.IMPOSSIBLE, Finding.JUMP)


@dataclass(frozen=True)
class Verdict:
    finding: Finding
    rule: str = ""
    halted: bool = False  # after this bar
    backfill: bool = False  # a good bar whose own time has passed: no signal


class _Mark(NamedTuple):
    """What a bar is measured from."""

    price: float  # adjusted
    close: pd.Timestamp | None


@dataclass
class _Ticker:
    returns: deque[float] = field(default_factory=lambda: deque(maxlen=_RETURNS))  # log, from close to close
    ranges: deque[float] = field(default_factory=lambda: deque(maxlen=_RETURNS))  # log of high over low
    # By nanosecond of the close: hash of the numbers, and adjusted close.
    known: dict[int, tuple[int, float]] = field(default_factory=dict)
    oldest: int | None = None  # of them: the history's first, or the first that was not forgotten
    # Of refused bars too, each with the price that it was measured from in its turn: feeds send a bar at every poll.
    refused: dict[int, tuple[int, float | None]] = field(default_factory=dict)
    last_close: pd.Timestamp | None = None
    last_price: float | None = None  # adjusted
    factor: float = 1.0  # adjusted over quoted price of the latest good bar
    clean: int | None = None  # good bars since the halt; None = not halted

    def has(self, at: int) -> bool:
        """Did the bar that ends then come? One that was refused did, and one from before the history never will."""
        return at in self.known or at in self.refused or (self.oldest is not None and at < self.oldest)


class BarGuard:
    """Judges bars one by one; remembers what it has seen of each ticker."""

    def __init__(self, settings: LiveConfig, hours: Hours) -> None:
        self._settings, self._hours = settings, hours
        self._kept = max(2048, 2 * settings.window_bars)  # bars that a repeated one is compared with; tables hold fewer
        self._tickers: dict[str, _Ticker] = {}

    def learn(self, prices: pd.DataFrame) -> None:
        """Take interim prices in key order as seen and good."""
        for name, rows in prices.groupby("ticker", sort=False):
            tail = rows.tail(_RETURNS + 1)
            adjusted = tail["adj_close"].to_numpy("float64")
            ticker = self._ticker(str(name))
            ticker.returns.extend(np.diff(np.log(adjusted)).tolist())
            ticker.ranges.extend(np.log(tail["high"].to_numpy("float64") / tail["low"].to_numpy("float64")).tolist())
            ticker.last_close, ticker.last_price = tail["bar_close_utc"].iloc[-1], float(adjusted[-1])
            quotes = map(_hash, rows[list(QUOTES)].to_numpy("float64").tolist())
            closes = pd.DatetimeIndex(rows["bar_close_utc"]).as_unit("ns").asi8.tolist()
            ticker.known |= dict(zip(closes, zip(quotes, rows["adj_close"].tolist(), strict=True), strict=True))
            ticker.oldest = closes[0]
            self._forget(ticker, self._kept)
            ticker.factor = float(adjusted[-1] / tail["close"].iloc[-1])

    def adjusted(self, bar: Bar) -> Bar:
        """The bar with an adj_close: where it has none, by the factor of the ticker's latest good bar."""
        if bar.adj_close is not None:
            return bar
        return replace(bar, adj_close=bar.close * self._ticker(bar.ticker).factor)

    def judge(self, bar: Bar, now: pd.Timestamp) -> Verdict:
        """What the bar, which has an adj_close, is at `now`; a good one counts as seen from here on."""
        ticker = self._ticker(bar.ticker)
        values, at = _hash([float(getattr(bar, name)) for name in QUOTES]), bar.close_utc.value
        if bar.close_utc > now - pd.Timedelta(seconds=self._settings.settle_s):
            return Verdict(Finding.PARTIAL, halted=self.halted(bar.ticker))
        if at in ticker.known:
            same = ticker.known[at][0] == values
            return Verdict(Finding.DUPLICATE if same else Finding.REVISED, halted=self.halted(bar.ticker))
        if ticker.oldest is not None and at < ticker.oldest:
            return Verdict(Finding.OLD, halted=self.halted(bar.ticker))
        if at in ticker.refused and ticker.refused[at][0] == values:
            return Verdict(Finding.DUPLICATE, halted=self.halted(bar.ticker))  # of a bar that was refused
        if not self._hours.is_close(bar.close_utc):
            return Verdict(Finding.OFF_CALENDAR, "ends where the calendar has a bar", self.halted(bar.ticker))
        late = ticker.last_close is not None and bar.close_utc < ticker.last_close
        finding, rule = self._measured(ticker, bar, self._marks(ticker, bar, late))
        if finding is not Finding.GOOD:
            return self._refused(ticker, bar, values, late, Verdict(finding, rule))
        ticker.known[at] = (values, _known(bar.adj_close))
        if late:
            ticker.refused.pop(at, None)
            return Verdict(Finding.LATE, halted=self.halted(bar.ticker), backfill=True)
        return self._in_turn(ticker, bar, now)

    def halted(self, ticker: str) -> bool:
        """Is the ticker waiting for good bars?"""
        return self._ticker(ticker).clean is not None

    def last_close(self, ticker: str) -> pd.Timestamp | None:
        """Close of the ticker's latest good bar."""
        return self._ticker(ticker).last_close

    def seen(self, tickers: Iterable[str]) -> dict[str, pd.Timestamp]:
        """Of each ticker with bars, the close after which a feed should be asked: that of its latest good bar; where
        one of the `_BACK` bars before it never came, of the bar before that. Nobody is asked for further back than
        `_BACK` bars of the ticker that is furthest, so that one without bars makes no answer grow.
        """
        latest = {name: close for name in tickers if (close := self.last_close(name)) is not None}
        if not latest:
            return {}
        before = {close: self._hours.closes(close, _BACK) for close in set(latest.values())}
        oldest = before[max(latest.values())][0]
        moments = {close: closes.as_unit("ns").asi8.tolist() for close, closes in before.items()}
        found = {}
        for name, close in latest.items():
            ticker = self._ticker(name)
            came = [ticker.has(at) for at in moments[close]]
            hole = came.index(False, 1) if False in came[1:] else None
            found[name] = max(close if hole is None else before[close][hole - 1], oldest)
        return found

    def _forget(self, ticker: _Ticker, limit: int) -> None:
        """Keep the latest closes alone where there are more than `limit`."""
        if len(ticker.known) > limit:
            kept = sorted(ticker.known)[-self._kept :]
            ticker.known, ticker.oldest = {close: ticker.known[close] for close in kept}, kept[0]
            ticker.refused = {close: what for close, what in ticker.refused.items() if close >= kept[0]}
        if len(ticker.refused) > limit:
            ticker.refused = {close: ticker.refused[close] for close in sorted(ticker.refused)[-self._kept :]}

    def _marks(self, ticker: _Ticker, bar: Bar, late: bool) -> list[_Mark]:
        """What the bar may be measured from: the price before it, or where it is late the known bars beside it."""
        at = bar.close_utc.value
        if late:
            before, after = [one for one in ticker.known if one < at], [one for one in ticker.known if one > at]
            beside = [*([max(before)] if before else []), min(after)]
            marks = [_Mark(ticker.known[one][1], pd.Timestamp(one, tz="UTC")) for one in beside]
        else:
            marks = [] if ticker.last_price is None else [_Mark(ticker.last_price, ticker.last_close)]
        first = ticker.refused[at][1] if at in ticker.refused else None
        return marks if first is None else [_Mark(first, marks[0].close)]

    def _measured(self, ticker: _Ticker, bar: Bar, marks: list[_Mark]) -> tuple[Finding, str]:
        """GOOD, or what the numbers make of the bar with the rule that they break."""
        rule, said = impossible(bar), ""
        if rule:
            return Finding.IMPOSSIBLE, rule
        for mark in marks:
            name, move = max(_moves(bar, mark.price).items(), key=lambda item: abs(item[1]))
            limit = self._limit(ticker, mark.close, bar.close_utc)
            if abs(move) <= limit:
                return Finding.GOOD, ""
            allowed = f"moves by less than {self._settings.jump_sd:g} standard deviations ({limit:.4f})"
            said = said or f"{name} {allowed}, not {move:+.4f}"
        return (Finding.JUMP, said) if said else (Finding.GOOD, "")

    def _refused(self, ticker: _Ticker, bar: Bar, values: int, late: bool, verdict: Verdict) -> Verdict:
        """Remember the refused bar, and halt its ticker, though not once more for a bar of the past."""
        at = bar.close_utc.value
        again = at in ticker.refused
        before = ticker.refused[at][1] if again else None if late else ticker.last_price
        ticker.refused[at] = (values, before)
        self._forget(ticker, 2 * self._kept)
        if not (late and again):
            ticker.clean = 0
        if verdict.finding is Finding.JUMP and not late:
            ticker.last_price = _known(bar.adj_close)
        return replace(verdict, halted=self.halted(bar.ticker))

    def _in_turn(self, ticker: _Ticker, bar: Bar, now: pd.Timestamp) -> Verdict:
        """Take a good bar as the latest."""
        adjusted, at = _known(bar.adj_close), bar.close_utc.value
        before = ticker.refused.pop(at, (0, ticker.last_price))[1]
        ticker.returns.append(0.0 if before is None else _moves(bar, before)["close"])
        ticker.ranges.append(math.log(bar.high / bar.low))
        ticker.last_price, ticker.last_close = adjusted, bar.close_utc
        self._forget(ticker, 2 * self._kept)
        ticker.factor = adjusted / bar.close
        if ticker.clean is not None:
            ticker.clean += 1
            if ticker.clean >= self._settings.clean_bars:
                ticker.clean = None
                return Verdict(Finding.GOOD, "released", backfill=self._passed(bar, now))
        return Verdict(Finding.GOOD, halted=ticker.clean is not None, backfill=self._passed(bar, now))

    def _passed(self, bar: Bar, now: pd.Timestamp) -> bool:
        """Has a later bar ended since? Then this one only fills a gap."""
        ended = now - pd.Timedelta(seconds=self._settings.settle_s + self._settings.grace_s)
        return self._hours.bars_between(bar.close_utc, ended) >= 1 and self.deadline(bar.close_utc) < now

    def deadline(self, close: pd.Timestamp) -> pd.Timestamp:
        """Until when a signal from the bar that ends at `close` may be given."""
        if self._hours.daily:
            return self._hours.next_open(close)
        return close + pd.Timedelta(seconds=self._settings.stale_s)

    def _limit(self, ticker: _Ticker, one: pd.Timestamp | None, other: pd.Timestamp) -> float:
        """Largest move in log return between two closes that counts as possible; over missing bars it may be larger.

        So may a session's first one: a night counts as many bars as a session has, and a day's move is no surprise.
        """
        if len(ticker.returns) < _LEAST:
            return math.inf
        bars = 1
        if one is not None:
            first, last = min(one, other), max(one, other)
            bars = max(1, self._hours.bars_between(first, last))
            if not self._hours.daily and self._hours.session(first) != self._hours.session(last):
                bars += self._hours.session_bars(last)
        return self._settings.jump_sd * _deviation(ticker) * math.sqrt(bars)

    def _ticker(self, name: str) -> _Ticker:
        return self._tickers.setdefault(name, _Ticker())


def _deviation(ticker: _Ticker) -> float:
    """Standard deviation of a bar's log return: what the closes show, or what the ranges show where that is more.

    Closes that stand still while prices range say nothing of how far a high or low may be. Of a random walk's ranges
    the deviation is their root mean square over 2 sqrt(ln 2) [Parkinson, J. Business 53 (1980) 61].
    """
    ranged = math.sqrt(float(np.mean(np.square(ticker.ranges)))) / (2 * math.sqrt(math.log(2)))
    return max(float(np.std(ticker.returns)), ranged, _FLOOR)


def impossible(bar: Bar) -> str:
    """The rule that the bar's numbers break; empty where they break none."""
    prices = (bar.open, bar.high, bar.low, bar.close, _known(bar.adj_close))
    if not all(math.isfinite(value) for value in (*prices, bar.volume)):
        return "numbers are finite"
    if min(prices) <= 0 or bar.volume < 0:
        return "prices are positive, volume is not negative"
    if min(prices) < _PRICES[0] or max(prices) > _PRICES[1]:
        return f"prices lie between {_PRICES[0]:g} and {_PRICES[1]:g}"
    if bar.high * (1 + TOLERANCE) < max(bar.open, bar.close, bar.low):
        return "high is at least open, close and low"
    if bar.low * (1 - TOLERANCE) > min(bar.open, bar.close, bar.high):
        return "low is at most open, close and high"
    return ""


def _moves(bar: Bar, price: float) -> dict[str, float]:
    """Log returns from an adjusted price to each of the bar's, adjusted as its close is; of a possible bar."""
    close = math.log(_known(bar.adj_close)) - math.log(price)
    quoted = {name: close + math.log(getattr(bar, name) / bar.close) for name in ("open", "high", "low")}
    return {"close": close} | quoted


def _hash(quotes: list[float]) -> int:
    """Equal for equal bits, of unknown numbers too."""
    return hash(struct.pack(f"{len(quotes)}d", *quotes))


def _known(price: float | None) -> float:
    return math.nan if price is None else price


class SkewGuard:
    """Our clock against the server's, whose Date header has whole seconds."""

    def __init__(self, settings: LiveConfig) -> None:
        self._settings = settings
        self.skew_s = 0.0

    def judge(self, server: pd.Timestamp | None, ours: pd.Timestamp | None) -> str:
        """ok, warn or halt; the last answer that named a time counts."""
        if server is not None and ours is not None:
            apart = (ours - server).total_seconds()
            self.skew_s = 0.0 if 0 <= apart < 1 else apart if apart < 0 else apart - 1
        if abs(self.skew_s) > self._settings.skew_halt_s:
            return "halt"
        return "warn" if abs(self.skew_s) > self._settings.skew_warn_s else "ok"


def strict_json(content: bytes) -> Any:
    """Parsed JSON; ValueError for what is no JSON, and for NaN, Infinity and numbers too large, which Python takes."""
    return json.loads(content.decode("utf-8"), parse_constant=_no_constant, parse_float=_finite)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no number of 64 bits")
    return value


class Quarantine:
    """Keeps bytes that were no answer, named by their SHA-256, for people to look at.

    write: what puts them into a file, `sealed.writer` for those of a source that may be sensitive.
    """

    def __init__(self, folder: Path, write: Callable[[Path, bytes], object] = write_bytes) -> None:
        self.folder, self._write = folder, write
        found = sorted(folder.glob("*.bin*")) if folder.is_dir() else []
        kept = [path for path in found if sealed.plain(path).suffix == ".bin"]
        self._files, self._bytes = len(kept), sum(path.stat().st_size for path in kept)

    def keep(self, content: bytes) -> str:
        """Store the bytes, once; returns their SHA-256. Beyond the limits, or without room, nothing else is kept."""
        name = hashlib.sha256(content).hexdigest()
        path = self.folder / f"{name}.bin"
        there = os.path.lexists(path) or os.path.lexists(path.with_name(path.name + sealed.SUFFIX))
        if self._files >= _KEPT_FILES or self._bytes + len(content) > _KEPT_BYTES or there:
            return name
        try:
            self._write(path, content)
        except OSError as error:
            log.warning("%s: not kept (%s)", path, error.strerror)
            return name
        self._files, self._bytes = self._files + 1, self._bytes + len(content)
        return name
