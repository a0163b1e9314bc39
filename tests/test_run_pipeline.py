"""The command line that the guide names turns into the right DVC command."""

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
    assert command == ["exp", "run", "--set-param", "tickers=[TSLA]", "--set-param", "start='2015-01-01'", "train"]


@pytest.mark.parametrize(
    ("mode", "targets"),
    [("ingest", ["ingest"]), ("features", ["technical", "contradiction"]), ("predict", ["predict"]), ("all", [])],
)
def test_modes_name_their_last_stages(mode, targets):
    assert built("--mode", mode) == ["exp", "run", *targets]


def test_every_mode_names_stages_that_exist():
    assert {target for targets in run_pipeline.MODES.values() for target in targets} <= set(run_pipeline.stages())


def test_minute_bars_of_the_lab_are_a_data_set_of_their_own():
    assert settings("--interval", "1m") == ["data=lab_1m"]
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
