"""Statistics over simulated markets: against plain formulas, on noise, and where they must refuse."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from fusion_alpha import recovery, statistics
from fusion_alpha.config import EvaluateConfig
from fusion_alpha.recovery import Criterion

SETTINGS = EvaluateConfig(
    seed=5, bootstrap_samples=300, block_sessions=5, confidence=0.95, momentum_bars=20, volatility_bars=60
)
DAYS = pd.bdate_range("2016-01-04", periods=80).as_unit("us")
TICKERS = [f"T{number}" for number in range(6)]


def market(seed: int, noise: float = 1.0, drift: float = 0.4) -> pd.DataFrame:
    """What lab_runs.forecast returns: a known drift, foretold with an error of `noise` times its own size."""
    rng = np.random.default_rng(seed)
    rows = pd.MultiIndex.from_product([TICKERS, DAYS], names=["ticker", "session"]).to_frame(index=False)
    n = len(rows)
    oracle = drift * rng.normal(size=n) * 0.01
    target = oracle + 0.01 * rng.normal(size=n)
    mean = oracle + noise * max(drift, 0.4) * 0.01 * rng.normal(size=n)
    kind = np.where(rng.random(n) < 0.1, "overhype", "none")
    rows = rows.assign(
        bar_close_utc=rows["session"].dt.tz_localize("UTC"),
        target_ret=target,
        target_label=pd.array(target > 0, dtype="boolean"),
        oracle_mean_ret=oracle,
        mean_ret=mean,
        p_up=0.5 + mean,
        kind=kind,
        kind_score=kind,
        kind_true=kind,
        cs=np.where(kind == "overhype", 1.0, 0.0),
        s=rng.normal(size=n),
        ret=rng.normal(size=n),
    )
    for name, score in (("gross_ret", "mean_ret"), ("oracle_gross_ret", "oracle_mean_ret")):
        rows[name] = (np.sign(rows[score]) * rows["target_ret"]).groupby(rows["session"]).transform("mean")
    return rows


def markets(seeds: int, noises: dict[str, float], **more: float) -> dict[int, dict[str, pd.DataFrame]]:
    return {seed: {name: market(seed, noise, **more) for name, noise in noises.items()} for seed in range(seeds)}


@pytest.fixture(scope="module")
def planted():
    return recovery.gather(markets(4, {"fused": 0.3, "price_only": 3.0}))


@pytest.fixture(scope="module")
def found(planted):
    return recovery.summary(planted, SETTINGS, 252.0)


def test_rows_without_a_target_are_left_out_and_the_oracle_is_a_system():
    answers = markets(2, {"fused": 1.0})
    for tables in answers.values():
        last = tables["fused"]["session"] >= DAYS[-2]
        tables["fused"].loc[last, ["target_ret", "gross_ret", "oracle_gross_ret"]] = np.nan
    gathered = recovery.gather(answers)
    assert list(gathered.mean) == ["fused", "oracle"]
    assert len(gathered.rows) == 2 * len(TICKERS) * (len(DAYS) - 2)
    assert gathered.gross.shape == (len(DAYS) - 2, 4)
    assert list(gathered.gross.columns) == [(0, "fused"), (0, "oracle"), (1, "fused"), (1, "oracle")]


def test_a_null_market_has_no_oracle():
    assert list(recovery.gather(markets(2, {"fused": 1.0}, drift=0.0)).mean) == ["fused"]


def test_variants_that_answered_other_rows_are_refused():
    answers = markets(2, {"fused": 1.0, "text_only": 1.0})
    answers[1]["text_only"] = answers[1]["text_only"].iloc[1:].reset_index(drop=True)
    with pytest.raises(ValueError, match="market 1: the variants fused, text_only answer other rows"):
        recovery.gather(answers)


def test_markets_of_other_sessions_are_refused():
    answers = markets(2, {"fused": 1.0})
    answers[1]["fused"] = answers[1]["fused"].query("session > @DAYS[0]").reset_index(drop=True)
    with pytest.raises(ValueError, match="same sessions"):
        recovery.gather(answers)


def test_coefficients_are_those_of_all_rows_together(planted, found):
    target = planted.rows["target_ret"]
    for name, measured in found["systems"].items():
        assert measured["ic"] == pytest.approx(np.corrcoef(planted.mean[name], target)[0, 1], rel=1e-5)
        assert measured["ic_rank"] == pytest.approx(stats.spearmanr(planted.mean[name], target)[0], rel=1e-5)
    share = found["systems"]["fused"]["ic"] / found["systems"]["oracle"]["ic"]
    assert found["systems"]["fused"]["ic_share"] == pytest.approx(share, rel=1e-5)
    assert "ic_share" not in found["systems"]["oracle"]


def test_sharpe_is_that_of_the_books_one_after_the_other(planted, found):
    one_after_the_other = np.concatenate([planted.gross[seed]["fused"] for seed in range(4)])
    expected = statistics.sharpe(one_after_the_other, 252.0)
    assert found["systems"]["fused"]["sharpe_gross"] == pytest.approx(expected, rel=1e-5)


def test_values_of_each_market_are_its_own(planted, found):
    own = planted.rows["seed"] == 2
    expected = np.corrcoef(planted.mean.loc[own, "price_only"], planted.rows.loc[own, "target_ret"])[0, 1]
    assert found["seeds"]["2"]["price_only"]["ic"] == pytest.approx(expected, rel=1e-5)


def test_a_better_system_is_told_from_a_worse_one_by_both_intervals(found):
    less = found["differences"]["fused_less_price_only"]
    assert min(less["ic_lo"], less["ic_seeds_lo"]) > 0
    assert less["ic_lo"] < less["ic"] < less["ic_hi"]
    assert found["differences"]["fused_less_oracle"]["ic"] < 0


def test_equal_systems_differ_by_exactly_nothing():
    measured = recovery.summary(recovery.gather(markets(3, {"fused": 1.0, "text_only": 1.0})), SETTINGS, 252.0)
    less = measured["differences"]["fused_less_text_only"]
    assert set(less.values()) == {0.0}


def test_the_share_is_expected_to_be_the_correlation_with_the_oracle():
    many = recovery.gather(markets(40, {"fused": 1.0}))
    measured = recovery.summary(many, SETTINGS, 252.0)["systems"]["fused"]
    assert measured["oracle_correlation"] == pytest.approx(1 / np.sqrt(2), abs=0.01)
    assert measured["ic_share_lo"] < measured["oracle_correlation"] < measured["ic_share_hi"]


def test_correlations_without_variance_are_undefined():
    flat = pd.DataFrame({"fused": np.zeros(8)})
    sums = recovery.moments(flat, pd.Series(np.arange(8.0)), pd.Series(np.repeat(DAYS[:4], 2)))
    assert np.isnan(recovery.correlations(sums)).all()


def test_excess_hits_of_a_table_that_can_be_counted():
    rows = pd.DataFrame({"seed": 0, "session": [1, 1, 2, 2], "target_label": [True, False, True, False]})
    always = recovery.excess_hits(pd.Series([True, True, True, True]), rows)
    assert always == {"excess_hits": 0.0, "excess_hits_z": None}  # half of all hits, which is what chance gives it
    right = recovery.excess_hits(pd.Series([True, False, True, False]), rows)
    assert right == {"excess_hits": 0.5, "excess_hits_z": pytest.approx(2 / np.sqrt(2), rel=1e-5)}


def test_excess_hits_of_noise_are_standard_normal_though_names_move_together():
    rng = np.random.default_rng(3)
    days, names = 150, 8
    session = pd.Series(np.repeat(np.arange(days), names))
    z = []
    for _ in range(200):
        label = np.repeat(rng.random(days) < 0.5, names)  # all names have the day's sign
        up = pd.Series(np.repeat(rng.random(days) < 0.6, names) ^ (rng.random(days * names) < 0.1))
        rows = pd.DataFrame({"seed": 0, "session": session, "target_label": label})
        z.append(recovery.excess_hits(up, rows)["excess_hits_z"])
    assert abs(np.mean(z)) < 4 / np.sqrt(200)
    assert 0.8 < np.std(z) < 1.2  # by rows it would be above 2


def test_students_interval_and_t_are_scipys():
    values = np.array([0.3, -0.1, 0.4, 0.2])
    test = stats.ttest_1samp(values, 0.0)
    assert recovery.student_t(values) == pytest.approx(test.statistic)
    assert recovery.student_interval(values, 0.9) == pytest.approx(tuple(test.confidence_interval(0.9)))
    assert np.isnan(recovery.student_t([1.0]))
    assert np.isnan(recovery.student_interval([1.0], 0.9)).all()


def test_limits_of_a_null_market_keep_false_alarms_at_one_in_four_hundred():
    seeds = {str(seed): {"fused": {"sharpe_gross": (-1) ** seed * 0.5}} for seed in range(20)}
    criteria = recovery.null_criteria({"seeds": seeds, "systems": {"fused": {"excess_hits_z": -3.1}}})
    assert criteria["sharpe_gross_t"].criterion == pytest.approx(3.48, abs=0.005)
    assert criteria["excess_hits_z"].criterion == pytest.approx(3.02, abs=0.005)
    assert [one.passed for one in criteria.values()] == [True, False]


def test_criteria_of_a_planted_market_hold_where_it_is_found(found):
    criteria = recovery.planted_criteria(found)
    assert list(criteria) == [
        "ic_share",
        "sharpe_gross_share",
        "lowest_sharpe_gross",
        "flags_f1",
        "fused_less_price_only_ic_lo",
    ]
    assert all(one.passed for one in criteria.values())


def test_criteria_of_a_planted_market_fail_where_it_is_not_found():
    blind = recovery.gather(markets(4, {"fused": 30.0, "price_only": 0.3}))
    criteria = recovery.planted_criteria(recovery.summary(blind, SETTINGS, 252.0))
    failed = {name for name, one in criteria.items() if not one.passed}
    assert failed == set(criteria) - {"flags_f1"}


@pytest.mark.parametrize(
    ("value", "criterion", "rule", "passed"),
    [
        (0.85, 0.85, "at least", True),
        (0.84, 0.85, "at least", False),
        (0.0, 0.0, "above", False),
        (0.1, 0.0, "above", True),
        (-3.0, 3.02, "size at most", True),
        (-3.1, 3.02, "size at most", False),
        (None, 0.85, "at least", False),
    ],
)
def test_criterion(value, criterion, rule, passed):
    assert Criterion(value, criterion, rule).passed is passed
