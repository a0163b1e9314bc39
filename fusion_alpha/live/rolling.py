"""What the batch layers compute for all rows, for the newest row of each ticker: the same formulas on arrays.

Sums run in the order in which the batch layers add, so bits agree. tests/test_live_rolling.py holds each function
against its original: contradiction.sentiment, standardise and severity, nulls.features, technical.build.
"""

from collections.abc import Sequence
from typing import cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fusion_alpha import contradiction, nulls
from fusion_alpha.config import ContradictionConfig
from fusion_alpha.indicators import Indicator

Floats = NDArray[np.float64]
BARS = ("open", "high", "low", "close", "volume")  # columns that indicators read, the volume in adjusted shares
MOVES = ("ret", "high", "low", "overnight", "intraday")  # of nulls.log_moves
SLOW = 100  # a longer warm-up is that of exponential means, which see as far back as bars go; others see no further
_APART = 64  # empty rows between two tickers, more than any window: no sum runs from one into the other


def moves(bars: Floats, before: Floats, opens_session: NDArray[np.bool_]) -> Floats:
    """MOVES [n, 5] of adjusted bars [n, open high low close], the closes before them [n] known; `nulls.log_moves`."""
    opened, high, low, close = bars.T
    ret = np.log(close / before)
    overnight = np.where(opens_session, np.log(opened / before), 0.0)
    intraday = np.where(opens_session, np.log(close / opened), ret)
    return np.column_stack([ret, np.log(high / before), np.log(low / before), overnight, intraday])


def indicators(items: Sequence[Indicator], bars: Sequence[Floats], window_bars: int) -> Floats:
    """Each indicator at the last of each ticker's bars, as far as these tell: [tickers, items].

    bars: of each ticker, adjusted, columns BARS, at least as many as the longest window where it has them. Tickers are
    laid end to end, so that one call of an indicator serves all.
    """
    found = np.full((len(bars), len(items)), np.nan)
    slow = np.array([item.warmup > SLOW for item in items], bool)
    for chosen, longest in (
        (slow, window_bars),
        (~slow, max((item.warmup for item in items if item.warmup <= SLOW), default=0) + 1),
    ):
        if chosen.any() and bars:
            frame, last = _end_to_end([held[-longest:] for held in bars])
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                for number in np.flatnonzero(chosen).tolist():
                    found[:, number] = items[number].compute(frame).to_numpy()[last]
    return found


def sentiment(
    row: NDArray[np.int64], age_hours: Floats, shares: Floats, n: int, half_life_hours: float
) -> tuple[NDArray[np.int64], Floats]:
    """n_news and s of n rows. row, age_hours, shares (text.LABELS): of each news item, in key order."""
    weight = np.exp2(-age_hours / half_life_hours) * (1.0 - shares[:, 1])
    tone = shares[:, 2] - shares[:, 0]
    n_news = np.bincount(row, minlength=n)
    total = np.bincount(row, weight, n)
    s = np.bincount(row, weight * tone, n) / (total + 1.0)
    return n_news, np.where(n_news > 0, s, np.nan)


def standardised(s: Sequence[Floats], times: Sequence[NDArray[np.int64]], rules: ContradictionConfig) -> Floats:
    """z_s of each ticker's last score. s, times: of all tickers by name, their latest scores and bar times."""
    lengths = np.array([len(own) for own in s])
    number = np.concatenate([np.arange(length) for length in lengths])
    time = np.unique(np.concatenate(times), return_inverse=True)[1]
    z_s = contradiction.standardise(np.concatenate(s), number, time, rules.window_bars, rules.shrink_weight)
    return z_s[np.cumsum(lengths) - 1]


def severity(cs: Floats, past: Sequence[Floats], bars: int) -> Floats:
    """Severity of scores [n], each with its ticker's scores before it."""
    found = np.zeros(len(cs))
    for place in np.flatnonzero(cs).tolist():
        earlier = np.abs(past[place][-bars:])
        below = np.count_nonzero((earlier > 0) & (earlier < abs(cs[place])))
        found[place] = below / max(int(np.count_nonzero(earlier)), 1)
    return found


def null(held: Sequence[Floats], rules: ContradictionConfig) -> nulls.Features:
    """Null features of each ticker's last row. held: MOVES of its rows; none before it has `null_sessions` of them."""
    n = rules.null_sessions
    known = np.array([len(own) > n + 1 for own in held], bool)
    out = nulls.Features(*(np.full(len(held), np.nan) for _ in nulls.Features._fields))
    if known.any():
        tails = [own[-n - 1 :] for own in held if len(own) > n + 1]
        now = np.stack([tail[-1] for tail in tails])
        history = np.abs(np.concatenate([tail[:-1, 3:] for tail in tails])).astype(np.float32)
        first = n * np.arange(len(tails))
        found = nulls.of_rows(nulls.Rows(now[:, 0], now[:, 1], now[:, 2], history, first), rules)
        for column, values in zip(out, found, strict=True):
            column[known] = values
    return out


def _end_to_end(bars: Sequence[Floats]) -> tuple[pd.DataFrame, NDArray[np.int64]]:
    """The bars of all tickers in one table, empty rows between them, and where each ticker ends.

    A dictionary in place of a frame: indicators ask for columns by name, and a frame takes longer to find them than
    most indicators to be computed.
    """
    last = np.cumsum([_APART + len(held) for held in bars]) - 1
    columns = np.full((len(BARS), last[-1] + 1), np.nan)
    for end, held in zip(last, bars, strict=True):
        columns[:, end + 1 - len(held) : end + 1] = held.T
    table = {name: pd.Series(column, copy=False) for name, column in zip(BARS, columns, strict=True)}
    return cast(pd.DataFrame, table), last
