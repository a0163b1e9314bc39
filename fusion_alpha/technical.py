"""Technical features of each bar: causal, free of scale, and independent of where a history starts.

Indicators come from `ta` and from a whitelist, because some of it looks ahead or never forgets:

- KST, visual Ichimoku, Vortex, TRIX and DPO fill their warm-up with the mean of the whole series, later bars included;
- OBV, ADI, VPT, NVI are running totals, so they depend on where history starts; exponential and Wilder averages
  (MACD, ADX, `ta`'s RSI and ATR) forget it too slowly for a warm-up of some 60 bars (13/14 to the 60th is 1%);
- KAMA, ATR and ADX never recover from one gap, PSAR costs seconds.

What is left has a window. RSI and ATR are therefore taken with plain means (Cutler's RSI), which `ta` does not have.
Everything is a ratio within a trailing window of at most 50 bars, so splits known in advance, or a ticker's unit, do
not show. Volume is counted in adjusted shares, volume / adjustment, so that a split does not look like a burst.
"""

from functools import partial

import numpy as np
import pandas as pd
import ta
from numpy.typing import NDArray

from fusion_alpha import executor, tables
from fusion_alpha.config import ExecutorConfig, TechnicalConfig

Columns = dict[str, pd.Series | NDArray[np.float64]]
INPUTS = ["open", "high", "low", "close", "volume", "adjustment"]
_ROUNDING = 1e-9  # a volatility of simple returns below this is rounding of the price, not movement
_NO_VOLUME = 0.01  # of the mean: what a bar without volume counts as, since its logarithm has no value


def build(panel: pd.DataFrame, settings: TechnicalConfig, spread: ExecutorConfig = executor.HERE) -> pd.DataFrame:
    """The technical table (schemas/technical.yaml), one row for each row of the panel, which is in key order.

    The first `warmup_bars` rows of a ticker are null, and so is a feature whose window has no spread or no trade.
    """
    tickers = [bars for _, bars in panel.groupby("ticker", sort=False)[INPUTS]]
    of_ticker = partial(features, warmup_bars=settings.warmup_bars)
    found = list(executor.in_order(of_ticker, tickers, spread, label="indicators"))
    columns = pd.concat(found) if found else of_ticker(panel[INPUTS])
    return panel[tables.BAR_KEY].join(columns)


def features(bars: pd.DataFrame, warmup_bars: int) -> pd.DataFrame:
    """Features of one ticker's bars (the columns INPUTS, in order of time); rows and index as given."""
    adjusted = bars.assign(volume=bars["volume"] / bars["adjustment"])
    with np.errstate(divide="ignore", invalid="ignore"):
        families = (returns, trend, momentum, volatility, volume)
        columns = {name: values for family in families for name, values in family(adjusted).items()}
    table = pd.DataFrame(columns, index=bars.index).replace([np.inf, -np.inf], np.nan)
    table.iloc[:warmup_bars] = np.nan
    return table


def returns(bars: pd.DataFrame) -> Columns:
    close = bars["close"]
    return {
        **{f"ret_{n}": close / close.shift(n) - 1 for n in (1, 5, 20)},
        "gap_1": bars["open"] / close.shift() - 1,
        "range_1": np.log(bars["high"] / bars["low"]),
    }


def trend(bars: pd.DataFrame) -> Columns:
    high, low, close = bars["high"], bars["low"], bars["close"]
    mean = {n: ta.trend.SMAIndicator(close, window=n).sma_indicator() for n in (10, 20, 50)}
    return {
        "sma_ratio_20": close / mean[20] - 1,
        "sma_ratio_10_50": mean[10] / mean[50] - 1,
        "aroon_25": ta.trend.AroonIndicator(high, low, window=25).aroon_indicator(),
        "cci_20": ta.trend.CCIIndicator(high, low, close, window=20).cci(),
    }


def momentum(bars: pd.DataFrame) -> Columns:
    high, low, close = bars["high"], bars["low"], bars["close"]
    move = close.diff()
    up, down = window_sum(move.clip(lower=0), 14), window_sum(-move.clip(upper=0), 14)
    return {
        "rsi_14": 100 * (up / (up + down)),
        "stoch_14": ta.momentum.StochasticOscillator(high, low, close, window=14).stoch(),
        "uo_7_14_28": ta.momentum.UltimateOscillator(high, low, close).ultimate_oscillator(),
        "ao_ratio_5_34": ta.momentum.AwesomeOscillatorIndicator(high, low).awesome_oscillator() / close,
    }


def volatility(bars: pd.DataFrame) -> Columns:
    high, low, close = bars["high"], bars["low"], bars["close"]
    ret = close / close.shift() - 1
    sd = np.sqrt(window_sum_of_squares(ret, 20) / 19)
    before = close.shift()
    true_range = high.where(high > before, before) - low.where(low < before, before)
    bands = ta.volatility.BollingerBands(close, window=20)
    return {
        "volatility_20": sd.where(sd > _ROUNDING),
        "atr_ratio_14": window_sum(true_range, 14) / 14 / close,
        "bollinger_position_20": bands.bollinger_pband(),
        "bollinger_width_20": bands.bollinger_wband() / 100,
        "donchian_position_20": ta.volatility.DonchianChannel(high, low, close, window=20).donchian_channel_pband(),
    }


def volume(bars: pd.DataFrame) -> Columns:
    high, low, close, traded = bars["high"], bars["low"], bars["close"], bars["volume"]
    usual = window_sum(traded.shift(), 20) / 20
    weighted = ta.volume.VolumeWeightedAveragePrice(high, low, close, traded, window=20)
    return {
        "volume_ratio_20": np.log(np.maximum(traded / usual, _NO_VOLUME)),
        "cmf_20": ta.volume.ChaikinMoneyFlowIndicator(high, low, close, traded, window=20).chaikin_money_flow(),
        "mfi_14": ta.volume.MFIIndicator(high, low, close, traded, window=14).money_flow_index(),
        "vwap_ratio_20": close / weighted.volume_weighted_average_price() - 1,
    }


def window_sum(values: pd.Series, n: int) -> pd.Series:
    """Sum of the last n values of each row, added up afresh: no residue of values that left the window."""
    total = values.copy()
    for back in range(1, n):
        total = total + values.shift(back)
    return total


def window_sum_of_squares(values: pd.Series, n: int) -> pd.Series:
    """Sum of squared deviations of the last n values of each row from their mean."""
    mean = window_sum(values, n) / n
    total = (values - mean) ** 2
    for back in range(1, n):
        total = total + (values.shift(back) - mean) ** 2
    return total
