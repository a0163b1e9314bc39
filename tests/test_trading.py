"""decide, simulate, baselines: the formula by hand, the limits, the money against a plain ledger, no look-ahead."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import trading_market
from trading_market import SIGMA, configuration

from fusion_alpha import baselines, evaluation, panel, tables, trading
from fusion_alpha.errors import InputError

BUDGET = 0.10 / np.sqrt(252)  # volatility of a bar that a yearly 10% allows


@pytest.fixture(scope="module")
def cfg():
    """Nothing but side costs and one borrow rate: what the sums below are made of."""
    return configuration(impact_bps=0.0, max_turnover=None)


@pytest.fixture(scope="module")
def frames(cfg):
    return trading_market.market(cfg)


@pytest.fixture(scope="module")
def rows(cfg, frames):
    return evaluation.decisions(frames["predictions"], frames["panel"], cfg)


def predicted(mean, sd=SIGMA, decided="2016-07-05 20:01"):
    mean = np.atleast_1d(mean)
    time = pd.Timestamp(decided, tz="UTC").as_unit("us")
    return pd.DataFrame(
        {"ticker": [f"T{i}" for i in range(len(mean))], "decided_utc": time, "mean_ret": mean, "sd_ret": sd}
    ).assign(severity=1.0)


# decide


def test_a_small_edge_gets_its_kelly_weight(cfg):
    hurdle = 2 * 2.5e-4  # 0.5 + 1 + 1 bps a side, both sides
    assert trading.decide(predicted(hurdle + 1e-5), cfg).tolist() == pytest.approx([1e-5 / SIGMA**2])
    borrow = 50e-4 / 252
    assert trading.decide(predicted(-hurdle - borrow - 1e-5), cfg).tolist() == pytest.approx([-1e-5 / SIGMA**2])


@pytest.mark.parametrize("mean", [0.0, 4.9e-4, -4.9e-4, -5.1e-4])
def test_no_position_where_costs_eat_the_edge(cfg, mean):
    assert trading.decide(predicted(mean), cfg).tolist() == [0.0]


def test_edge_min_is_demanded_on_top_of_costs(cfg):
    asks_more = replace(cfg, strategy=replace(cfg.strategy, edge_min=0.001))
    assert trading.decide(predicted([0.0014, 0.0016]), asks_more).iloc[0] == 0
    assert trading.decide(predicted([0.0014, 0.0016]), asks_more).iloc[1] > 0


def test_volatility_target_binds_before_the_weight_limit(cfg):
    free = replace(cfg, strategy=replace(cfg.strategy, max_weight=10.0, max_gross=10.0))
    assert trading.decide(predicted(0.01), free).tolist() == pytest.approx([BUDGET / SIGMA])
    two = trading.decide(predicted([0.01, 0.01]), free)
    assert np.sqrt(0.7 * (two**2).sum() + 0.3 * two.sum() ** 2) * SIGMA == pytest.approx(BUDGET)
    hedged = trading.decide(predicted([0.01, -0.01]), free).abs().sum()
    assert hedged > two.abs().sum(), "names that move together hedge each other"


def test_limits_hold_for_any_predictions(cfg):
    rng = np.random.default_rng(3)
    for _ in range(200):
        n = int(rng.integers(1, 30))
        table = predicted(rng.normal(0, 0.02, n), rng.uniform(0.001, 0.05, n))
        weight, sd = trading.decide(table, cfg).to_numpy(), table["sd_ret"].to_numpy()
        common, own = (weight @ sd) ** 2, ((weight * sd) ** 2).sum()
        assert np.sqrt(0.7 * own + 0.3 * common) <= BUDGET * (1 + 1e-12)
        assert np.abs(weight).max() <= 0.2 + 1e-12
        assert np.abs(weight).sum() <= 1.0 + 1e-12
        assert (weight * table["mean_ret"] >= 0).all()


def test_long_only_takes_no_shorts(cfg):
    long_only = replace(cfg, strategy=replace(cfg.strategy, allow_short=False))
    weight = trading.decide(predicted([-0.01, 0.01]), long_only)
    assert weight.iloc[0] == 0 < weight.iloc[1]


def test_decision_times_do_not_see_each_other_and_order_does_not_matter(cfg, rows):
    together = trading.decide(rows, cfg)
    apart = pd.concat([trading.decide(group, cfg) for _, group in rows.groupby("decided_utc")])
    pd.testing.assert_series_equal(together, apart.loc[rows.index], check_exact=True)
    mixed = trading.decide(rows.sample(frac=1, random_state=0), cfg)
    np.testing.assert_allclose(mixed.loc[rows.index], together, rtol=1e-12)


@pytest.mark.parametrize(("mean", "sd"), [(np.nan, 0.02), (np.inf, 0.02), (0.01, 0.0), (0.01, np.nan), (0.01, -0.1)])
def test_unusable_predictions_are_refused(cfg, mean, sd):
    with pytest.raises(InputError, match="T0 at 2016-07-05"):
        trading.decide(predicted(mean, sd), cfg)


@pytest.mark.parametrize(("interval", "expected"), [("1d", 252), ("1m", 97728), ("30m", 3258)])
def test_bars_of_a_year_come_from_the_calendar(cfg, interval, expected):
    assert trading.bars_per_year(replace(cfg, interval=interval)) == expected  # 1m: 390 a day, 210 on half days


# simulate


def quotes(opens, closes=None, tickers=("A",)):
    """Panel columns of daily bars from the first sessions of July 2016; a null open is a missing bar."""
    opens = np.array(opens, float).reshape(-1, len(tickers))
    days = pd.to_datetime(["2016-07-05", "2016-07-06", "2016-07-07", "2016-07-08", "2016-07-11"][: len(opens)])
    parts = []
    for column, ticker in enumerate(tickers):
        price = opens[:, column]
        close = price if closes is None else np.array(closes, float).reshape(opens.shape)[:, column]
        part = pd.DataFrame({"ticker": ticker, "session": days.as_unit("us"), "open": price, "close": close})
        parts.append(part[~np.isnan(price)])
    table = pd.concat(parts, ignore_index=True)
    midnight = table["session"].dt.tz_localize("UTC")
    return table.assign(
        session_open_utc=midnight + pd.Timedelta("13:30:00"), bar_close_utc=midnight + pd.Timedelta("20:00:00")
    )


def orders(market, weights, tickers=("A",)):
    """Orders that fill at the market's opens, one row of weights each."""
    weights = np.array(weights, float).reshape(-1, len(tickers))
    parts = [
        pd.DataFrame({"ticker": ticker, "fill_utc": market.opens_utc[: len(weights)], "weight": weights[:, column]})
        for column, ticker in enumerate(tickers)
    ]
    table = pd.concat(parts, ignore_index=True)
    return table.assign(decided_utc=table["fill_utc"] - pd.Timedelta(hours=12))


