"""fusion_alpha.technical, indicators and windows: nothing from the future, no memory beyond the warm-up, no unit.

TA-Lib is the oracle where it defines the indicator, `ta` or a plain loop elsewhere.
"""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import synthetic_bars
import ta
import talib

from fusion_alpha import config, indicators, tables, technical, windows
from fusion_alpha.errors import InputError
from stages import technical as stage

ROOT = Path(__file__).parents[1]
WARMUP = 60
LONGEST = max(item.warmup for item in indicators.WHITELIST)
KEY = ["ticker", "bar_close_utc"]
PRICES = ["open", "high", "low", "close"]
SECTORS = {"AAA": "one", "BBB": "one", "CCC": "two", "DDD": "two", "EEE": "three"}


@pytest.fixture(scope="module")
def bars() -> pd.DataFrame:
    return synthetic_bars.panel(("AAA",), LONGEST + 300)


@pytest.fixture(scope="module")
def table(bars) -> pd.DataFrame:
    return technical.features(bars[technical.INPUTS], WARMUP)


@pytest.fixture(scope="module")
def market() -> pd.DataFrame:
    """Six tickers, FFF without a sector, one that joins late, one with missing bars."""
    panel = synthetic_bars.panel((*SECTORS, "FFF"), 160)
    number = panel.groupby("ticker").cumcount()
    late = (panel["ticker"] == "DDD") & (number < 40)
    gaps = (panel["ticker"] == "BBB") & number.isin([100, 101, 130])
    return panel[~(late | gaps)].reset_index(drop=True)


def build(panel: pd.DataFrame, *overrides: str, sectors: dict[str, str] = SECTORS) -> pd.DataFrame:
    cfg = config.load(["executor.workers=1", *overrides])
    return technical.build(panel, cfg.technical, cfg.executor, sectors)


def compute(bars: pd.DataFrame) -> pd.DataFrame:
    """All indicators without any warm-up taken off."""
    adjusted = bars.assign(volume=bars["volume"] / bars["adjustment"])
    with np.errstate(all="ignore"):
        return pd.DataFrame({item.name: item.compute(adjusted) for item in indicators.WHITELIST})


def test_columns_and_families_are_those_of_the_schema(table):
    columns = {name: column for name, column in tables.schema("technical").columns.items() if name not in KEY}
    assert {name: column["family"] for name, column in columns.items()} == technical.FAMILIES
    assert list(columns) == list(technical.FAMILIES)
    assert list(table) == [item.name for item in indicators.WHITELIST]
    assert all(column["nullable"] and column["unit"] and column["description"] for column in columns.values())
    assert set(technical.FAMILIES.values()) == {
        *("returns", "trend", "momentum", "volatility", "volume", "market", "sector")
    }


def test_every_indicator_is_null_in_its_warm_up_and_known_after_it(bars, table):
    raw = compute(bars)
    for item in indicators.WHITELIST:
        first = max(item.warmup, WARMUP)
        assert table[item.name].iloc[:first].isna().all(), item.name
        assert np.isfinite(table[item.name].iloc[first:]).all(), item.name
        assert raw[item.name].first_valid_index() <= item.warmup, item.name
        assert item.name.split("_")[-1].isdigit(), "names end in a window"
        assert str(item.window) in item.name.split("_"), item.name


def test_windows_are_within_the_least_warm_up():
    slow = {item.name for item in indicators.WHITELIST if item.warmup > WARMUP}
    exponential = {"ema_ratio_20", "macd_12_26", "macd_histogram_12_26_9", "dx_14", "adx_14", "trix_15", "mass_9_25"}
    assert slow == exponential | {"tsi_25_13", "force_13", "pvo_12_26"}
    with pytest.raises(InputError, match="warmup_bars"):
        config.load(["technical.warmup_bars=59"])


@pytest.mark.parametrize("cut", [1, 14, 61, 100, 262, 301, 450])
@pytest.mark.parametrize("attack", ["delete", "poison", "nan"])
def test_later_bars_change_no_bit(bars, table, cut, attack):
    if attack == "delete":
        changed = bars.iloc[:cut]
    else:
        changed = bars.copy()
        factor = np.random.default_rng(cut).uniform(0.5, 2, (len(bars) - cut, 5)) if attack == "poison" else np.nan
        changed.loc[cut:, [*PRICES, "volume"]] *= factor
    again = technical.features(changed[technical.INPUTS], WARMUP)
    pd.testing.assert_frame_equal(again.iloc[:cut], table.iloc[:cut], check_exact=True)


