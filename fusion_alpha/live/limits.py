"""How often a server may be asked: a bucket of tokens, and a breaker that rests after failures in a row.

Seconds are those of a monotonic clock, which no correction of the wall's moves.
"""

import time
from collections.abc import Callable


class TokenBucket:
    """`per_minute` requests on average, `burst` at once."""

    def __init__(self, per_minute: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = per_minute / 60, burst, clock
        self._tokens, self._at = float(burst), clock()

    def take(self) -> bool:
        """Take a token; False where there is none."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Breaker:
    """Opens after `failures` in a row; lets one try through every `rest_s` until one succeeds."""

    def __init__(self, failures: int, rest_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit, self._rest, self._clock = failures, rest_s, clock
        self._failed, self._until = 0, 0.0

    @property
    def open(self) -> bool:
        """Has it had enough failures? It may still let a try through."""
        return self._failed >= self._limit

    def allows(self) -> bool:
        return not self.open or self._clock() >= self._until

    def success(self) -> None:
        self._failed = 0

    def failure(self) -> None:
        self._failed += 1
        if self.open:
            self._until = self._clock() + self._rest
