"""A small archive in StockNet's layout with a planted answer: most moves of a stock turn the one before."""

import json
from functools import cache
from pathlib import Path

import numpy as np
from source_inputs import archive

from fusion_alpha import sessions

TICKERS = ("AAPL", "BRK-A", "C", "MSFT", "XOM")
TURNS = 0.85  # share of moves against the one before
FIRST, LAST = "2013-06-03", "2015-12-31"
PHRASES = ("beats estimates", "misses estimates", "opens a plant", "is upgraded", "is cut to sell", "hires a chief")


@cache
def contents(seed: int = 0) -> dict[str, str]:
    rng = np.random.default_rng(seed)
    days = [f"{day.date()}" for day in sessions.sessions("XNYS", FIRST, LAST)["session"]]
    files = {}
    for ticker in TICKERS:
        turned = np.where(rng.random(len(days)) < TURNS, -1.0, 1.0)
        size = rng.uniform(0.004, 0.02, len(days))
        close = np.round(100 * np.exp(np.cumsum(np.cumprod(turned) * size)), 4)
        move = close[1:] / close[:-1] - 1
        files[f"price/preprocessed/{ticker}.txt"] = "".join(
            f"{day}\t{value:.6f}\t0\t0\t0\t0\t0\n" for day, value in zip(days[:0:-1], move[::-1], strict=True)
        )
        files[f"price/raw/{ticker}.csv"] = "Date,Open,High,Low,Close,Adj Close,Volume\n" + "".join(
            f"{day},{c},{c * 1.01:.4f},{c * 0.99:.4f},{c},{c},{rng.integers(1000, 9000)}\n"
            for day, c in zip(days, close, strict=True)
        )
        for day in days[150:]:
            lines = [_tweet(rng, ticker, day, number) for number in range(rng.integers(0, 3))]
            if lines:
                files[f"tweet/raw/{ticker}/{day}"] = "\n".join(lines) + "\n"
    return files


def _tweet(rng: np.random.Generator, ticker: str, day: str, number: int) -> str:
    year, month, date = day.split("-")
    name = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"][int(month) - 1]
    identity = f"{year}{month}{date}{TICKERS.index(ticker)}{number}"
    other = " $ZZZ" * bool(rng.random() < 0.3)
    return json.dumps(
        {
            "created_at": f"Mon {name} {date} {rng.integers(0, 24):02d}:{rng.integers(0, 60):02d}:00 +0000 {year}",
            "id_str": identity,
            "text": f"${ticker.replace('-', '.')}{other} {PHRASES[rng.integers(len(PHRASES))]} {rng.integers(9)}",
            "lang": "en",
            "user": {"id_str": f"{rng.integers(20)}", "followers_count": int(rng.integers(5000))},
        }
    )


def small_archive(path: Path) -> Path:
    return archive(path, contents())
