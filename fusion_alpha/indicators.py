"""The whitelist of technical indicators: what they are, how many bars they span, from which bar on they hold.

A function takes one ticker's adjusted bars in order of time (columns open, high, low, close and volume, the volume in
adjusted shares) and returns a series of their length. It uses no later bar; it has no unit, so that neither a split
nor a ticker's price shows; and it forgets: after the warm-up nothing shows where history starts. The warm-up of
exponential means is the number of bars after which less than a millionth of the start is left.

`ta` has most of these, but looks ahead, breaks or never forgets in places. Therefore a whitelist, and of it

- own versions of KST and Vortex, where `ta` puts the mean of the whole series, later bars included, before the first
  bar; of ADX and ATR, which there never recover from one gap; of Aroon, CCI and the ulcer index for speed; of what adds
  up volume, so that nothing is left of bars that a window has passed; of RSI, with plain means (Cutler's) that forget;
- not ADI, OBV, VPT, NVI and cumulative return, which are running totals since the start; KAMA, PSAR and STC, which can
  take thousands of bars to forget it; nor what another one repeats: rate of change (`ret_n`), PPO (MACD), WMA (SMA).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import ta

from fusion_alpha import windows

_ROUNDING = 1e-9  # a volatility of simple returns below this is rounding of the price, not movement
_NO_VOLUME = 0.01  # of the mean: what a bar without volume counts as in a logarithm or a denominator
_KST = ((10, 10, 1), (15, 10, 2), (20, 10, 3), (30, 15, 4))  # bars of the change, bars of its mean, weight


@dataclass(frozen=True)
class Indicator:
    """window: the bars that it is named for; warmup: the ticker's first bars, in which it is null."""

    name: str
    family: str
    window: int
    warmup: int
    compute: Callable[[pd.DataFrame], pd.Series]


def change(bars: pd.DataFrame, n: int) -> pd.Series:
    return bars["close"] / bars["close"].shift(n) - 1


def gap(bars: pd.DataFrame) -> pd.Series:
    return bars["open"] / bars["close"].shift() - 1


def body(bars: pd.DataFrame) -> pd.Series:
    return bars["close"] / bars["open"] - 1


def log_range(bars: pd.DataFrame) -> pd.Series:
    return pd.Series(np.log(bars["high"] / bars["low"]))


def over_mean(bars: pd.DataFrame, n: int) -> pd.Series:
    return bars["close"] / ta.trend.SMAIndicator(bars["close"], n).sma_indicator() - 1


def means(bars: pd.DataFrame, fast: int, slow: int) -> pd.Series:
    quick, slower = (ta.trend.SMAIndicator(bars["close"], n).sma_indicator() for n in (fast, slow))
    return quick / slower - 1


def over_exponential_mean(bars: pd.DataFrame, n: int) -> pd.Series:
    return bars["close"] / ta.trend.EMAIndicator(bars["close"], n).ema_indicator() - 1


def aroon(bars: pd.DataFrame, n: int) -> pd.Series:
    age_high, age_low = (windows.bars_since_highest(side, n + 1) for side in (bars["high"], -bars["low"]))
    return 100 * (age_low - age_high) / n


def cci(bars: pd.DataFrame, n: int) -> pd.Series:
    typical = typical_price(bars)
    return (typical - windows.mean(typical, n)) / (0.015 * windows.deviation(typical, n, 1) / n)


def macd(bars: pd.DataFrame) -> pd.Series:
    return ta.trend.MACD(bars["close"], 26, 12, 9).macd() / bars["close"]


def macd_histogram(bars: pd.DataFrame) -> pd.Series:
    return ta.trend.MACD(bars["close"], 26, 12, 9).macd_diff() / bars["close"]


def directional(bars: pd.DataFrame, n: int) -> pd.Series:
    """+DI less -DI over their sum, percent: Wilder's DX with its sign."""
    up, down = bars["high"].diff(), -bars["low"].diff()
    plus = windows.wilder_mean(up.where((up > down) & (up > 0), 0.0), n)
    minus = windows.wilder_mean(down.where((down > up) & (down > 0), 0.0), n)
    return 100 * ((plus - minus) / (plus + minus))  # the true range of both cancels


