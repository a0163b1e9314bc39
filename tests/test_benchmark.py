"""The benchmark's protocol: thresholds, lag, and the published counts on the real archive."""

import numpy as np
import pandas as pd
from source_inputs import configuration

from fusion_alpha import benchmark
from fusion_alpha.sources import stocknet


def test_label_at_its_thresholds():
    movement = pd.Series([-0.005001, -0.005, 0.0, 1e-7, 0.005499, 0.0055, 0.02, np.nan])
    expected = [False, None, None, None, None, True, True, None]
    assert [None if pd.isna(value) else bool(value) for value in benchmark.label(movement)] == expected


def table(days, movement=0.01, ticker="A", set_a=False):
    sessions = pd.Series(pd.to_datetime(days)).astype("datetime64[us]")
    return pd.DataFrame({"ticker": ticker, "session": sessions, "movement": movement, "set_a": set_a})


def test_split_by_target_day():
    days = [
        "2013-12-31",
        "2014-01-02",
        "2015-07-31",
        "2015-08-03",
        "2015-09-30",
        "2015-10-01",
        "2015-12-31",
        "2016-01-04",
    ]
    split = benchmark.split(table(days)["session"])
    assert split.tolist() == ["none", "train", "train", "dev", "dev", "test", "test", "none"]


def test_sample_needs_a_price_from_before_the_lag_and_sits_on_the_session_before():
    rows = table(["2014-11-20", "2014-11-21", "2014-11-24", "2014-11-25", "2014-11-26"])
    asked = benchmark.samples(rows)
    assert asked["session"].dt.strftime("%m-%d").tolist() == [
        "11-25",
        "11-26",
    ]  # 11-24 - 4 days is the first price's day
    assert asked["row_session"].dt.strftime("%m-%d").tolist() == ["11-24", "11-25"]


def test_samples_of_tickers_do_not_mix_and_dropped_rows_are_no_samples():
    days = ["2014-11-10", "2014-11-20", "2014-11-21"]
    asked = benchmark.samples(pd.concat([table(days, ticker="B"), table(days, movement=0.001)]))
    assert asked["ticker"].tolist() == ["B", "B"]


def plain_lag(sessions, tweets):
    """The rule word for word, one session at a time."""
    covered = []
    for d in sessions:
        slots = [t for t in sessions if d - np.timedelta64(4, "D") <= t <= d]
        used = set()
        for lag in range(1, 6):
            x = d - np.timedelta64(lag, "D")
            if x in tweets:
                used.add(next(t for t in slots if t > x))
        covered.append(used == set(slots))
    return np.array(covered)


def test_lag_is_the_rule_word_for_word():
    rng = np.random.default_rng(3)
    calendar = np.arange("2014-01-01", "2014-12-31", dtype="datetime64[D]")
    for share in (0.3, 0.6, 0.9):
        sessions = calendar[np.is_busday(calendar) & (rng.random(len(calendar)) < 0.95)]
        tweets = calendar[rng.random(len(calendar)) < share]
        expected = plain_lag(sessions, set(tweets))
        np.testing.assert_array_equal(benchmark.lag_is_covered(sessions, tweets), expected)
        assert 0 < expected.sum() < len(expected)


def test_lag_of_a_monday_takes_the_weekend():
    week = np.array(
        ["2015-01-05", "2015-01-06", "2015-01-07", "2015-01-08", "2015-01-09", "2015-01-12"], "datetime64[D]"
    )
    # Monday 12 asks for tweets of Wed 7 (for Thu 8), Thu 8 (for Fri 9) and one of Fri 9 .. Sun 11 (for itself).
    for weekend in ("2015-01-09", "2015-01-10", "2015-01-11"):
        tweets = np.array(["2015-01-07", "2015-01-08", weekend], "datetime64[D]")
        assert benchmark.lag_is_covered(week, tweets)[-1]
    assert not benchmark.lag_is_covered(week, np.array(["2015-01-07", "2015-01-08", "2015-01-12"], "datetime64[D]"))[-1]


def test_counts_of_the_archive(shared_data):
    cfg = configuration("stocknet", {"archive": str(shared_data / "stocknet")})
    path = stocknet.local_archive(cfg.data.stocknet)
    with stocknet.opened(path, "archive") as source:
        inside = stocknet.members(source, "archive")
        days = stocknet.tweet_days(inside)
        movements = stocknet.movements(source, inside, days)
    movements = movements[movements["session"] < "2016-01-01"]
    counts = benchmark.counts(movements)
    found = {name: {split: part["samples"] for split, part in parts.items()} for name, parts in counts.items()}
    assert found["set_b"] == {"train": 20339, "dev": 2555, "test": 3720}
    assert found["set_a"] == {"train": 4987, "dev": 656, "test": 1008}
    assert (counts["set_b"]["test"]["up"], counts["set_a"]["test"]["up"]) == (1908, 579)
    test = benchmark.samples(movements).query("split == 'test'")["session"]
    assert [str(day.date()) for day in (test.min(), test.max())] == ["2015-10-01", "2015-12-31"]