def test_two_intervals_by_hand(cfg):
    market = trading.market(quotes([100, 110, 99]), cfg)
    result = trading.simulate(orders(market, [0.5, -0.5]), market, cfg)
    side, borrow = 2.5e-4, 50e-4 / 252
    first = 0.5 * 0.1 - side * 0.5
    drifted = 0.5 * 1.1 / (1 + first)
    turnover = 0.5 + drifted + 0.5 * 0.9  # from the drifted long to the short, then out
    second = 0.5 * 0.1 - side * turnover - borrow * 0.5
    assert result["net_ret"].tolist() == pytest.approx([first, second], rel=1e-12)
    assert result["turnover"].tolist() == pytest.approx([0.5, turnover], rel=1e-12)
    assert result["exposure"].tolist() == [0.5, 0.5]
    assert result["net_exposure"].tolist() == [0.5, -0.5]
    assert list(result["session"].dt.strftime("%m-%d")) == ["07-05", "07-06"]


def ledger(rows, weights, built, cfg):
    """Equity by plain bookkeeping of cash and shares, the slow way; every ticker trades at every open."""
    opens = built.pivot(index="session_open_utc", columns="ticker", values="open")
    target = rows.assign(weight=weights).pivot(index="fill_utc", columns="ticker", values="weight")
    times = [time for time in opens.index if target.index[0] <= time]
    cash, shares, values = 1.0, dict.fromkeys(opens, 0.0), []
    for time, after in pairwise(times):
        if time not in target.index:
            break
        equity = cash + sum(shares[name] * opens.at[time, name] for name in opens)
        for name in opens:
            wanted = equity * target.at[time, name] / opens.at[time, name]
            traded = abs(wanted - shares[name]) * opens.at[time, name]
            cash -= (wanted - shares[name]) * opens.at[time, name] + traded * cfg.strategy.side_cost_bps / 1e4
            shares[name] = wanted
            cash -= max(-wanted, 0) * opens.at[time, name] * cfg.strategy.borrow_bps / 1e4 / 252
        values.append(cash + sum(shares[name] * opens.at[after, name] for name in opens))
    return np.array(values), sum(abs(shares[name]) * opens.at[after, name] for name in opens)


