"""Contradiction of sentiment and price in a bar, in standard deviations.

For the news j of a ticker that belong to bar t, with their age at the bar's cutoff:

    w_j      = 2^(-age_hours / half_life) (1 - p_neutral)
    s        = sum w (p_positive - p_negative) / (sum w + 1)             null without news
    z_s      = (s - mean) / sd of s over earlier bars                    see `standardise`
    z_r      = normal quantile of the null's distribution function       see fusion_alpha/nulls.py
    CS       = sign(z_s) sqrt(|z_s z_r|) where z_s z_r < 0, else 0       also 0 where z_s or z_r is null
    severity = share of the ticker's non-zero |CS| in earlier bars below today's, 0 where CS = 0

CS >= tau_over is overhype (sentiment up, price down), CS <= -tau_under underhype (sentiment down, price up).
Prices and news of t itself count; every moment, null and rank comes from bars before t.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fusion_alpha import nulls, tables
from fusion_alpha.config import ContradictionConfig, ExecutorConfig
from fusion_alpha.errors import InputError
from fusion_alpha.executor import HERE

Float64 = NDArray[np.float64]
Integers = NDArray[np.integer]
_ROUNDING = 1e-9  # a standard deviation of scores in [-1, 1] below this is rounding: there is no spread to divide by


def build(
    panel: pd.DataFrame,
    news_bars: pd.DataFrame,
    text: pd.DataFrame,
    settings: ContradictionConfig,
    spread: ExecutorConfig = HERE,
) -> pd.DataFrame:
    """The contradiction table (schemas/contradiction.yaml), one row for each row of the panel, which is in key order.

    news_bars: ticker, bar_close_utc, age_hours, text_hash. text: text_hash, p_negative, p_neutral, p_positive. Raises
    InputError for a news item whose bar or text is missing.
    """
    number = panel.groupby("ticker").cumcount().to_numpy()
    time = np.unique(panel["bar_close_utc"].to_numpy(), return_inverse=True)[1]
    n_news, s = sentiment(panel, news_bars, text, settings.half_life_hours)
    z_s = standardise(s, number, time, settings.window_bars, settings.shrink_weight)
    null = nulls.features(panel, settings, spread)
    cs = score(z_s, null.z_r)
    columns = {
        "n_news": n_news,
        "s": s,
        "z_s": z_s,
        "z_r": null.z_r,
        "cs": cs,
        "kind": kind(cs, settings.tau_over, settings.tau_under),
        "severity": severity(cs, number, settings.severity_bars),
        "p_touch_high": null.p_touch_high,
        "p_touch_low": null.p_touch_low,
        "null_drawdown": null.drawdown,
    }
    return panel[tables.BAR_KEY].assign(**columns)


def sentiment(
    panel: pd.DataFrame, news_bars: pd.DataFrame, text: pd.DataFrame, half_life_hours: float
) -> tuple[Integers, Float64]:
    """Number of news items and weighted sentiment s of each row of the panel; s is NaN without news."""
    bars = panel[tables.BAR_KEY].assign(row=np.arange(len(panel)))
    news = news_bars[[*tables.BAR_KEY, "age_hours", "text_hash"]].merge(
        bars, on=tables.BAR_KEY, how="left", validate="many_to_one"
    )
    news = news.merge(text, on="text_hash", how="left", validate="many_to_one")
    _refuse_missing(news, "row", "panel", "process")
    _refuse_missing(news, "p_neutral", "text", "text")
    row = news["row"].to_numpy(np.int64)
    weight = (np.exp2(-news["age_hours"] / half_life_hours) * (1.0 - news["p_neutral"])).to_numpy()
    tone = (news["p_positive"] - news["p_negative"]).to_numpy()
    n_news = np.bincount(row, minlength=len(panel))
    total = np.bincount(row, weight, len(panel))
    s = np.bincount(row, weight * tone, len(panel)) / (total + 1.0)
    return n_news, np.where(n_news > 0, s, np.nan)


def standardise(s: Float64, number: Integers, time: Integers, window_bars: int, shrink_weight: float) -> Float64:
    """z_s: s less its mean, over its standard deviation, in the `window_bars` bars before each row.

    s: score of each row, NaN without one, rows in key order. number: position of the row among its ticker's bars.
    time: rank of the row's bar among all bar times. The ticker's own mean and sample sd over its n scores in
    the window are shrunk to those of all tickers in the window of as many bar times, with weight w / (n + w); its
    sd counts from two scores on. NaN where all tickers together have fewer than two scores, or no spread.
    """
    rows = np.flatnonzero(~np.isnan(s))
    own_n, own_mean, own_square = _own_moments(s, number, rows, window_bars)
    all_n, all_mean, all_square = (part[time[rows]] for part in _all_moments(s, time, window_bars))
    with np.errstate(divide="ignore", invalid="ignore"):
        own_sd, all_sd = np.sqrt(own_square / (own_n - 1)), np.sqrt(all_square / (all_n - 1))
        mean = _shrink(own_mean, all_mean, own_n, shrink_weight)
        sd = _shrink(own_sd, all_sd, np.where(own_n > 1, own_n, 0), shrink_weight)
        known = (all_n > 1) & (sd > _ROUNDING)
        z_s = np.full(len(s), np.nan)
        z_s[rows] = np.where(known, (s[rows] - mean) / sd, np.nan)
    return z_s


def score(z_s: Float64, z_r: Float64) -> Float64:
    """CS of each row, in standard deviations; 0 where signs agree or one of the two is NaN."""
    product = z_s * z_r
    return np.where(product < 0, np.sign(z_s) * np.sqrt(np.abs(product)), 0.0)


def kind(cs: NDArray[np.floating], tau_over: float, tau_under: float) -> NDArray[np.object_]:
    """none, overhype or underhype for each score."""
    return np.select([cs >= tau_over, cs <= -tau_under], ["overhype", "underhype"], "none").astype(object)


def severity(cs: Float64, number: Integers, bars: int) -> Float64:
    """Share of the ticker's non-zero |CS| in the `bars` bars before each row that are below its own, in [0, 1].

    0 where CS is 0 and where the ticker has no earlier non-zero score in the window.
    """
    size = np.where(cs != 0, np.abs(cs), np.nan)
    rows = np.flatnonzero(cs != 0)
    below, count = np.zeros(len(rows)), np.zeros(len(rows))
    for past in _earlier(size, number, rows, bars):
        below += past < size[rows]
        count += ~np.isnan(past)
    out = np.zeros(len(cs))
    out[rows] = below / np.maximum(count, 1)
    return out


def _earlier(values: Float64, number: Integers, rows: Integers, bars: int) -> Iterator[Float64]:
    """values of the same ticker 1, 2, .. `bars` bars before each of `rows`; NaN where there is no such bar."""
    for back in range(1, min(bars, number.max(initial=0)) + 1):
        yield np.where(number[rows] >= back, values[np.maximum(rows - back, 0)], np.nan)


def _own_moments(s: Float64, number: Integers, rows: Integers, window: int) -> tuple[Float64, Float64, Float64]:
    """Count, mean and sum of squared deviations of s before each of `rows`."""
    count, total, square = np.zeros(len(rows)), np.zeros(len(rows)), np.zeros(len(rows))
    for past in _earlier(s, number, rows, window):
        count += ~np.isnan(past)
        total += np.nan_to_num(past)
    mean = total / np.maximum(count, 1)
    for past in _earlier(s, number, rows, window):
        square += np.nan_to_num(past - mean) ** 2
    return count, mean, square


def _all_moments(s: Float64, time: Integers, window: int) -> tuple[Float64, Float64, Float64]:
    """Count, mean and sum of squared deviations of all tickers' s in the `window` bar times before each one."""
    times = int(time.max(initial=-1)) + 1
    has = ~np.isnan(s)
    at, values = time[has], s[has]
    count = np.bincount(at, minlength=times).astype(np.float64)
    mean = np.bincount(at, values, times) / np.maximum(count, 1)
    square = np.bincount(at, (values - mean[at]) ** 2, times)
    all_count, total, all_square = np.zeros(times), np.zeros(times), np.zeros(times)
    for back in range(1, min(window, times - 1) + 1):
        all_count[back:] += count[:-back]
        total[back:] += (count * mean)[:-back]
    all_mean = total / np.maximum(all_count, 1)
    for back in range(1, min(window, times - 1) + 1):
        all_square[back:] += square[:-back] + count[:-back] * (mean[:-back] - all_mean[back:]) ** 2
    return all_count, all_mean, all_square


def _shrink(own: Float64, pooled: Float64, n: Float64, weight: float) -> Float64:
    share = np.where(n > 0, weight / (n + weight), 1.0)
    return np.where(share < 1, (1 - share) * own, 0.0) + share * pooled


def _refuse_missing(news: pd.DataFrame, column: str, table: str, stage: str) -> None:
    missing = news[news[column].isna()]
    if len(missing):
        first = missing.iloc[0]
        raise InputError(
            f"{len(missing)} news item(s) have no row here; first: {first['ticker']} at {first['bar_close_utc']}, "
            f"text {first['text_hash']}",
            file=tables.schema(table).path,
            rule="every item of news_bars has its bar in panel and its text in text",
            remedy=f"run the stage {stage} again: `dvc repro {stage}`",
        )