def test_the_truncation_test_catches_what_looks_ahead(bars):
    """Why KST is not taken from `ta`: bars after the cut change what it said before."""
    whole, early = (ta.trend.KSTIndicator(part["close"]).kst() for part in (bars, bars.iloc[:100]))
    assert not whole.iloc[:100].equals(early)


@pytest.mark.parametrize("start", [1, 7, 60, 130, 200, 299])
def test_where_history_starts_does_not_matter(bars, table, start):
    """After its warm-up no indicator shows where the history starts, to a millionth of itself and of its spread."""
    later = bars.iloc[start:].copy()
    later[[*PRICES, "adjustment"]] /= 3.7  # adjustment starts at 1 in the first row
    again = technical.features(later[technical.INPUTS], WARMUP)
    for item in indicators.WHITELIST:
        after = again[item.name].iloc[max(item.warmup, WARMUP) :]
        expected = table[item.name].loc[after.index]
        np.testing.assert_allclose(after, expected, rtol=1e-6, atol=1e-7 * table[item.name].std(), err_msg=item.name)


def test_the_start_shift_test_catches_a_short_warm_up(bars):
    """Half of the declared warm-up would not do for what never forgets wholly."""
    whole, later = compute(bars), compute(bars.iloc[100:])
    for name in ("macd_12_26", "dx_14", "adx_14", "tsi_25_13", "trix_15"):
        row = 100 + technical.WARMUPS[name] // 2
        assert abs(later[name][row] / whole[name][row] - 1) > 1e-6, name


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
    mid, height = (h + lo) / 2, h - lo
    typical = talib.TYPPRICE(h, lo, c)
    top, bottom = talib.MAX(h, 20), talib.MIN(lo, 20)
    flow = np.nan_to_num(((c - lo) - (h - c)) / height) * v
    returns = np.concatenate([[0.0], np.diff(c) / c[:-1]])
    gains = np.concatenate([[0.0], np.clip(np.diff(c), 0, None)])
    losses = np.concatenate([[0.0], np.clip(-np.diff(c), 0, None)])
    strength = 100 * talib.SUM(gains, 14) / (talib.SUM(gains, 14) + talib.SUM(losses, 14))
    macd, _, histogram = talib.MACD(c, 12, 26, 9)
    plus, minus = talib.PLUS_DM(h, lo, 14), talib.MINUS_DM(h, lo, 14)
    lines = {n: (talib.MAX(h, n) + talib.MIN(lo, n)) / 2 for n in (9, 26, 52)}
    drawdown = c / talib.MAX(c, 14) - 1
    usual = np.concatenate([[np.nan], talib.SMA(v, 20)[:-1]])
    force = talib.EMA(np.diff(c) * v[1:], 13)
    ease = np.diff(mid) * (height / c**2 / (v / usual))[1:]
    known = np.isfinite(ease)
    range_mean = talib.EMA(height, 9)
    widening = range_mean[8:] / talib.EMA(range_mean[8:], 9)
    oracle = {
        **{f"ret_{n}": talib.ROCP(c, n) for n in (1, 2, 5, 10, 20, 60)},
        "gap_1": o / previous - 1,
        "body_1": c / o - 1,
        "range_1": np.log(h / lo),
        "sma_ratio_20": c / talib.SMA(c, 20) - 1,
        "sma_ratio_10_50": talib.SMA(c, 10) / talib.SMA(c, 50) - 1,
        "ema_ratio_20": c / talib.EMA(c, 20) - 1,
        "aroon_25": talib.AROONOSC(h, lo, 25),
        "cci_20": talib.CCI(h, lo, c, 20),
        "macd_12_26": macd / c,
        "macd_histogram_12_26_9": histogram / c,
        "dx_14": np.sign(plus - minus) * talib.DX(h, lo, c, 14),
        "adx_14": talib.ADX(h, lo, c, 14),
        "trix_15": talib.TRIX(c, 15),
        "mass_9_25": talib.SUM(widening[8:], 25),
        "dpo_ratio_20": (np.concatenate([np.full(11, np.nan), c[:-11]]) - talib.SMA(c, 20)) / c,
        "kst_30": sum(
            weight * talib.SMA(talib.ROC(c, back)[back:], n)[-len(c) + 44 :]
            for back, n, weight in ((10, 10, 1), (15, 10, 2), (20, 10, 3), (30, 15, 4))
        ),
        "ichimoku_9_26": (lines[9] - lines[26]) / c,
        "ichimoku_cloud_52": c / ((lines[9] + lines[26]) / 4 + lines[52] / 2) - 1,
        "rsi_14": strength,
        "stoch_rsi_14": talib.STOCHF(*(strength[13:],) * 3, 14, 1)[0],
        "stoch_14": talib.STOCHF(h, lo, c, 14, 1)[0],
        "stoch_mean_14_3": talib.STOCHF(h, lo, c, 14, 3)[1],
        "williams_5": talib.WILLR(h, lo, c, 5),
        "uo_7_14_28": talib.ULTOSC(h, lo, c, 7, 14, 28),
        "ao_ratio_5_34": (talib.SMA(mid, 5) - talib.SMA(mid, 34)) / c,
        "tsi_25_13": 100 * twice(np.diff(c)) / twice(np.abs(np.diff(c))),
        "volatility_20": talib.STDDEV(returns, 20) * np.sqrt(20 / 19),
        "volatility_60": talib.STDDEV(returns, 60) * np.sqrt(60 / 59),
        "atr_ratio_14": talib.SMA(talib.TRANGE(h, lo, c)[1:], 14) / c[1:],
        "bollinger_position_20": (c - lower) / (upper - lower),
        "bollinger_width_20": (upper - lower) / middle,
        "keltner_position_20": (c - talib.SMA((4 * lo - 2 * h + c) / 3, 20)) / (2 * talib.SMA(height, 20)),
        "keltner_width_20": 2 * talib.SMA(height, 20) / talib.SMA(typical, 20),
        "donchian_position_20": (c - bottom) / (top - bottom),
        "donchian_width_20": (top - bottom) / talib.SMA(c, 20),
        "ulcer_14": 100 * np.sqrt(talib.SMA(drawdown[13:] ** 2, 14)),
        "volume_ratio_20": np.log(v / usual),
        "cmf_20": talib.SUM(flow, 20) / talib.SUM(v, 20),
        "mfi_14": talib.MFI(h, lo, c, v, 14),
        "vwap_ratio_20": c / (talib.SUM(typical * v, 20) / talib.SUM(v, 20)) - 1,
        "force_13": force / (talib.SMA(v, 20) * c)[1:],
        "eom_14": 1e4 * talib.SMA(ease[known], 14),
        "pvo_12_26": talib.PPO(v, 12, 26, 1),
    }
    assert set(oracle) == set(table) - {"vortex_14"}
    for name, values in oracle.items():
        after = len(bars) - max(technical.WARMUPS[name], WARMUP)
        expected = np.asarray(values)[-after:]
        np.testing.assert_allclose(
            table[name].iloc[-after:], expected, rtol=1e-6, atol=1e-7 * table[name].std(), err_msg=name
        )


