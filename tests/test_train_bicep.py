"""The comparison as a stage: files and keys, record in MLflow, verdict as exit status, and that it resumes."""

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest
import torch
from fusion_market import configuration, market

from fusion_alpha import executor, paired, tables, throughput, training
from fusion_alpha.files import sha256
from stages import train_bicep

KEYS = {"parity", "epoch_time_ratio", "mc_speedup_s32", "tflops", "tflops_share", "device", "threads", "simulated"}


def small(**settings):
    cfg = configuration()
    defaults = {"steps": 3, "min_seeds": 2, "max_seeds": 2, "rounds": 1, "margin_nats": 0.5}
    return replace(cfg, parity=replace(cfg.parity, **defaults | settings), executor=executor.HERE)


@pytest.fixture(scope="module")
def inside(tmp_path_factory):
    """A folder where the stage finds the small market."""
    folder = tmp_path_factory.mktemp("parity")
    frames = market()
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "read", lambda name, columns=None: frames[name])
        patch.setattr(paired, "cache_key", lambda cfg: "key")
        patch.setitem(throughput._MATRIX, "cpu", 128)
        patch.setenv("DVC_ROOT", str(folder))
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        yield folder
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def finished(inside):
    cfg = small()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(inside)
        train_bicep.main(cfg)
    return inside


def test_every_key_is_there_and_every_level_says_what_it_measured(finished):
    metrics = json.loads((finished / train_bicep.METRICS).read_text())
    assert set(metrics) >= KEYS
    assert list(metrics["parity"]) == ["L0", "L1", "L2", "L3"]
    for name, level in metrics["parity"].items():
        assert {"value", "criterion", "passed", "unit"} <= set(level), name
        if level["passed"] is not None:
            assert level["passed"] == (level["value"] <= level["criterion"])
    assert [level["passed"] for level in metrics["parity"].values()] == [True, True, True, None]
    assert metrics["parity"]["L2"]["seeds"] == 2
    assert all(metrics[name] > 0 for name in ("epoch_time_ratio", "mc_speedup_s32", "tflops", "tflops_share"))


def test_tables_and_figure_hold_what_the_metrics_say(finished):
    metrics = json.loads((finished / train_bicep.METRICS).read_text())
    seeds, times = (pd.read_csv(finished / path) for path in (train_bicep.SEEDS, train_bicep.TIMES))
    assert list(seeds) == ["seed", "bicep", "torch", "difference"]
    assert seeds["difference"].mean() == pytest.approx(metrics["parity"]["L2"]["mean_difference"], rel=1e-5)
    assert list(times) == ["round", "epoch_bicep_s", "epoch_torch_s", "mc_bicep_s", "mc_torch_s"]
    assert times["epoch_bicep_s"].median() == pytest.approx(metrics["epoch_s"]["bicep"], rel=1e-5)
    ElementTree.parse(finished / train_bicep.FIGURE)


def test_the_run_stands_apart_from_the_strategies_trials(finished):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{finished / 'mlflow.db'}")
    assert client.get_experiment_by_name("lab") is None
    experiment = client.get_experiment_by_name("bicep")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.tags["verdict"] == "passed"
    assert run.data.tags["simulated"] == "true"
    assert run.data.metrics["parity.L0.value"] == 0
    assert "parity.L3.value" not in run.data.metrics
    assert run.data.params["parity.steps"] == "3"
    assert {item.path for item in client.list_artifacts(run.info.run_id)} >= {"bicep.json", "bicep.svg"}


def test_a_level_that_does_not_hold_ends_in_status_1_with_everything_written(finished, monkeypatch):
    strict = small(margin_nats=1e-9)
    monkeypatch.chdir(finished)
    kept = sorted(Path(".cache/bicep/key").iterdir())
    assert len(kept) == 4
    before = [sha256(path) for path in kept]
    monkeypatch.setattr(training, "train", None)  # the paired trainings are not done again
    with pytest.raises(SystemExit) as stopped:
        train_bicep.main(strict)
    assert stopped.value.code == 1
    level = json.loads(train_bicep.METRICS.read_text())["parity"]["L2"]
    assert (level["passed"], level["criterion"]) == (False, 1e-9)
    assert [sha256(path) for path in kept] == before
