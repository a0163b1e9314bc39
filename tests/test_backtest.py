"""simulate against other books (vectorbt's, a router's own), impact and rates by hand, what cannot trade, bad input."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import trading_market
from trading_market import SIGMA, configuration

from fusion_alpha import backtest, backtest_bench, evaluation, panel, tables, trading
from fusion_alpha.errors import InputError

PLAIN = {"borrow_bps": 0.0, "impact_bps": 0.0, "max_turnover": None}
DAYS = ["2016-07-05", "2016-07-06", "2016-07-07", "2016-07-08", "2016-07-11"]


def thinned(quotes, seed=0, share=0.05):
    """Prices without some bars: halts of a session, one ticker that comes late and one that leaves early."""
    rng = np.random.default_rng(seed)
    sessions = np.sort(quotes["session"].unique())
    late = (quotes["ticker"] == "T0") & (quotes["session"] < sessions[-60])
    gone = (quotes["ticker"] == "T1") & (quotes["session"] > sessions[-40])
    return quotes[~(late | gone) & (rng.random(len(quotes)) > share)].reset_index(drop=True)


def traded(cfg, n_tickers=6, seed=0):
    """(rows with a random weight, market) of prices with holes; a tenth of the weights says to leave alone."""
    rng = np.random.default_rng(seed)
    quotes, _ = trading_market.prices(n_tickers, seed=seed)
    built = panel.build(thinned(quotes, seed), tables.empty("benchmark"), cfg)
    rows = built[built["split"] == "test"].reset_index(drop=True)
    weight = rng.uniform(-0.3, 0.3, len(rows)) * (6 / n_tickers)
    return rows.assign(weight=np.where(rng.random(len(rows)) < 0.1, np.nan, weight)), trading.market(built, cfg)


def quotes(opens, tickers="A", closes=None, volume=1e6, days=DAYS):
    """Panel columns of daily bars; opens, closes [session, ticker], null for a missing bar."""
    opens = np.array(opens, float).reshape(-1, len(tickers))
    closes = opens if closes is None else np.array(closes, float).reshape(opens.shape)
    days = pd.to_datetime(days[: len(opens)]).as_unit("us")
    index = pd.MultiIndex.from_product([days, list(tickers)], names=["session", "ticker"])
    table = pd.DataFrame({"open": opens.ravel(), "close": closes.ravel()}, index).reset_index()
    table = table[table["open"].notna()].sort_values(["ticker", "session"], ignore_index=True)
    midnight = table["session"].dt.tz_localize("UTC")
    opened, closed = midnight + pd.Timedelta("13:30:00"), midnight + pd.Timedelta("20:00:00")
    return table.assign(volume=volume, adjustment=1.0, session_open_utc=opened, bar_close_utc=closed)


def orders(market, weights):
    """Orders of all tickers that fill at the market's first opens, one row of weights each."""
    weights = np.array(weights, float).reshape(-1, len(market.tickers))
    index = pd.MultiIndex.from_product([market.opens_utc[: len(weights)], market.tickers], names=["fill_utc", "ticker"])
    table = pd.DataFrame({"weight": weights.ravel()}, index).reset_index()
    return table.assign(decided_utc=table["fill_utc"] - pd.Timedelta(hours=12))


# Other books


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_agrees_with_an_engine_of_other_people(seed):
    cfg = configuration(**PLAIN)
    rows, market = traded(cfg, seed=seed)
    for passive in (False, True):
        ours = trading.simulate(rows.assign(weight=rows["weight"] * (0.5 if passive else 1)), market, cfg, passive)
        theirs = backtest_bench.vectorbt_net(
            rows.assign(weight=rows["weight"] * (0.5 if passive else 1)), market, 2.5e-4, passive
        )
        np.testing.assert_allclose(ours["net_ret"], theirs, rtol=0, atol=1e-9)
        np.testing.assert_allclose((1 + ours["net_ret"]).cumprod(), np.cumprod(1 + theirs), rtol=1e-9)
        assert ours["n_halted"].sum() > 0 < ours["n_lapsed"].sum(), "the holes are there"