def adx(bars: pd.DataFrame, n: int) -> pd.Series:
    return windows.wilder_mean(directional(bars, n).abs(), n)


def vortex(bars: pd.DataFrame, n: int) -> pd.Series:
    plus = (bars["high"] - bars["low"].shift()).abs()
    minus = (bars["low"] - bars["high"].shift()).abs()
    return windows.total(plus - minus, n) / windows.total(true_range(bars), n)


def trix(bars: pd.DataFrame, n: int) -> pd.Series:
    return ta.trend.TRIXIndicator(bars["close"], n).trix()


def mass(bars: pd.DataFrame) -> pd.Series:
    return ta.trend.MassIndex(bars["high"], bars["low"], 9, 25).mass_index()


def detrended(bars: pd.DataFrame, n: int) -> pd.Series:
    return ta.trend.DPOIndicator(bars["close"], n).dpo() / bars["close"]


def kst(bars: pd.DataFrame) -> pd.Series:
    parts = [weight * windows.mean(change(bars, back), n) for back, n, weight in _KST]
    return 100 * (parts[0] + parts[1] + parts[2] + parts[3])


def conversion_over_base(bars: pd.DataFrame) -> pd.Series:
    lines = ta.trend.IchimokuIndicator(bars["high"], bars["low"], 9, 26, 52)
    return (lines.ichimoku_conversion_line() - lines.ichimoku_base_line()) / bars["close"]


def over_cloud(bars: pd.DataFrame) -> pd.Series:
    lines = ta.trend.IchimokuIndicator(bars["high"], bars["low"], 9, 26, 52)
    return bars["close"] / ((lines.ichimoku_a() + lines.ichimoku_b()) / 2) - 1


def rsi(bars: pd.DataFrame, n: int) -> pd.Series:
    move = bars["close"].diff()
    up, down = windows.total(move.clip(lower=0), n), windows.total(-move.clip(upper=0), n)
    return 100 * (up / (up + down))


def stochastic_rsi(bars: pd.DataFrame, n: int) -> pd.Series:
    strength = rsi(bars, n)
    low, high = windows.lowest(strength, n), windows.highest(strength, n)
    return 100 * ((strength - low) / (high - low))


def stochastic(bars: pd.DataFrame, n: int) -> pd.Series:
    return ta.momentum.StochasticOscillator(bars["high"], bars["low"], bars["close"], n).stoch()


def stochastic_mean(bars: pd.DataFrame, n: int, smooth: int) -> pd.Series:
    return windows.mean(stochastic(bars, n), smooth)


def williams(bars: pd.DataFrame, n: int) -> pd.Series:
    return ta.momentum.WilliamsRIndicator(bars["high"], bars["low"], bars["close"], n).williams_r()


def ultimate(bars: pd.DataFrame) -> pd.Series:
    return ta.momentum.UltimateOscillator(bars["high"], bars["low"], bars["close"], 7, 14, 28).ultimate_oscillator()


def awesome(bars: pd.DataFrame) -> pd.Series:
    return ta.momentum.AwesomeOscillatorIndicator(bars["high"], bars["low"], 5, 34).awesome_oscillator() / bars["close"]


def true_strength(bars: pd.DataFrame) -> pd.Series:
    return ta.momentum.TSIIndicator(bars["close"], 25, 13).tsi()


def volatility(bars: pd.DataFrame, n: int) -> pd.Series:
    sd = np.sqrt(windows.deviation(change(bars, 1), n, 2) / (n - 1))
    return sd.where(sd > _ROUNDING)


def average_true_range(bars: pd.DataFrame, n: int) -> pd.Series:
    return windows.mean(true_range(bars), n) / bars["close"]


def bollinger_position(bars: pd.DataFrame, n: int) -> pd.Series:
    return ta.volatility.BollingerBands(bars["close"], n, 2).bollinger_pband()


