"""Runs in MLflow: what a training leaves, what a death leaves, what an evaluation attaches, who may create at once."""

import hashlib
import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from fusion_alpha import tracking
from fusion_alpha.config import load
from fusion_alpha.errors import InputError

mlflow_tracking = pytest.importorskip("mlflow.tracking")


@pytest.fixture
def cfg():
    return load(params=Path(__file__).parents[1] / "params.yaml")


def runs_of(client, source="lab"):
    return client.search_runs([client.get_experiment_by_name(source).experiment_id])


def test_training_leaves_parameters_tags_curves_and_artifacts(client, cfg, tmp_path):
    card = tmp_path / "card.md"
    card.write_text("a model card")
    folder = tmp_path / "plots"
    folder.mkdir()
    (folder / "loss.csv").write_text("epoch,loss\n")
    with tracking.training_run(cfg) as run:
        run.log_curves(pd.DataFrame({"epoch": [1, 2, 3], "train_loss": [0.7, 0.6, 0.5], "dev_loss": [0.7, None, 0.6]}))
        numbers = {"dev": {"bce": 0.6}, "not_a_number": float("nan"), "absent": None, "a_flag": True, "a_name": "x"}
        run.finish("abc123", numbers, [card, folder])
    (found,) = runs_of(client)
    assert (found.info.status, found.info.run_name) == ("FINISHED", "fused-abc123")
    assert found.data.params["train.lr"] == "0.002"
    assert found.data.params["data.lab.delta"] == "0.3"
    assert "data.stocknet" not in found.data.params
    assert found.data.metrics == {"train_loss": 0.5, "dev_loss": 0.6, "dev.bce": 0.6}
    assert [point.step for point in client.get_metric_history(run.id, "dev_loss")] == [1, 3]
    tags = found.data.tags
    expected = {"dvc.exp_name": "workspace", "model": "fused", "model_id": "abc123", "verdict": "open"}
    assert {key: tags[key] for key in expected} == expected
    assert tags["simulated"] == "true"
    assert {item.path for item in client.list_artifacts(run.id)} == {"card.md", "plots"}
    assert (tmp_path / "mlartifacts" / "lab" / run.id / "artifacts" / "plots" / "loss.csv").exists()