def twice(values: np.ndarray) -> np.ndarray:
    return talib.EMA(talib.EMA(values, 25)[24:], 13)


def test_against_ta(bars, table):
    """Where `ta` has what TA-Lib has not, and where our own version replaces one of `ta` that is right but slow."""
    h, lo, c, v = (bars[name] for name in ("high", "low", "close", "volume"))
    oracle = {
        "vortex_14": ta.trend.VortexIndicator(h, lo, c, 14).vortex_indicator_diff(),
        "kst_30": ta.trend.KSTIndicator(c).kst(),
        "aroon_25": ta.trend.AroonIndicator(h, lo, 25).aroon_indicator(),
        "cci_20": ta.trend.CCIIndicator(h, lo, c, 20).cci(),
        "adx_14": ta.trend.ADXIndicator(h, lo, c, 14).adx(),
        "ulcer_14": ta.volatility.UlcerIndex(c, 14).ulcer_index(),
        "mfi_14": ta.volume.MFIIndicator(h, lo, c, v, 14).money_flow_index(),
        "cmf_20": ta.volume.ChaikinMoneyFlowIndicator(h, lo, c, v, 20).chaikin_money_flow(),
    }
    for name, values in oracle.items():
        after = max(technical.WARMUPS[name], WARMUP)
        np.testing.assert_allclose(
            table[name].iloc[after:], values.iloc[after:], rtol=1e-6, atol=1e-7 * table[name].std(), err_msg=name
        )