def replay(predictions, bars, cfg):
    """Equity, and the weights of each order, of a router that keeps cash and shares and calls `decide` bar by bar.

    It knows of each ticker the last close before the decision and its own fills, whichever is later.
    """
    opens = bars.assign(time=trading.bar_open_utc(bars, cfg)).pivot(index="time", columns="ticker", values="open")
    closes = bars.pivot(index="bar_close_utc", columns="ticker", values="close")
    cash, shares, values, sent, filled = 1.0, pd.Series(0.0, opens.columns), {}, {}, None
    last = predictions.groupby("fill_utc")["decided_utc"].transform("max")  # a later decision replaces what waits
    for decided, rows in predictions[predictions["decided_utc"] == last].groupby("decided_utc"):
        if rows["fill_utc"].iloc[0] not in opens.index[:-1]:
            break
        now = closes[closes.index <= decided]
        price = now.iloc[-1] if filled is None or now.index[-1] > filled.name else filled
        equity = cash + shares @ price
        sent[decided] = trading.decide(rows, cfg, held=shares * price / equity)
        filled = opens.loc[rows["fill_utc"].iloc[0]]
        values[filled.name] = equity = cash + shares @ filled
        wanted = sent[decided].reindex(opens.columns, fill_value=0.0) * equity / filled
        cash -= (wanted - shares) @ filled + (wanted - shares).abs() @ filled * cfg.strategy.side_cost_bps * 1e-4
        cash -= (-wanted).clip(lower=0) @ filled * cfg.strategy.borrow_bps * 1e-4 / trading.bars_per_year(cfg)
        shares = wanted
    return pd.Series(values), sent


@pytest.mark.parametrize("interval", ["1d", "30m"])
def test_the_router_and_the_backtest_send_the_same_orders(interval):
    borrow = 50.0 if interval == "1d" else 0.0  # of the bars between two fills, which this router does not count
    cfg = replace(configuration(impact_bps=0.0, max_turnover=0.15, borrow_bps=borrow), interval=interval)
    days = {} if interval == "1d" else {"last": "2016-07-14"}
    frames = trading_market.market(cfg, n_tickers=3, **days)
    rows = evaluation.decisions(frames["predictions"], frames["panel"], cfg)
    market = trading.market(frames["panel"], cfg)
    weighted = rows.assign(weight=trading.decide(rows, cfg))
    result = trading.simulate(weighted, market, cfg)
    assert 0.1 < (result["sent_share"] < 1).mean() < 1, "the limit binds, though not always"
    values, sent = replay(rows, frames["panel"], cfg)
    equity = (1 + result["net_ret"]).cumprod().set_axis(result["opens_utc"]).shift(fill_value=1.0)
    assert len(values) > 100
    np.testing.assert_allclose(values, equity.loc[values.index], rtol=1e-12)
    weights, held = trading.positions(weighted, market, cfg)
    for decided, theirs in sent.items():
        group = rows[rows["decided_utc"] == decided]
        fill = group["fill_utc"].iloc[0]
        again = trading.decide(group, cfg, held=held.loc[fill])
        assert again.tolist() == weights.loc[fill].tolist(), "to the last bit"
        np.testing.assert_allclose(theirs, weights.loc[fill], rtol=1e-9, atol=1e-14)


def test_what_is_known_at_the_decision_is_no_later_than_it():
    cfg = replace(configuration(impact_bps=0.0, max_turnover=0.15), interval="30m")
    frames = trading_market.market(cfg, n_tickers=3, last="2016-07-14")
    rows = evaluation.decisions(frames["predictions"], frames["panel"], cfg)
    weighted, bars = rows.assign(weight=trading.decide(rows, cfg)), frames["panel"]
    _, held = trading.positions(weighted, trading.market(bars, cfg), cfg)
    decided = rows.loc[rows["decided_utc"].dt.hour == 16, "decided_utc"].min()
    fill = rows.loc[rows["decided_utc"] == decided, "fill_utc"].iloc[0]
    later, opened = bars["bar_close_utc"] > decided, trading.bar_open_utc(bars, cfg)
    poisoned = bars.assign(close=bars["close"] * np.where(later, 1.5, 1.0))
    poisoned["open"] *= np.where(opened > decided, 1.5, 1.0)
    assert ((opened <= decided) & later).any(), "a bar is under way when the decision is made"
    _, held_after = trading.positions(weighted, trading.market(poisoned, cfg), cfg)
    pd.testing.assert_frame_equal(held_after[:fill], held[:fill], check_exact=True)
    assert not held_after.equals(held)


# Costs


