"""Small laboratories for the live router's tests: history, feed and configuration."""

from dataclasses import replace
from functools import cache
from pathlib import Path

from fusion_alpha import config
from fusion_alpha.config import Config
from fusion_alpha.live import feed

SMALL = ["data.lab.n_tickers=3", "text=stub", "contradiction.n_paths=64", "contradiction.severity_bars=80"]
DAILY = ["data.lab.first_session=2019-05-01", "technical.warmup_bars=60", "live.window_bars=130"]
MINUTES = ["data.lab.first_session=2019-12-12", "data.lab.last_session=2019-12-12", "live.window_bars=130"]


def daily() -> Config:
    cfg = config.load([*SMALL, *DAILY, "text.dim=8"])
    size = {"width": 16, "heads": 2, "news_tokens": 4, "sessions": 6, "news_lookback_bars": 3}
    cfg.model = replace(cfg.model, **size)
    cfg.predict = replace(cfg.predict, mc_samples=4)
    return cfg


def minutes(folder: Path) -> Config:
    config.compose(folder / "params.yaml", ["data=lab_1m"])
    cfg = config.load([*SMALL, *MINUTES, "text.dim=8"], folder / "params.yaml")
    cfg.model, cfg.predict = daily().model, daily().predict
    return cfg


@cache
def tables(interval: str, folder: Path) -> tuple[feed.History, feed.History]:
    """History and what follows it, made once for all tests."""
    cfg = daily() if interval == "1d" else minutes(folder)
    history, rest = feed.laboratory(cfg)
    return history, feed.History(rest._prices, rest._news)
