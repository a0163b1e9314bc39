"""The stage end to end on small tables: what it writes, that it writes it twice alike, and what it refuses."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import trading_market

from fusion_alpha import evaluation, figures, tables, tracking
from fusion_alpha.errors import InputError
from stages import evaluate

OUTPUTS = ["evaluate.json", "equity.csv", "calibration.csv", "figures/equity.svg", "figures/calibration.svg"]
OUTPUTS += ["figures/contradiction.svg"]


@pytest.fixture(scope="module")
def cfg():
    return trading_market.configuration()


@pytest.fixture(scope="module")
def frames(cfg):
    return trading_market.market(cfg)


@pytest.fixture
def recorded(monkeypatch):
    """What the stage hands to the tracking database, without one."""
    calls = []
    monkeypatch.setattr(tracking, "record_evaluation", lambda *arguments: calls.append(arguments))
    return calls


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    return tmp_path


def store(frames):
    for name, table in frames.items():
        tables.write(name, table)


def written(project):
    return {name: (project / "metrics" / name).read_bytes() for name in OUTPUTS}


def test_the_stage_writes_the_same_bytes_twice_and_records_them(cfg, frames, project, recorded):
    store(frames)
    evaluate.main(cfg)
    first = written(project)
    shutil.rmtree("metrics")
    evaluate.main(cfg)
    assert written(project) == first
    metrics = json.loads(first["evaluate.json"])
    assert metrics["simulated"] is True
    assert metrics["n"] == 508
    assert metrics["oracle"]["ic_ratio"] == pytest.approx(1, abs=0.1)
    assert metrics["contradiction"]["score"]["precision"] == 1.0
    assert metrics["contradiction"]["naive"]["precision"] < 0.6
    assert metrics["contradiction"]["score_less_naive"]["precision_lo"] > 0.3
    assert metrics["contradiction"]["learned_less_naive"]["auc"] is None
    rules = {"momentum", "reversal", "sentiment_only", "contradiction_rule", "technical_only"}
    assert set(metrics["strategies"]) == rules | {"model", "buy_and_hold", "shuffled", "oracle"}
    for _, model_id, numbers, artifacts in recorded:
        assert (model_id, numbers) == ("abc123", metrics)
        assert all(path.exists() for path in artifacts)


def test_equity_starts_near_one_and_ends_at_the_total_return(cfg, frames, project, recorded):
    store(frames)
    evaluate.main(cfg)
    equity = pd.read_csv("metrics/equity.csv", index_col="session", parse_dates=True)
    metrics = json.loads(Path("metrics/evaluate.json").read_text())
    assert equity.index.is_monotonic_increasing
    for name, row in metrics["strategies"].items():
        assert equity[name].iloc[-1] - 1 == pytest.approx(row["total_return"], abs=1e-5)


def test_the_database_gets_the_numbers(cfg, frames, project):
    mlflow_tracking = pytest.importorskip("mlflow.tracking")
    store(frames)
    evaluate.main(cfg)
    client = mlflow_tracking.MlflowClient(tracking_uri=f"sqlite:///{project}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("lab").experiment_id])
    metrics = json.loads(Path("metrics/evaluate.json").read_text())
    assert run.data.metrics["test/mcc"] == metrics["mcc"]
    assert run.data.metrics["test/strategies.model.sharpe"] == metrics["strategies"]["model"]["sharpe"]
    assert run.data.tags["model_id"] == "abc123"
    assert {item.path for item in client.list_artifacts(run.info.run_id)} >= {"evaluate.json", "figures"}


def test_a_source_without_truth_is_evaluated_without_an_oracle(cfg, frames, project, recorded):
    real = replace(cfg, data=replace(cfg.data, simulated=False))
    store(frames | {"truth": tables.empty("truth")})
    evaluate.main(real)
    metrics = json.loads(Path("metrics/evaluate.json").read_text())
    assert metrics["simulated"] is False
    assert "oracle" not in metrics
    assert "contradiction" not in metrics
    assert "oracle" not in metrics["strategies"]


@pytest.mark.parametrize(("start", "end"), [("2019-01-01", "2020-01-01"), ("2030-01-01", "2031-01-01")])
def test_no_test_rows_is_refused_with_the_dates(cfg, frames, start, end):
    late = replace(cfg, data=replace(cfg.data, test_start=start, test_end=end))
    predictions = frames["predictions"].assign(split="dev")
    with pytest.raises(InputError, match=rf"(?s)no test rows.*2015-06-01 to 2016-12-30.*{start} to before {end}"):
        evaluation.decisions(predictions, frames["panel"], late)


def test_empty_predictions_are_refused(cfg, frames):
    with pytest.raises(InputError, match="no test rows"):
        evaluation.decisions(tables.empty("predictions"), frames["panel"], cfg)


def test_the_live_refit_is_never_scored(cfg, frames):
    with pytest.raises(InputError, match="no test rows"):
        evaluation.decisions(frames["predictions"].assign(fold="final"), frames["panel"], cfg)


def test_predictions_of_two_models_and_of_another_panel_are_refused(cfg, frames):
    twice = pd.concat([frames["predictions"], frames["predictions"].assign(model_id="def456")], ignore_index=True)
    with pytest.raises(InputError, match="model abc123, def456 overlap"):
        evaluation.decisions(twice, frames["panel"], cfg)
    with pytest.raises(InputError, match="not in the panel"):
        evaluation.decisions(frames["predictions"], frames["panel"].query("ticker != 'T0'"), cfg)


def test_truth_of_another_laboratory_is_refused(cfg, frames):
    rows = evaluation.decisions(frames["predictions"], frames["panel"], cfg)
    other = frames["truth"].query("ticker != 'T0'")
    with pytest.raises(InputError, match="absent from the truth"):
        evaluation.evaluate(rows, frames["panel"], frames["contradiction"], other, cfg)


def test_targets_that_are_all_unknown_leave_only_the_strategies(cfg, frames, project, recorded):
    no_label = pd.array([pd.NA] * len(frames["panel"]), "boolean")
    unknown = frames["panel"].assign(target_ret=np.nan, target_label=no_label)
    store(frames | {"panel": unknown})
    evaluate.main(cfg)
    metrics = json.loads(Path("metrics/evaluate.json").read_text())
    assert (metrics["n"], metrics["accuracy"], metrics["ic"]) == (0, None, None)
    assert metrics["strategies"]["model"]["sharpe"] is not None


def test_one_session_is_evaluated(cfg, frames, project, recorded):
    one = frames["predictions"].query("split == 'test'")
    store(frames | {"predictions": one[one["decided_utc"] == one["decided_utc"].min()]})
    evaluate.main(cfg)
    metrics = json.loads(Path("metrics/evaluate.json").read_text())
    assert (metrics["n"], metrics["n_sessions"]) == (4, 1)
    assert metrics["strategies"]["model"]["sharpe"] is None
    assert metrics["strategies"]["model"]["total_return"] is not None


def test_one_ticker_is_evaluated(cfg, project, recorded):
    store(trading_market.market(cfg, n_tickers=1))
    evaluate.main(cfg)
    metrics = json.loads(Path("metrics/evaluate.json").read_text())
    assert metrics["ic_daily"] is None
    assert metrics["ic"] is not None


def test_the_example_shows_what_was_planted_where_it_is_known(cfg, frames):
    rows = evaluation.decisions(frames["predictions"], frames["panel"], cfg)
    tables_of = frames["panel"], frames["contradiction"]
    bars = evaluate.example(rows, *tables_of, frames["truth"])
    unknown = evaluate.example(rows, *tables_of, tables.empty("truth"))
    assert len(bars) == len(unknown) == evaluate.FIGURE_BARS
    assert bars["ticker"].nunique() == 1
    assert bars["bar_close_utc"].is_monotonic_increasing
    drawn = [figures.contradictions(part, (0.75, 0.75), simulated=True) for part in (bars, unknown)]
    assert drawn[0] != drawn[1]
    assert b"planted" in drawn[0]
    assert b"planted" not in drawn[1]


def test_figures_carry_no_date_and_a_watermark_only_where_simulated():
    values = pd.DataFrame(
        {"model": [1.0, 1.1], "buy_and_hold": [1.0, 0.9]}, index=pd.to_datetime(["2018-01-02", "2018-01-03"])
    )
    real = figures.equity(values, "model", "buy_and_hold", {}, simulated=False)
    simulated = figures.equity(values, "model", "buy_and_hold", {}, simulated=True)
    assert b"SIMULATED" not in real
    assert b"SIMULATED" in simulated
    assert not re.search(rb"<dc:date>|matplotlib\.org", simulated)
