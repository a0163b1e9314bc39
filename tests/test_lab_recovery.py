"""The recovery of planted effects as a stage: files and keys, verdict as exit status, its record, and equal bytes."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest
import torch

from fusion_alpha import config, training
from fusion_alpha.files import sha256
from stages import lab_recovery

ROOT = Path(__file__).parents[1]
FILES = (lab_recovery.METRICS, lab_recovery.SEEDS, lab_recovery.FIGURE)
SMALL = [
    *("text=stub", "contradiction.null_model=gaussian", "train.epochs=1", "predict.mc_samples=2"),
    *("recovery.n_tickers=3", "recovery.learn_sessions=100", "recovery.dev_sessions=15", "executor.workers=1"),
    *(f"recovery.{kind}.seeds=2" for kind in ("planted", "reversed", "null_market")),
    *(f"recovery.{kind}.test_sessions=20" for kind in ("planted", "reversed", "null_market")),
    "evaluate.bootstrap_samples=50",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder in which the stage has run on six small markets, and its exit status."""
    folder = tmp_path_factory.mktemp("recovery")
    (folder / "conf").symlink_to(ROOT / "conf")
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        cfg = config.load(SMALL)
        patch.chdir(folder)
        patch.setenv("DVC_ROOT", str(folder))
        with pytest.raises(SystemExit) as stopped:
            lab_recovery.main(cfg)
    yield folder, cfg, stopped.value.code
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


@pytest.fixture
def inside(finished, monkeypatch):
    folder, cfg, _ = finished
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DVC_ROOT", str(folder))
    return cfg


def test_one_epoch_recovers_nothing_and_says_so_with_everything_written(finished, inside):
    metrics = json.loads(lab_recovery.METRICS.read_text())
    assert finished[2] == 1
    assert metrics["simulated"] is True
    assert metrics["passed"] is all(metrics[kind]["passed"] for kind in lab_recovery.ASKED) is False
    for kind in lab_recovery.ASKED:
        criteria = metrics[kind]["criteria"]
        assert all(set(one) == {"value", "criterion", "rule", "passed"} for one in criteria.values())
        assert metrics[kind]["passed"] is all(one["passed"] for one in criteria.values())


def test_systems_differences_and_seeds_of_every_kind(inside):
    metrics = json.loads(lab_recovery.METRICS.read_text())
    systems = {kind: set(metrics[kind]["systems"]) for kind in lab_recovery.ASKED}
    assert systems == {
        "planted": {"fused", "price_only", "text_only", "oracle"},
        "reversed": {"fused", "oracle"},
        "null": {"fused"},
    }
    assert [metrics[kind]["delta"] for kind in lab_recovery.ASKED] == [0.3, -0.3, 0.0]
    assert set(metrics["planted"]["differences"]) == {f"fused_less_{name}" for name in systems["planted"] - {"fused"}}
    assert [list(metrics[kind]["seeds"]) for kind in lab_recovery.ASKED] == [
        ["201", "202"],
        ["301", "302"],
        ["401", "402"],
    ]
    assert {metrics[kind]["rows"] for kind in lab_recovery.ASKED} == {2 * 3 * 20}


def test_table_and_figure_hold_what_the_metrics_say(inside):
    metrics, seeds = json.loads(lab_recovery.METRICS.read_text()), pd.read_csv(lab_recovery.SEEDS)
    assert list(seeds) == ["market", "seed", "system", "ic", "ic_rank", "sharpe_gross"]
    assert len(seeds) == 2 * (4 + 2 + 1)
    for row in seeds.to_dict("records"):
        kind = row["market"].removesuffix(" market")  # pandas would read a plain "null" as no value
        assert row["ic"] == metrics[kind]["seeds"][str(row["seed"])][row["system"]]["ic"]
    ElementTree.parse(lab_recovery.FIGURE)


def test_the_run_stands_apart_from_the_strategies_trials(inside):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{Path('mlflow.db').resolve()}")
    assert client.get_experiment_by_name("lab") is None
    experiment = client.get_experiment_by_name(lab_recovery.EXPERIMENT)
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.tags["verdict"] == "failed"
    assert run.data.tags["simulated"] == "true"
    assert "planted.systems.fused.ic_share" in run.data.metrics
    assert {item.path for item in client.list_artifacts(run.info.run_id)} == {path.name for path in FILES}


def test_a_second_run_trains_nothing_and_gives_the_same_bytes(inside, monkeypatch):
    before = [sha256(path) for path in FILES]
    monkeypatch.setattr(training, "train", None)
    with pytest.raises(SystemExit):
        lab_recovery.main(inside)
    assert [sha256(path) for path in FILES] == before