def test_impact_is_the_square_root_law(tmp_path):
    cfg = configuration(borrow_bps=0.0, impact_bps=80.0, volume_bars=2, capital=4e6, max_turnover=None)
    market = trading.market(quotes([100, 100, 100, 110], volume=[1e4, 3e4, 9e9, 9e9]), cfg)
    assert market.volume[:, 0].tolist() == pytest.approx([np.nan, 1e6, 2e6, (3e6 + 9e11) / 2], nan_ok=True)
    placed = orders(market, [0.0, 0.0, 0.5])
    result = trading.simulate(placed, market, cfg).iloc[-1]
    bought = 80e-4 * np.sqrt(0.5 * 4e6 / 2e6) * 0.5
    sold = 80e-4 * np.sqrt(0.55 * 4e6 / ((3e6 + 9e11) / 2)) * 0.55
    assert result["impact"] == pytest.approx(bought + sold, rel=1e-12)
    assert result["cost"] == pytest.approx(bought + sold + 2.5e-4 * 1.05, rel=1e-12)
    assert result["net_ret"] == pytest.approx(0.05 - result["cost"], rel=1e-12)


def test_impact_grows_with_the_book():
    cfg = configuration(impact_bps=80.0, capital=1e6, volume_bars=1, max_turnover=None)
    market = trading.market(quotes([100, 100, 200, 200, 200], volume=1e6), cfg)
    result = trading.simulate(orders(market, [0.0, 1.0, 0.0, 1.0]), market, cfg)
    equity = (1 + result["net_ret"]).prod()
    assert equity > 1.9
    before = (1 + result["net_ret"]).cumprod().iloc[2]
    law = [80e-4 * np.sqrt(value * 1e6 / volume) for value, volume in ((1, 1e8), (before, 2e8))]
    assert result["impact"].iloc[1] == pytest.approx(law[0], rel=1e-12)
    assert result["impact"].iloc[3] == pytest.approx(2 * law[1], rel=1e-12), "in and, at the same price, out"


def test_a_ticker_that_nobody_traded_lapses_where_impact_is_charged():
    volume = [1e6] * 3 + [0.0] * 3
    for impact, lapsed in ((80.0, 2), (0.0, 0)):
        cfg = configuration(impact_bps=impact)
        market = trading.market(quotes([[100, 10], [100, 10], [100, 10]], "AB", volume=volume), cfg)
        result = trading.simulate(orders(market, [[0.1, 0.0], [0.1, 0.2]]), market, cfg)
        assert result["n_lapsed"].sum() == lapsed + (impact > 0), "and nobody has traded before the first bar"


def test_rates_of_a_ticker_are_its_own(tmp_path):
    path = tmp_path / "costs.csv"
    path.write_text("ticker,half_spread_bps,borrow_bps\nB,9,5040\n")
    cfg = configuration(impact_bps=0.0, max_turnover=None, costs=str(path))
    market = trading.market(quotes([[100, 10], [100, 10], [100, 10]], "AB"), cfg)
    result = trading.simulate(orders(market, [[-0.25, -0.5]]), market, cfg)
    assert result["trading"].tolist() == pytest.approx([2 * (0.25 * 2.5e-4 + 0.5 * 10.5e-4)], rel=1e-12)
    assert result["borrow"].tolist() == pytest.approx([0.25 * 50e-4 / 252 + 0.5 * 5040e-4 / 252], rel=1e-12)


def test_free_trading_earns_more_and_every_cost_is_in_the_sum():
    cfg = configuration()
    frames = trading_market.market(cfg)
    rows = evaluation.decisions(frames["predictions"], frames["panel"], cfg)
    weights = trading.decide(rows, cfg)
    result = trading.simulate(rows.assign(weight=weights), trading.market(frames["panel"], cfg), cfg)
    assert (result[["trading", "impact", "borrow"]].sum() > 0).all()
    np.testing.assert_allclose(result["cost"], result[["trading", "impact", "borrow"]].sum(axis=1), rtol=1e-12)
    np.testing.assert_allclose(result["trading"], 2.5e-4 * result["turnover"], rtol=1e-12)


# Limits and what cannot trade


def test_turnover_of_a_decision_is_capped():
    cfg = configuration(**PLAIN | {"max_turnover": 0.3})
    market = trading.market(quotes([[100, 100]] * 5, "AB"), cfg)
    free = replace(cfg, strategy=replace(cfg.strategy, commission_bps=0.0, half_spread_bps=0.0, slippage_bps=0.0))
    result = trading.simulate(orders(market, [[0.4, -0.2], [0.4, -0.2], [0.4, -0.2], [0, 0]]), market, free)
    assert result["turnover"].tolist()[:3] == pytest.approx([0.3, 0.3, 0.0])
    assert result["sent_share"].tolist() == pytest.approx([0.5, 1.0, 1.0, 0.5])
    weights, _ = trading.positions(orders(market, [[0.4, -0.2], [0.4, -0.2]]), market, free)
    np.testing.assert_allclose(weights, [[0.2, -0.1], [0.4, -0.2]])