def test_equity_agrees_with_a_ledger_of_cash_and_shares(cfg, frames, rows):
    weights = trading.decide(rows, cfg)
    result = trading.simulate(rows.assign(weight=weights), trading.market(frames["panel"], cfg), cfg)
    values, still_held = ledger(rows, weights, frames["panel"], cfg)
    ours = (1 + result["net_ret"]).cumprod().to_numpy()
    np.testing.assert_allclose(ours[:-1], values[:-1], rtol=1e-12)
    assert ours[-1] == pytest.approx(values[-1] - still_held * cfg.strategy.side_cost_bps / 1e4, rel=1e-9)


def test_daily_intervals_are_the_targets_of_the_panel(cfg, frames, rows):
    market = trading.market(frames["panel"], cfg)
    result = trading.simulate(rows.assign(weight=1.0).query("ticker == 'T1'"), market, cfg)
    expected = rows.query("ticker == 'T1'")["target_ret"].dropna()
    np.testing.assert_allclose(result["gross_ret"], expected, rtol=1e-12)


def test_minute_bars_fill_after_the_decision_and_earn_the_target():
    cfg = replace(configuration(), interval="30m")
    frames = trading_market.market(cfg, n_tickers=2, last="2016-07-08")
    rows = evaluation.decisions(frames["predictions"], frames["panel"], cfg)
    market = trading.market(frames["panel"], cfg)
    result = trading.simulate(rows.assign(weight=1.0).query("ticker == 'T1'"), market, cfg)
    one = rows.query("ticker == 'T1'").dropna(subset="target_ret")
    assert (one["fill_utc"] >= one["decided_utc"]).all()
    earned = result.set_index("opens_utc")["gross_ret"]
    np.testing.assert_allclose(earned.loc[one["fill_utc"]], one["target_ret"], rtol=1e-12)
    assert len(result) == len(one)


def test_the_benchmarks_label_is_not_the_strategys_return():
    cfg = configuration()
    cfg = replace(cfg, target=replace(cfg.target, name="stocknet", session_rule="utc_date", decision_delay_s=0.0))
    quoted, _ = trading_market.prices(1)
    movements = quoted[["ticker", "session"]].assign(movement=0.05, set_a=True)  # every label would earn 5%
    built = panel.build(quoted, movements, cfg)
    rows = built[built["split"] == "test"]
    assert (rows["target_ret"].dropna() == 0.05).all()
    result = trading.simulate(rows.assign(weight=1.0), trading.market(built, cfg), cfg)
    opens = built.set_index("session_open_utc")["open"]
    expected = opens.shift(-1) / opens - 1
    np.testing.assert_allclose(result["gross_ret"], expected.loc[result["opens_utc"]], rtol=1e-12)


