"""Bars of one close handed over together, for feeds that hear of each ticker by itself.

The router decides a bar without the tickers whose bar is missing once its time of grace is over. Where bars come late
anyway, the first ticker would be decided alone and the others come too late; so they wait here for each other.
"""

from collections.abc import Callable

import pandas as pd

from fusion_alpha.live.feed import Bar


class Together:
    """Keeps bars until their close is complete, or has waited for `patience` since its first one came."""

    def __init__(self, patience: pd.Timedelta) -> None:
        self._patience = patience
        self._bars: dict[pd.Timestamp, dict[str, Bar]] = {}
        self._since: dict[pd.Timestamp, pd.Timestamp] = {}

    def add(self, bar: Bar, now: pd.Timestamp) -> None:
        self._bars.setdefault(bar.close_utc, {})[bar.ticker] = bar
        self._since.setdefault(bar.close_utc, now)

    def released(self, now: pd.Timestamp, complete: Callable[[pd.Timestamp], bool]) -> list[Bar]:
        """Bars that wait no longer, and all before them, in order of time and ticker."""
        ready = [close for close, since in self._since.items() if now - since >= self._patience or complete(close)]
        closes = sorted(close for close in self._bars if ready and close <= max(ready))
        for close in closes:
            del self._since[close]
        return [bar for close in closes for _, bar in sorted(self._bars.pop(close).items())]
