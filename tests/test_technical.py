"""fusion_alpha.technical: nothing from the future, no memory beyond the warm-up, no unit; TA-Lib as the oracle."""

import hashlib

import numpy as np
import pandas as pd
import pytest
import synthetic_bars
import talib

from fusion_alpha import config, tables, technical
from fusion_alpha.errors import InputError
from stages import technical as stage

WARMUP = 60
KEY = ["ticker", "bar_close_utc"]


@pytest.fixture(scope="module")
def bars() -> pd.DataFrame:
    return synthetic_bars.panel(("AAA",), 300)


@pytest.fixture(scope="module")
def table(bars) -> pd.DataFrame:
    return technical.features(bars[technical.INPUTS], WARMUP)


def build(panel: pd.DataFrame, *overrides: str) -> pd.DataFrame:
    cfg = config.load(["executor.workers=1", *overrides])
    return technical.build(panel, cfg.technical, cfg.executor)


def test_columns_are_those_of_the_schema(table):
    columns = {name: column for name, column in tables.schema("technical").columns.items() if name not in KEY}
    assert list(table) == list(columns)
    assert all(column["nullable"] and column["unit"] and column["description"] for column in columns.values())


def test_warm_up_is_null_and_the_rest_is_not(table):
    assert table.iloc[:WARMUP].isna().all(axis=None)
    assert np.isfinite(table.iloc[WARMUP:]).all(axis=None)
    assert table["volatility_20"].iloc[WARMUP:].gt(0).all()


@pytest.mark.parametrize("cut", [1, 5, 14, 61, 62, 100, 180, 299])
@pytest.mark.parametrize("attack", ["delete", "poison", "nan"])
def test_later_bars_change_no_bit(bars, table, cut, attack):
    prices = ["open", "high", "low", "close", "volume"]
    if attack == "delete":
        changed = bars.iloc[:cut]
    else:
        changed = bars.copy()
        factor = np.random.default_rng(cut).uniform(0.5, 2, (len(bars) - cut, 5)) if attack == "poison" else np.nan
        changed.loc[cut:, prices] *= factor
    again = technical.features(changed[technical.INPUTS], WARMUP)
    pd.testing.assert_frame_equal(again.iloc[:cut], table.iloc[:cut], check_exact=True)


@pytest.mark.parametrize("start", [1, 7, 60, 130, 200])
def test_where_history_starts_does_not_matter(bars, table, start):
    later = bars.iloc[start:].copy()
    later[["open", "high", "low", "close", "adjustment"]] /= 3.7  # adjustment starts at 1 in the first row
    again = technical.features(later[technical.INPUTS], WARMUP)
    pd.testing.assert_frame_equal(again.iloc[WARMUP:], table.iloc[start + WARMUP :], rtol=1e-6, atol=1e-9)


def test_a_split_does_not_show(bars, table):
    split = bars.copy()
    split.loc[150:, "volume"] *= 4  # four shares for one: quoted volume, and adjusted over quoted price
    split.loc[150:, "adjustment"] *= 4
    again = technical.features(split[technical.INPUTS], WARMUP)
    pd.testing.assert_frame_equal(again, table, rtol=1e-12)


def test_against_talib(bars, table):
    o, h, lo, c, v = (bars[name].to_numpy() for name in ("open", "high", "low", "close", "volume"))
    previous = np.concatenate([[np.nan], c[:-1]])
    upper, middle, lower = talib.BBANDS(c, 20, 2, 2)
    mid = (h + lo) / 2
    typical = talib.TYPPRICE(h, lo, c)
    top, bottom = talib.MAX(h, 20), talib.MIN(lo, 20)
    flow = np.nan_to_num(((c - lo) - (h - c)) / (h - lo)) * v
    returns = np.concatenate([[0.0], np.diff(c) / c[:-1]])
    gains = np.concatenate([[0.0], np.clip(np.diff(c), 0, None)])
    losses = np.concatenate([[0.0], np.clip(-np.diff(c), 0, None)])
    oracle = {
        "ret_1": talib.ROCP(c, 1),
        "ret_5": talib.ROCP(c, 5),
        "ret_20": talib.ROCP(c, 20),
        "gap_1": o / previous - 1,
        "range_1": np.log(h / lo),
        "sma_ratio_20": c / talib.SMA(c, 20) - 1,
        "sma_ratio_10_50": talib.SMA(c, 10) / talib.SMA(c, 50) - 1,
        "aroon_25": talib.AROONOSC(h, lo, 25),
        "cci_20": talib.CCI(h, lo, c, 20),
        "rsi_14": 100 * talib.SUM(gains, 14) / (talib.SUM(gains, 14) + talib.SUM(losses, 14)),
        "stoch_14": talib.STOCHF(h, lo, c, 14, 1)[0],
        "uo_7_14_28": talib.ULTOSC(h, lo, c, 7, 14, 28),
        "ao_ratio_5_34": (talib.SMA(mid, 5) - talib.SMA(mid, 34)) / c,
        "volatility_20": talib.STDDEV(returns, 20) * np.sqrt(20 / 19),
        "atr_ratio_14": talib.SMA(talib.TRANGE(h, lo, c)[1:], 14) / c[1:],
        "bollinger_position_20": (c - lower) / (upper - lower),
        "bollinger_width_20": (upper - lower) / middle,
        "donchian_position_20": (c - bottom) / (top - bottom),
        "volume_ratio_20": np.log(v[1:] / talib.SMA(v, 20)[:-1]),
        "cmf_20": talib.SUM(flow, 20) / talib.SUM(v, 20),
        "mfi_14": talib.MFI(h, lo, c, v, 14),
        "vwap_ratio_20": c / (talib.SUM(typical * v, 20) / talib.SUM(v, 20)) - 1,
    }
    assert set(oracle) == set(table)
    for name, values in oracle.items():
        after = len(bars) - WARMUP
        np.testing.assert_allclose(table[name].iloc[WARMUP:], values[-after:], rtol=1e-7, atol=1e-9, err_msg=name)


