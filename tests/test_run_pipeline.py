"""The command line that the guide names turns into the right DVC command."""

import shutil
import subprocess
import sys

import pytest

import run_pipeline


def built(*arguments: str) -> list[str]:
    return run_pipeline.command(run_pipeline.parser().parse_args(arguments))[3:]


def settings(*arguments: str) -> list[str]:
    command = built(*arguments)
    return [command[at + 1] for at, word in enumerate(command) if word == "--set-param"]


def test_the_guides_command():
    command = built("--ticker", "TSLA", "--start", "2015-01-01", "--mode", "train")
    assert command == ["exp", "run", "--set-param", "tickers=[TSLA]", "--set-param", "start='2015-01-01'", "export"]


@pytest.mark.parametrize(
    ("mode", "targets"),
    [("ingest", ["ingest"]), ("features", ["technical", "contradiction"]), ("predict", ["predict"]), ("all", [])],
)
def test_modes_name_their_last_stages(mode, targets):
    assert built("--mode", mode) == ["exp", "run", *targets]


def test_every_mode_names_stages_that_exist():
    assert {target for targets in run_pipeline.MODES.values() for target in targets} <= set(run_pipeline.stages())


def test_minute_bars_of_the_lab_are_a_data_set_of_their_own():
    assert settings("--interval", "1m") == settings("--interval", "1m", "--data", "lab") == ["data=lab_1m"]
    assert settings("--interval", "5m") == ["data=lab_1m", "interval=5m"]
    assert settings("--interval", "1d") == ["interval=1d"]
    assert settings("--interval", "5m", "--data", "csv") == ["data=csv", "interval=5m"]


def test_anything_else_goes_through_set():
    assert settings("--data", "stocknet", "--set", "train.lr=0.1", "model=concat") == [
        "data=stocknet",
        "train.lr=0.1",
        "model=concat",
    ]


@pytest.mark.parametrize("wrong", [["--mode", "everything"], ["--data", "bloomberg"], ["--stage", "nothing"]])
def test_wrong_choice_ends_with_status_2_and_names_the_choices(wrong):
    done = subprocess.run([sys.executable, "run_pipeline.py", *wrong], capture_output=True, text=True)
    assert done.returncode == 2
    assert "invalid choice" in done.stderr


def test_dry_run_prints_the_command_and_help_teaches():
    done = subprocess.run(
        [sys.executable, "run_pipeline.py", "--stage", "clean", "--dry-run"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "$ dvc exp run clean\n")
    assert "dvc exp show" in run_pipeline.parser().format_help()


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--mode", "all"], []),
        (["--mode", "evaluate"], []),
        (["--mode", "train"], ["predict", "evaluate"]),
        (["--mode", "features"], ["train", "export", "predict", "evaluate"]),
        (["--stage", "text"], ["process", "technical", "contradiction", "train", "export", "predict", "evaluate"]),
    ],
)
def test_stages_that_a_run_leaves_out(arguments, names):
    assert run_pipeline.left_out(run_pipeline.targets(run_pipeline.parser().parse_args(arguments))) == names


def test_a_run_that_stops_early_does_not_show_the_former_runs_later_figures(tmp_path, monkeypatch):
    shutil.copy("dvc.yaml", tmp_path)
    figures = ["clean.json", "train.json", "curves.csv", "predict.json", "evaluate.json", "equity.csv", "bench.csv"]
    (tmp_path / "metrics/figures").mkdir(parents=True)
    for name in (*figures, "figures/equity.svg"):
        (tmp_path / "metrics" / name).write_text("of another run")
    monkeypatch.setattr(run_pipeline, "ROOT", tmp_path)
    asked = []
    monkeypatch.setattr(
        subprocess, "run", lambda *command, **_: asked.append(command) or subprocess.CompletedProcess([], 0)
    )
    monkeypatch.setattr(sys, "argv", ["run_pipeline.py", "--mode", "train"])
    assert run_pipeline.main() == 0
    assert len(asked) == 1
    left = {path.relative_to(tmp_path / "metrics").as_posix() for path in (tmp_path / "metrics").rglob("*")}
    assert left == {"clean.json", "train.json", "curves.csv", "bench.csv"}