def bollinger_width(bars: pd.DataFrame, n: int) -> pd.Series:
    return ta.volatility.BollingerBands(bars["close"], n, 2).bollinger_wband() / 100


def keltner_position(bars: pd.DataFrame, n: int) -> pd.Series:
    return ta.volatility.KeltnerChannel(bars["high"], bars["low"], bars["close"], n).keltner_channel_pband()


def keltner_width(bars: pd.DataFrame, n: int) -> pd.Series:
    return ta.volatility.KeltnerChannel(bars["high"], bars["low"], bars["close"], n).keltner_channel_wband() / 100


def donchian_position(bars: pd.DataFrame, n: int) -> pd.Series:
    return ta.volatility.DonchianChannel(bars["high"], bars["low"], bars["close"], n).donchian_channel_pband()


def donchian_width(bars: pd.DataFrame, n: int) -> pd.Series:
    return ta.volatility.DonchianChannel(bars["high"], bars["low"], bars["close"], n).donchian_channel_wband() / 100


def ulcer(bars: pd.DataFrame, n: int) -> pd.Series:
    drawdown = 100 * (bars["close"] / windows.highest(bars["close"], n) - 1)
    return windows.mean(drawdown**2, n) ** 0.5


def volume_ratio(bars: pd.DataFrame, n: int) -> pd.Series:
    return pd.Series(np.log(over_usual_volume(bars, n)))


def money_flow(bars: pd.DataFrame, n: int) -> pd.Series:
    """Chaikin's: volume weighted by where the bar closed between its low (-1) and its high (1)."""
    place = (2 * bars["close"] - bars["low"] - bars["high"]) / (bars["high"] - bars["low"])
    return windows.total(place.fillna(0.0) * bars["volume"], n) / windows.total(bars["volume"], n)


def money_flow_index(bars: pd.DataFrame, n: int) -> pd.Series:
    typical = typical_price(bars)
    turnover, move = typical * bars["volume"], typical.diff()
    up, down = (windows.total(turnover.where(side, 0.0), n) for side in (move > 0, move < 0))
    return 100 * (up / (up + down))


def over_vwap(bars: pd.DataFrame, n: int) -> pd.Series:
    turnover = typical_price(bars) * bars["volume"]
    return bars["close"] * windows.total(bars["volume"], n) / windows.total(turnover, n) - 1


def force(bars: pd.DataFrame, n: int) -> pd.Series:
    usual = windows.mean(bars["volume"], 20)
    return ta.volume.ForceIndexIndicator(bars["close"], bars["volume"], n).force_index() / (usual * bars["close"])


def ease_of_movement(bars: pd.DataFrame, n: int) -> pd.Series:
    middle, height = (bars["high"] + bars["low"]) / 2, bars["high"] - bars["low"]
    ease = middle.diff() * height / bars["close"] ** 2 / over_usual_volume(bars, 20)
    return 1e4 * windows.mean(ease, n)


def volume_oscillator(bars: pd.DataFrame) -> pd.Series:
    return ta.momentum.PercentageVolumeOscillator(bars["volume"], 26, 12).pvo()


def true_range(bars: pd.DataFrame) -> pd.Series:
    before = bars["close"].shift()
    return bars["high"].where(bars["high"] > before, before) - bars["low"].where(bars["low"] < before, before)


def typical_price(bars: pd.DataFrame) -> pd.Series:
    return (bars["high"] + bars["low"] + bars["close"]) / 3


def over_usual_volume(bars: pd.DataFrame, n: int) -> pd.Series:
    """Volume over its mean of the n bars before, at least _NO_VOLUME; null where those had none."""
    return (bars["volume"] / windows.mean(bars["volume"].shift(), n)).clip(lower=_NO_VOLUME)