def test_a_price_that_stands_still_has_no_volatility(bars):
    still = bars.copy()
    still.loc[100:, PRICES] = still["close"].iloc[99]
    still.loc[100:, "volume"] = 0.0
    table = technical.features(still[technical.INPUTS], WARMUP)
    assert table["volatility_20"].iloc[100:119].gt(0).all()
    assert table["volatility_20"].iloc[120:].isna().all()
    assert table["volume_ratio_20"].iloc[100:119].eq(np.log(0.01)).all()  # no volume: a hundredth of what is usual
    no_trade = ["volume_ratio_20", "cmf_20", "mfi_14", "vwap_ratio_20", "force_13", "eom_14"]
    assert table[no_trade].iloc[140:].isna().all(axis=None)
    no_spread = ["rsi_14", "stoch_14", "stoch_rsi_14", "cci_20", "donchian_position_20", "vortex_14", "williams_5"]
    assert table[no_spread].iloc[160:].isna().all(axis=None)
    level = ["ret_1", "gap_1", "range_1", "donchian_width_20", "ulcer_14", "atr_ratio_14"]
    assert table[level].iloc[160:].abs().max(axis=None) < 1e-12
    assert not np.isinf(table.fillna(0.0)).any(axis=None)
    moving = bars.assign(close=bars["close"] * 1.01 ** np.arange(len(bars)))
    assert technical.features(moving[technical.INPUTS], WARMUP)["volatility_20"].iloc[WARMUP:].notna().all()


def test_an_unknown_bar_is_forgotten(bars, table):
    """One row without numbers: windows are whole again after they have passed it, exponential means go on."""
    broken = bars.copy()
    broken.loc[310, [*PRICES, "volume"]] = np.nan
    again = technical.features(broken[technical.INPUTS], WARMUP)
    assert again.iloc[310].isna().all() | again.iloc[310].notna().sum() < len(again.columns) / 3
    late = again.iloc[310 + LONGEST - 50 :]
    assert np.isfinite(late).all(axis=None)
    finite = [item.name for item in indicators.WHITELIST if item.warmup <= WARMUP]
    pd.testing.assert_frame_equal(again[finite].iloc[372:], table[finite].iloc[372:], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("direction", [1, -1])
def test_bounded_features_keep_their_bounds_on_a_one_way_market(bars, direction):
    factor = np.exp(direction * 0.03 * np.arange(len(bars)) * (1 + 0.3 * synthetic_bars.noise(len(bars), 9) / 10))
    close = 50 * np.sort(factor)[::direction]
    opened = np.concatenate([[50.0], close[:-1]])
    edges = {"high": np.maximum(opened, close), "low": np.minimum(opened, close)}
    table = technical.features(bars.assign(open=opened, close=close, **edges)[technical.INPUTS], WARMUP)
    for name in table:
        column = tables.schema("technical").columns[name]
        known = table[name].dropna()
        assert known.between(column.get("min", -np.inf), column.get("max", np.inf)).all(), name
    edge = 100.0 if direction > 0 else 0.0
    assert table["rsi_14"].iloc[WARMUP:].eq(edge).all()
    assert table["mfi_14"].iloc[WARMUP:].eq(edge).all()
    np.testing.assert_allclose(table["dx_14"].dropna(), 100.0 * direction)


@pytest.mark.parametrize("n_bars", [0, 1, 2, 14, 59, 60, 61])
def test_short_histories(n_bars):
    panel = synthetic_bars.panel(("AAA", "BBB"), 61)
    short = panel[panel.groupby("ticker").cumcount() < n_bars].reset_index(drop=True)
    table = build(short)
    assert len(table) == 2 * n_bars
    assert table["ret_1"].notna().sum() == table["ret_1_vs_market"].notna().sum() == 2 * max(n_bars - WARMUP, 0)


def test_tickers_and_workers_are_independent(market):
    whole = build(market)
    pd.testing.assert_frame_equal(build(market, "executor.workers=2"), whole, check_exact=True)
    pd.testing.assert_frame_equal(whole[KEY], market[KEY])
    own = [*KEY, *(item.name for item in indicators.WHITELIST)]
    alone = build(market[market["ticker"] == "BBB"])
    pd.testing.assert_frame_equal(alone[own], whole.loc[whole["ticker"] == "BBB", own], check_exact=True)
    assert alone.drop(columns=own).isna().all(axis=None)  # one ticker is no market


def test_cross_sections_by_hand(market):
    table = build(market).set_index(KEY)
    sections = {item.name: item for item in technical.CROSS_SECTIONS}
    for name in ("market_ret_5", "market_breadth_1", "market_dispersion_1", "ret_5_vs_market", "ret_20_vs_sector"):
        item = sections[name]
        for (ticker, bar), row in table.iloc[::37].iterrows():
            same_bar = table.xs(bar, level=1)[item.of]
            if item.family == "sector":
                same_bar = same_bar[same_bar.index.map(SECTORS) == SECTORS.get(ticker)]
            known = same_bar.dropna()
            if ticker not in known.index or len(known) < 2:
                assert np.isnan(row[name]), (name, ticker, bar)
                continue
            expected = {
                "mean": known.mean(),
                "share_up": (known > 0).mean(),
                "sd": known.std(ddof=0),
                "less_mean": known[ticker] - known.mean(),
            }[item.how]
            assert row[name] == pytest.approx(expected, rel=1e-9, abs=1e-15), (name, ticker, bar)
    sector = [item.name for item in technical.CROSS_SECTIONS if item.family == "sector"]
    assert table.loc["FFF", sector].isna().all(axis=None)
    assert table.loc["EEE", sector].isna().all(axis=None)  # the only ticker of its sector
    assert table.loc["DDD", "ret_20_vs_sector"].iloc[WARMUP:].notna().all()
    others = table.loc["CCC", "ret_20_vs_sector"]
    assert others.first_valid_index() == table.loc["DDD", "ret_20"].first_valid_index()


@pytest.mark.parametrize("cut", [60, 100, 131, 159])
def test_later_bars_of_any_ticker_change_no_bit_of_a_cross_section(market, cut):
    edge = market["bar_close_utc"].unique()[cut]
    early = market["bar_close_utc"] <= edge
    poisoned = market.copy()
    poisoned.loc[~early, [*PRICES, "volume"]] *= np.random.default_rng(cut).uniform(0.5, 2, ((~early).sum(), 5))
    expected = build(market)[early.to_numpy()]
    pd.testing.assert_frame_equal(build(poisoned)[early.to_numpy()], expected, check_exact=True)
    deleted = build(market[early].reset_index(drop=True))
    pd.testing.assert_frame_equal(deleted, expected.reset_index(drop=True), check_exact=True)


def test_no_sectors_at_all(market):
    table = build(market, sectors={})
    sector = [name for name, family in technical.FAMILIES.items() if family == "sector"]
    assert table[sector].isna().all(axis=None)
    assert table["ret_1_vs_market"].notna().any()


def test_the_committed_sectors():
    cfg = config.load()
    sectors = technical.read_sectors(ROOT / cfg.technical.sectors)
    lab = {"TSLA", "AAPL", "NVDA", "MSFT", "AMZN", "JPM", "XOM", "PFE", "BA"}
    assert lab <= set(sectors)
    assert len(sectors) == 90  # StockNet's 88 tickers hold all but two of the lab's
    assert 9 <= len(set(sectors.values())) <= 12


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("symbol,sector\nA,x\n", "columns symbol, sector"),
        ("ticker,sector\nA,x\nA,y\n", r"sectors\.csv, line 3: ticker 'A', sector 'y'"),
        ("ticker,sector\nA,\n", "ticker 'A', sector ''"),
        ("", "not readable"),
        (None, "not readable"),
    ],
)
def test_a_wrong_file_of_sectors_is_refused(tmp_path, content, message):
    path = tmp_path / "sectors.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=f"(?s){message}.*technical.sectors"):
        technical.read_sectors(path)