def test_a_price_that_stands_still_has_no_volatility(bars):
    still = bars.copy()
    still.loc[100:, ["open", "high", "low", "close"]] = still["close"].iloc[99]
    still.loc[100:, "volume"] = 0.0
    table = technical.features(still[technical.INPUTS], WARMUP)
    assert table["volatility_20"].iloc[100:119].gt(0).all()
    assert table["volatility_20"].iloc[120:].isna().all()
    assert table["volume_ratio_20"].iloc[100:119].eq(np.log(0.01)).all()  # no volume: a hundredth of what is usual
    assert table["volume_ratio_20"].iloc[121:].isna().all()
    assert not np.isinf(table.fillna(0.0)).any(axis=None)
    moving = bars.assign(close=bars["close"] * 1.01 ** np.arange(len(bars)))
    assert technical.features(moving[technical.INPUTS], WARMUP)["volatility_20"].iloc[WARMUP:].notna().all()


@pytest.mark.parametrize("direction", [1, -1])
def test_bounded_features_keep_their_bounds_on_a_one_way_market(bars, direction):
    factor = np.exp(direction * 0.03 * np.arange(len(bars)) * (1 + 0.3 * synthetic_bars.noise(len(bars), 9) / 10))
    close = 50 * np.sort(factor)[::direction]
    opened = np.concatenate([[50.0], close[:-1]])
    edges = {"high": np.maximum(opened, close), "low": np.minimum(opened, close)}
    table = technical.features(bars.assign(open=opened, close=close, **edges)[technical.INPUTS], WARMUP)
    after = table.iloc[WARMUP:]
    for name in ("rsi_14", "aroon_25"):
        column = tables.schema("technical").columns[name]
        assert after[name].between(column["min"], column["max"]).all()
    assert after["rsi_14"].eq(100.0 if direction > 0 else 0.0).all()


@pytest.mark.parametrize("n_bars", [0, 1, 2, 14, 59, 60, 61])
def test_short_histories(n_bars):
    panel = synthetic_bars.panel(("AAA", "BBB"), 61)
    short = panel[panel.groupby("ticker").cumcount() < n_bars].reset_index(drop=True)
    table = build(short)
    assert len(table) == 2 * n_bars
    assert table["ret_1"].notna().sum() == 2 * max(n_bars - WARMUP, 0)


def test_tickers_and_workers_are_independent():
    panel = synthetic_bars.panel(("AAA", "BBB", "CCC"), 90)
    whole = build(panel)
    pd.testing.assert_frame_equal(build(panel, "executor.workers=2"), whole, check_exact=True)
    alone = build(panel[panel["ticker"] == "BBB"])
    pd.testing.assert_frame_equal(alone, whole[whole["ticker"] == "BBB"], check_exact=True)
    pd.testing.assert_frame_equal(whole[KEY], panel[KEY])


def test_minute_bars():
    panel = synthetic_bars.panel(("AAA",), 450, minutes=1)
    assert build(panel).iloc[WARMUP:, 2:].notna().all(axis=None)


def test_warm_up_covers_the_longest_window():
    with pytest.raises(InputError, match="warmup_bars"):
        config.load(["technical.warmup_bars=49"])


def test_stage_writes_the_same_bytes_twice(tmp_path, monkeypatch):
    cfg = config.load(["executor.workers=1"])
    monkeypatch.chdir(tmp_path)
    tables.write("panel", synthetic_bars.panel(n_bars=80))
    digests = []
    for _ in range(2):
        stage.main(cfg)
        outputs = ("data/features/technical.parquet", "metrics/technical.json")
        digests.append([hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in outputs])
    assert digests[0] == digests[1]
    assert len(tables.read("technical")) == 160
