"""Interim prices and news -> the panel: adjusted bars with a clock, a target and a role, and the news of each bar.

The clock of a row (all UTC; t is the row's bar):

    cutoff_utc     news published before it belongs to the row: bar close - news_delay, or, for
                   session_rule=utc_date, midnight before the next session
    decided_utc    the decision is made: bar close (or that midnight) + decision_delay
    fill_utc       the calendar's first bar open at or after decided_utc
    label_end_utc  the open after that; target_ret is the return between the two opens

With target=stocknet the target is the benchmark's movement of the next session, known at its close.
"""

from pathlib import Path

import duckdb
import numpy as np
import pandas as pd

from fusion_alpha import benchmark, sessions
from fusion_alpha.config import Config, DataConfig, TargetConfig
from fusion_alpha.errors import InputError

_DAY = pd.Timedelta(days=1)


def build(prices: pd.DataFrame, movements: pd.DataFrame, cfg: Config) -> pd.DataFrame:
    """Panel (schemas/panel.yaml) from interim prices and the benchmark's movements, both in key order."""
    if prices.empty:
        raise InputError("no prices are left", rule="at least one bar", remedy="check tickers, start and end")
    panel = adjust(prices)
    panel = clock(panel, cfg)
    panel = target(panel, movements, cfg)
    panel["split"] = roles(panel, cfg.data)
    return panel.drop(columns=["bar_open_utc", "next_session"])


def adjust(prices: pd.DataFrame) -> pd.DataFrame:
    """Quoted bars -> adjusted bars with `adjustment` and `ret`.

    The factor starts at 1 in the ticker's first row and accumulates forward, so that data added later, which
    makes a source restate every earlier adj_close, changes no row: only ratios of adj_close are used.
    """
    ratio = prices["adj_close"] / prices["close"]
    factor = ratio / ratio.groupby(prices["ticker"]).transform("first")
    panel = prices.drop(columns="adj_close").assign(adjustment=factor)
    for name in ("open", "high", "low", "close"):
        panel[name] = prices[name] * factor
    panel["ret"] = panel["close"] / panel.groupby("ticker")["close"].shift() - 1
    return panel


def clock(panel: pd.DataFrame, cfg: Config) -> pd.DataFrame:
    """Add the session's hours, bar_open_utc, next_session and the clock of the module's docstring.

    All of it comes from the exchange's calendar, so no time of a row depends on the bars that follow it.
    """
    first, last = panel["session"].min(), panel["session"].max() + 14 * _DAY
    calendar = sessions.bars(cfg.data.exchange, first, last, cfg.bar_minutes)
    panel = panel.merge(calendar.drop(columns="session"), on="bar_close_utc", how="left", validate="many_to_one")
    if panel["bar_open_utc"].isna().any():
        row = panel[panel["bar_open_utc"].isna()].iloc[0]
        raise InputError(
            f"{row['ticker']} {row['bar_close_utc']} is not the close of a {cfg.interval} bar of {cfg.data.exchange}",
            rule="bars end where the exchange's calendar says",
            remedy="check interval and data.exchange, then run clean again",
        )
    days = calendar["session"].drop_duplicates().to_numpy()
    panel["next_session"] = days[np.searchsorted(days, panel["session"].to_numpy(), side="right")]
    panel["cutoff_utc"] = cutoff(panel, cfg.target)
    base = panel["bar_close_utc"] if cfg.target.session_rule == "cutoff" else panel["cutoff_utc"]
    panel["decided_utc"] = base + _seconds(cfg.target.decision_delay_s)
    opens = calendar["bar_open_utc"]
    fill = opens.array.searchsorted(panel["decided_utc"].array)
    panel["fill_utc"] = opens.iloc[fill].array
    panel["label_end_utc"] = opens.iloc[fill + 1].array
    if cfg.target.name == "stocknet":
        hours = calendar.drop_duplicates("session").set_index("session")["session_close_utc"]
        panel["label_end_utc"] = panel["next_session"].map(hours)
    return panel


def cutoff(panel: pd.DataFrame, rule: TargetConfig) -> pd.Series:
    """The instant before which news must be public to count for the row; at it counts as after."""
    if rule.session_rule == "utc_date":
        return panel["next_session"].dt.tz_localize("UTC")
    return panel["bar_close_utc"] - _seconds(rule.news_delay_s)


