"""The stage of the canaries: files and keys, verdict as exit status, its record, resumption, and equal bytes."""

import json
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest
import torch
from canary_market import small

from fusion_alpha import executor, training
from fusion_alpha.canaries import findings, layers, mutants, tasks
from fusion_alpha.canaries.tasks import Task
from fusion_alpha.config import Config
from fusion_alpha.files import sha256
from stages import canaries

ROOT = Path(__file__).parents[1]
FILES = (canaries.METRICS, canaries.TABLE, canaries.FIGURE)
LEAKS = {
    "shift_minus_1": {"caught_by": ["time_machine/delete/2016-05-31T20:00Z", "start_shift/2016-05-03"]},
    "half_day_until_16": {"caught_by": ["time_machine/poison/2015-12-24T18:00Z", "timestamps"]},
    "scaler_of_all_rows": {"caught_by": ["time_machine_walk_forward/delete/2016-05-05T20:00Z"]},
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "conf").symlink_to(ROOT / "conf")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return tmp_path


def main_with(monkeypatch, folder: Path, cfg: Config, value: float, leaks: dict) -> int:
    """Exit status of the stage when its canaries found this."""
    monkeypatch.setattr(canaries.timestamps, "judged", lambda cfg: {"timestamps": findings.at_most(0, 0)})
    monkeypatch.setattr(canaries, "of_time", lambda cfg: ({"time_machine": findings.at_most(value, 0)}, leaks))
    monkeypatch.setattr(canaries, "of_labels", lambda cfg: {"label_shuffle": findings.size_at_most(-1.5, 3.3)})
    monkeypatch.setattr(canaries, "of_markets", lambda cfg: {"pbo_null": findings.within(0.45, 0.5, 0.136)})
    monkeypatch.chdir(folder)
    try:
        canaries.main(cfg)
    except SystemExit as stopped:
        return int(stopped.code)
    return 0


def test_figures_stand_beside_their_criteria_and_what_caught_each_leak(folder, monkeypatch):
    from mlflow.tracking import MlflowClient

    cfg = small()
    assert main_with(monkeypatch, folder, cfg, 0, LEAKS) == 0
    metrics = json.loads(canaries.METRICS.read_text())
    assert metrics["simulated"] is True
    assert list(metrics["canaries"]) == ["label_shuffle", "pbo_null", "time_machine", "timestamps"]
    assert metrics["canaries"]["label_shuffle"] == {"value": -1.5, "criterion": "abs <= 3.3", "passed": True}
    assert all(set(one) == {"value", "criterion", "passed"} for one in metrics["canaries"].values())
    assert metrics["mutants"] == LEAKS
    assert pd.read_csv(canaries.TABLE)["canary"].tolist() == ["time_machine", "timestamps", "label_shuffle", "pbo_null"]
    ElementTree.parse(canaries.FIGURE)
    client = MlflowClient(tracking_uri=f"sqlite:///{(folder / 'mlflow.db').resolve()}")
    assert client.get_experiment_by_name("lab") is None
    (run,) = client.search_runs([client.get_experiment_by_name(canaries.EXPERIMENT).experiment_id])
    assert run.data.tags["verdict"] == "passed"
    assert run.data.metrics["canaries.pbo_null.value"] == 0.45
    assert {item.path for item in client.list_artifacts(run.info.run_id)} == {path.name for path in FILES}


@pytest.mark.parametrize(
    ("value", "leaks"),
    [(3, LEAKS), (float("nan"), LEAKS), (0, LEAKS | {"back_fill": {"caught_by": []}})],
    ids=["a canary", "no value", "a leak"],
)
def test_one_failure_ends_in_status_1_with_everything_written(folder, monkeypatch, value, leaks):
    assert main_with(monkeypatch, folder, small(), value, leaks) == 1
    assert all(path.exists() for path in FILES)


def note(folder: Path, name: str) -> list[str]:
    """A task's work that leaves a trace of having been done."""
    with (folder / "trace").open("a") as trace:
        trace.write(f"{name}\n")
    if name == "c" and not (folder / "mended").exists():
        raise RuntimeError("killed")
    return [name]


def test_what_was_done_before_an_interruption_is_not_done_again(tmp_path):
    every = [Task(name, tmp_path / f"{name}.json", partial(note, tmp_path, name)) for name in "abcd"]
    with pytest.raises(RuntimeError, match="killed"):
        tasks.run(every, executor.HERE, "work")
    (tmp_path / "mended").touch()
    assert tasks.run(every, executor.HERE, "work") == {name: [name] for name in "abcd"}
    assert (tmp_path / "trace").read_text().split() == ["a", "b", "c", "c", "d"]


def test_answers_are_kept_apart_by_whatever_they_depend_on(folder, monkeypatch):
    monkeypatch.chdir(ROOT)
    homes = {
        tasks.home(cfg, layers.FEATURES)
        for cfg in (small(), small("canaries.seed=30"), small("contradiction.seed=12"), small("recovery.n_tickers=4"))
    }
    assert len(homes) == 4
    assert tasks.home(small(), layers.FEATURES) in homes


@pytest.mark.slow
def test_every_canary_runs_and_a_second_run_trains_nothing_and_gives_the_same_bytes(folder, monkeypatch):
    monkeypatch.chdir(ROOT)
    cfg = small()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(mutants, "MUTANTS", mutants.MUTANTS[-2:])
    threads = torch.get_num_threads()
    with pytest.raises(SystemExit):  # two epochs recover nothing
        canaries.main(cfg)
    metrics = json.loads(canaries.METRICS.read_text())
    quiet = ("time_machine", "time_machine_live", "time_machine_walk_forward", "start_shift", "start_shift_forecast")
    assert all(metrics["canaries"][name]["passed"] for name in (*quiet, "timestamps"))
    expected = {"label_shuffle", "pbo_null", "dsr_null", "null_market_sharpe_gross_t", "planted_market_ic_share"}
    assert expected | {"reversed_market_flags_f1"} <= set(metrics["canaries"])
    assert all(one["caught_by"] for one in metrics["mutants"].values())
    assert not list((folder / ".cache/canaries").glob("*/market*/"))
    before = [sha256(path) for path in FILES]
    monkeypatch.setattr(training, "train", None)
    with pytest.raises(SystemExit):
        canaries.main(cfg)
    assert [sha256(path) for path in FILES] == before
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)
