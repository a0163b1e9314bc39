"""A small market with a planted contradiction, as the tables that FusionNet reads; used by several test files."""

from dataclasses import replace

import numpy as np
import pandas as pd

from fusion_alpha import config, samples, tables

WARMUP = 20
DIM = 8
VOLATILITY = 0.02


def configuration(variant: str = "fused", **model: object) -> config.Config:
    """The committed configuration with a small model and short training."""
    cfg = config.load()
    parts = {
        "fused": (True, True, True, "attention", True),
        "attention": (True, True, True, "attention", False),
        "concat": (True, True, True, "concat", False),
        "price_only": (False, True, False, "none", False),
        "text_only": (True, False, False, "none", False),
    }
    names = ("use_text", "use_technical", "use_contradiction", "fusion", "severity_gate")
    size = {"width": 16, "heads": 2, "news_tokens": 4, "sessions": 6, "news_lookback_bars": 3, "dropout": 0.5}
    cfg.model = replace(cfg.model, name=variant, **dict(zip(names, parts[variant], strict=True)) | size | model)
    cfg.text = replace(cfg.text, name="stub", dim=DIM, sha256=None)
    cfg.train = replace(cfg.train, epochs=2, batch_size=128, threads=1)
    cfg.predict = replace(cfg.predict, mc_samples=8)
    return cfg


def market(
    n_tickers: int = 3,
    n_bars: int = 120,
    *,
    rule: str = "kind",
    delta: float = 1.0,
    tau: float = 0.8,
    seed: int = 0,
) -> dict[str, pd.DataFrame]:
    """Tables of `samples.INPUTS` with a planted drift of the target, in sd.

    rule=kind: -delta after a score of at least tau, +delta after one of at most -tau. rule=agreement: +delta where
    sentiment and return agree and -delta where they do not, which neither of the two alone can tell.
    """
    rng = np.random.default_rng(seed)
    panel = _clock(n_tickers, n_bars)
    n = len(panel)
    z_ret, n_news = rng.standard_normal(n), rng.integers(0, 3, n)
    tone = np.where(n_news > 0, rng.choice([-1.0, 1.0], n), np.nan)
    agree = tone * z_ret
    score = np.where(agree < 0, np.sign(tone) * np.sqrt(np.abs(agree)), 0.0)
    kind_drift = -delta * np.sign(score) * (np.abs(score) >= tau)
    drift = kind_drift if rule == "kind" else delta * np.nan_to_num(np.sign(agree))
    panel["target_ret"] = VOLATILITY * (drift + rng.standard_normal(n))
    last = panel.groupby("ticker").cumcount(ascending=False) < 2  # the future of these bars is not known yet
    panel.loc[last, "target_ret"] = np.nan
    panel["target_label"] = (panel["target_ret"] > 0).astype("boolean").mask(last)
    panel["split"] = np.select(
        [panel["number"] < 0.6 * n_bars, panel["number"] < 0.8 * n_bars], ["train", "dev"], "test"
    )
    warm = (panel["number"] >= WARMUP).to_numpy()
    key = panel[["ticker", "bar_close_utc"]]
    values = {name: rng.random(n) for name in samples.BASIC}
    values |= {"ret_1": z_ret * VOLATILITY, "volatility_20": np.full(n, VOLATILITY)}
    technical = tables.empty("technical").reindex(key.index).assign(**key)  # what the model does not read is unknown
    technical = technical.assign(**{name: np.where(warm, column, np.nan) for name, column in values.items()})
    contradiction = key.assign(
        n_news=n_news, s=tone, z_s=tone, z_r=np.where(panel["number"] > 10, z_ret, np.nan), cs=score, kind="none"
    ).assign(severity=np.abs(score) / 4, p_touch_high=0.5, p_touch_low=0.5, null_drawdown=0.01)
    news_bars, text = _news(panel, n_news, tone, rng)
    panel = panel.drop(columns=["number"])
    return {
        "panel": panel,
        "news_bars": news_bars,
        "technical": technical,
        "text": text,
        "contradiction": contradiction.astype({"n_news": "Int64"}),
    }


def _clock(n_tickers: int, n_bars: int) -> pd.DataFrame:
    days = pd.bdate_range("2017-01-02", periods=n_bars + 2).as_unit("us")
    close = (days + pd.Timedelta(hours=21)).tz_localize("UTC").as_unit("us")
    opening = (days + pd.Timedelta("14:30:00")).tz_localize("UTC").as_unit("us")
    one = pd.DataFrame(
        {
            "bar_close_utc": close[:n_bars],
            "cutoff_utc": close[:n_bars],
            "decided_utc": (close[:n_bars] + pd.Timedelta(seconds=60)).as_unit("us"),
            "label_end_utc": opening[2:],
            "number": np.arange(n_bars),
        }
    )
    tickers = [f"T{i}" for i in range(n_tickers)]
    return pd.concat([one.assign(ticker=ticker) for ticker in tickers], ignore_index=True)


def _news(
    panel: pd.DataFrame, n_news: np.ndarray, tone: np.ndarray, rng: np.random.Generator
) -> tuple[pd.DataFrame, pd.DataFrame]:
    row = np.repeat(np.arange(len(panel)), n_news)
    hours = rng.uniform(0.1, 20, len(row))
    published = panel["cutoff_utc"].iloc[row].reset_index(drop=True) - pd.to_timedelta(hours, unit="h").round("us")
    text_number = np.where(tone[row] > 0, 0, 10) + rng.integers(0, 10, len(row))
    news = pd.DataFrame(
        {
            "ticker": panel["ticker"].iloc[row].to_numpy(),
            "news_id": [f"{i:032x}" for i in range(len(row))],
            "bar_close_utc": panel["bar_close_utc"].iloc[row].array,
            "published_utc": published.astype("datetime64[us, UTC]"),
            "text_hash": [f"{i:032x}" for i in text_number],
            "is_repost": pd.array(rng.random(len(row)) < 0.2, dtype="boolean"),
        }
    )
    positive = np.where(np.arange(20) < 10, 0.8, 0.1)
    vectors = rng.standard_normal((20, DIM))
    vectors[:, 0] = np.where(positive > 0.5, 3, -3)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    text = pd.DataFrame({"text_hash": [f"{i:032x}" for i in range(20)]})
    text["embedding"] = tables.vector_series(vectors.astype(np.float16))
    text["p_negative"], text["p_neutral"], text["p_positive"] = 0.9 - positive, 0.1, positive
    return news.sort_values(["ticker", "news_id"], ignore_index=True), text


def complete(name: str, frame: pd.DataFrame) -> pd.DataFrame:
    """A table as its schema wants it: with the columns that train and predict do not read."""
    frame = frame.copy()
    if name == "panel":
        frame["session"] = frame["bar_close_utc"].dt.tz_localize(None).dt.normalize()
        frame["session_open_utc"] = frame["session_close_utc"] = frame["fill_utc"] = frame["bar_close_utc"]
        frame[["open", "high", "low", "close", "volume", "adjustment", "ret"]] = 1.0
    if name == "news_bars":
        frame["age_hours"] = 1.0
    return frame


def until(frames: dict[str, pd.DataFrame], end: pd.Timestamp) -> dict[str, pd.DataFrame]:
    """The tables as they were before anything after `end` existed; texts keep only those that were published."""
    cut = {name: table for name, table in frames.items() if name != "text"}
    cut = {name: table[table["bar_close_utc"] <= end].reset_index(drop=True) for name, table in cut.items()}
    known = frames["text"]["text_hash"].isin(cut["news_bars"]["text_hash"])
    return cut | {"text": frames["text"][known].reset_index(drop=True)}
