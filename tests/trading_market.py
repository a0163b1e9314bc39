"""A small exchange with a planted answer, as the tables that an evaluation reads; used by several test files."""

from dataclasses import replace

import numpy as np
import pandas as pd

from fusion_alpha import config, panel, sessions, tables, technical
from fusion_alpha.tables import BAR_KEY

SIGMA = 0.02
DELTA = 1.0  # strong, so that short tests see it


def configuration(**strategy: object) -> config.Config:
    """The committed configuration with short periods: train to 2016, dev to 2016-07, test from then on."""
    cfg = config.load()
    cfg.data = replace(
        cfg.data, train_start="2010-01-01", dev_start="2016-01-01", test_start="2016-07-01", test_end="2020-01-01"
    )
    cfg.strategy = replace(cfg.strategy, **({"costs": None} | strategy))
    cfg.evaluate = replace(cfg.evaluate, bootstrap_samples=100)
    return cfg


def prices(
    n_tickers: int, last: str = "2016-12-30", minutes: int | None = None, delta: float = DELTA, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(prices, contradiction) on real sessions from 2015-06-01; after overhype the next open-to-open return is low."""
    rng = np.random.default_rng(seed)
    bars = sessions.bars("XNYS", "2015-06-01", last, minutes)[["session", "bar_close_utc"]]
    n = len(bars)
    frames, scores = [], []
    for number in range(n_tickers):
        kind = rng.choice(["none", "overhype", "underhype"], n, p=[0.8, 0.1, 0.1])
        drift = delta * SIGMA * (np.where(kind == "underhype", 1.0, 0.0) - np.where(kind == "overhype", 1.0, 0.0))
        moves = drift + SIGMA * rng.standard_normal(n)  # of bar t: from open t + 1 to open t + 2
        growth = np.concatenate([[1.0, 1.0], np.cumprod(1 + moves[:-2])])
        opens = 100 * growth
        close = opens * (1 + 0.001 * rng.standard_normal(n))
        high, low = np.maximum(opens, close), np.minimum(opens, close)
        ticker = f"T{number}"
        quote = {"open": opens, "high": high, "low": low, "close": close, "adj_close": close, "volume": 1e6}
        frames.append(bars.assign(ticker=ticker, **quote))
        sign = np.select([kind == "overhype", kind == "underhype"], [1.0, -1.0], 0.0)
        cs = sign * rng.uniform(0.75, 3, n)
        tone = np.where(sign == 0, rng.choice([-0.5, np.nan, 0.5], n), sign * 0.5)
        scores.append(
            bars[["bar_close_utc"]].assign(ticker=ticker, s=tone, z_s=tone * 2, cs=cs, kind=kind, drift=drift)
        )
    return _in_key_order(frames), _in_key_order(scores)


def _in_key_order(frames: list[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(frames).sort_values(BAR_KEY, ignore_index=True)


def market(
    cfg: config.Config, n_tickers: int = 4, noise: float = 0.002, delta: float = DELTA, **options: object
) -> dict[str, pd.DataFrame]:
    """panel, contradiction, truth and predictions; the predicted mean is the true drift with some noise."""
    quotes, scores = prices(n_tickers, minutes=cfg.bar_minutes, delta=delta, **options)
    built = panel.build(quotes, tables.empty("benchmark"), cfg)
    rng = np.random.default_rng(1)
    drift = scores.pop("drift")
    key = scores[BAR_KEY]
    truth = key.assign(
        kind=scores["kind"], sentiment=scores["s"].fillna(0), z_ret=0.0, sigma_target=SIGMA, oracle_mean_ret=drift
    )
    mean = (drift + noise * rng.standard_normal(len(drift))).to_numpy()
    clock = built[["decided_utc", "split"]]
    predictions = key.assign(**clock, model_id="abc123", fold="holdout", p_up=0.5 + np.clip(mean * 5, -0.4, 0.4))
    predictions = predictions.assign(p_up_sd=0.02, mean_ret=mean, sd_ret=SIGMA, severity=0.5, kind=scores["kind"])
    contradiction = scores.assign(
        n_news=1, z_r=0.0, severity=0.5, p_touch_high=0.5, p_touch_low=0.5, null_drawdown=0.01
    )
    features = technical.build(built, cfg.technical)
    return {
        **{"panel": built, "technical": features, "contradiction": contradiction},
        **{"truth": truth, "predictions": predictions},
    }
