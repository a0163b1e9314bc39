"""live_router.py as people start it: what it refuses, with which status."""

import subprocess
import sys

import pytest

import live_router
from fusion_alpha import checkpoint, config
from fusion_alpha.errors import InputError
from fusion_alpha.live import journal


def options(*given: str):
    return live_router.checked(live_router.parser().parse_args(given))[0]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--feed", "replay"], "needs --from"),
        (["--to", "2019-01-01"], "needs --from"),
        (["--feed", "http"], "--url"),
        (["--url", "http://127.0.0.1"], "--url"),
        (["--feed", "http", "--url", "127.0.0.1:8000/feed"], "begins with http://"),
        (["--feed", "replay", "--from", "1 November"], "--from '1 November'(?s:.*)YYYY-MM-DD"),
        (["--feed", "replay", "--from", "2019-11-01", "--to", "2019-11-31"], "--to '2019-11-31'"),
        (["--feed", "csv", "--speed", "2"], "--speed with --feed csv"),
        (["--feed", "yahoo", "--url", "http://127.0.0.1"], "--url"),
        (["--set", "target=stocknet"], "next_open"),
        (["--set", "live.clean_bars=0"], "live.clean_bars"),
        (["--interval", "1h"], "interval"),
    ],
)
def test_options_that_do_not_fit_are_refused(given, said):
    with pytest.raises(InputError, match=said):
        options(*given)


def test_the_run_is_the_checkouts_or_the_small_one_of_one_minute_bars(tmp_path, monkeypatch):
    for folder, interval in (("here", "1d"), ("minute", "1m")):
        (tmp_path / folder).mkdir()
        settings = config.MINUTE if interval == "1m" else config.PARAMS
        (tmp_path / folder / config.PARAMS).write_text(settings.read_text())
    monkeypatch.setattr(live_router, "RUNS", (tmp_path / "here", tmp_path / "minute"))
    assert options().interval == options("--interval", "1d").interval == "1d"
    minute, folder = live_router.checked(live_router.parser().parse_args(["--interval", "1m"]))
    assert (minute.interval, minute.data.lab.n_tickers, folder) == ("1m", 3, tmp_path / "minute")
    with pytest.raises(
        live_router.NoModel, match=r"(?s)no model of 5m bars.*run_pipeline.py --interval 5m --mode predict"
    ):
        options("--interval", "5m")
    (tmp_path / "minute" / config.PARAMS).unlink()
    with pytest.raises(live_router.NoModel, match=r"(?s)no model of 1m bars.*make repro"):
        options("--interval", "1m")


def test_the_speed_is_a_positive_number_or_max(capsys):
    assert live_router.speed("max") == float("inf")
    assert live_router.speed("60") == 60
    for text in ("0", "-1", "nan", "fast"):
        with pytest.raises(SystemExit):
            live_router.parser().parse_args(["--speed", text])
    assert capsys.readouterr().err.count("--speed: a positive number, or max") == 4


def test_a_model_that_is_missing_ends_with_status_78_and_touches_no_journal(tmp_path):
    command = [sys.executable, "live_router.py", "--model", str(tmp_path), "--log", str(tmp_path / "live.log")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == live_router.BAD_MODEL == 78
    assert "no such file" in done.stderr
    assert not (tmp_path / "live.log").exists()


def test_bars_of_an_interval_that_nobody_trained_end_with_status_78():
    done = subprocess.run([sys.executable, "live_router.py", "--interval", "7m"], capture_output=True, text=True)
    assert (done.returncode, "Traceback" in done.stderr) == (78, False)
    assert "python run_pipeline.py --interval 7m --mode predict" in done.stderr


def test_a_wrong_option_ends_with_status_2():
    done = subprocess.run([sys.executable, "live_router.py", "--feed", "replay"], capture_output=True, text=True)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)


@pytest.mark.slow
def test_one_minute_bars_are_signalled_from_start_to_end(tmp_path):
    if not (live_router.RUNS[1] / checkpoint.FOLDER).is_dir():
        pytest.skip("no one-minute model: `make repro`")
    log = tmp_path / "live.log"
    command = [sys.executable, "live_router.py", "--tickers", "TSLA", "AAPL", "NVDA", "--interval", "1m"]
    done = subprocess.run([*command, "--log", str(log), "--once"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "SIMULATED" in done.stderr
    records = journal.read(log)
    assert [one.data["interval"] for one in records if one.kind == "start"] == ["1m"]
    assert sorted(one.data["ticker"] for one in records if one.kind == "signal") == ["AAPL", "NVDA", "TSLA"]
