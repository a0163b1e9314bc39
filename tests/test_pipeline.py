"""The whole DAG on a small laboratory: it runs, it repeats to the byte, and it does not look ahead."""

import importlib
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

import run_pipeline
from fusion_alpha import config, sessions, tables, tracking
from fusion_alpha.files import sha256

STAGES = ["ingest", "clean", "process", "technical", "text", "contradiction", "train", "export", "predict", "evaluate"]
SMALL = [
    "text=stub",
    "data.lab.n_tickers=3",
    "data.lab.last_session='2016-06-30'",
    "data.dev_start='2016-01-04'",
    "data.test_start='2016-03-01'",
    f"technical.sectors='{Path(__file__).parents[1] / 'conf' / 'sectors.csv'}'",
    f"strategy.costs='{Path(__file__).parents[1] / 'conf' / 'costs.csv'}'",
    "contradiction.n_paths=128",
    "train.epochs=2",
    "predict.mc_samples=4",
    "evaluate.bootstrap_samples=50",
    "executor.workers=1",
]
LAYERS = ("prices", "news", "panel", "news_bars", "technical", "contradiction", "predictions")


def run(stages: list[str], params: Path) -> None:
    cfg = config.load(params=params)
    for name in stages:
        importlib.import_module(f"stages.{name}").main(cfg)


def hashes() -> dict[str, str]:
    folders = (Path("data"), Path("models"), Path("metrics"))
    return {str(path): sha256(path) for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, Path]:
    """Folder of a finished run and its parameters."""
    folder = tmp_path_factory.mktemp("dag")
    params = folder / "params.yaml"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(Path(__file__).parents[1])
        config.compose(params, SMALL)
        patch.chdir(folder)
        patch.setenv("DVC_ROOT", str(folder))
        run(STAGES, params)
    return folder, params


@pytest.fixture
def inside(finished, monkeypatch) -> Path:
    folder, params = finished
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DVC_ROOT", str(folder))
    return params


def test_every_layer_is_there_and_valid(inside):
    for name in (
        "prices",
        "news",
        "rejected",
        "panel",
        "news_bars",
        "technical",
        "text",
        "contradiction",
        "predictions",
    ):
        assert len(tables.read(name)) > 0, name
    assert tables.read("benchmark").empty
    predictions = tables.read("predictions").merge(tables.read("panel"), on=["ticker", "bar_close_utc"])
    assert set(predictions["split_x"]) == {"train", "dev", "test"}
    assert (predictions["decided_utc_x"] == predictions["decided_utc_y"]).all()


def test_metrics_say_what_happened_and_when_nothing(inside):
    assert {path.stem for path in Path("metrics").glob("*.json")} == set(STAGES) - {"ingest"}
    evaluated = json.loads(Path("metrics/evaluate.json").read_text())
    assert evaluated["simulated"] is True
    panel, predictions = tables.read("panel"), tables.read("predictions")
    test = predictions[predictions["split"] == "test"].merge(panel, on=["ticker", "bar_close_utc"])
    assert evaluated["n"] == test["target_label"].notna().sum()
    assert evaluated["n_up"] == test["target_label"].sum()


def test_one_run_is_tracked_with_its_test_metrics(inside):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking.prepare())
    runs = client.search_runs([client.get_experiment_by_name("lab").experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"]
    assert {"dev/bce", "test/auc"} <= set(runs[0].data.metrics)
    assert runs[0].data.tags["simulated"].lower() == "true"


def test_a_run_that_dvc_skipped_is_recorded_from_its_results(inside, tmp_path, monkeypatch):
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    for _ in range(2):
        run_pipeline.record_last_run()
    client = MlflowClient(tracking.prepare())
    runs = client.search_runs([client.get_experiment_by_name("lab").experiment_id])
    assert [run.data.tags["reconciled"] for run in runs] == ["true"]
    assert "test/auc" in runs[0].data.metrics


def test_the_same_inputs_give_the_same_bytes(inside):
    before = hashes()
    run(STAGES, inside)
    assert hashes() == before


def close_of(day: str) -> pd.Timestamp:
    return sessions.sessions("XNYS", day, day)["session_close_utc"].iloc[0]


def attack(raw: Path, cut: pd.Timestamp, poison: bool) -> None:
    """Delete from raw every bar and every headline after `cut`, or make them other ones."""
    for path in (raw / "prices").glob("*.csv"):
        header, *lines = path.read_text().splitlines(keepends=True)
        known = [line for line in lines if line[:10] <= f"{cut:%Y-%m-%d}"]
        later = [line.replace(",", ",9", 4) for line in lines[len(known) :]] if poison else []
        path.write_text("".join([header, *known, *later]))
    news = raw / "news/news.jsonl"
    kept = []
    for line in news.read_text().splitlines(keepends=True):
        try:
            item = json.loads(line)
            published = pd.Timestamp(item["published_utc"])
        except (ValueError, KeyError):  # odd lines are refused in the whole history too
            continue
        if pd.notna(published) and published < cut:
            kept.append(line)
        elif pd.notna(published) and poison:
            kept.append(json.dumps(item | {"text": "Everything fell apart"}) + "\n")
    news.write_text("".join(kept))


@pytest.mark.parametrize("poison", [False, True], ids=["deleted", "poisoned"])
@pytest.mark.parametrize("day", ["2015-11-27", "2016-03-11", "2016-03-31"])  # half day, before DST, month's end
def test_the_future_changes_nothing_before_it(inside, tmp_path, monkeypatch, day, poison):
    whole = {name: tables.read(name) for name in LAYERS}
    for folder in ("data/raw", "models/fusionnet"):
        shutil.copytree(folder, tmp_path / folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fusion_alpha.raw.verify", lambda *_: None)  # the changed copy is no longer as fetched
    cut = close_of(day)
    attack(Path("data/raw"), cut, poison)
    run(["clean", "process", "technical", "text", "contradiction", "predict"], inside)
    for name in LAYERS:
        part = tables.read(name)
        time = next(column for column in ("bar_close_utc", "published_utc") if column in part)
        kept = [column for column in part if not column.startswith("target_")]
        before, expected = (
            frame[(frame[time] < cut) if name == "news" else (frame[time] <= cut)][kept].reset_index(drop=True)
            for frame in (part, whole[name])
        )
        assert len(before) > 100, name
        assert poison or len(before) == len(part), name
        pd.testing.assert_frame_equal(before, expected, check_exact=True, obj=name)
