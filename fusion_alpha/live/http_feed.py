"""A feed over HTTP: one request for all tickers, and every way in which it can fail.

    GET URL?tickers=AAPL,TSLA&interval=1m&since=2024-07-01T13:30:00Z

    {"bars": [{"ticker": "TSLA", "bar_close_utc": "2024-07-01T13:31:00Z", "open": 1.0, "high": 1.0, "low": 1.0,
               "close": 1.0, "volume": 100, "adj_close": 1.0}],
     "headlines": [{"id": "7", "ticker": "TSLA", "published_utc": "2024-07-01T13:30:10Z", "text": "...",
                    "is_repost": false}]}

Times are ISO 8601 with an offset. `adj_close` may be left out: no split and no dividend then. `since` is the newest bar
close up to which nothing is missing of any ticker, so that what a pause missed is asked for again. `headlines` may be
left out. An entry that is not of this form, or of no year from 1990 to 2199, is refused alone, and the bytes are kept;
the Date header is the server's clock. A redirect is not followed.
"""

import email.utils
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pandas as pd
import requests
import tenacity
import urllib3

from fusion_alpha.config import LiveConfig
from fusion_alpha.live.deadline import Connections
from fusion_alpha.live.feed import QUOTES, YEARS, Bar, Headline, Polled, Problem
from fusion_alpha.live.guards import Quarantine, strict_json
from fusion_alpha.live.limits import Breaker, TokenBucket

log = logging.getLogger(__name__)

BURST = 5  # requests at once
MAX_BYTES = 32 << 20  # of an answer
_YEARS = range(1970, 2200)  # of a Date header that can be one
_LONGEST_REST_S = 3600.0  # that a server may ask for
_TOO_LONG = "the answer took too long"
TRANSIENT = frozenset({408, 425, 500, 502, 503, 504})
Item = TypeVar("Item")


class Unavailable(Exception):
    """No answer this time; another try may have one."""


class Refused(Exception):
    """An answer that another try would not better. rest_s: how long the server wants to be left alone."""

    def __init__(self, kind: str, detail: str, rest_s: float | None = None) -> None:
        super().__init__(detail)
        self.kind, self.rest_s = kind, rest_s


