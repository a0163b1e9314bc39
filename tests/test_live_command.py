"""live_router.py as people start it: what it refuses, with which status."""

import subprocess
import sys

import pytest

import live_router
from fusion_alpha.errors import InputError


def options(*given: str):
    return live_router.checked(live_router.parser().parse_args(given))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--feed", "replay"], "needs --from"),
        (["--to", "2019-01-01"], "needs --from"),
        (["--feed", "http"], "--url"),
        (["--url", "http://127.0.0.1"], "--url"),
        (["--feed", "csv", "--speed", "2"], "--speed with --feed csv"),
        (["--set", "target=stocknet"], "next_open"),
        (["--set", "live.clean_bars=0"], "live.clean_bars"),
        (["--interval", "1h"], "interval"),
    ],
)
def test_options_that_do_not_fit_are_refused(given, said):
    with pytest.raises(InputError, match=said):
        options(*given)


def test_the_speed_is_a_positive_number_or_max(capsys):
    assert live_router.speed("max") == float("inf")
    assert live_router.speed("60") == 60
    for text in ("0", "-1", "nan", "fast"):
        with pytest.raises(SystemExit):
            live_router.parser().parse_args(["--speed", text])
    assert "--speed" in capsys.readouterr().err


def test_a_model_that_is_missing_ends_with_status_78_and_touches_no_journal(tmp_path):
    command = [sys.executable, "live_router.py", "--model", str(tmp_path), "--log", str(tmp_path / "live.log")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == live_router.BAD_MODEL == 78
    assert "no such file" in done.stderr
    assert not (tmp_path / "live.log").exists()


def test_a_wrong_option_ends_with_status_2():
    done = subprocess.run([sys.executable, "live_router.py", "--feed", "replay"], capture_output=True, text=True)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
