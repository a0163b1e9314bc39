"""What is wrong with a bar, with an answer, or with a clock: checks that stand before everything else.

A ticker is halted by a bar that cannot be true, or by one that jumps, and is released by `clean_bars` good ones in a
row. A jump is measured from the last possible price, refused or not, so that a market that really moved is followed
again after three bars at its new level, while a single wrong print needs the same three to be forgotten.
"""

import hashlib
import json
import logging
import math
import os
import struct
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fusion_alpha.cleaning import TOLERANCE
from fusion_alpha.config import LiveConfig
from fusion_alpha.files import write_bytes
from fusion_alpha.live.clock import Hours
from fusion_alpha.live.feed import QUOTES, Bar

log = logging.getLogger(__name__)

_RETURNS = 60  # trailing log returns whose standard deviation a jump is measured in
_LEAST = 20  # returns before that is known
_FLOOR = 1e-4  # of that deviation: a quiet name may move by ten basis points
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


@dataclass
class _Ticker:
    returns: deque[float]
    known: dict[int, int] = field(default_factory=dict)  # hash of the numbers by nanosecond of the close
    oldest: int | None = None  # of them, once earlier ones were forgotten
    # Of refused bars too, each with the price that it is measured from: feeds send a bar again at every poll.
    refused: dict[int, tuple[int, float | None]] = field(default_factory=dict)
    last_close: pd.Timestamp | None = None
    last_price: float | None = None  # adjusted
    factor: float = 1.0  # adjusted over quoted price of the latest good bar
    clean: int | None = None  # good bars since the halt; None = not halted


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
            ticker.last_close, ticker.last_price = tail["bar_close_utc"].iloc[-1], float(adjusted[-1])
            quotes = map(_hash, rows[list(QUOTES)].to_numpy("float64").tolist())
            closes = pd.DatetimeIndex(rows["bar_close_utc"]).as_unit("ns").asi8.tolist()
            ticker.known |= dict(zip(closes, quotes, strict=True))
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
            same = ticker.known[at] == values
            return Verdict(Finding.DUPLICATE if same else Finding.REVISED, halted=self.halted(bar.ticker))
        if ticker.oldest is not None and at < ticker.oldest:
            return Verdict(Finding.OLD, halted=self.halted(bar.ticker))
        if at in ticker.refused and ticker.refused[at][0] == values:
            return Verdict(Finding.DUPLICATE, halted=self.halted(bar.ticker))  # of a bar that was refused
        if not self._hours.is_close(bar.close_utc):
            return Verdict(Finding.OFF_CALENDAR, "ends where the calendar has a bar", self.halted(bar.ticker))
        rule = impossible(bar)
        if rule:
            ticker.clean, ticker.refused[at] = 0, (values, ticker.refused.get(at, (0, ticker.last_price))[1])
            return Verdict(Finding.IMPOSSIBLE, rule, halted=True)
        if ticker.last_close is not None and bar.close_utc < ticker.last_close:
            ticker.known[at] = values
            return Verdict(Finding.LATE, halted=self.halted(bar.ticker), backfill=True)
        return self._in_turn(ticker, bar, values, now)

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
            came = [at in ticker.known or at in ticker.refused for at in moments[close]]  # a refused bar has come
            hole = came.index(False, 1) if False in came[1:] else None
            found[name] = max(close if hole is None else before[close][hole - 1], oldest)
        return found

    def _forget(self, ticker: _Ticker, limit: int) -> None:
        """Keep the latest closes alone where there are more than `limit`."""
        if len(ticker.known) > limit:
            kept = sorted(ticker.known)[-self._kept :]
            ticker.known, ticker.oldest = {close: ticker.known[close] for close in kept}, kept[0]
            ticker.refused = {close: what for close, what in ticker.refused.items() if close >= kept[0]}

    def _in_turn(self, ticker: _Ticker, bar: Bar, values: int, now: pd.Timestamp) -> Verdict:
        adjusted, at = _known(bar.adj_close), bar.close_utc.value
        before = ticker.refused.pop(at, (0, ticker.last_price))[1]
        move = 0.0 if before is None else math.log(adjusted / before)
        ticker.last_price = adjusted
        limit = self._limit(ticker, bar)
        if abs(move) > limit:
            ticker.clean, ticker.refused[at] = 0, (values, before)
            rule = f"moves by less than {self._settings.jump_sd:g} standard deviations ({limit:.4f}), not {move:+.4f}"
            return Verdict(Finding.JUMP, rule, halted=True)
        ticker.returns.append(move)
        ticker.known[at], ticker.last_close = values, bar.close_utc
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

    def _limit(self, ticker: _Ticker, bar: Bar) -> float:
        """Largest move in log return that counts as possible; a bar after missing ones may move further.

        So may a session's first one: a night counts as many bars as a session has, and a day's move is no surprise.
        """
        if len(ticker.returns) < _LEAST:
            return math.inf
        bars, before = 1, ticker.last_close
        if before is not None:
            bars = max(1, self._hours.bars_between(before, bar.close_utc))
            if not self._hours.daily and self._hours.session(before) != self._hours.session(bar.close_utc):
                bars += self._hours.session_bars(bar.close_utc)
        return self._settings.jump_sd * max(float(np.std(ticker.returns)), _FLOOR) * math.sqrt(bars)

    def _ticker(self, name: str) -> _Ticker:
        return self._tickers.setdefault(name, _Ticker(deque(maxlen=_RETURNS)))


def impossible(bar: Bar) -> str:
    """The rule that the bar's numbers break; empty where they break none."""
    prices = (bar.open, bar.high, bar.low, bar.close, _known(bar.adj_close))
    if not all(math.isfinite(value) for value in (*prices, bar.volume)):
        return "numbers are finite"
    if min(prices) <= 0 or bar.volume < 0:
        return "prices are positive, volume is not negative"
    if bar.high * (1 + TOLERANCE) < max(bar.open, bar.close, bar.low):
        return "high is at least open, close and low"
    if bar.low * (1 - TOLERANCE) > min(bar.open, bar.close, bar.high):
        return "low is at most open, close and high"
    return ""


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
    """Keeps bytes that were no answer, named by their SHA-256, for people to look at."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        kept = list(folder.glob("*.bin")) if folder.is_dir() else []
        self._files, self._bytes = len(kept), sum(path.stat().st_size for path in kept)

    def keep(self, content: bytes) -> str:
        """Store the bytes, once; returns their SHA-256. Beyond the limits, or without room, nothing else is kept."""
        name = hashlib.sha256(content).hexdigest()
        path = self.folder / f"{name}.bin"
        if self._files >= _KEPT_FILES or self._bytes + len(content) > _KEPT_BYTES or os.path.lexists(path):
            return name
        try:
            write_bytes(path, content)
        except OSError as error:
            log.warning("%s: not kept (%s)", path, error.strerror)
            return name
        self._files, self._bytes = self._files + 1, self._bytes + len(content)
        return name