def target(panel: pd.DataFrame, movements: pd.DataFrame, cfg: Config) -> pd.DataFrame:
    """Add target_ret and target_label; null where the ticker has no bar at the fill or at the label's end.

    With target=stocknet exactly the benchmark's samples have a label.
    """
    if cfg.target.name == "stocknet":
        if movements.empty:
            raise InputError(
                "target=stocknet needs the benchmark's movements", remedy="use data=stocknet or target=next_open"
            )
        asked = benchmark.samples(movements)[["ticker", "session", "label"]]
        due = movements[["ticker", "session", "movement"]].merge(asked, on=["ticker", "session"], how="left")
        due = due.rename(columns={"session": "next_session", "movement": "target_ret", "label": "target_label"})
        return panel.merge(due, on=["ticker", "next_session"], how="left", validate="one_to_one")
    opens = panel.set_index(["ticker", "bar_open_utc"])["open"]
    entry, leave = (
        opens.reindex(pd.MultiIndex.from_frame(panel[["ticker", name]])).to_numpy()
        for name in ("fill_utc", "label_end_utc")
    )
    panel["target_ret"] = leave / entry - 1
    panel["target_label"] = (panel["target_ret"] > 0).astype("boolean").mask(panel["target_ret"].isna())
    return panel


def roles(panel: pd.DataFrame, data: DataConfig) -> pd.Series:
    """train, dev, test or none, by the day on which the row's label is known.

    A label that is known only in a later period makes its row part of that period, so no label of one period
    overlaps the next one's.
    """
    known = panel["label_end_utc"].dt.tz_localize(None).dt.normalize()
    edges = [data.train_start, data.dev_start, data.test_start, data.test_end]
    number = np.searchsorted(np.array(edges, "datetime64[us]"), known.to_numpy().astype("datetime64[us]"), side="right")
    return pd.Series(np.array(["none", "train", "dev", "test", "none"], object)[number], index=panel.index, dtype="str")


def join_news(news: Path, panel: Path, first_cutoffs: pd.DataFrame) -> pd.DataFrame:
    """Map each item to the ticker's first bar whose cutoff is after its publication (schemas/news_bars.yaml).

    One ASOF query over the Parquet files, so it runs larger than memory. `first_cutoffs` (ticker, since) keeps out
    items from before the news window of a ticker's first bar.
    """
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
        connection.register("first_cutoffs", first_cutoffs)
        query = """
            SELECT news.ticker, news.news_id, bar.bar_close_utc, news.published_utc,
                   epoch_us(bar.cutoff_utc - news.published_utc) / 3.6e9 AS age_hours,
                   left(sha256(news.text), 32) AS text_hash, news.is_repost
            FROM read_parquet($news) AS news
            JOIN first_cutoffs ON first_cutoffs.ticker = news.ticker AND news.published_utc >= first_cutoffs.since
            ASOF JOIN read_parquet($panel) AS bar
              ON bar.ticker = news.ticker AND news.published_utc < bar.cutoff_utc
        """
        return connection.sql(query, params={"news": str(news), "panel": str(panel)}).to_arrow_table().to_pandas()


def news_since(panel: pd.DataFrame, cfg: Config) -> pd.DataFrame:
    """Per ticker, the cutoff before its first bar's: (ticker, since). News from before it belongs to no bar."""
    first = panel.groupby("ticker", as_index=False).first()[["ticker", "session", "bar_close_utc"]]
    days = sessions.bars(cfg.data.exchange, first["session"].min() - 14 * _DAY, first["session"].max(), cfg.bar_minutes)
    if cfg.target.session_rule == "utc_date":
        since = first["session"].dt.tz_localize("UTC")
    else:
        closes = days["bar_close_utc"]
        since = closes.iloc[closes.array.searchsorted(first["bar_close_utc"].array) - 1].reset_index(drop=True)
        since = since - _seconds(cfg.target.news_delay_s)
    return pd.DataFrame({"ticker": first["ticker"], "since": since})


def _seconds(count: float) -> pd.Timedelta:
    return pd.Timedelta(seconds=count).as_unit("us")