class _Session(requests.Session):
    """A redirect is an answer like any other: neither followed nor, as `allow_redirects=False` would, read whole."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None


class HttpFeed:
    """`Feed` of a server that speaks the protocol above."""

    simulated, delay_s = False, 0.0

    def __init__(
        self,
        url: str,
        tickers: Sequence[str],
        interval: str,
        settings: LiveConfig,
        quarantine: Quarantine,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name, self.tickers = "http", tuple(tickers)
        self._url, self._interval, self._settings, self._quarantine = url, interval, settings, quarantine
        self._clock = clock
        self._bucket = TokenBucket(settings.requests_per_minute, BURST, clock)
        self._breaker = Breaker(settings.breaker_failures, settings.breaker_rest_s, clock)
        self._rest_until = 0.0
        self._since: pd.Timestamp | None = None
        self._session, self._connections = _Session(), Connections()
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, self._connections)
        self._session.headers["User-Agent"] = "nimbus-fusion live router"

    def ended(self, now: pd.Timestamp) -> bool:
        return False

    def seen(self, closes: dict[str, pd.Timestamp]) -> None:
        """Latest good bar of each ticker: the next request asks for what comes after the oldest of them."""
        if closes:
            self._since = min(closes.values())

    def poll(self, now: pd.Timestamp) -> Polled:
        rest = self._rest_until - self._clock()
        if rest > 0:
            return not_asked("resting", f"the server wants to be left alone for {rest:.0f} s more")
        if not self._breaker.allows():
            return not_asked("breaker_open", "too many failures in a row; the feed is left alone")
        if not self._bucket.take():
            return not_asked("throttled", "as many requests as live.requests_per_minute allows were made")
        asked = self._clock()
        try:
            response = self._ask()
        except Unavailable as error:
            self._breaker.failure()
            return nothing("unavailable", str(error))
        except Refused as error:
            self._breaker.failure()
            if error.rest_s is not None:
                self._rest_until = self._clock() + error.rest_s
            return nothing(error.kind, str(error))
        return self._parsed(response, now + pd.Timedelta(seconds=self._clock() - asked))

    def _ask(self) -> requests.Response:
        """The answer, after `tries` at most, with growing random pauses; Unavailable or Refused without one."""
        return tries(self._settings, Unavailable)(self._once)

    def _once(self) -> requests.Response:
        query = {"tickers": ",".join(self.tickers), "interval": self._interval}
        if self._since is not None:
            query["since"] = self._since.strftime("%Y-%m-%dT%H:%M:%SZ")
        timeouts = (self._settings.connect_timeout_s, self._settings.read_timeout_s)
        with self._connections.ending_after(sum(timeouts)) as cut:
            try:
                with self._session.get(self._url, params=query, timeout=timeouts, stream=True) as response:
                    response._content = _content(response)
            except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
                said = _TOO_LONG if cut.is_set() else f"{type(error).__name__}: {str(error)[:200]}"
                raise Unavailable(said) from None
            if cut.is_set():  # what was read so far may look whole
                raise Unavailable(_TOO_LONG)
        if response.status_code == 429:
            rest = retry_after(response.headers.get("Retry-After"), self._settings.breaker_rest_s)
            raise Refused("rate_limited", f"HTTP 429, again in {rest:.0f} s", rest)
        if response.status_code in TRANSIENT:
            raise Unavailable(f"HTTP {response.status_code}")
        if response.status_code != 200:
            raise Refused("refused", f"HTTP {response.status_code}")
        return response

    def _parsed(self, response: requests.Response, now: pd.Timestamp) -> Polled:
        server = http_date(response.headers.get("Date"))
        try:
            answer = strict_json(response.content)
        except (ValueError, RecursionError) as error:
            self._breaker.failure()
            kept = self._quarantine.keep(response.content)
            problem = Problem("malformed", str(error)[:200], quarantined=kept)
            return Polled(problems=[problem], server_utc=server, received_utc=now, answered=False)
        self._breaker.success()
        problems: list[Problem] = []
        fields = answer if isinstance(answer, dict) else {}
        bars = _all(fields.get("bars"), _bar, self.tickers, problems)
        bars.sort(key=lambda bar: bar.close_utc)  # the guards measure each from the one before
        headlines = _all(fields.get("headlines", []), _headline, self.tickers, problems)
        if problems:
            kept = self._quarantine.keep(response.content)
            problems = [Problem(one.kind, one.detail, one.tickers, kept) for one in problems]
        return Polled(bars, headlines, problems, server, now, answered=bool(bars) or not problems)


def tries(settings: LiveConfig, *worth: type[Exception]) -> tenacity.Retrying:
    """Calls again, after growing random pauses, what raised one of `worth`; `settings.tries` times at most."""
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(worth),
        stop=tenacity.stop_after_attempt(settings.tries)
        | tenacity.stop_after_delay(settings.tries * (settings.connect_timeout_s + settings.read_timeout_s)),
        wait=tenacity.wait_random_exponential(multiplier=0.1, max=1.0),
        reraise=True,
    )


def nothing(kind: str, detail: str) -> Polled:
    """No answer, and why."""
    return Polled(problems=[Problem(kind, detail)], answered=False)


def not_asked(kind: str, detail: str) -> Polled:
    """Nobody was asked this time, and why: what was known of the source stays."""
    return Polled(problems=[Problem(kind, detail)], answered=None)


def _content(response: requests.Response) -> bytes:
    """The body, decoded; Refused beyond MAX_BYTES of it."""
    content = bytearray()
    while chunk := response.raw.read1(1 << 16, decode_content=True):
        content += chunk
        if len(content) > MAX_BYTES:
            raise Refused("too_large", f"more than {MAX_BYTES} bytes")
    return bytes(content)


def _all(
    entries: object, parse: Callable[[Any, Sequence[str]], Item], tickers: Sequence[str], problems: list[Problem]
) -> list[Item]:
    """What of `entries` is of the right form; the rest becomes problems."""
    if not isinstance(entries, list):
        problems.append(Problem("malformed", f"no list of {parse.__name__.strip('_')}s"))
        return []
    good = []
    for entry in entries:
        try:
            good.append(parse(entry, tickers))
        except (KeyError, TypeError, ValueError) as error:
            name = entry.get("ticker") if isinstance(entry, dict) else None
            whom = (name,) if isinstance(name, str) and name in tickers else ()
            problems.append(Problem("malformed", f"{type(error).__name__}: {str(error)[:120]}", whom))
    return good


def _bar(entry: Any, tickers: Sequence[str]) -> Bar:
    values = dict(entry)
    numbers: dict[str, Any] = {name: _number(values[name]) for name in QUOTES if name != "adj_close" or name in values}
    numbers.setdefault("adj_close", None)
    return Bar(_ticker(values["ticker"], tickers), _instant(values["bar_close_utc"]), **numbers)


def _headline(entry: Any, tickers: Sequence[str]) -> Headline:
    text, repost = entry["text"], entry.get("is_repost", False)
    if not isinstance(text, str) or not text.strip() or not isinstance(repost, bool):
        raise ValueError("text is text, is_repost true or false")
    ticker = _ticker(entry["ticker"], tickers)
    return Headline(ticker, str(entry["id"]), _instant(entry["published_utc"]), text, repost)


def _ticker(value: Any, tickers: Sequence[str]) -> str:
    if value not in tickers:
        raise ValueError(f"ticker {value!r} was not asked for")
    return str(value)


def _number(value: Any) -> float:
    """A JSON number; null stands for one that is not known, which the guards refuse."""
    if value is None:
        return float("nan")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is no number")
    try:
        return float(value)
    except OverflowError:
        raise ValueError("an integer beyond numbers of 64 bits") from None


def _instant(value: Any) -> pd.Timestamp:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no time")
    time = pd.Timestamp(value)
    if time.tzinfo is None:
        raise ValueError(f"{value!r} has no offset from UTC")
    if time.year not in YEARS:
        raise ValueError(f"{value!r} is not from {YEARS[0]} to {YEARS[-1]}")
    return time.tz_convert("UTC").as_unit("us")


def http_date(header: str | None) -> pd.Timestamp | None:
    """The instant of a Date header; None where it is absent or unreadable."""
    try:
        moment = email.utils.parsedate_to_datetime(header or "")
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    if moment.year not in _YEARS:
        return None
    stamp = pd.Timestamp(moment)
    return (stamp.tz_localize("UTC") if stamp.tzinfo is None else stamp.tz_convert("UTC")).as_unit("us")


def retry_after(header: str | None, otherwise: float) -> float:
    """Seconds from a Retry-After header, which holds seconds or a date."""
    if header is None:
        return otherwise
    if header.strip().isdecimal():
        return min(float(header), _LONGEST_REST_S)
    date = http_date(header)
    if date is None:
        return otherwise
    return min(max((date - pd.Timestamp.now("UTC")).total_seconds(), 0.0), _LONGEST_REST_S)
