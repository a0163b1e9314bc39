"""What counts as a trial, and what a trial leaves for those who count."""

import os
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from fusion_alpha import tracking, trials
from fusion_alpha.config import load

pytest.importorskip("mlflow.tracking")


@pytest.fixture(autouse=True)
def _in_an_empty_folder(client, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def cfg():
    return load(params=Path(__file__).parents[1] / "params.yaml")


def trained(cfg, model_id, sharpe=None, equity=None):
    """One training and, with a Sharpe ratio, its evaluation."""
    with tracking.training_run(cfg) as run:
        run.finish(model_id, {"dev/loss": 1.0})
    if sharpe is not None:
        artifacts = []
        if equity is not None:
            table = pd.DataFrame({"session": pd.bdate_range("2020-01-01", periods=len(equity)), "model": equity})
            table.to_csv("equity.csv", index=False)
            artifacts = [Path("equity.csv")]
        tracking.record_evaluation(cfg, model_id, {"strategies": {"model": {"sharpe": sharpe}}}, artifacts)
    return run.id


def with_lr(cfg, lr):
    return replace(cfg, train=replace(cfg.train, lr=lr))


def test_nothing_recorded_leaves_the_checkpoint_at_hand(client, cfg):
    assert trials.tried(cfg, "abc") == trials.Trials(count=1)


def test_a_repetition_is_no_new_trial_and_another_setting_or_result_is(client, cfg):
    for _ in range(2):
        trained(cfg, "abc", 1.5)
    assert trials.tried(cfg, "abc") == trials.Trials(1, [1.5], {}, 0, True)
    trained(with_lr(cfg, 0.01), "def", 0.5)
    trained(cfg, "other-data")
    smaller = replace(cfg, strategy=replace(cfg.strategy, max_weight=0.1))
    tracking.record_evaluation(smaller, "abc", {"strategies": {"model": {"sharpe": 1.0}}})
    found = trials.tried(cfg, "abc")
    assert (found.count, sorted(found.sharpe), found.known) == (4, [0.5, 1.0, 1.5], True)
    assert (trials.tried(cfg, "unseen").count, trials.tried(cfg, "unseen").known) == (5, False)


def test_a_trial_that_was_deleted_was_tried_all_the_same(client, cfg):
    trained(cfg, "abc", 1.5)
    client.delete_run(trained(with_lr(cfg, 0.01), "def", 0.5))
    assert trials.tried(cfg, "abc").count == 2


def test_failed_runs_other_experiments_and_reports_are_no_trials(client, cfg):
    trained(cfg, "abc", 1.5)
    with pytest.raises(ZeroDivisionError), tracking.training_run(with_lr(cfg, 0.01)):
        raise ZeroDivisionError
    with tracking.training_run(cfg, "recovery") as run:
        run.record({"planted.ratio": 0.9}, {"model_id": "abc"})
    for view in ("one", "two", "one"):
        with tracking.training_run(cfg, trials.REPORTS) as run:
            run.record({}, {"view": view, "source": "lab"})
    with tracking.training_run(cfg, trials.REPORTS) as run:
        run.record({}, {"view": "three", "source": "csv"})
    found = trials.tried(cfg, "abc")
    assert (found.count, found.views) == (1, 2)


def test_trials_of_a_search_count_without_a_sharpe_and_refused_ones_do_not(client, cfg):
    trained(cfg, "abc", 1.5)
    folds = pd.DataFrame({"loss": [1.5]})
    states = ["complete", "pruned", "refused", "complete"]
    settings = [0.01, 0.02, 0.03, 0.01]  # the last is the first again
    tried = [
        tracking.Trial(number, with_lr(cfg, lr), {"tune/loss": 1.5}, folds, {"state": state}, 1, 2)
        for number, (lr, state) in enumerate(zip(settings, states, strict=True))
    ]
    with tracking.search_run(cfg, "one", None) as record:
        record.add(tried)
        record.finish({"tune/loss": 1.5}, [])
    found = trials.tried(cfg, "abc")
    assert (found.count, found.sharpe) == (3, [1.5])


def test_equity_gives_the_returns_of_trials_that_cover_the_sessions(client, cfg):
    days = pd.bdate_range("2020-01-01", periods=4)
    name = trained(cfg, "abc", 1.5, [1.1, 1.21, 1.21, 0.605])
    trained(with_lr(cfg, 0.01), "short", 0.5, [1.0, 1.1])
    found = trials.tried(cfg, "abc")
    assert len(found.equity) == 2
    table = trials.returns(found, days)
    assert list(table) == [name]
    assert table[name].to_list() == pytest.approx([0.1, 0.1, 0.0, -0.5])
    assert trials.returns(found, days[1:2]).shape == (1, 2)
    assert trials.returns(trials.Trials(), days).shape == (4, 0)


def test_counting_takes_a_page_at_a_time(client, cfg, monkeypatch):
    monkeypatch.setattr(trials, "_PAGE", 2)
    for number in range(5):
        trained(with_lr(cfg, 0.01 + number), f"m{number}")
    assert trials.tried(cfg, "m0").count == 5


def test_importing_the_module_does_not_import_mlflow():
    import subprocess
    import sys

    program = "import sys, fusion_alpha.trials; sys.exit('mlflow' in sys.modules)"
    root = Path(__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", program], cwd=root, env=os.environ, check=False).returncode == 0
