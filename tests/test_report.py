"""A report: which part of the test rows it trades, what it says about it, what it refuses."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import trading_market

from fusion_alpha import report, statistics, tables, trials
from fusion_alpha.errors import InputError
from fusion_alpha.report import View

FIRST, LAST = "2016-06-30", "2016-12-30"  # sessions in which the test rows fill; the last open only closes


@pytest.fixture(scope="module")
def cfg():
    return trading_market.configuration()


@pytest.fixture(scope="module")
def frames(cfg):
    return trading_market.market(cfg)


@pytest.fixture(scope="module")
def whole(cfg, frames):
    return report.build(frames, View(), cfg)


def test_the_whole_test_period_against_buying_and_holding(whole, frames, cfg):
    numbers = whole.numbers
    assert numbers["view"]["whole_test"] is True
    assert (numbers["view"]["first_session"], numbers["view"]["last_session"]) == (FIRST, "2016-12-29")
    assert numbers["view"]["sessions"] == len(whole.returns) == 127
    assert set(numbers["strategies"]) == set(whole.returns)
    assert set(numbers["against_baseline"]) == set(whole.returns) - {"buy_and_hold"}
    assert set(numbers["model_against"]) == set(whole.returns) - {"model", "oracle"}
    assert numbers["model_against"]["buy_and_hold"]["excess_annual"] > 0
    assert numbers["model_against"]["shuffled"]["p"] < 0.05
    assert numbers["selection"]["pbo_strategies"]["configurations"] == whole.returns.shape[1] - 1, "no choice: oracle"
    assert numbers["selection"]["spa"]["p"] < 0.05
    json.dumps(numbers, allow_nan=False)


def test_figures_are_those_of_the_simulation(whole):
    model = whole.returns["model"]
    measured = whole.numbers["strategies"]["model"]
    assert float(np.prod(1 + model) - 1) == pytest.approx(measured["total_return"], rel=1e-5)
    assert (model > whole.returns["buy_and_hold"]).mean() == pytest.approx(measured["hit_rate"], rel=1e-5)
    months = whole.numbers["monthly"]["model"]
    assert np.prod([1 + value for value in months.values()]) - 1 == pytest.approx(measured["total_return"], rel=1e-4)
    assert next(iter(months)) == "2016-06"
    assert whole.exposure["exposure"].mean() == pytest.approx(measured["exposure"], rel=1e-5)


def test_the_same_view_gives_the_same_figures(whole, frames, cfg):
    assert report.build(frames, View(), cfg).numbers == whole.numbers


def test_a_part_is_traded_afresh(frames, cfg, whole):
    view = View(first="2016-08-01", last="2016-10-31", tickers=("T0", "T2"))
    part = report.build(frames, view, cfg)
    shown = part.numbers["view"]
    assert (shown["first_session"], shown["last_session"]) == ("2016-08-01", "2016-10-31")
    assert (shown["tickers"], shown["whole_test"]) == (["T0", "T2"], False)
    assert part.returns.index.equals(whole.returns.loc["2016-08-01":"2016-10-31"].index)
    traded = part.numbers["strategies"]["buy_and_hold"]["turnover"] * shown["sessions"]
    assert traded > 1.9, "bought at the start, sold at the end"


@pytest.mark.parametrize("baseline", ["model", "oracle", "shuffled", "momentum"])
def test_any_strategy_can_be_the_baseline(frames, cfg, baseline):
    numbers = report.build(frames, View(baseline=baseline), cfg).numbers
    assert numbers["strategies"][baseline]["hit_rate"] is None
    assert baseline not in numbers["against_baseline"]
    assert set(numbers["monthly"]) == {"model", baseline}


def test_costs_replace_the_side_costs_alone(frames, cfg, whole):
    free, dear = (report.build(frames, View(cost_bps=cost), cfg) for cost in (0.0, 50.0))
    assert (free.cfg.strategy.side_cost_bps, dear.cfg.strategy.side_cost_bps) == (0.0, 50.0)
    assert dear.cfg.strategy.borrow_bps == cfg.strategy.borrow_bps
    returns = [one.numbers["strategies"]["momentum"]["total_return"] for one in (free, whole, dear)]
    assert returns == sorted(returns, reverse=True)
    assert report.with_costs(cfg, None) is cfg


def test_trials_deflate_and_their_equity_is_compared(frames, cfg, whole):
    value = (1 + whole.returns).cumprod().round(6)
    curves = {"itself": value["model"], "better": value["oracle"], "other": value["momentum"]}
    tried = trials.Trials(40, [2.0, 1.0, 0.5], curves, 3, True)
    chosen = report.build(frames, View(), cfg, tried).numbers["selection"]
    assert chosen["deflated_sharpe"]["trials"] == 40
    assert chosen["deflated_sharpe"]["sharpe_threshold"] > 0
    assert chosen["pbo_trials"]["configurations"] == 3
    alone = whole.numbers["selection"]
    assert chosen["spa"]["strategies"] == alone["spa"]["strategies"] + 2, "the model's own curve is no other one"
    assert chosen["pbo_strategies"] == alone["pbo_strategies"]
    part = report.build(frames, View(cost_bps=5.0), cfg, tried).numbers["selection"]
    assert part["pbo_trials"]["configurations"] == 0, "recorded at other costs"


def test_what_follows_contradictions(whole, frames):
    found = whole.numbers["contradictions"]
    assert found["overhype"]["mean_bps_hi"] < 0 < found["underhype"]["mean_bps_lo"]
    assert sum(kind["share"] for kind in found.values()) == pytest.approx(1, abs=1e-4)
    assert sum(kind["bars"] for kind in found.values()) == whole.numbers["forecast"]["n"]


def test_minute_bars_are_drawn_by_sessions():
    minutes = replace(trading_market.configuration(), interval="65m")
    frames = trading_market.market(minutes, n_tickers=2)
    numbers = report.build(frames, View(first="2016-09-01", last="2016-11-30"), minutes).numbers
    assert numbers["view"]["sessions"] == 63
    assert numbers["view"]["sessions_per_year"] == 252
    assert numbers["view"]["first_session"] == "2016-09-01"
    assert numbers["view"]["last_session"] == "2016-11-30"


@pytest.mark.parametrize(
    ("view", "words"),
    [
        (View(baseline="index"), "(?s)--baseline 'index'.*one of model, buy_and_hold, momentum.*shuffled"),
        (View(tickers=("T0", "TSLA")), "(?s)--ticker TSLA.*one of T0, T1, T2, T3"),
        (View(first="2015-01-02"), f"(?s)--from 2015-01-02.*a date in {FIRST} to {LAST}"),
        (View(last="2020-01-02"), f"(?s)--to 2020-01-02.*a date in {FIRST} to {LAST}"),
        (View(first="soon"), "(?s)--from 'soon'.*YYYY-MM-DD"),
        (View(last="2016-2-30"), "(?s)--to '2016-2-30'.*YYYY-MM-DD"),
        (View(first="2016-10-03", last="2016-09-01"), "(?s)--from is before --to"),
        (View(first="2016-10-03", last="2016-10-03"), "(?s)1 session to trade in from 2016-10-03.*at least 20"),
        (View(first="2016-10-01", last="2016-10-02"), "(?s)0 sessions to trade in"),
        (View(cost_bps=-1.0), "(?s)--cost-bps -1.*at least 0"),
        (View(cost_bps=float("nan")), "(?s)--cost-bps nan"),
    ],
)
def test_views_that_cannot_be_are_refused_with_what_can(frames, cfg, view, words):
    with pytest.raises(InputError, match=words):
        report.build(frames, view, cfg)


def test_empty_predictions_are_refused(frames, cfg):
    with pytest.raises(InputError, match=r"(?s)predictions\.parquet: holds no predictions.*dvc repro"):
        report.build(frames | {"predictions": tables.empty("predictions")}, View(), cfg)


def test_the_origin_names_commit_data_seeds_and_trials(frames, cfg, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in report.READ:
        tables.write(name, frames[name])
    about = report.provenance(cfg, "abc123", trials.Trials(7, [1.0, 2.0], {}, 4, True))
    assert (about["commit"], about["uncommitted_changes"]) == ("none", None)
    assert set(about["data_sha256"]) == set(report.READ)
    assert about["seeds"] == {"train": 1, "evaluate": 5, "contradiction": 11, "market": 7}
    assert about["trials"]["count"] == 7
    assert about["simulated"] is True


def test_sessions_of_fills(frames):
    rows = frames["panel"].query("ticker == 'T0'")
    days = report.filled_in(rows, frames["panel"])
    known = rows["fill_utc"].dt.tz_convert("America/New_York").dt.tz_localize(None).dt.normalize()
    assert (days.iloc[:-1] == known.iloc[:-1]).all()


def test_reliability_is_that_of_the_rows(whole):
    assert whole.numbers["forecast"]["ece"] == statistics.rounded(
        statistics.expected_calibration_error(whole.reliability)
    )
    assert pd.DataFrame(whole.numbers["calibration"])["n"].sum() == whole.numbers["forecast"]["n"]