def test_the_benchmark_has_no_limit_on_turnover():
    cfg = configuration(**PLAIN | {"max_turnover": 0.3})
    market = trading.market(quotes([100, 100, 100]), cfg)
    assert trading.simulate(orders(market, [1.0]), market, cfg, passive=True)["exposure"].tolist() == [1.0]


def test_halts_departures_and_gaps_are_counted():
    cfg = configuration(**PLAIN)
    nan = np.nan
    opens = [[100, 10, 5], [100, nan, 5], [100, 10, 5], [100, 10, nan], [100, 10, nan]]
    days = ["2016-07-05", "2016-07-06", "2016-07-08", "2016-07-11", "2016-07-12"]  # the exchange was open on the 7th
    market = trading.market(quotes(opens, "ABC", days=days), cfg)
    assert market.gaps == {"n_missing_bars": 1, "n_missing_sessions": 1, "n_delisted": 1, "n_late": 0}
    placed = orders(market, [[0.2] * 3] * 4)
    result = trading.simulate(placed, market, cfg)
    assert result["n_halted"].tolist() == [0, 1, 0, 0]
    assert result["n_lapsed"].tolist() == [0, 1, 0, 1]
    assert result["n_delisted"].tolist() == [0, 0, 0, 1]
    assert trading.held_back(result) == {"n_halted": 1, "n_lapsed": 2, "n_delisted": 1, "share_capped": 0.0}
    late = placed.assign(fill_utc=placed["fill_utc"] + pd.Timedelta(days=5))
    asked = pd.concat([placed, late.tail(6)], ignore_index=True)
    assert trading.lapsed(asked, market) == {**{"n_orders": 18, "n_after_end": 6, "n_no_bar": 2, "n_replaced": 0}}


def test_a_halted_ticker_is_valued_at_its_last_close():
    cfg = configuration(**PLAIN)
    opens, closes = [[100, 10], [100, np.nan], [100, 30]], [[100, 20], [100, np.nan], [100, 30]]
    market = trading.market(quotes(opens, "AB", closes=closes), cfg)
    result = trading.simulate(orders(market, [[0.0, 0.5], [0.0, 0.0]]), market, cfg)
    assert result["gross_ret"].tolist()[0] == pytest.approx(0.5), "from 10 to the close of 20"
    weights, held = trading.positions(orders(market, [[0.0, 0.5], [0.0, 0.0]]), market, cfg)
    assert weights["B"].iloc[1] > 0.6
    assert held["B"].iloc[1] == pytest.approx(weights["B"].iloc[1], rel=1e-12)


# Bad input


def test_prices_that_are_no_positive_numbers_are_refused():
    cfg = configuration(**PLAIN)
    for name, value in (("open", -1.0), ("close", np.nan), ("close", np.inf), ("open", 0.0)):
        table = quotes([100, 101, 102])
        table.loc[1, name] = value
        with pytest.raises(InputError, match=rf"column {name}: A 2016-07-06 20:00:00\+00:00") as error:
            trading.market(table, cfg)
        assert "positive numbers" in str(error.value)


def test_a_market_of_one_session_or_none_is_refused():
    cfg = configuration(**PLAIN)
    with pytest.raises(InputError, match="at least two"):
        trading.market(quotes([100]), cfg)
    with pytest.raises(InputError, match="no bars"):
        trading.market(quotes([100]).iloc[:0], cfg)


def test_a_bar_that_occurs_twice_is_refused():
    table = quotes([100, 101])
    with pytest.raises(InputError, match="occurs twice"):
        trading.market(pd.concat([table, table.tail(1)]), configuration(**PLAIN))


def test_impact_without_volume_is_refused():
    with pytest.raises(InputError, match="no adjustment and no volume") as error:
        trading.market(quotes([100, 101]).drop(columns=["volume", "adjustment"]), configuration())
    assert "impact_bps=0" in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.iloc[:0], "no orders"),
        (lambda table: table.assign(ticker="Z"), "orders for Z, which has no prices"),
        (lambda table: table.assign(weight=np.inf), "infinite weight of A"),
        (lambda table: pd.concat([table, table]), "two orders of one decision"),
        (lambda table: table.assign(fill_utc=table["fill_utc"].where(table["weight"] > 9)), "held to a next open"),
    ],
)
def test_orders_that_cannot_be_meant_are_refused(change, message):
    cfg = configuration(**PLAIN)
    market = trading.market(quotes([100, 101, 102]), cfg)
    with pytest.raises(InputError, match=message):
        trading.simulate(change(orders(market, [0.1, 0.2])), market, cfg)