def test_minute_bars():
    table = build(synthetic_bars.panel(("AAA", "BBB"), 450, minutes=1))
    known = table.groupby("ticker").tail(450 - LONGEST).drop(columns=KEY)
    assert known.notna().all(axis=None)


@pytest.mark.parametrize("n", [1, 2, 7, 40])
def test_windows_by_a_plain_loop(n):
    values = pd.Series(np.random.default_rng(n).normal(size=30).round(1), index=range(5, 35))  # rounded: with ties
    values[19] = np.nan
    parts = [values.iloc[max(i - n + 1, 0) : i + 1].to_numpy() if i >= n - 1 else np.array([np.nan]) for i in range(30)]
    loops = {
        "total": (windows.total(values, n), sum),
        "mean": (windows.mean(values, n), np.mean),
        "highest": (windows.highest(values, n), np.max),
        "lowest": (windows.lowest(values, n), np.min),
        "deviation": (windows.deviation(values, n, 2), lambda part: np.sum((part - part.mean()) ** 2)),
        "age": (windows.bars_since_highest(values, n), lambda part: len(part) - 1 - np.argmax(part)),
    }
    for name, (found, loop) in loops.items():
        expected = [np.nan if np.isnan(part).any() else loop(part) for part in parts]
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12, err_msg=name)
        assert found.index.equals(values.index)


def test_stage_writes_the_same_bytes_twice(tmp_path, monkeypatch):
    cfg = config.load(["executor.workers=1", f"technical.sectors={ROOT}/conf/sectors.csv"])
    monkeypatch.chdir(tmp_path)
    tables.write("panel", synthetic_bars.panel(n_bars=80))
    digests = []
    for _ in range(2):
        stage.main(cfg)
        outputs = ("data/features/technical.parquet", "metrics/technical.json")
        digests.append([hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in outputs])
    assert digests[0] == digests[1]
    assert len(tables.read("technical")) == 160