# fmt: off
WHITELIST = (
    *(Indicator(f"ret_{n}", "returns", n, n, partial(change, n=n)) for n in (1, 2, 5, 10, 20, 60)),
    Indicator("gap_1", "returns", 1, 1, gap),
    Indicator("body_1", "returns", 1, 0, body),
    Indicator("range_1", "returns", 1, 0, log_range),
    Indicator("sma_ratio_20", "trend", 20, 19, partial(over_mean, n=20)),
    Indicator("sma_ratio_10_50", "trend", 50, 49, partial(means, fast=10, slow=50)),
    Indicator("ema_ratio_20", "trend", 20, 200, partial(over_exponential_mean, n=20)),
    Indicator("aroon_25", "trend", 25, 25, partial(aroon, n=25)),
    Indicator("cci_20", "trend", 20, 19, partial(cci, n=20)),
    Indicator("macd_12_26", "trend", 26, 260, macd),
    Indicator("macd_histogram_12_26_9", "trend", 26, 260, macd_histogram),
    Indicator("dx_14", "trend", 14, 260, partial(directional, n=14)),
    Indicator("adx_14", "trend", 14, 300, partial(adx, n=14)),
    Indicator("vortex_14", "trend", 14, 14, partial(vortex, n=14)),
    Indicator("trix_15", "trend", 15, 200, partial(trix, n=15)),
    Indicator("mass_9_25", "trend", 25, 130, mass),
    Indicator("dpo_ratio_20", "trend", 20, 19, partial(detrended, n=20)),
    Indicator("kst_30", "trend", 30, 44, kst),
    Indicator("ichimoku_9_26", "trend", 26, 25, conversion_over_base),
    Indicator("ichimoku_cloud_52", "trend", 52, 51, over_cloud),
    Indicator("rsi_14", "momentum", 14, 14, partial(rsi, n=14)),
    Indicator("stoch_rsi_14", "momentum", 14, 27, partial(stochastic_rsi, n=14)),
    Indicator("stoch_14", "momentum", 14, 13, partial(stochastic, n=14)),
    Indicator("stoch_mean_14_3", "momentum", 14, 15, partial(stochastic_mean, n=14, smooth=3)),
    Indicator("williams_5", "momentum", 5, 4, partial(williams, n=5)),
    Indicator("uo_7_14_28", "momentum", 28, 28, ultimate),
    Indicator("ao_ratio_5_34", "momentum", 34, 33, awesome),
    Indicator("tsi_25_13", "momentum", 25, 260, true_strength),
    Indicator("volatility_20", "volatility", 20, 20, partial(volatility, n=20)),
    Indicator("volatility_60", "volatility", 60, 60, partial(volatility, n=60)),
    Indicator("atr_ratio_14", "volatility", 14, 14, partial(average_true_range, n=14)),
    Indicator("bollinger_position_20", "volatility", 20, 19, partial(bollinger_position, n=20)),
    Indicator("bollinger_width_20", "volatility", 20, 19, partial(bollinger_width, n=20)),
    Indicator("keltner_position_20", "volatility", 20, 19, partial(keltner_position, n=20)),
    Indicator("keltner_width_20", "volatility", 20, 19, partial(keltner_width, n=20)),
    Indicator("donchian_position_20", "volatility", 20, 19, partial(donchian_position, n=20)),
    Indicator("donchian_width_20", "volatility", 20, 19, partial(donchian_width, n=20)),
    Indicator("ulcer_14", "volatility", 14, 26, partial(ulcer, n=14)),
    Indicator("volume_ratio_20", "volume", 20, 20, partial(volume_ratio, n=20)),
    Indicator("cmf_20", "volume", 20, 19, partial(money_flow, n=20)),
    Indicator("mfi_14", "volume", 14, 14, partial(money_flow_index, n=14)),
    Indicator("vwap_ratio_20", "volume", 20, 19, partial(over_vwap, n=20)),
    Indicator("force_13", "volume", 13, 130, partial(force, n=13)),
    Indicator("eom_14", "volume", 14, 33, partial(ease_of_movement, n=14)),
    Indicator("pvo_12_26", "volume", 26, 260, volume_oscillator),
)
# fmt: on
