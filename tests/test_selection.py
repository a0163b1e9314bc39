"""Each statistic against a known answer: published figures, exact constructions, an implementation of our own."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from fusion_alpha import selection, statistics
from fusion_alpha.config import load

YEAR = 252.0


@pytest.fixture(scope="module")
def settings():
    return replace(load().evaluate, bootstrap_samples=500, block_sessions=5)


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def table(values, names=None):
    days = pd.bdate_range("2020-01-01", periods=len(values))
    return pd.DataFrame(values, index=days, columns=names or [f"s{i}" for i in range(values.shape[1])])


def with_sharpe(values, target):
    """The same values with this Sharpe ratio a bar and a deviation of 1%."""
    centred = (values - values.mean()) / values.std(ddof=1) * 0.01
    return centred + target * 0.01


def spread(n, deviation):
    """n numbers with exactly this standard deviation."""
    values = np.linspace(-1, 1, n)
    return values / values.std(ddof=1) * deviation


def test_deflated_sharpe_of_the_papers_example():
    """Bailey and Lopez de Prado (2014): 5 years of 250 days, Sharpe 2.5, skewness -3, kurtosis 10, 100 trials whose
    annualised Sharpe ratios have variance 1/2: the threshold is 0.1132 a day, the answer 0.9004."""
    two_points = np.ones(1250)
    two_points[:105] = -10.0  # a share of 8.4% gives both moments, since 10 = 1 + (-3)^2
    returns = with_sharpe(two_points, 2.5 / np.sqrt(250))
    assert stats.skew(returns) == pytest.approx(-3, abs=0.001)
    assert stats.kurtosis(returns, fisher=False) == pytest.approx(10, abs=0.01)
    found = selection.deflated_sharpe(returns, list(spread(100, np.sqrt(0.5))), 100, 250)
    assert found["sharpe_threshold"] / np.sqrt(250) == pytest.approx(0.1132, abs=5e-5)
    assert found["probability"] == pytest.approx(0.9004, abs=5e-4)
    assert found["trials_sd"] == pytest.approx(np.sqrt(0.5), rel=1e-5)


def test_one_trial_is_deflated_by_nothing(rng):
    returns = with_sharpe(rng.standard_normal(500), 0.1)
    for known in ([], [1.6]):
        found = selection.deflated_sharpe(returns, known, 1, YEAR)
        assert found["sharpe_threshold"] == 0
        assert found["probability"] == found["probability_of_one_trial"]
    skewness, kurtosis = stats.skew(returns), stats.kurtosis(returns, fisher=False)
    error = np.sqrt(1 - skewness * 0.1 + (kurtosis - 1) / 4 * 0.01)
    assert found["probability"] == pytest.approx(stats.norm.cdf(0.1 * np.sqrt(499) / error), rel=1e-5)


def test_trials_that_never_saw_test_count_as_independent_ones_without_skill(rng):
    returns = with_sharpe(rng.standard_normal(505), 0.1)
    most = (1 - np.euler_gamma) * stats.norm.ppf(1 - 1 / 50) + np.euler_gamma * stats.norm.ppf(1 - 1 / (50 * np.e))
    none_known = selection.deflated_sharpe(returns, [], 50, YEAR)
    assert none_known["sharpe_threshold"] == pytest.approx(np.sqrt(YEAR / 504) * most, rel=1e-5)
    all_known = selection.deflated_sharpe(returns, list(spread(50, 0.2)), 50, YEAR)
    some = selection.deflated_sharpe(returns, list(spread(20, 0.2)), 50, YEAR)
    assert all_known["sharpe_threshold"] < some["sharpe_threshold"] < none_known["sharpe_threshold"]
    assert some["trials_sd"] == pytest.approx(np.sqrt((19 * 0.04 + 30 * YEAR / 504) / 49), rel=1e-5)


def test_more_trials_deflate_more_and_nonsense_is_refused(rng):
    returns = with_sharpe(rng.standard_normal(300), 0.1)
    found = [selection.deflated_sharpe(returns, [], n, YEAR)["probability"] for n in (1, 2, 10, 100, 1000)]
    assert found == sorted(found, reverse=True)
    for known, n in (([], 0), ([1.0, 2.0], 1)):
        with pytest.raises(ValueError, match="at least one"):
            selection.deflated_sharpe(returns, known, n, YEAR)


@pytest.mark.parametrize("returns", [np.zeros(50), np.array([0.01]), np.array([0.01, 0.02])])
def test_sharpe_without_variance_or_rows_is_undefined(returns):
    assert selection.deflated_sharpe(returns, [], 5, YEAR)["probability"] is None


def test_the_best_of_worthless_trials_is_rarely_called_good():
    """False alarms of 5% each: 4 or more of 20 happen in 1.6% of all cases."""
    alarms = 0
    for seed in range(20):
        trials = 0.01 * np.random.default_rng(seed).standard_t(5, (504, 50))
        ratios = trials.mean(0) / trials.std(0, ddof=1) * np.sqrt(YEAR)
        found = selection.deflated_sharpe(trials[:, ratios.argmax()], list(ratios), 50, YEAR)
        alarms += found["probability"] >= 0.95
    assert alarms <= 3


def cscv(values, blocks):
    """Probability of overfitting from its definition; values [n, k], n a multiple of blocks."""
    parts = np.split(values, blocks)
    below = []
    for chosen in itertools.combinations(range(blocks), blocks // 2):
        inside = np.concatenate([parts[i] for i in chosen])
        outside = np.concatenate([parts[i] for i in range(blocks) if i not in chosen])
        ratio = [half.mean(0) / half.std(0, ddof=1) for half in (inside, outside)]
        rank = stats.rankdata(ratio[1])[ratio[0].argmax()]
        below.append(rank / (values.shape[1] + 1) < 0.5)
    return np.mean(below)


@pytest.mark.parametrize("k", [2, 5, 20])
def test_overfitting_agrees_with_its_definition(rng, k):
    values = rng.standard_normal((200, k))
    found = selection.overfitting(table(values))
    assert found["pbo"] == pytest.approx(cscv(values, 10), abs=1e-6)
    assert (found["configurations"], found["combinations"]) == (k, 252)


def test_overfitting_of_known_choices(rng):
    noise = 0.01 * rng.standard_normal((200, 4))
    assert selection.overfitting(table(noise + np.array([0, 0, 0.05, 0])))["pbo"] == 0
    turning = np.repeat([[0.05, -0.05], [-0.05, 0.05]], 100, axis=0) + noise[:, :2]  # each good where the other is bad
    assert selection.overfitting(table(turning), blocks=2)["pbo"] == 1
    worthless = [selection.overfitting(table(rng.standard_normal((200, 10))))["pbo"] for _ in range(20)]
    assert np.mean(worthless) == pytest.approx(0.5, abs=0.136)


def test_names_for_one_thing_are_no_choice(rng):
    one = rng.standard_normal((100, 1))
    twice = table(np.hstack([one, one]))
    assert selection.overfitting(twice) == {"configurations": 1, "blocks": 10, "pbo": None, "combinations": None}
    assert selection.overfitting(twice.iloc[:, :0])["pbo"] is None
    assert selection.overfitting(table(rng.standard_normal((19, 3))))["pbo"] is None


def test_spa_finds_a_better_strategy_and_no_worse_one(rng, settings):
    noise = 0.01 * rng.standard_normal((500, 4))
    better = selection.superior(table(noise + np.array([0, 0, 0.003, -0.003])), "s0", settings)
    assert better["p"] < 0.01
    assert better["strategies"] == 3
    worse = selection.superior(table(noise - np.array([0, 0.003, 0.003, 0.003])), "s0", settings)
    assert worse["p"] > 0.5
    assert better["p_lower"] <= better["p"] <= better["p_upper"]
    assert selection.superior(table(noise), "s0", settings) == selection.superior(table(noise), "s0", settings)


def test_spa_rarely_alarms_where_nothing_is_better(settings):
    """At 10%, of 60 markets: more than 13 alarms happen in 0.2% of all cases."""
    few = replace(settings, bootstrap_samples=200)
    alarms = 0
    for seed in range(60):
        values = 0.01 * np.random.default_rng(seed).standard_normal((250, 5))
        alarms += selection.superior(table(values), "s0", few)["p"] < 0.1
    assert alarms <= 13


def test_spa_without_alternatives_is_undefined(rng, settings):
    values = rng.standard_normal((50, 1))
    for same in (table(values), table(np.hstack([values, values]))):
        assert selection.superior(same, "s0", settings) == {
            "strategies": 0,
            "p": None,
            "p_lower": None,
            "p_upper": None,
        }


def test_paired_differences_by_hand(rng, settings):
    returns = table(0.01 * rng.standard_normal((300, 3)) + [0.002, 0, 0], ["a", "b", "c"])
    first, second = selection.paired_tests(returns, [("a", "b"), ("a", "c")], YEAR, settings)
    assert (first["strategy"], first["against"], second["against"]) == ("a", "b", "c")
    assert first["excess_annual"] == pytest.approx((returns["a"] - returns["b"]).mean() * YEAR, rel=1e-5)
    ratio = returns.mean() / returns.std() * np.sqrt(YEAR)
    assert first["sharpe_difference"] == pytest.approx(ratio["a"] - ratio["b"], rel=1e-5)
    assert first["excess_annual_lo"] < first["excess_annual"] < first["excess_annual_hi"]
    assert first["sharpe_difference_lo"] < first["sharpe_difference"] < first["sharpe_difference_hi"]
    p = sorted([first["p"], second["p"]])
    assert sorted([first["p_holm"], second["p_holm"]]) == pytest.approx(
        [min(2 * p[0], 1), max(2 * p[0], p[1])], abs=1e-4
    )


def test_a_pair_turned_around_is_its_mirror_image(rng, settings):
    returns = table(0.01 * rng.standard_normal((200, 2)), ["a", "b"])
    (there,), (back,) = (selection.paired_tests(returns, [pair], YEAR, settings) for pair in [("a", "b"), ("b", "a")])
    assert there["excess_annual"] == -back["excess_annual"]
    assert there["p"] == back["p"]
    assert there["excess_annual_lo"] == pytest.approx(-back["excess_annual_hi"])


def test_the_pair_sees_what_two_separate_intervals_cannot(rng, settings):
    """Both move with the market; their difference is small and steady."""
    market = 0.02 * rng.standard_normal(500)
    returns = table(np.column_stack([market + 0.0005 + 0.001 * rng.standard_normal(500), market]), ["a", "b"])
    (test,) = selection.paired_tests(returns, [("a", "b")], YEAR, settings)
    assert test["p"] < 0.01
    rows = returns.to_numpy()
    low, high = statistics.bootstrap_interval(lambda sample: sample.mean(0) * YEAR, rows, 5, settings)
    assert low[0] < high[1]
    assert low[1] < high[0]


def test_paired_test_alarms_as_often_as_it_says(settings):
    """At 10%, of 100 equal pairs: 2 to 20 alarms in 99.8% of all cases; blocks keep what hangs together."""
    few = replace(settings, bootstrap_samples=200, block_sessions=10)
    alarms = 0
    for seed in range(100):
        moves = np.random.default_rng(seed).standard_normal((252, 2))
        moves[1:] += 0.3 * moves[:-1]
        (test,) = selection.paired_tests(table(0.01 * moves, ["a", "b"]), [("a", "b")], YEAR, few)
        alarms += test["p"] < 0.1
    assert 2 <= alarms <= 20


def test_pairs_of_equals_and_no_pairs(rng, settings):
    values = 0.01 * rng.standard_normal((100, 1))
    flat = table(np.hstack([values, values, np.zeros((100, 1))]), ["a", "same", "flat"])
    same, flat_one = selection.paired_tests(flat, [("a", "same"), ("a", "flat")], YEAR, settings)
    assert (same["excess_annual"], same["p"], same["p_holm"]) == (0, 1, 1)
    assert flat_one["sharpe_difference"] is None
    assert selection.paired_tests(flat, [], YEAR, settings) == []


def test_minutes_become_sessions():
    minutes = pd.DataFrame(
        {"net_ret": [0.1, 0.1, -0.5], "session": pd.to_datetime(["2020-01-02"] * 2 + ["2020-01-03"])}
    )
    found = selection.by_session({"a": minutes})
    assert found["a"].to_list() == pytest.approx([0.21, -0.5])
