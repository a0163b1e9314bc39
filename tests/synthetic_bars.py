"""A small processed layer without meaning for tests of the features: panel, news_bars and text, as in schemas/."""

import numpy as np
import pandas as pd

from fusion_alpha import sessions
from kernels.philox import normal_counter, normals


def noise(n: int, path: int, seed: int = 3) -> np.ndarray:
    """n standard normals."""
    return normals(normal_counter(np.arange(0, n, 4), path), seed).ravel()[:n]


def panel(tickers: tuple[str, ...] = ("AAA", "BBB"), n_bars: int = 150, minutes: int | None = None) -> pd.DataFrame:
    """Bars with volatility that wanders; schemas/panel.yaml, in key order."""
    bars = sessions.bars("XNYS", "2015-01-02", "2019-12-31", minutes).iloc[:n_bars]
    frames = []
    for number, ticker in enumerate(tickers):
        z = noise(6 * n_bars, number).reshape(6, -1)
        vol = 0.012 * np.exp(0.5 * z[0])
        close = 50 * np.exp(np.cumsum((0.6 * z[1] + 0.8 * z[2]) * vol))
        opened = close / np.exp(0.8 * z[2] * vol)
        frame = bars[["bar_close_utc", "session", "session_open_utc", "session_close_utc"]].assign(
            ticker=ticker,
            open=opened,
            high=np.maximum(opened, close) * np.exp(np.abs(z[3]) * vol / 2),
            low=np.minimum(opened, close) / np.exp(np.abs(z[4]) * vol / 2),
            close=close,
            volume=np.rint(1e6 * np.exp(0.4 * z[5])),
        )
        frame["ret"] = frame["close"] / frame["close"].shift() - 1
        frames.append(frame)
    table = pd.concat(frames, ignore_index=True).astype({"ticker": "str"})
    return table.assign(
        adjustment=1.0,
        cutoff_utc=table["bar_close_utc"],
        decided_utc=table["bar_close_utc"] + pd.Timedelta(seconds=60),
        fill_utc=table["bar_close_utc"] + pd.Timedelta(hours=18),
        label_end_utc=table["bar_close_utc"] + pd.Timedelta(hours=42),
        target_ret=np.nan,
        target_label=pd.Series(pd.NA, table.index, "boolean"),
        split="none",
    )


def news(bars: pd.DataFrame, share: float = 0.5) -> tuple[pd.DataFrame, pd.DataFrame]:
    """About one item for `share` of the bars, some with two, and texts that several items share: news_bars, text."""
    rng = np.random.default_rng(8)
    rows = np.sort(rng.choice(len(bars), int(share * len(bars)), replace=True))
    sentiment = rng.dirichlet([1.0, 1.0, 1.0], 40)
    hashes = np.array([f"{number:032x}" for number in range(40)])
    items = bars.iloc[rows][["ticker", "bar_close_utc"]].reset_index(drop=True)
    items["news_id"] = [f"{number:032x}" for number in range(len(items))]
    items["age_hours"] = rng.uniform(0, 30, len(items))
    items["published_utc"] = items["bar_close_utc"] - pd.to_timedelta(items["age_hours"], unit="h").dt.as_unit("us")
    items["text_hash"] = hashes[rng.integers(0, 40, len(items))]
    items["is_repost"] = False
    text = pd.DataFrame({"text_hash": hashes})
    return items, text.assign(p_negative=sentiment[:, 0], p_neutral=sentiment[:, 1], p_positive=sentiment[:, 2])