def test_a_halted_ticker_keeps_its_position_and_its_order_lapses(cfg):
    market = trading.market(quotes([[100, 10], [110, np.nan], [121, 20], [121, 20]], tickers="AB"), cfg)
    weights = [[0.0, 0.5], [0.5, -0.5], [0.0, 0.0]]
    result = trading.simulate(orders(market, weights, "AB"), market, cfg)
    assert result["gross_ret"].iloc[0] == 0.0
    assert result["turnover"].iloc[1] == 0.5, "only A could trade"
    stuck = 0.5 / (1 - 2.5e-4 * 0.5)
    assert result["gross_ret"].iloc[1] == pytest.approx(0.5 * 0.1 + stuck * 1.0)


def test_a_ticker_whose_bars_end_is_sold_at_its_last_close(cfg):
    opens, closes = [[100, 10], [100, 10], [100, np.nan], [100, np.nan]], [[1, 1], [1, 6], [1, 1], [1, 1]]
    market = trading.market(quotes(opens, closes, "AB"), cfg)
    result = trading.simulate(orders(market, [[0, 0.5]] * 3, "AB"), market, cfg)
    assert result["gross_ret"].tolist() == pytest.approx([0.0, 0.5 * -0.4, 0.0])
    assert result["exposure"].tolist() == [0.5, 0.5, 0.0]


def test_without_an_order_the_position_is_closed_or_left_alone(cfg):
    market = trading.market(quotes([100, 110, 121, 121]), cfg)
    placed = orders(market, [0.5, 0.5, 0.0]).drop(index=1)
    assert trading.simulate(placed, market, cfg)["exposure"].iloc[1] == 0.0
    assert trading.simulate(placed, market, cfg, passive=True)["exposure"].iloc[1] > 0.5


def test_of_two_orders_at_one_open_the_later_decision_counts(cfg):
    market = trading.market(quotes([100, 110, 121]), cfg)
    late, early = (orders(market, [weight]) for weight in (0.3, -0.5))
    both = pd.concat([late.assign(decided_utc=late["fill_utc"]), early], ignore_index=True)
    assert trading.simulate(both, market, cfg)["net_exposure"].tolist() == [0.3]


def test_a_ruined_book_stays_at_zero(cfg):
    market = trading.market(quotes([100, 300, 100, 50]), cfg)
    result = trading.simulate(orders(market, [-1.0, -1.0, -1.0]), market, cfg)
    assert result["net_ret"].tolist() == [-1.0, 0.0, 0.0]


def test_orders_that_fill_before_their_decision_are_refused(cfg):
    market = trading.market(quotes([100, 110, 121]), cfg)
    early = orders(market, [0.5, 0.5]).assign(decided_utc=market.opens_utc[1])
    with pytest.raises(InputError, match="fills after its decision"):
        trading.simulate(early, market, cfg)


def test_orders_without_a_next_open_are_refused(cfg):
    market = trading.market(quotes([100, 110, 121]), cfg)
    with pytest.raises(InputError, match="held to a next open"):
        trading.simulate(orders(market, [0.5, 0.5, 0.5]).tail(1), market, cfg)


# baselines and look-ahead


def test_buy_and_hold_is_the_mean_of_the_price_relatives(cfg, frames, rows):
    free = replace(cfg, strategy=replace(cfg.strategy, commission_bps=0.0, half_spread_bps=0.0, slippage_bps=0.0))
    market = trading.market(frames["panel"], free)
    result = trading.simulate(rows.assign(weight=baselines.buy_and_hold(rows)), market, free, passive=True)
    first, last = market.opens_utc.get_indexer([result["opens_utc"].iloc[0], result["opens_utc"].iloc[-1]])
    expected = (market.price[last + 1] / market.price[first]).mean()
    assert (1 + result["net_ret"]).prod() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("delta", [1.0, -1.0])
def test_the_contradiction_rule_learns_the_sign_on_training_rows(cfg, delta):
    frames = trading_market.market(cfg, delta=delta)
    joined = frames["panel"].merge(frames["contradiction"], on=tables.BAR_KEY)
    expected = {"overhype": -np.sign(delta), "underhype": np.sign(delta)}
    assert baselines.learned_directions(joined) == expected
    later = joined.assign(target_ret=joined["target_ret"].where(joined["split"] == "train", -joined["target_ret"]))
    assert baselines.learned_directions(later) == expected