def test_experiment_name_and_data_hashes_are_tags(client, cfg, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_EXP_NAME", "warm-lark")
    panel = Path("data/processed/panel.parquet")
    panel.parent.mkdir(parents=True)
    panel.write_bytes(b"rows")
    with tracking.training_run(cfg) as run:
        run.finish("abc123", {})
    tags = client.get_run(run.id).data.tags
    assert (tags["mlflow.runName"], tags["dvc.exp_name"]) == ("warm-lark", "warm-lark")
    assert tags["data.panel"] == hashlib.sha256(b"rows").hexdigest()
    assert (tags["git.commit"], tags["git.dirty"]) == ("none", "unknown")


@pytest.mark.parametrize("death", [ValueError("bad batch"), KeyboardInterrupt()])
def test_a_run_that_dies_is_failed(client, cfg, death):
    with pytest.raises(type(death)), tracking.training_run(cfg):
        raise death
    assert runs_of(client)[0].info.status == "FAILED"


def test_a_killed_run_is_failed_by_the_next_training(client, cfg, caplog):
    gone = subprocess.Popen(["true"])
    gone.wait()
    with tracking.training_run(cfg) as run:
        pass
    client.set_tag(run.id, "process", f"{tracking.socket.gethostname()}:{gone.pid}")
    client.update_run(run.id, status="RUNNING")
    caplog.set_level(logging.WARNING, logger="fusion_alpha")
    with tracking.training_run(cfg) as second:
        pass
    assert client.get_run(run.id).info.status == "FAILED"
    assert client.get_run(second.id).info.status == "FINISHED"
    assert "its process is gone" in caplog.text


def test_evaluation_goes_to_the_run_that_trained_the_model(client, cfg, tmp_path):
    figure = tmp_path / "equity.svg"
    figure.write_text("<svg/>")
    with tracking.training_run(cfg) as run:
        run.finish("abc123", {})
    first = tracking.record_evaluation(cfg, "abc123", {"mcc": 0.25, "auc": None}, [figure])
    again = tracking.record_evaluation(cfg, "abc123", {"mcc": 0.25, "auc": None}, [figure])
    assert first == again == run.id
    assert client.get_run(run.id).data.metrics == {"test/mcc": 0.25}
    assert len(client.get_metric_history(run.id, "test/mcc")) == 1
    assert len(runs_of(client)) == 1
    tracking.record_evaluation(cfg, "abc123", {"mcc": 0.1})
    assert client.get_run(run.id).data.metrics == {"test/mcc": 0.1}


def test_evaluation_without_its_training_is_reconciled_once(client, cfg):
    first = tracking.record_evaluation(cfg, "abc123", {"mcc": 0.25})
    assert tracking.record_evaluation(cfg, "abc123", {"mcc": 0.25}) == first
    (found,) = runs_of(client)
    assert (found.data.tags["reconciled"], found.info.status) == ("true", "FINISHED")
    assert found.data.params["strategy.max_weight"] == "0.2"


def test_another_strategy_on_a_cached_model_does_not_overwrite_its_run(client, cfg, monkeypatch):
    with tracking.training_run(cfg) as run:
        run.finish("abc123", {})
    tracking.record_evaluation(cfg, "abc123", {"sharpe": 1.0})
    monkeypatch.setenv("DVC_EXP_NAME", "small-bets")
    smaller = replace(cfg, strategy=replace(cfg.strategy, max_weight=0.1))
    other = tracking.record_evaluation(smaller, "abc123", {"sharpe": 0.5})
    assert other != run.id
    assert client.get_run(run.id).data.metrics == {"test/sharpe": 1.0}
    tags = client.get_run(other).data.tags
    assert (tags["trained_in"], tags["mlflow.runName"]) == (run.id, "small-bets")


def test_long_values_are_cut_and_many_points_go_in_batches(client, cfg):
    with tracking.training_run(replace(cfg, hypothesis="x" * 7000)) as run:
        run.log_curves(pd.DataFrame({f"m{i}": range(300) for i in range(7)}))
        run.finish("abc123", {})
    found = client.get_run(run.id)
    assert len(found.data.params["hypothesis"]) == 6000
    assert found.data.metrics["m6"] == 299


@pytest.mark.slow
def test_four_processes_create_the_database_together(tmp_path):
    program = (
        "from fusion_alpha import tracking; from fusion_alpha.config import load\n"
        "with tracking.training_run(load()) as run: run.finish('abc', {'loss': 1.0})"
    )
    environment = os.environ | {"DVC_ROOT": str(tmp_path)}
    started = [subprocess.Popen([sys.executable, "-c", program], env=environment) for _ in range(4)]
    assert [process.wait(timeout=120) for process in started] == [0, 0, 0, 0]
    client = mlflow_tracking.MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    assert [run.info.status for run in runs_of(client)] == ["FINISHED"] * 4


def test_importing_the_module_does_not_import_mlflow():
    program = "import sys, fusion_alpha.tracking; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_damaged_database_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    (tmp_path / "mlflow.db").write_text("garbage " * 100)
    with pytest.raises(InputError, match=r"(?s)mlflow\.db: the tracking database cannot be used.*move it away"):
        tracking.prepare()


def test_a_search_has_each_trial_once_below_it(client, cfg):
    def trial(number, **settings):
        tried = replace(cfg, train=replace(cfg.train, **settings))
        folds = pd.DataFrame({"loss": [1.5, 1.25 + number]})
        return tracking.Trial(number, tried, {"tune/loss": folds["loss"].mean()}, folds, {"state": "complete"}, 1, 2)

    trials = [trial(0), trial(1, lr=0.01), trial(2, lr=0.02)]
    with tracking.search_run(cfg, "one", None) as record:
        record.add(trials[:2])
        record.add(trials)
        known = record.id
    half_done = client.search_runs([client.get_run(known).info.experiment_id], "tags.trial = '2'")[0]
    client.update_run(half_done.info.run_id, status="RUNNING")
    with tracking.search_run(cfg, "one", known) as record:
        assert record.id == known
        record.add(trials)
        record.finish({"tune/loss": 1.5}, [])
    runs = {run.data.tags.get("trial"): run for run in runs_of(client)}
    assert len(runs) == len(runs_of(client)) == 4
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert (runs[None].info.run_id, runs[None].data.metrics) == (known, {"tune/loss": 1.5})
    child = runs["1"]
    assert child.data.tags["mlflow.parentRunId"] == known
    assert (child.info.start_time, child.info.end_time) == (1, 2)
    assert child.data.params["train.lr"] == "0.01"
    assert child.data.tags["config"] != runs["0"].data.tags["config"] == runs[None].data.tags["config"]
    assert [point.value for point in client.get_metric_history(child.info.run_id, "fold/loss")] == [1.5, 2.25]
    assert "tune.seed" not in child.data.params, "what only a search reads is no setting of a training"


def test_a_search_that_is_interrupted_is_marked(client, cfg):
    with pytest.raises(KeyboardInterrupt), tracking.search_run(cfg, "one", "an id of another database") as record:
        raise KeyboardInterrupt
    assert client.get_run(record.id).info.status == "KILLED"