# Decide with a book


def rows_at(*tickers, decided="2016-07-05 20:01", mean=0.01):
    time = pd.Timestamp(decided, tz="UTC").as_unit("us")
    return pd.DataFrame({"ticker": tickers, "decided_utc": time, "mean_ret": mean, "sd_ret": SIGMA, "severity": 1.0})


def test_decide_closes_what_is_held_without_a_prediction_as_far_as_the_limit_goes():
    held = pd.Series({"Z": 0.3, "A": 0.1})
    free = trading.decide(rows_at("A", "B"), configuration(max_turnover=None), held)
    assert free.index.tolist() == ["A", "B", "Z"]
    assert free["Z"] == 0.0
    pd.testing.assert_series_equal(
        free[["A", "B"]].reset_index(drop=True), trading.decide(rows_at("A", "B"), configuration()), check_exact=True
    )
    capped = trading.decide(rows_at("A", "B"), configuration(max_turnover=0.1), held)
    change = capped - held.reindex(capped.index, fill_value=0.0)
    assert change.abs().sum() == pytest.approx(0.1)
    assert 0 < capped["Z"] < 0.3


def test_decide_with_a_book_asks_for_one_time_and_finite_weights():
    two = pd.concat([rows_at("A"), rows_at("B", decided="2016-07-06 20:01")])
    for rows, held, message in (
        (two, pd.Series({"A": 0.1}), "2 times"),
        (rows_at("A", "A"), pd.Series({"A": 0.1}), "one prediction and one weight a ticker"),
        (rows_at("A"), pd.Series({"A": np.nan}), "not finite"),
    ):
        with pytest.raises(InputError, match=message):
            trading.decide(rows, configuration(), held)
    closing = trading.decide(rows_at("A").iloc[:0], configuration(max_turnover=None), pd.Series({"A": 0.1}))
    assert closing.to_dict() == {"A": 0.0}


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_severity_scales_positions_and_never_raises_them(share):
    cfg = configuration(severity_share=share, vol_target=10.0, max_weight=100.0, max_gross=100.0)
    severity = np.array([0.0, 0.3, 1.0])
    rows = rows_at("A", "B", "C", mean=0.001).assign(severity=severity)
    weight = trading.decide(rows, cfg).to_numpy()
    np.testing.assert_allclose(weight, (1 - share + share * severity) * 5e-4 / SIGMA**2, rtol=1e-12)


@pytest.mark.parametrize("severity", [-0.1, 1.1, np.nan])
def test_a_severity_outside_its_range_is_refused(severity):
    rows = rows_at("A").assign(severity=severity)
    with pytest.raises(InputError, match="severity in"):
        trading.decide(rows, configuration())
    assert trading.decide(rows, configuration(severity_share=0.0)).iloc[0] > 0, "where it counts for nothing"


def test_missing_severities_are_refused_where_they_count():
    rows = rows_at("A").drop(columns="severity")
    with pytest.raises(InputError, match="severity_share=0"):
        trading.decide(rows, configuration())
    assert trading.decide(rows, configuration(severity_share=0.0)).iloc[0] > 0


def test_deciding_needs_no_compiler():
    """A router that only decides starts without Numba."""
    code = "import sys, json; from fusion_alpha import decision; print(json.dumps('numba' in sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(found.stdout) is False


# The benchmark


def test_the_benchmark_measures_and_writes_a_row(tmp_path, capsys):
    path = tmp_path / "bench.csv"
    asked = ["--tickers", "4", "--sessions", "80", "--rounds", "1", "--output", str(path)]
    assert backtest_bench.main(asked) == backtest_bench.main(asked) == 0
    table = pd.read_csv(path)
    assert list(table) == backtest_bench.COLUMNS
    assert len(table) == 2
    assert (table["largest_difference"] < 1e-9).all()
    assert (table[["weights_s", "backtest_s", "vectorbt_s"]] > 0).all(axis=None)
    assert "vectorbt_over_backtest" in capsys.readouterr().out
    path.write_text("a,b\n")
    assert backtest_bench.main(asked) == 2
    assert backtest_bench.main(["--sessions", "3", "--output", "none"]) == 2


def test_positions_are_those_of_the_simulation():
    cfg = configuration()
    rows, market = traded(cfg)
    result = backtest.simulate(rows, market, cfg)
    weights, held = backtest.positions(rows, market, cfg)
    np.testing.assert_allclose(weights.abs().sum(axis=1), result["exposure"], rtol=1e-12)
    assert held.iloc[0].eq(0).all()