def test_shuffled_deals_out_the_same_means_by_its_seed(rows):
    dealt = baselines.shuffled(rows, 5)["mean_ret"]
    assert sorted(dealt) == sorted(rows["mean_ret"])
    assert abs(np.corrcoef(dealt, rows["mean_ret"])[0, 1]) < 0.15
    pd.testing.assert_series_equal(dealt, baselines.shuffled(rows, 5)["mean_ret"])
    assert (dealt != baselines.shuffled(rows, 6)["mean_ret"]).any()


@pytest.mark.parametrize("cut", ["2016-07-05", "2016-09-12", "2016-11-25", "2016-12-27"])
def test_no_weight_sees_prices_or_scores_after_its_decision(cfg, cut):
    quoted, scores = trading_market.prices(4)
    scores = scores.drop(columns="drift")
    after = pd.Timestamp(cut) + pd.Timedelta(days=1)
    rng = np.random.default_rng(9)
    poisoned, changed = quoted.copy(), scores.copy()
    late = poisoned["session"] >= after
    for name in ("open", "high", "low", "close", "adj_close"):
        poisoned.loc[late, name] *= rng.uniform(0.5, 2, late.sum())
    late = changed["bar_close_utc"] >= after.tz_localize("UTC")
    changed.loc[late, "z_s"] *= -1
    changed.loc[late, "kind"] = changed.loc[late, "kind"].map(
        {"overhype": "underhype", "underhype": "overhype", "none": "overhype"}
    )

    def weights(quoted, scores):
        built = panel.build(quoted, tables.empty("benchmark"), cfg)
        test = built[built["split"] == "test"]
        test = test.assign(
            mean_ret=0.001, sd_ret=SIGMA, severity=0.5
        )  # the model's own look-ahead is tested with the model
        return test, baselines.weights(test, built, scores, cfg).drop(columns="shuffled")

    rows, before = weights(quoted, scores)
    _, poisoned_weights = weights(poisoned, changed)
    known = rows["session"] < after
    assert known.any()
    pd.testing.assert_frame_equal(before[known], poisoned_weights[known], check_exact=True)
    if not known.all():
        for name in ("momentum", "reversal", "sentiment_only", "contradiction_rule"):
            assert (before.loc[~known, name] != poisoned_weights.loc[~known, name]).any(), "the attack does bite"


def test_a_planted_edge_is_earned_and_a_null_market_pays_nothing(cfg):
    for delta, least, most in ((1.0, 5.0, 15.0), (0.0, -3.0, 3.0)):
        frames = trading_market.market(cfg, n_tickers=6, delta=delta)
        rows = evaluation.decisions(frames["predictions"], frames["panel"], cfg)
        metrics, _ = evaluation.evaluate(rows, frames["panel"], frames["contradiction"], frames["truth"], cfg)
        assert least < metrics["strategies"]["contradiction_rule"]["sharpe_gross"] < most


def test_technical_only_learns_a_planted_pattern_and_from_training_rows_alone(cfg):
    frames = trading_market.market(cfg, n_tickers=3, delta=0.0)
    built, technical = frames["panel"], frames["technical"]
    sd = built.groupby("ticker")["ret"].transform(lambda ret: ret.rolling(60).std())
    planted = built.assign(target_ret=np.where(technical["rsi_14"] > 50, -0.4, 0.4) * sd)
    test = (built["split"] == "test") & planted["target_ret"].notna()
    found = baselines.technical_returns(technical, planted, sd)
    assert np.corrcoef(found[test], planted.loc[test, "target_ret"])[0, 1] > 0.6
    poisoned = planted.assign(target_ret=planted["target_ret"].where(built["split"].isin(["train", "dev"]), 9.0))
    np.testing.assert_array_equal(baselines.technical_returns(technical, poisoned, sd), found)
    nothing = planted.assign(target_ret=np.nan)
    assert (baselines.technical_returns(technical, nothing, sd) == 0).all()
    with pytest.raises(InputError, match="other bars"):
        baselines.technical_returns(technical.iloc[1:], planted, sd)
