"""The command and its page: what it prints, writes and records, how it ends, and that the page needs nothing else."""

import base64
import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import trading_market

import evaluate_strategy
from fusion_alpha import config, report, stage, tables, trials
from fusion_alpha.report import View
from fusion_alpha.tearsheet import command, page, panels, words

ROOT = Path(__file__).parents[1]
VOID = {"meta", "img", "br"}


@pytest.fixture(scope="module")
def cfg():
    return trading_market.configuration()


@pytest.fixture(scope="module")
def frames(cfg):
    return trading_market.market(cfg)


@pytest.fixture(scope="module")
def whole(frames, cfg):
    return report.build(frames, View(), cfg, trials.Trials(12, [1.0, 2.0], {}, 3, True))


@pytest.fixture(scope="module")
def about():
    return {
        **{"commit": "c0ffee" * 6, "uncommitted_changes": True, "model_id": "abc123", "model": "fused"},
        **{"data_sha256": {"predictions": "12" * 32, "panel": "34" * 32}, "seeds": {"train": 1, "market": 7}},
        **{"source": "lab", "simulated": True},
        "trials": {"count": 12, "with_sharpe": 2, "with_equity": 0, "this_one_recorded": True, "reports_before": 3},
    }


@pytest.fixture
def project(frames, cfg, tmp_path, monkeypatch):
    """The tables of a run in a folder of its own, without a tracking database."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(config, "load", lambda: cfg)
    monkeypatch.setattr(trials, "tried", lambda cfg, model_id: trials.Trials(12, [1.0], {}, 3, True))
    monkeypatch.setattr(command, "record", lambda *arguments: None)
    for name, table in frames.items():
        tables.write(name, table)
    return tmp_path


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["evaluate_strategy.py", *arguments])
    return evaluate_strategy.main()


class Structure(HTMLParser):
    """Checks that elements close in order; collects tags and attributes."""

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def structure(text):
    parsed = Structure()
    parsed.feed(text)
    parsed.close()
    assert parsed.open == []
    return parsed.seen


@pytest.fixture(scope="module")
def text(whole, about):
    return page.page(whole, about)


def test_the_page_stands_alone(text):
    seen = structure(text)
    assert not {tag for tag, _ in seen} & {"script", "link", "iframe", "object", "form"}
    assert "http" not in text
    assert "url(" not in text
    assert "@import" not in text
    pictures = [attrs for tag, attrs in seen if tag == "img"]
    assert len(pictures) == len(panels.PANELS)
    for picture in pictures:
        assert picture["alt"]
        kind, content = picture["src"].split(",", 1)
        assert kind == "data:image/svg+xml;base64"
        svg = base64.b64decode(content).decode()
        assert "<script" not in svg
        assert not re.findall(r'(?:href|src)="(?!#|data:)', svg)
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in seen


@pytest.fixture
def without_pictures(monkeypatch):
    monkeypatch.setattr(panels, "svg", lambda *arguments: b"")


def test_the_page_says_simulated_and_where_it_comes_from(whole, about, text, without_pictures):
    assert words.WARNING in text
    assert "<title>SIMULATED: " in text
    for word in ("c0ffee", "abc123", "predictions 121212121212", "seeds train 1, market 7", "12 trials, 2 tested"):
        assert word in text
    real = page.page(whole, about | {"simulated": False})
    assert "SIMULATED" not in real
    for word in ("model", "buy and hold", "contradiction rule", "Deflated Sharpe", "PBO", "SPA"):
        assert word in real


def test_the_same_report_gives_the_same_bytes(whole, about, text):
    assert page.page(whole, about) == text


def test_the_sheet_is_a_png_of_one_page(whole, about):
    sheet = panels.sheet(whole, about)
    assert sheet.startswith(b"\x89PNG")
    width, height = (int.from_bytes(sheet[start : start + 4], "big") for start in (16, 20))
    assert (width, height) == tuple(int(144 * side) for side in panels.SHEET)


def test_names_are_escaped(whole, about, without_pictures):
    assert "<b>x</b>" not in page.page(whole, about | {"model": "<b>x</b>"})


def test_a_model_that_does_nothing_on_data_that_says_nothing_is_drawn(frames, cfg, about):
    flat = frames["predictions"].assign(mean_ret=0.0, kind="none")
    unknown = frames["panel"].assign(
        target_ret=np.nan, target_label=pd.array([pd.NA] * len(frames["panel"]), "boolean")
    )
    found = report.build(frames | {"predictions": flat, "panel": unknown}, View(first="2016-12-01"), cfg)
    assert found.numbers["strategies"]["model"]["sharpe"] is None
    text = page.page(found, about)
    structure(text)
    assert words.NOTHING in text
    assert "nan" not in re.sub(r'src="[^"]*"', "", text).lower()
    assert panels.sheet(found, about)


def test_drawdown_counts_from_the_start():
    returns = pd.Series([-0.1, 0.2, -0.5, 1.2])
    assert panels.drawdown(returns).to_list() == pytest.approx([-0.1, 0.0, -0.5, 0.0])


def test_rolling_sharpe_is_the_sharpe_of_its_window():
    rng = np.random.default_rng(1)
    returns = pd.Series(0.01 * rng.standard_normal(200))
    last = returns.iloc[-63:]
    rolling = panels.rolling_sharpe(returns, 252)
    assert rolling.iloc[-1] == pytest.approx(last.mean() / last.std() * np.sqrt(252))
    assert rolling.isna().sum() == 62
    assert panels.rolling_sharpe(returns * 0, 252).isna().all()
    assert panels.rolling_window(20) == 10


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [
        (None, "{:.2f}", "–"),
        (-0.123, "{:.1%}", "−12.3%"),
        (-0.0001, "{:.0%}", "0%"),
        (0.5, "{:+.2f}", "+0.50"),
    ],
)
def test_numbers_as_people_read_them(value, form, text):
    assert words.number(value, form) == text


def test_the_command_prints_and_writes(project, monkeypatch, capsys):
    assert run(monkeypatch, "--baseline", "momentum", "--cost-bps", "4", "--output", "out") == 0
    shown = capsys.readouterr().out
    for word in ("SIMULATED: model", "against momentum", "4 bps a side", "Strategies, net of costs", "p (Holm)"):
        assert word in shown
    for word in ("Deflated Sharpe", "12 trials", "commit none", "seeds train 1", words.WARNING, "out/strategy.json"):
        assert word in shown
    numbers = json.loads((project / "out/strategy.json").read_text())
    assert numbers["view"]["baseline"] == "momentum"
    assert numbers["about"]["trials"]["count"] == 12
    assert set(numbers["about"]) >= {"commit", "data_sha256", "seeds", "trials", "model_id", "simulated"}
    assert [path.name for path in (project / "out").iterdir()] == ["strategy.json"]


def test_plot_adds_the_tearsheet_with_the_same_numbers(project, monkeypatch, capsys):
    arguments = ["--from", "2016-08-01", "--to", "2016-11-30", "--ticker", "t0", "t1", "--ticker", "T2", "--plot"]
    assert run(monkeypatch, *arguments) == 0
    written = {path.name for path in (project / "metrics").iterdir()}
    assert written == {"strategy.json", "tearsheet.html", "tearsheet.png"}
    numbers = json.loads((project / "metrics/strategy.json").read_text())
    assert numbers["view"]["tickers"] == ["T0", "T1", "T2"]
    text = (project / "metrics/tearsheet.html").read_text()
    for fact in words.facts(numbers):
        assert fact.value in text
    first = (project / "metrics/strategy.json").read_bytes()
    assert run(monkeypatch, *arguments[:-1]) == 0
    assert (project / "metrics/strategy.json").read_bytes() == first


@pytest.mark.parametrize(
    ("arguments", "words_"),
    [
        (["--baseline", "index"], ["--baseline 'index'", "one of model, buy_and_hold"]),
        (["--from", "2031-01-01"], ["--from 2031-01-01", "a date in 2016-06-30 to 2016-12-30"]),
        (["--ticker", "TSLA"], ["--ticker TSLA", "one of T0, T1, T2, T3"]),
        (["--from", "2016-10-03", "--to", "2016-10-03"], ["1 session to trade in", "at least 20"]),
        (["--cost-bps", "-3"], ["--cost-bps -3", "at least 0"]),
    ],
)
def test_what_cannot_be_ends_with_status_2_and_says_what_can(project, monkeypatch, capsys, arguments, words_):
    said = []
    monkeypatch.setattr(stage.console, "print", lambda text, **_: said.append(str(text)))
    assert run(monkeypatch, *arguments) == 2
    assert all(word in "\n".join(said) for word in words_)
    assert not (project / "metrics").exists()


@pytest.mark.parametrize(
    ("damage", "words_"),
    [
        (lambda: Path("data/predictions/predictions.parquet").unlink(), ["predictions.parquet", "dvc repro"]),
        (lambda: tables.write("predictions", tables.empty("predictions")), ["holds no predictions", "dvc repro"]),
        (lambda: without_a_price(), ["panel.parquet", "column open"]),
        (
            lambda: Path("data/processed/panel.parquet").write_text("x"),
            ["panel.parquet", "not a readable Parquet file"],
        ),
    ],
)
def test_tables_that_are_absent_empty_or_damaged_are_named(project, monkeypatch, damage, words_):
    damage()
    said = []
    monkeypatch.setattr(stage.console, "print", lambda text, **_: said.append(str(text)))
    assert run(monkeypatch) == 2
    assert all(word in "\n".join(said) for word in words_), said


def without_a_price():
    path = tables.schema("panel").path
    panel = pd.read_parquet(path)
    panel.loc[7, "open"] = np.nan
    panel.to_parquet(path)


def test_costs_of_its_own_are_named(project, monkeypatch, cfg, caplog, capsys):
    Path("costs.csv").write_text("ticker,commission_bps,borrow_bps\nT1,9,\nT2,,300\n")
    own = replace(cfg, strategy=replace(cfg.strategy, costs="costs.csv"))
    monkeypatch.setattr(config, "load", lambda: own)
    assert run(monkeypatch, "--cost-bps", "4") == 0
    assert "costs.csv has costs of their own for T1: they keep them" in caplog.text


def test_an_interruption_ends_with_status_130(project, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "build", interrupted)
    assert run(monkeypatch) == 130


def test_help_teaches_and_bad_arguments_end_with_status_2(monkeypatch, capsys):
    text = evaluate_strategy.parser().format_help()
    for word in ("--baseline", "--cost-bps", "--from", "--to", "--ticker", "--plot", "--output", "Exit status: 0"):
        assert word in text
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, "--cost-bps", "cheap")
    assert ended.value.code == 2


def test_a_narrow_terminal_leaves_columns_out(whole):
    from rich.console import Console

    for width in (80, 120):
        console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
        console.print(command._shown(words.performance(whole.numbers), width))
        lines = console.export_text().splitlines()
        assert max(map(len, lines)) <= width
        assert not any("…" in line for line in lines)


def test_the_figures_reach_mlflow_as_a_report_and_no_trial(frames, cfg, tmp_path, monkeypatch, capsys):
    mlflow_tracking = pytest.importorskip("mlflow.tracking")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setattr(config, "load", lambda: cfg)
    for name, table in frames.items():
        tables.write(name, table)
    for baseline in ("buy_and_hold", "momentum"):
        assert run(monkeypatch, "--baseline", baseline) == 0
    numbers = json.loads(Path("metrics/strategy.json").read_text())
    assert (numbers["about"]["trials"]["count"], numbers["about"]["trials"]["reports_before"]) == (1, 1)
    client = mlflow_tracking.MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name(trials.REPORTS).experiment_id])
    assert [one.info.status for one in runs] == ["FINISHED"] * 2
    newest = next(one for one in runs if one.data.tags["baseline"] == "momentum")
    assert newest.data.metrics["strategies.model.sharpe"] == numbers["strategies"]["model"]["sharpe"]
    assert newest.data.metrics["selection.deflated_sharpe.trials"] == 1
    assert {item.path for item in client.list_artifacts(newest.info.run_id)} == {"strategy.json"}
    assert trials.tried(cfg, "abc123").count == 1
    assert trials.tried(cfg, "abc123").views == 1, "another baseline is the same view of the model"


def test_no_two_strategies_look_alike(whole):
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    panels.equity(axes, whole)
    looks = [(line.get_color(), str(line.get_linestyle()), line.get_linewidth()) for line in axes.get_lines()]
    assert len(set(looks)) == len(looks) > len(whole.returns.columns)
    assert len(set(panels._OTHERS)) == len(panels._OTHERS)
