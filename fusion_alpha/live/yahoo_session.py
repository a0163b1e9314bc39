"""The HTTP session that the router gives to yfinance: limits, short timeouts, and what stands beside a table.

yfinance has the addresses of Yahoo's servers in its code and passes on neither the Date nor the Retry-After header. All
its requests go through this session: one that would come too soon waits, one during a rest is refused here. An answer
with bars or headlines (not the cookies and the crumb that yfinance fetches before) that says 429 or 5xx raises, so that
yfinance does not ask the same again with other cookies; its bytes are kept for a strict look at them.
"""

import threading
import time
from collections.abc import Callable
from typing import Any

import pandas as pd
from curl_cffi.requests import Response, Session
from yfinance.exceptions import YFRateLimitError

from fusion_alpha.config import LiveConfig
from fusion_alpha.live.http_feed import BURST, MAX_BYTES, TRANSIENT, Refused, Unavailable, http_date, retry_after
from fusion_alpha.live.limits import TokenBucket

_DATA = ("/v8/finance/chart/", "/xhr/ncp")  # where bars and headlines are; the rest is cookies and crumbs
_TICK_S = 0.05


class RateLimited(YFRateLimitError):
    """Yahoo wants to be left alone for `rest_s`; of yfinance's own class, which yfinance passes on."""

    def __init__(self, rest_s: float) -> None:
        super().__init__()
        self.rest_s = rest_s


class YahooSession(Session[Response]):
    """A browser's handshake with the router's manners, for several threads. clock: monotonic seconds, for rests."""

    def __init__(self, settings: LiveConfig, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(impersonate="chrome")
        self._settings, self._clock = settings, clock
        self._bucket = TokenBucket(settings.requests_per_minute, BURST)
        self._taking = threading.Lock()
        self._rest_until = 0.0
        self._last = threading.local()
        self.clocks: tuple[pd.Timestamp, pd.Timestamp] | None = None  # Yahoo's and ours at the latest answer

    @property
    def rest_s(self) -> float:
        """For how long Yahoo still wants to be left alone."""
        return max(self._rest_until - self._clock(), 0.0)

    @property
    def content(self) -> bytes:
        """Bytes of the last bars or headlines that came in this thread."""
        return getattr(self._last, "content", b"")

    def request(self, method: Any, url: str, *arguments: Any, **options: Any) -> Response:
        """As curl_cffi's, for yfinance; raises RateLimited, Unavailable and Refused too."""
        self._wait()
        options["timeout"] = (self._settings.connect_timeout_s, self._settings.read_timeout_s)
        response = super().request(method, url, *arguments, **options)
        if any(part in url for part in _DATA):
            self._look_at(response)
        return response

    def forget(self) -> None:
        """Nothing has come in this thread yet."""
        self._last.content = b""

    def _wait(self) -> None:
        while True:
            if self.rest_s > 0:
                raise RateLimited(self.rest_s)
            with self._taking:
                if self._bucket.take():
                    return
            time.sleep(_TICK_S)

    def _look_at(self, response: Response) -> None:
        self._last.content = response.content
        date, age = http_date(response.headers.get("Date")), response.headers.get("Age", "")
        if date is not None:  # a cache's answer carries the time at which it was made
            passed = pd.Timedelta(seconds=int(age) if age.isdecimal() else 0)
            self.clocks = (date + passed, pd.Timestamp.now("UTC").as_unit("us"))
        if response.status_code == 429:
            rest = retry_after(response.headers.get("Retry-After"), self._settings.breaker_rest_s)
            self._rest_until = self._clock() + rest
            raise RateLimited(rest)
        if response.status_code in TRANSIENT:
            raise Unavailable(f"HTTP {response.status_code}")
        if len(response.content) > MAX_BYTES:
            raise Refused("too_large", f"more than {MAX_BYTES} bytes")
