"""Small laboratories for the live router's tests: history, feed and configuration."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pandas as pd

from fusion_alpha import config, samples
from fusion_alpha.config import Config
from fusion_alpha.live import feed, router
from fusion_alpha.live.broker import PaperBroker
from fusion_alpha.live.clock import SteppedClock
from fusion_alpha.live.journal import Journal
from fusion_alpha.live.monitor import Metrics
from fusion_alpha.live.state import State
from fusion_alpha.live.switch import KillSwitch
from fusion_alpha.live.texts import Texts

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


class Steady:
    """An engine that says the same of everything."""

    model_id, sha256 = "steady", "0" * 64

    def predict(self, data, rows):
        numbers = {"p_up": 0.6, "p_up_sd": 0.02, "mean_ret": 0.001, "sd_ret": 0.01, "severity": 0.0}
        return pd.DataFrame(dict.fromkeys(numbers, 0.0), index=range(len(rows))).assign(**numbers, kind="none")


def recent(history: feed.History, tickers: tuple[str, ...], bars: int = 150) -> feed.History:
    """The last bars of some tickers, and the news since."""
    prices = history.prices[history.prices["ticker"].isin(tickers)].groupby("ticker").tail(bars)
    news = history.news[history.news["ticker"].isin(tickers)]
    news = news[news["published_utc"] > prices["bar_close_utc"].min()]
    return feed.History(prices.reset_index(drop=True), news)


def batch_samples(cfg: Config, history: feed.History, rest: feed.History) -> samples.Samples:
    """Samples of all bars, as the batch layers make them."""
    parts = [pd.concat([getattr(history, name), getattr(rest, name)]) for name in ("prices", "news")]
    keys = (["ticker", "bar_close_utc"], ["ticker", "news_id"])
    everything = feed.History(
        *(part.sort_values(key, ignore_index=True) for part, key in zip(parts, keys, strict=True))
    )
    with Texts(cfg) as texts:
        texts.load(everything.news["text"])
        state = State(everything, texts.vectors, cfg)
    frames = {name: state.table(name) for name in ("panel", "technical", "contradiction", "news_bars")}
    frames["text"] = texts.vectors.table(frames["news_bars"]["text_hash"].unique().tolist())
    return samples.build(frames, cfg)


def steady_router(
    cfg: Config, source: feed.Feed, history: feed.History, start: pd.Timestamp, journal: Journal, texts: Texts
) -> router.Router:
    """A router of TSLA with the engine that says the same of everything, its clock at `start`."""
    rest = (PaperBroker(cfg), KillSwitch(None), Metrics())
    return router.Router(
        router.Parts(cfg, source, history, SteppedClock(start), journal, Steady(), texts, *rest), ["TSLA"]
    )
