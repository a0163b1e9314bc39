"""Splits and dividends of the laboratory: from adjusted prices to quoted ones.

    factor[s] = factor[s - 1] * split[s] * (1 + dividend[s] / close[s]),   adjusted = quoted * factor

as `fusion_alpha.sources.csv_folder.adjusted` undoes it: close[s] is the quoted close of the first bar of session s, the
dividend is a share's after the split, and the factor is 1 in the first session. It accumulates forward, so a later
action changes no earlier row.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

DECIMALS = 4  # of quoted prices; hides what the last bit of exp and log differs by between machines
QUARTER = 63  # sessions between dividends
PENNY = 5.0  # a reverse split follows a quote below this


def plan(close: Float64) -> tuple[Float64, Float64, Float64]:
    """Factor, split ratio and dividend of each ticker and session, [tickers, sessions].

    close: adjusted close of the first bar of each session. Every third ticker splits once (5, 2, 3 or 4 for 1); a
    ticker whose quote fell below PENNY is put together 10 for 1 at the quarter's check; all but every fifth ticker pay
    a dividend each quarter. What happens in session s is decided by quotes of s - 1.
    """
    n_tickers, n_sessions = close.shape
    ticker = np.arange(n_tickers)
    split_session = np.where(ticker % 3 == 0, 120 + 61 * ticker % 200, -1)
    ratio = np.array([5.0, 2.0, 3.0, 4.0])[ticker // 3 % 4]
    payout = np.where(ticker % 5 == 0, 0.0, 0.003 + 0.001 * (ticker % 4))
    phase = (5 + 11 * ticker) % QUARTER
    factor, split, dividend = np.ones_like(close), np.ones_like(close), np.zeros_like(close)
    for s in range(1, n_sessions):
        before = close[:, s - 1] / factor[:, s - 1]
        together = (s % QUARTER == (phase + 30) % QUARTER) & (before < PENNY)
        split[:, s] = np.where(split_session == s, ratio, np.where(together, 0.1, 1.0))
        paid = np.round(payout * before / split[:, s], 2)
        dividend[:, s] = np.where(s % QUARTER == phase, paid, 0.0)
        quote = quoted(close[:, s], factor[:, s - 1] * split[:, s]) - dividend[:, s]
        factor[:, s] = factor[:, s - 1] * split[:, s] * (1.0 + dividend[:, s] / quote)
    return factor, split, dividend


def quoted(adjusted: Float64, factor: Float64) -> Float64:
    return np.round(adjusted / factor, DECIMALS)


def table(tickers: list[str], sessions: NDArray[np.datetime64], split: Float64, dividend: Float64) -> pd.DataFrame:
    """The actions that happen: ticker, session, split, dividend."""
    i, s = np.nonzero((split != 1.0) | (dividend != 0.0))
    return pd.DataFrame(
        {
            "ticker": pd.Series([tickers[k] for k in i], dtype="str"),
            "session": sessions[s],
            "split": split[i, s],
            "dividend": dividend[i, s],
        }
    )
