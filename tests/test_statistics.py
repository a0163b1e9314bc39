"""Every measure against its own definition or another library's, and what it says when it is undefined."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn import metrics

from fusion_alpha import config, statistics


@pytest.fixture(scope="module")
def cfg():
    return replace(config.load().evaluate, bootstrap_samples=200)


@pytest.fixture(scope="module")
def rng():
    return np.random.default_rng(7)


def result(net, turnover=0.1, sessions=None, **more):
    n = len(net)
    days = pd.bdate_range("2018-01-02", periods=n) if sessions is None else sessions
    columns = {
        "cost": 0.0,
        "borrow": 0.0,
        "impact": 0.0,
        "exposure": 0.5,
        "net_exposure": 0.1,
        "turnover": turnover,
    } | more
    frame = pd.DataFrame({"net_ret": net, "session": days}).assign(**columns)
    return frame.assign(gross_ret=frame["net_ret"] + frame["cost"])


# returns


def test_sharpe_is_mean_over_deviation_annualised(rng):
    returns = rng.normal(0.001, 0.01, 300)
    expected = returns.mean() / returns.std(ddof=1) * np.sqrt(252)
    assert statistics.sharpe(returns, 252) == pytest.approx(expected, rel=1e-12)
    assert statistics.sharpe(returns, 4 * 252) == pytest.approx(2 * expected, rel=1e-12)
    assert not np.isfinite(statistics.sharpe(np.full(10, 0.01), 252))
    assert np.isnan(statistics.sharpe([0.01], 252))


def test_measures_by_hand(cfg):
    net = np.array([0.10, -0.05, -0.02, 0.03])
    bench = result(np.array([0.05, -0.06, 0.01, 0.03]))
    ours = result(net, turnover=0.2, cost=0.001, borrow=0.0004)
    measures = statistics.strategies({"ours": ours, "bench": bench}, "bench", 252, cfg)
    row = measures["ours"]
    assert row["total_return"] == pytest.approx(1.1 * 0.95 * 0.98 * 1.03 - 1, rel=1e-5)
    assert row["max_drawdown"] == pytest.approx(0.95 * 0.98 - 1, rel=1e-5)
    assert row["volatility"] == pytest.approx(net.std(ddof=1) * np.sqrt(252), rel=1e-5)
    assert row["hit_rate"] == 0.5, "two sessions better, one worse, one equal"
    assert measures["bench"]["hit_rate"] is None
    gross = net + 0.001
    assert row["break_even_bps"] == pytest.approx((gross.sum() - 4 * 0.0004) / 0.8 * 1e4, rel=1e-5)
    assert row["sharpe_gross"] > row["sharpe"]
    assert row["cost_annual"] == pytest.approx(0.252)


def test_break_even_cost_makes_the_net_mean_zero(cfg, rng):
    gross, turnover, borrow = rng.normal(0.001, 0.01, 50), rng.uniform(0, 1, 50), np.full(50, 1e-5)
    impact = rng.uniform(0, 1e-4, 50)
    frame = result(gross, turnover=turnover).assign(gross_ret=gross, borrow=borrow, impact=impact)
    rate = statistics.strategies({"ours": frame}, "ours", 252, cfg)["ours"]["break_even_bps"]
    assert np.mean(gross - borrow - impact - rate / 1e4 * turnover) == pytest.approx(0, abs=1e-8)


def test_minute_bars_are_compounded_to_sessions(cfg):
    days = pd.to_datetime(["2018-01-02"] * 3 + ["2018-01-03"] * 3)
    ours = result(np.array([0.01, 0.01, -0.03, 0.0, 0.0, 0.001]), turnover=0.5, sessions=days)
    bench = result(np.zeros(6), sessions=days)
    row = statistics.strategies({"ours": ours, "bench": bench}, "bench", 97728, cfg)["ours"]
    assert row["hit_rate"] == 0.5
    assert row["turnover"] == 1.5
    assert statistics.equity(ours).tolist() == pytest.approx([1.01**2 * 0.97, 1.01**2 * 0.97 * 1.001])


def test_a_strategy_that_never_trades_has_no_sharpe(cfg):
    flat = result(np.zeros(20), turnover=0.0, exposure=0.0)
    moves = result(np.tile([0.01, -0.01], 10))
    row = statistics.strategies({"flat": flat, "bench": moves}, "bench", 252, cfg)["flat"]
    assert [row[name] for name in ("sharpe", "sharpe_lo", "sharpe_hi", "break_even_bps")] == [None] * 4
    assert (row["total_return"], row["max_drawdown"]) == (0.0, 0.0)


def test_one_session_gives_returns_but_no_ratio(cfg):
    row = statistics.strategies({"ours": result(np.array([0.01]))}, "ours", 252, cfg)["ours"]
    assert (row["sharpe"], row["sharpe_lo"], row["total_return"]) == (None, None, 0.01)


def test_bootstrap_interval_is_seeded_and_about_right(cfg, rng):
    returns = rng.normal(0.0005, 0.01, 1000)
    more = replace(cfg, bootstrap_samples=1000)
    low, high = statistics.bootstrap_interval(lambda sample: statistics.sharpe(sample, 252), returns, 10, more)
    again = statistics.bootstrap_interval(lambda sample: statistics.sharpe(sample, 252), returns, 10, more)
    assert (low, high) == again
    other = replace(more, seed=6)
    assert statistics.bootstrap_interval(lambda sample: statistics.sharpe(sample, 252), returns, 10, other)[0] != low
    point, error = statistics.sharpe(returns, 252), np.sqrt(252 / 1000)  # Lo (2002), independent returns
    assert (high - low)[0] == pytest.approx(2 * 1.96 * error, rel=0.15)
    assert low[0] < point < high[0]


def test_bootstrap_widens_where_returns_hang_together(cfg, rng):
    shocks = rng.normal(0, 0.01, 1000)
    trending = np.convolve(shocks, np.ones(20) / np.sqrt(20), mode="same")
    mean = lambda sample: np.mean(sample, axis=0)  # noqa: E731
    low, high = statistics.bootstrap_interval(mean, trending, 40, cfg)
    naive = 2 * 1.96 * trending.std() / np.sqrt(1000)
    assert (high - low)[0] > 2 * naive


# classification


@pytest.fixture(scope="module")
def labelled(rng):
    n = 600
    p_up = pd.Series(rng.uniform(0.3, 0.7, n))
    label = pd.Series(rng.uniform(size=n) < p_up).astype("boolean")
    label[rng.uniform(size=n) < 0.1] = pd.NA
    session = pd.Series(np.repeat(pd.bdate_range("2018-01-02", periods=100), 6))
    return p_up, label, session


def test_classification_agrees_with_scikit_learn(cfg, labelled):
    p_up, label, session = labelled
    ours = statistics.classification(p_up, label, session, cfg)
    known = label.notna()
    truth, p = label[known].astype(bool), p_up[known]
    expected = {
        "n": known.sum(),
        "n_up": truth.sum(),
        "accuracy": metrics.accuracy_score(truth, p > 0.5),
        "accuracy_always_up": truth.mean(),
        "balanced_accuracy": metrics.balanced_accuracy_score(truth, p > 0.5),
        "mcc": metrics.matthews_corrcoef(truth, p > 0.5),
        "auc": metrics.roc_auc_score(truth, p),
        "bce": metrics.log_loss(truth, p),
        "brier": metrics.brier_score_loss(truth, p),
        "share_predicted_up": (p > 0.5).mean(),
    }
    assert {name: ours[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    tn, fp, fn, tp = metrics.confusion_matrix(truth, p > 0.5).ravel()
    assert (ours["tn"], ours["fp"], ours["fn"], ours["tp"]) == (tn, fp, fn, tp)
    assert ours["mcc_lo"] < ours["mcc"] < ours["mcc_hi"]


def test_mcc_interval_knows_that_names_move_together(cfg, rng):
    sessions = pd.Series(np.repeat(pd.bdate_range("2018-01-02", periods=100), 10))
    shared = pd.Series(np.repeat(rng.uniform(size=100) < 0.5, 10)).astype("boolean")
    alone = pd.Series(rng.uniform(size=1000) < 0.5).astype("boolean")
    guess_by_day, guess_by_row = np.repeat(rng.uniform(size=100), 10), rng.uniform(size=1000)
    day = statistics.classification(pd.Series(guess_by_day), shared, sessions, cfg)
    row = statistics.classification(pd.Series(guess_by_row), alone, sessions, cfg)
    assert day["mcc_hi"] - day["mcc_lo"] > 2 * (row["mcc_hi"] - row["mcc_lo"])


@pytest.mark.parametrize("label", [[True] * 4, [False] * 4, [pd.NA] * 4])
def test_one_class_or_none_leaves_measures_undefined_not_wrong(cfg, label):
    session = pd.Series(pd.bdate_range("2018-01-02", periods=4))
    ours = statistics.classification(pd.Series([0.4, 0.6, 0.6, 0.6]), pd.Series(label, dtype="boolean"), session, cfg)
    assert ours["auc"] is None
    assert ours["balanced_accuracy"] is None
    assert ours["n"] == pd.Series(label).notna().sum()
    assert all(value is None or np.isfinite(value) for value in ours.values())


def test_reliability_bins_hold_equal_counts_and_keep_ties_together(rng):
    p = rng.uniform(0.45, 0.55, 1000)
    table = statistics.reliability(p, rng.uniform(size=1000) < p)
    assert table["n"].tolist() == [100] * 10
    assert (table["p_low"].to_numpy()[1:] >= table["p_high"].to_numpy()[:-1]).all()
    tied = statistics.reliability(np.array([0.5] * 50 + [0.6] * 50), np.array([True] * 100))
    assert tied["n"].tolist() == [50, 50]


def test_calibration_error_of_known_tables(rng):
    p = np.repeat([0.2, 0.8], 500)
    right = np.concatenate([np.arange(500) < 100, np.arange(500) < 400])
    assert statistics.expected_calibration_error(statistics.reliability(p, right)) == pytest.approx(0, abs=1e-12)
    wrong = np.concatenate([np.arange(500) < 250, np.arange(500) < 250])
    assert statistics.expected_calibration_error(statistics.reliability(p, wrong)) == pytest.approx(0.3)
    assert np.isnan(statistics.expected_calibration_error(statistics.reliability(np.array([]), np.array([], bool))))


# information


def test_information_agrees_with_scipy_day_by_day(rng):
    decided = pd.Series(np.repeat(pd.bdate_range("2018-01-02", periods=60), 8))
    score = pd.Series(rng.normal(size=480).round(1))  # with ties
    target = 0.3 * score + pd.Series(rng.normal(size=480))
    target[rng.uniform(size=480) < 0.1] = np.nan
    ours = statistics.information(score, target, decided)
    known = target.notna()
    daily = [
        stats.spearmanr(score[rows], target[rows]).statistic
        for rows in (decided.index[(decided == day) & known] for day in decided.unique())
        if len(rows) >= 3
    ]
    assert ours["ic"] == pytest.approx(stats.pearsonr(score[known], target[known]).statistic, rel=1e-5)
    assert ours["ic_rank"] == pytest.approx(stats.spearmanr(score[known], target[known]).statistic, rel=1e-5)
    assert ours["ic_daily"] == pytest.approx(np.mean(daily), rel=1e-5)
    assert ours["ic_daily_t"] == pytest.approx(stats.ttest_1samp(daily, 0).statistic, rel=1e-5)


def test_information_without_variance_or_rows_is_undefined():
    day = pd.Series(np.repeat(pd.bdate_range("2018-01-02", periods=2), 3))
    constant = statistics.information(pd.Series(np.zeros(6)), pd.Series(np.arange(6.0)), day)
    assert set(constant.values()) == {None}
    nothing = statistics.information(pd.Series(np.arange(6.0)), pd.Series(np.full(6, np.nan)), day)
    assert set(nothing.values()) == {None}


@pytest.mark.parametrize(
    ("value", "expected"), [(0.123456789, 0.123457), (1.23456789e-7, 1.23457e-07), (np.nan, None), (np.inf, None)]
)
def test_numbers_keep_six_digits(value, expected):
    assert statistics.rounded(value) == expected
