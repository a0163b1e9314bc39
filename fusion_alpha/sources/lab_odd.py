"""Rows that cleaning must refuse, planted in the laboratory's files at known places.

Prices: PRICES_A_TICKER rows in each file; in turn from ticker to ticker an exact duplicate, a duplicate with other
prices, negative prices, high below low, no close, a day without a session. News: NEWS lines, two each of a truncated
line, no text, a date that is none, a date decades ahead, an exact duplicate, an id used again for another text. Each
stands after the good row of its bar, or after the item that it distorts, so that refusing it loses nothing.
"""

import json

import numpy as np
import pandas as pd

from fusion_alpha import sessions

Row = tuple[str, str, str, str, str, str]  # time, open, high, low, close, volume

PRICES_A_TICKER = 2
NEWS = 12
_AMONG_FIRST = 200  # rows of a file; a later end of the laboratory does not move them
_KINDS = 6


def with_odd_prices(rows: list[Row], closed: list[str], ticker: int) -> list[Row]:
    """The rows with odd ones among them. closed: for each row a time at which the exchange is closed."""
    out = list(rows)
    within = min(len(rows), _AMONG_FIRST)
    places = {(3 + 11 * ticker) % within, (3 + 11 * ticker + within // 2) % within}  # one place where there is one row
    for turn, place in enumerate(sorted(places, reverse=True)):
        kind = (PRICES_A_TICKER * ticker + turn) % _KINDS
        out.insert(place + 1, _odd_price(rows[place], closed[place], kind))
    return out


def _odd_price(row: Row, closed: str, kind: int) -> Row:
    time, opening, high, low, close, volume = row
    opening_up, high_up, low_up, close_up = (f"{1.07 * float(price):.4f}" for price in (opening, high, low, close))
    return (
        row,
        (time, opening_up, high_up, low_up, close_up, volume),
        (time, f"-{opening}", f"-{high}", f"-{low}", f"-{close}", volume),
        (time, opening, f"{0.9 * float(low):.4f}", low, close, volume),
        (time, opening, high, low, "", volume),
        (closed, opening, high, low, close, volume),
    )[kind]


def holidays(exchange: str, days: list[str]) -> list[str]:
    """For each session the next weekday without a session; the session itself where the exchange never closes."""
    first, last = pd.Timestamp(days[0]), pd.Timestamp(days[-1]) + pd.Timedelta(days=366)
    held = pd.DatetimeIndex(sessions.sessions(exchange, first, last)["session"])
    closed = pd.bdate_range(first, last).difference(held)
    if closed.empty:
        return days
    found = closed.to_numpy()[np.searchsorted(closed.to_numpy(), pd.DatetimeIndex(days).to_numpy())]
    return np.datetime_as_string(found.astype("datetime64[D]")).tolist()


def with_odd_news(lines: list[str]) -> list[str]:
    """The feed with odd lines spread over it."""
    out = list(lines)
    apart = len(lines) // NEWS
    for turn in reversed(range(NEWS if apart else 0)):
        place = turn * apart
        while len(json.loads(lines[place])["tickers"]) != 1:  # one refused row a line
            place += 1
        out.insert(place + 1, _odd_line(lines[place], turn))
    return out


def _odd_line(line: str, turn: int) -> str:
    item = json.loads(line)
    new = item | {"id": f"odd{turn}"}
    decades_ahead = f"{int(item['published_utc'][:4]) + 40}-01-01T12:00:00Z"
    return (
        line[:60],
        json.dumps(new | {"text": None}),
        json.dumps(new | {"published_utc": "yesterday"}),
        json.dumps(new | {"published_utc": decades_ahead}),
        line,
        json.dumps(item | {"text": f"Correction: {item['text']}"}),
    )[turn % _KINDS]
