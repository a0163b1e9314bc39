"""The exchange's clock: sessions with half days, holidays and daylight saving, and the bars inside them.

Times are UTC instants; a session is a calendar day without a zone. Source: exchange_calendars.
"""

from functools import cache

import exchange_calendars
import numpy as np
import pandas as pd

from fusion_alpha.errors import InputError

_FIRST, _LAST = "1990-01-02", "2030-12-31"  # fixed, or the calendar would depend on today's date


@cache
def _schedule(exchange: str) -> pd.DataFrame:
    try:
        calendar = exchange_calendars.get_calendar(exchange, start=_FIRST, end=_LAST)
    except exchange_calendars.errors.InvalidCalendarName:
        raise InputError(
            f"unknown exchange {exchange!r}",
            rule="a name of exchange_calendars, e.g. XNYS",
            remedy="change data.exchange",
        ) from None
    table = calendar.schedule[["open", "close"]].rename_axis("session").reset_index()
    table.columns = pd.Index(["session", "session_open_utc", "session_close_utc"])
    utc = "datetime64[us, UTC]"
    return table.astype({"session": "datetime64[us]", "session_open_utc": utc, "session_close_utc": utc})


def sessions(exchange: str, first: str | pd.Timestamp, last: str | pd.Timestamp) -> pd.DataFrame:
    """Sessions in [first, last]: session, session_open_utc, session_close_utc, in order."""
    table = _schedule(exchange)
    return table[table["session"].between(pd.Timestamp(first), pd.Timestamp(last))].reset_index(drop=True)


def bars(exchange: str, first: str | pd.Timestamp, last: str | pd.Timestamp, minutes: int | None) -> pd.DataFrame:
    """Bars of the sessions in [first, last].

    `minutes` is the length of a bar, None for one bar a session. The last bar of a session is short where the
    session is not a multiple of it. Columns: those of `sessions` + bar_open_utc, bar_close_utc.
    """
    table = sessions(exchange, first, last)
    if minutes is None:
        return table.assign(bar_open_utc=table["session_open_utc"], bar_close_utc=table["session_close_utc"])
    step = pd.Timedelta(minutes=minutes)
    length = table["session_close_utc"] - table["session_open_utc"]
    counts = np.ceil(length.dt.total_seconds() / step.total_seconds()).astype(int)
    table = table.loc[table.index.repeat(counts)]
    number = table.groupby("session").cumcount()
    table = table.reset_index(drop=True)
    table["bar_open_utc"] = table["session_open_utc"] + pd.to_timedelta(
        number.to_numpy() * minutes, unit="min"
    ).as_unit("us")
    table["bar_close_utc"] = (table["bar_open_utc"] + step).clip(upper=table["session_close_utc"])
    return table
