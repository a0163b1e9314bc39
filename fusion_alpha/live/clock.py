"""Time for the router: the wall's, or a simulated one at a set speed. What happens when is the exchange's calendar.

Instants are UTC. Waiting ends early when `stop` is set.
"""

import math
import time
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fusion_alpha import sessions
from fusion_alpha.config import Config
from fusion_alpha.live.switch import Stop

_SPAN = pd.Timedelta(days=30)  # of calendar that is looked up at a time
_MARGIN = 15 * 86_400_000_000  # microseconds, longer than any closure of an exchange


class Clock(Protocol):
    """What the router reads the time from."""

    @property
    def longest_s(self) -> float:
        """Seconds of this clock that should pass at most between two looks at the feed and at the kill switch."""
        ...

    def now(self) -> pd.Timestamp: ...

    def wait(self, seconds: float, stop: Stop) -> None:
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

    def wait(self, seconds: float, stop: Stop) -> None:
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

    def wait(self, seconds: float, stop: Stop) -> None:
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

    def wait(self, seconds: float, stop: Stop) -> None:
        self._now = (self._now + pd.Timedelta(seconds=max(seconds, 0.0))).as_unit("us")

    def skip(self, time: pd.Timestamp) -> None:
        """Waiting costs nothing here."""


class Hours:
    """The bars of an exchange: where they open and close, and when the next one ends."""

    def __init__(self, cfg: Config) -> None:
        self._exchange, self._minutes = cfg.data.exchange, cfg.bar_minutes
        self.daily = cfg.bar_minutes is None
        self._first = self._last = 0  # days that are looked up, as instants
        self._opens = self._closes = self._sessions = np.zeros(0, np.int64)

    def is_close(self, time: pd.Timestamp) -> bool:
        """Does a bar of the calendar end then?"""
        at = self._cover(time)
        place = _from(self._closes, at)
        return bool(place < len(self._closes) and self._closes[place] == at)

    def next_close(self, time: pd.Timestamp) -> pd.Timestamp:
        """The first bar end after `time`."""
        at = self._cover(time)
        return instant(self._closes[_after(self._closes, at)])

    def last_close(self, time: pd.Timestamp) -> pd.Timestamp:
        """The last bar end at or before `time`."""
        at = self._cover(time)
        return instant(self._closes[_after(self._closes, at) - 1])

    def closes(self, last: pd.Timestamp, n: int) -> pd.DatetimeIndex:
        """The last `n` bar ends up to `last`."""
        at = self._cover(last)
        end = _after(self._closes, at)
        return pd.DatetimeIndex(self._closes[max(end - n, 0) : end].astype("datetime64[us]")).tz_localize("UTC")

    def bars_between(self, earlier: pd.Timestamp, later: pd.Timestamp) -> int:
        """How many bars end in (earlier, later]."""
        start, end = self._cover(earlier), self._cover(later)
        return _after(self._closes, end) - _after(self._closes, start)

    def open_of(self, close: pd.Timestamp) -> pd.Timestamp:
        """Where the bar that ends at `close` begins."""
        at = self._cover(close)
        return instant(self._opens[_from(self._closes, at)])

    def session(self, close: pd.Timestamp) -> pd.Timestamp:
        """The session of the bar that ends at `close`."""
        at = self._cover(close)
        return instant(self._sessions[_from(self._closes, at)]).tz_localize(None)

    def session_bars(self, close: pd.Timestamp) -> int:
        """How many bars the session of the bar that ends at `close` has."""
        at = self._cover(close)
        return int((self._sessions == self._sessions[_from(self._closes, at)]).sum())

    def fill(self, decided: pd.Timestamp) -> pd.Timestamp:
        """The first bar open at or after `decided`, as panel.clock has it."""
        at = self._cover(decided)
        return instant(self._opens[_from(self._opens, at)])

    def next_open(self, time: pd.Timestamp) -> pd.Timestamp:
        """The first bar open after `time`."""
        at = self._cover(time)
        return instant(self._opens[_after(self._opens, at)])

    def is_open(self, time: pd.Timestamp) -> bool:
        """Is a session going on?"""
        at = self._cover(time)
        place = _after(self._opens, at) - 1
        return bool(place >= 0 and at < self._closes[place])

    def _cover(self, time: pd.Timestamp) -> int:
        """Look up the calendar around `time` where that is not done; returns its microseconds."""
        at = microseconds(time)
        if self._first + _MARGIN <= at < self._last - _MARGIN:
            return at
        day = time.tz_localize(None).normalize()
        first, last = day - _SPAN, day + _SPAN
        if self._first != self._last:  # never less than before: two instants may be asked for in turn
            first, last = min(first, _naive(self._first)), max(last, _naive(self._last))
        table = sessions.bars(self._exchange, first, last, self._minutes)
        columns = ("bar_open_utc", "bar_close_utc", "session")
        self._opens, self._closes, self._sessions = (
            table[name].to_numpy("datetime64[us]").astype(np.int64) for name in columns
        )
        self._first, self._last = microseconds(first), microseconds(last)
        assert np.all(np.diff(self._closes) > 0)
        return at


def microseconds(time: pd.Timestamp) -> int:
    """Since the epoch; of a day without a zone, its midnight in UTC."""
    return int(time.value) // 1000


def instant(count: int) -> pd.Timestamp:
    """The instant of that many microseconds since the epoch, in UTC."""
    return pd.Timestamp(int(count), unit="us", tz="UTC").as_unit("us")


def _naive(count: int) -> pd.Timestamp:
    return instant(count).tz_localize(None)


def _from(times: NDArray[np.int64], at: int) -> int:
    """Place of the first of `times` at or after `at`."""
    return int(times.searchsorted(at))


def _after(times: NDArray[np.int64], at: int) -> int:
    """Place of the first of `times` after `at`."""
    return int(times.searchsorted(at, side="right"))
