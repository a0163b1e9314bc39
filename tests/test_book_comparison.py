"""Two experiments side by side: which two, what differs, and no verdict that the intervals do not carry."""

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))
ablations, comparison, results = map(importlib.import_module, ("ablations", "comparison", "results"))


def run(number: int, config: str, lr: str, mcc: float, **tags: str) -> Any:
    metrics = {"test/mcc": mcc, "test/mcc_lo": mcc - 0.02, "test/mcc_hi": mcc + 0.02, "dev/loss": 1.5}
    return SimpleNamespace(
        info=SimpleNamespace(
            run_id=f"{number}abcdefgh",
            run_name=f"run-{number}",
            start_time=1e12,
            artifact_uri=f"file:///gone/mlartifacts/lab/{number}abcdefgh/artifacts",
        ),
        data=SimpleNamespace(
            tags={"config": config, "data.panel": "x", "verdict": "open"} | tags,
            params={"train.lr": lr, "train.seed": "1"},
            metrics=metrics,
        ),
    )


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Runs in the tracking database, the latest first."""
    found: list[Any] = []
    monkeypatch.setattr(comparison, "runs", lambda: found)
    monkeypatch.delenv("BOOK_COMPARE", raising=False)
    return found


def test_latest_run_stands_beside_the_latest_of_another_configuration(recorded: list[Any]) -> None:
    recorded += [run(3, "b", "0.1", 0.08), run(2, "b", "0.1", 0.08), run(1, "a", "0.2", 0.05)]
    assert [one.info.run_name for one in comparison.pair()] == ["run-3", "run-1"]
    assert comparison.differences().rows == [["`train.lr`", "0.1", "0.2"]]
    measures = {row[0]: row[1:] for row in comparison.measures().rows}
    assert measures["Matthews correlation"][2] == "+0.030"
    assert "0.080 (0.060\u00a0to\u00a00.100)" in measures["Matthews correlation"]
    said = comparison.told()
    assert said.start == "run-3 beside run-1."
    assert "1 parameter differs. They read the same bytes. The intervals" in said.rest
    assert "overlap" in said.rest


def test_other_data_and_intervals_apart_are_said(recorded: list[Any]) -> None:
    recorded += [run(2, "b", "0.1", 0.2, **{"data.panel": "y"}), run(1, "a", "0.1", 0.05)]
    said = comparison.told().rest
    assert "0 parameters differ. They read other bytes of panel." in said
    assert "are apart" in said


def test_runs_can_be_named(recorded: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    recorded += [run(3, "b", "0.1", 0.08), run(2, "b", "0.1", 0.08), run(1, "a", "0.2", 0.05)]
    monkeypatch.setenv("BOOK_COMPARE", "2ab, run-3")
    assert [one.info.run_name for one in comparison.pair()] == ["run-2", "run-3"]
    monkeypatch.setenv("BOOK_COMPARE", "run-9,run-3")
    with pytest.raises(results.ResultsError, match=r"run-9: `make ui`"):
        comparison.pair()
    monkeypatch.setenv("BOOK_COMPARE", "run-3")
    with pytest.raises(results.ResultsError, match="two runs"):
        comparison.pair()


def test_nothing_to_compare_is_said(recorded: list[Any]) -> None:
    assert "No tracking database" in comparison.told()._repr_html_()
    recorded.append(run(1, "a", "0.2", 0.05))
    for exhibit in (comparison.told, comparison.about, comparison.differences, comparison.measures):
        assert "One configuration only" in exhibit()._repr_html_()


def test_database_of_experiments_has_its_columns(recorded: list[Any]) -> None:
    recorded += [run(2, "b", "0.1", 0.2, hypothesis="more is better", verdict="merge"), run(1, "a", "0.1", 0.05)]
    table = comparison.experiments()
    assert table.head == ["hypothesis", "variant id", "metrics", "result image", "verdict", "merge candidate"]
    assert [row[0] for row in table.rows] == ["more is better", "none stated"]
    assert [row[-1] for row in table.rows] == [True, False]


def test_result_images_are_found_beside_the_database(
    recorded: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "DATABASE", tmp_path / "mlflow.db")
    folder = tmp_path / "mlartifacts" / "lab" / "2abcdefgh" / "artifacts"
    folder.mkdir(parents=True)
    (folder / "equity.csv").write_text("session,model,buy_and_hold\n2019-01-02,1.0,1.0\n2019-01-03,1.25,0.99\n")
    recorded += [run(2, "b", "0.1", 0.08), run(1, "a", "0.2", 0.05)]
    assert [row[3] for row in comparison.experiments().rows] == ["panel 1", "panel 2"]
    assert "1 ends at 1.250; 2 has none." in comparison.pictures().data
    told = comparison.picture().data
    assert "run-2 grows to 1.250; run-2 has a Matthews correlation of 0.080 (0.060" in told
    recorded.clear()
    assert comparison.NONE in comparison.pictures().data


def test_ablations_are_told_apart_by_their_intervals_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "METRICS", tmp_path)
    assert [row[0] for row in ablations.table().rows] == ["not run yet: make recovery", "not run yet: make stocknet"]
    one = {"ic": 0.1, "ic_lo": 0.05, "ic_hi": 0.15}
    less = {"fused_less_price_only": one, "fused_less_text_only": one | {"ic_lo": -0.01}}
    systems = dict.fromkeys(("fused", "price_only", "text_only"), one)
    (tmp_path / "lab_recovery.json").write_text(json.dumps({"planted": {"systems": systems, "differences": less}}))
    assert "planted markets: the intervals tell the whole from price only, of 2." in ablations.told().rest
