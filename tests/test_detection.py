"""fusion_alpha.detection: measures by hand and by scikit-learn, intervals that hold the truth, ties, empty cases."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics

from fusion_alpha import config, detection
from fusion_alpha.detection import Rule

TRUTH = pd.Series(["overhype", "overhype", "underhype", "none", "none"])
KIND = pd.Series(["overhype", "underhype", "none", "overhype", "none"])
SCORE = pd.Series([2.0, 0.5, -1.0, 1.0, 0.0])


@pytest.fixture(scope="module")
def settings():
    return replace(config.load().evaluate, bootstrap_samples=300)


def days(n: int, a_day: int = 1) -> pd.Series:
    return pd.Series(np.repeat(pd.bdate_range("2018-01-02", periods=-(-n // a_day)), a_day)[:n])


def market(n_days: int, rng: np.random.Generator, noise: float) -> tuple[pd.Series, pd.Series, pd.Series]:
    """kind planted with probability 0.15 and a score that finds it with some noise; five rows a day."""
    n = 5 * n_days
    true = rng.choice([0.0, 1.0, -1.0], n, p=[0.85, 0.075, 0.075])
    score = pd.Series(2 * true + noise * rng.standard_normal(n))
    return pd.Series(true).map({0.0: "none", 1.0: "overhype", -1.0: "underhype"}), score, days(n, 5)


def kinds(score: pd.Series, tau: float = 1.0) -> pd.Series:
    return pd.Series(np.select([score >= tau, score <= -tau], ["overhype", "underhype"], "none"))


def test_only_flags_of_the_right_kind_are_hits(settings):
    found = detection.compare({"rule": Rule(KIND, SCORE)}, TRUTH, days(5), settings, reference="rule")["rule"]
    assert (found["n_flagged"], found["precision"], found["recall"], found["f1"]) == (3, *(0.333333,) * 3)
    over = metrics.roc_auc_score(TRUTH == "overhype", SCORE)
    under = metrics.roc_auc_score(TRUTH == "underhype", -SCORE)
    assert found["auc"] == pytest.approx((over + under) / 2, rel=1e-5)


@pytest.mark.parametrize("decimals", [0, 6])
def test_the_area_is_that_of_scikit_learn_with_weights_and_ties(decimals):
    rng = np.random.default_rng(decimals)
    score, positive = rng.normal(size=200).round(decimals), rng.random(200) < 0.2
    weight = rng.integers(0, 4, 200).astype(np.float64)
    level = np.unique(score, return_inverse=True)[1]
    expected = metrics.roc_auc_score(positive, score, sample_weight=weight)
    assert detection._area(level, positive, weight) == pytest.approx(expected, rel=1e-12)


def test_differences_are_paired_with_the_reference(settings):
    truth, score, session = market(200, np.random.default_rng(3), noise=1.0)
    rules = {"score": Rule(kinds(score), score), "same": Rule(kinds(score), score), "naive": Rule(kinds(score, 0.5))}
    found = detection.compare(rules, truth, session, settings, reference="same")
    assert list(found) == ["score", "score_less_same", "same", "naive", "naive_less_same"]
    assert {found["score_less_same"][f"precision{end}"] for end in ("", "_lo", "_hi")} == {0.0}
    less = found["naive_less_same"]
    assert less["precision"] == pytest.approx(found["naive"]["precision"] - found["same"]["precision"], abs=2e-6)
    assert less["precision_lo"] < less["precision"] < less["precision_hi"] < 0 < less["recall_lo"]
    assert (found["naive"]["auc"], less["auc"], less["auc_lo"]) == (None, None, None)


def test_intervals_hold_the_expectation_nine_times_in_ten_or_more(settings):
    """Against the measures of a market so long that they hardly vary."""
    truth, score, session = market(20_000, np.random.default_rng(0), noise=1.0)
    few = replace(settings, bootstrap_samples=2)
    exact = detection.compare({"rule": Rule(kinds(score), score)}, truth, session, few, reference="rule")["rule"]
    held = dict.fromkeys(detection.MEASURES, 0)
    for seed in range(40):
        truth, score, session = market(120, np.random.default_rng(100 + seed), noise=1.0)
        sampled = replace(settings, bootstrap_samples=200, seed=seed)
        found = detection.compare({"rule": Rule(kinds(score), score)}, truth, session, sampled, reference="rule")[
            "rule"
        ]
        for name in held:
            held[name] += found[f"{name}_lo"] <= exact[name] <= found[f"{name}_hi"]
    assert min(held.values()) >= 34, held  # of 40 at 95%; P < 0.01 for one measure


def test_rows_of_a_session_stay_together(settings):
    """The same rows twice in each session are worth no more than once."""
    truth, score, session = market(150, np.random.default_rng(5), noise=1.0)
    twice = [pd.concat([part, part], ignore_index=True) for part in (truth, score, session)]
    widths = []
    for rows, values, when in ((truth, score, session), tuple(twice)):
        found = detection.compare({"rule": Rule(kinds(values), values)}, rows, when, settings, reference="rule")["rule"]
        widths.append(found["precision_hi"] - found["precision_lo"])
    assert widths[0] == pytest.approx(widths[1], rel=1e-9)


def test_what_is_undefined_is_none(settings):
    nothing = pd.Series(["none"] * 6)
    rules = {"flags": Rule(KIND.reindex(range(6), fill_value="none"), pd.Series(np.zeros(6))), "silent": Rule(nothing)}
    found = detection.compare(rules, nothing, days(6), settings, reference="silent")
    assert (found["flags"]["precision"], found["flags"]["recall"], found["flags"]["auc"]) == (0.0, None, None)
    assert all(value is None for name, value in found["silent"].items() if name != "n_flagged")
    one_session = detection.compare({"rule": Rule(KIND, SCORE)}, TRUTH, days(5, 5), settings, reference="rule")["rule"]
    assert one_session["precision"] == 0.333333
    assert one_session["precision_lo"] is None
