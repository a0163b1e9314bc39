"""Time for the router: the wall's, or a simulated one at a set speed. What happens when is the exchange's calendar.

Instants are UTC. Waiting ends early when `stop` is set.
"""

import math
import threading
import time
from typing import Protocol

import numpy as np
import pandas as pd

from fusion_alpha import sessions
from fusion_alpha.config import Config

_SPAN = pd.Timedelta(days=30)  # of calendar that is looked up at a time
_MARGIN = pd.Timedelta(days=14)  # longer than any closure of an exchange


class Clock(Protocol):
    """What the router reads the time from."""

    @property
    def longest_s(self) -> float:
        """Seconds of this clock that should pass at most between two looks at the feed and at the kill switch."""
        ...

    def now(self) -> pd.Timestamp: ...

    def wait(self, seconds: float, stop: threading.Event) -> None:
        """Let `seconds` of this clock pass, or less when `stop` is set."""
        ...

    def skip(self, time: pd.Timestamp) -> None:
        """Nothing happens until `time`: a clock that is no wall's may jump there."""
        ...


class WallClock:
    """The machine's clock."""

    longest_s = 1.0

    def now(self) -> pd.Timestamp:
        return pd.Timestamp.now("UTC").as_unit("us")

    def wait(self, seconds: float, stop: threading.Event) -> None:
        stop.wait(max(seconds, 0.0))

    def skip(self, time: pd.Timestamp) -> None:
        """Nobody can."""


class SimulatedClock:
    """Stands at `start` until somebody waits, who is ready by then, and runs `speed` times as fast as the wall's."""

    def __init__(self, start: pd.Timestamp, speed: float) -> None:
        self._start, self.speed = start.as_unit("us"), speed
        self._began: float | None = None
        self.longest_s = 0.5 * speed

    def now(self) -> pd.Timestamp:
        passed = 0.0 if self._began is None else (time.monotonic() - self._began) * self.speed
        return (self._start + pd.Timedelta(seconds=passed)).as_unit("us")

    def wait(self, seconds: float, stop: threading.Event) -> None:
        self._began = time.monotonic() if self._began is None else self._began
        stop.wait(max(seconds, 0.0) / self.speed)

    def skip(self, time: pd.Timestamp) -> None:
        self._start += max(time - self.now(), pd.Timedelta(0))


class SteppedClock:
    """Passes only while somebody waits, and then at once: the same steps in every run, however slow the machine."""

    longest_s = math.inf

    def __init__(self, start: pd.Timestamp) -> None:
        self._now = start.as_unit("us")

    def now(self) -> pd.Timestamp:
        return self._now

    def wait(self, seconds: float, stop: threading.Event) -> None:
        self._now = (self._now + pd.Timedelta(seconds=max(seconds, 0.0))).as_unit("us")

    def skip(self, time: pd.Timestamp) -> None:
        """Waiting costs nothing here."""


class Hours:
    """The bars of an exchange: where they open and close, and when the next one ends."""

    def __init__(self, cfg: Config) -> None:
        self._exchange, self._minutes = cfg.data.exchange, cfg.bar_minutes
        self.daily = cfg.bar_minutes is None
        self._first = self._last = pd.Timestamp(0)
        self._opens = self._closes = pd.DatetimeIndex([], tz="UTC")
        self._sessions = pd.DatetimeIndex([])

    def is_close(self, time: pd.Timestamp) -> bool:
        """Does a bar of the calendar end then?"""
        self._cover(time)
        place = _from(self._closes, time)
        return bool(place < len(self._closes) and self._closes[place] == time)

    def next_close(self, time: pd.Timestamp) -> pd.Timestamp:
        """The first bar end after `time`."""
        self._cover(time)
        return self._closes[_after(self._closes, time)]

    def last_close(self, time: pd.Timestamp) -> pd.Timestamp:
        """The last bar end at or before `time`."""
        self._cover(time)
        return self._closes[_after(self._closes, time) - 1]

    def closes(self, last: pd.Timestamp, n: int) -> pd.DatetimeIndex:
        """The last `n` bar ends up to `last`."""
        self._cover(last)
        end = _after(self._closes, last)
        return self._closes[max(end - n, 0) : end]

    def bars_between(self, earlier: pd.Timestamp, later: pd.Timestamp) -> int:
        """How many bars end in (earlier, later]."""
        self._cover(earlier)
        self._cover(later)
        return _after(self._closes, later) - _after(self._closes, earlier)

    def open_of(self, close: pd.Timestamp) -> pd.Timestamp:
        """Where the bar that ends at `close` begins."""
        self._cover(close)
        return self._opens[_from(self._closes, close)]

    def session(self, close: pd.Timestamp) -> pd.Timestamp:
        """The session of the bar that ends at `close`."""
        self._cover(close)
        return self._sessions[_from(self._closes, close)]

    def session_bars(self, close: pd.Timestamp) -> int:
        """How many bars the session of the bar that ends at `close` has."""
        return int((self._sessions == self.session(close)).sum())

    def fill(self, decided: pd.Timestamp) -> pd.Timestamp:
        """The first bar open at or after `decided`, as panel.clock has it."""
        self._cover(decided)
        return self._opens[_from(self._opens, decided)]

    def next_open(self, time: pd.Timestamp) -> pd.Timestamp:
        """The first bar open after `time`."""
        self._cover(time)
        return self._opens[_after(self._opens, time)]

    def is_open(self, time: pd.Timestamp) -> bool:
        """Is a session going on?"""
        self._cover(time)
        place = _after(self._opens, time) - 1
        return bool(place >= 0 and time < self._closes[place])

    def _cover(self, time: pd.Timestamp) -> None:
        day = time.tz_localize(None).normalize()
        if self._first <= day - _MARGIN and day + _MARGIN <= self._last:
            return
        first, last = day - _SPAN, day + _SPAN
        if self._first != self._last:  # never less than before: two instants may be asked for in turn
            first, last = min(first, self._first), max(last, self._last)
        table = sessions.bars(self._exchange, first, last, self._minutes)
        self._opens, self._closes = (pd.DatetimeIndex(table[f"bar_{edge}_utc"]) for edge in ("open", "close"))
        self._sessions = pd.DatetimeIndex(table["session"])
        self._first, self._last = first, last
        assert np.all(np.diff(self._closes.asi8) > 0)


def _from(times: pd.DatetimeIndex, time: pd.Timestamp) -> int:
    """Place of the first of `times` at or after `time`."""
    return int(times.searchsorted(time))


def _after(times: pd.DatetimeIndex, time: pd.Timestamp) -> int:
    """Place of the first of `times` after `time`."""
    return int(times.searchsorted(time, side="right"))
