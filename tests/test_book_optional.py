"""Pages of results that may be absent: they name what makes them, their verdicts follow from the figures, and what no
recorded run wrote is refused."""

import hashlib
import importlib
import json
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))
NAMES = ("figures", "flow", "optional", "reports", "results", "simulated", "stocknet")
figures, flow, optional, reports, results, simulated, stocknet = map(importlib.import_module, NAMES)


@pytest.fixture
def metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty metrics/ beside the present parameters."""
    for name in ("params.yaml", "Makefile"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "docs").mkdir()
    for name in ("stocknet_published.yaml", "references.bib"):
        shutil.copy(ROOT / "docs" / name, tmp_path / "docs")
    folder = tmp_path / "metrics"
    folder.mkdir()
    monkeypatch.setattr(results, "ROOT", tmp_path)
    monkeypatch.setattr(results, "METRICS", folder)
    return folder


def recorded(folder: Path, name: str, change: Any = None) -> None:
    """Put metrics/NAME of the repository there, changed."""
    content = json.loads((ROOT / "metrics" / name).read_text())
    if change:
        change(content)
    (folder / name).write_text(json.dumps(content))


EXHIBITS = [
    *(stocknet.protocol, stocknet.verdict, stocknet.walk_forward, stocknet.shrinkage, stocknet.looks),
    *(stocknet.published, simulated.recovered, simulated.criteria, simulated.systems, simulated.flags),
    *(simulated.watched, simulated.canaries, simulated.leaks, reports.looked_at, reports.main_figures),
    *(reports.searched, reports.settings, reports.blocks, reports.backtest, reports.costs_of_model),
]


@pytest.mark.parametrize("exhibit", EXHIBITS, ids=lambda one: f"{one.__module__}.{one.__name__}")
def test_what_was_not_run_names_its_command(metrics: Path, exhibit: Any) -> None:
    html = exhibit()._repr_html_()
    assert optional.ABSENT in html
    assert re.search(r"<code>(make|python) [^<]+</code>", html)


def test_drawings_that_were_not_made_say_so(metrics: Path) -> None:
    drawn = (stocknet.picture, simulated.recovery_picture, simulated.canaries_picture, reports.search_picture)
    for draw in (*drawn, reports.over_time, reports.beside_others, reports.costs_picture):
        assert optional.ABSENT in draw().data
    for draw in (flow.week, flow.plane, flow.response):
        assert flow.ABSENT in draw().data


def test_commands_exist() -> None:
    targets = re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for command in optional.COMMANDS.values():
        program, *rest = command.split()
        if program == "make":
            assert rest[0] in targets
        else:
            module = rest[1].replace(".", "/") + ".py" if rest[0] == "-m" else rest[0]
            assert (ROOT / module).exists(), command


def test_verdict_on_stocknet_follows_from_the_intervals(metrics: Path) -> None:
    def none(content: dict[str, Any]) -> None:
        for row in content["B"]["systems"].values():
            row["mcc_ci"] = [-0.1, 0.1] if row["mcc_ci"][0] != row["mcc_ci"][1] else row["mcc_ci"]
        for pair in content["B"]["paired"]:
            pair["p_holm"] = 0.5

    recorded(metrics, "stocknet.json", none)
    said = stocknet.verdict().rest
    assert "excludes 0 for none" in said
    assert "tell nothing apart (smallest corrected p: 0.5)" in said

    def some(content: dict[str, Any]) -> None:
        none(content)
        content["B"]["systems"]["fused_trees"]["mcc_ci"] = [0.01, 0.2]
        content["B"]["systems"]["counts_only"]["mcc_ci"] = [0.01, 0.2]
        content["B"]["paired"][0]["p_holm"] = 0.01

    recorded(metrics, "stocknet.json", some)
    said = stocknet.verdict().rest
    assert "excludes 0 for fused trees;" in said
    assert "Controls that should find nothing and do: counts only." in said
    assert "tell apart fused logistic from price only (smallest corrected p: 0.01)" in said


def test_tables_of_stocknet_hold_every_system(metrics: Path) -> None:
    recorded(metrics, "stocknet.json")
    content = results.metrics("stocknet")
    for letter in "AB":
        assert len(stocknet.table(letter).rows) == len(content[letter]["systems"])
        assert len(stocknet.months(letter).rows) == len(content[letter]["systems"]) + 1
    assert len(stocknet.walk_forward().rows) == len(content["walk_forward"])
    listed = yaml.safe_load((ROOT / "docs" / "stocknet_published.yaml").read_text())["systems"]
    names = [row[1] for row in stocknet.published().rows]
    assert sum("(here)" not in name for name in names) == len(listed)
    row = next(row for row in stocknet.published().rows if "(here)" in row[1])
    assert " to ".join(row[4].split("\u00a0to\u00a0")) == row[4].replace("\u00a0", " ") != "–"


def test_verdict_on_recovery_follows_from_the_criteria(metrics: Path) -> None:
    recorded(
        metrics, "lab_recovery.json", lambda found: found["null"]["criteria"]["excess_hits_z"].update(passed=False)
    )
    found = simulated.recovered()
    assert found.start == "SIMULATED."
    assert re.search(r"null \(\d+ markets\): fails: excess hits z", found.rest)
    assert [row[4] for row in simulated.criteria().rows].count(False) == 1


def test_canaries_that_fail_and_leaks_that_pass_are_named(metrics: Path) -> None:
    content = {
        "canaries": {"time_machine": {"value": 0.0, "criterion": "<= 0", "passed": False}},
        "mutants": {"back_fill": {"caught_by": []}, "kst": {"caught_by": ["time_machine/a/1", "time_machine/b/2"]}},
    }
    (metrics / "canaries.json").write_text(json.dumps(content))
    assert simulated.watched().rest == "Failed canaries: time machine; not caught: back fill."
    assert simulated.leaks().rows == [["back fill", 0, "nothing"], ["kst", 2, "time machine"]]


def test_picture_of_the_canaries_says_what_caught_each_leak(metrics: Path) -> None:
    canary = {"value": 0.0, "criterion": "<= 1", "passed": True}
    content = {"canaries": {"start_shift": canary}, "mutants": {"kst": {"caught_by": ["start_shift/1"]}}}
    (metrics / "canaries.json").write_text(json.dumps(content))
    (metrics / "canaries.csv").write_text(
        "canary,value,low,high,criterion,passed,used\nstart_shift,0.0,,,<= 1,True,0.25\n"
    )
    told = simulated.canaries_picture().data
    assert "the largest is 0.25 (start shift)" in told
    assert "kst: start shift." in told


def test_drawings_of_the_tearsheet_and_the_costs_are_those_of_the_report(metrics: Path) -> None:
    for name in ("strategy.json", "equity.csv", "calibration.csv"):
        shutil.copy(ROOT / "metrics" / name, metrics)
    numbers = results.metrics("strategy")
    told = [draw().data for draw in (reports.over_time, reports.beside_others, reports.costs_picture)]
    assert f"Sharpe ratio {numbers['strategies']['model']['sharpe']:.2f}" in told[0]
    assert "calibration" in told[1]
    assert f"momentum {reports.text(numbers['strategies']['momentum']['break_even_bps'])}" in told[2]
    said = reports.costs_of_model().rest
    assert f"could cost {numbers['strategies']['model']['break_even_bps']:.1f} bps" in said
    assert [row[0] for row in reports.rates().rows][-2:] == ["impact", "borrow"]


def test_flow_counts_what_the_run_counted(metrics: Path) -> None:
    for path in (ROOT / "metrics").glob("*.json"):
        shutil.copy(path, metrics)
    told = flow.layers().data
    clean = results.metrics("clean")["prices"]
    assert f"interim prices: {clean['kept']:,} kept, {clean['rejected']:,} rejected" in told


def test_report_on_another_run_says_so(metrics: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "_words", lambda: SimpleNamespace(period=lambda view: "p", reading=lambda *_: ["R."]))
    content = {
        "about": {"simulated": True, "model": "fused"},
        "view": {"baseline": "buy_and_hold", "whole_test": True},
        "strategies": {"model": {"sharpe": 1.5}},
    }
    (metrics / "strategy.json").write_text(json.dumps(content))
    (metrics / "evaluate.json").write_text(json.dumps({"strategies": {"model": {"sharpe": 1.5}}}))
    said = reports.looked_at()
    assert (said.start, said.rest) == ("SIMULATED.", "Model fused against buy and hold: p. R.")
    (metrics / "evaluate.json").write_text(json.dumps({"strategies": {"model": {"sharpe": 1.4}}}))
    assert "NOT about the last run's forecasts" in reports.looked_at().rest


def test_search_without_gain_is_told_as_one(metrics: Path) -> None:
    block = {part: {"first": "2015-01-02", "last": "2015-02-02", "rows": 9} for part in ("train", "stop", "score")}
    content = {
        **{"study": "s", "source": "lab", "simulated": True, "sampler": "tpe", "importance": {}, "blocks": [block]},
        "trials": {"complete": 3, "pruned": 1, "refused": 0},
        "best": {"trial": 1, "loss": 1.5, "loss_by_block": [1.5], "settings": {"train.lr": 0.01}},
        "present": {"loss": 1.5, "loss_by_block": [1.5], "gain": 0.0, "gain_se": None, "gain_apart": None},
    }
    (metrics / "tuning.json").write_text(json.dumps(content))
    assert "No trial is better than the present settings (1.5000 nats)." in reports.searched().rest
    assert reports.settings().rows == [["`train.lr`", "0.01", reports.text(results.parameter("train.lr")), "–"]]
    assert reports.blocks().rows[0][3:] == ["1.5000", "1.5000"]
    content["present"] |= {"loss": 1.6, "gain": 0.1, "gain_se": 0.02, "gain_apart": 0.05}
    (metrics / "tuning.json").write_text(json.dumps(content))
    assert "by 0.1000 nats, standard error over blocks 0.0200; on blocks apart" in reports.searched().rest


def test_last_measurement_counts(metrics: Path) -> None:
    head, row = (ROOT / "metrics" / "backtest_bench.csv").read_text().splitlines()[:2]
    later = ["later", *row.split(",")[1:]]
    (metrics / "backtest_bench.csv").write_text("\n".join([head, row, ",".join(later)]) + "\n")
    assert [cells[-1].split()[-1] for cells in reports.backtest().rows] == ["later"]


@pytest.fixture
def beside(metrics: Path) -> Path:
    """A stage beside the pipeline that ran with the present parameters."""
    root = metrics.parent
    (root / "stages").mkdir()
    (metrics / "a.json").write_text("{}")
    stage = {"cmd": "true", "metrics": [{"metrics/a.json": {"cache": False}}], "plots": ["metrics/a.svg"]}
    (root / "stages" / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"one": stage}}))
    md5 = hashlib.md5(b"{}", usedforsecurity=False).hexdigest()
    lock = {
        "params": {"params.yaml": {"train": results.parameter("train"), "data": None}},
        "outs": [{"path": "metrics/a.json", "md5": md5}, {"path": "metrics/a.svg", "md5": md5}],
    }
    (root / "stages" / "dvc.lock").write_text(yaml.safe_dump({"stages": {"one": lock}}))
    return root


def test_results_beside_the_pipeline_may_be_absent_but_not_wrong(beside: Path) -> None:
    assert results._beside() == []  # a.svg is absent
    (beside / "metrics" / "a.json").write_text("{ }")
    assert "not what its last recorded run wrote" in results._beside()[0]
    (beside / "metrics" / "a.json").unlink()
    assert results._beside() == []


def test_results_of_no_recorded_run_are_refused(beside: Path) -> None:
    (beside / "stages" / "dvc.lock").unlink()
    assert results._beside() == ["one: metrics/a.json was written by no recorded run: `dvc repro stages/dvc.yaml:one`"]


def test_parameters_that_changed_since_are_named(beside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert results.changed_since("a.json") == ["data"]
    assert results.changed_since("none.json") == []
    monkeypatch.setitem(optional.COMMANDS, "a.json", "make one")
    assert "<code>data</code>" in optional.origin("a.json")._repr_html_()
