"""How a stage ends: help, a user's mistake without a traceback, and its status."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from fusion_alpha.stage import run

ROOT = Path(__file__).parents[1]


def stage(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stages.clean", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_a_mistake_is_named_without_a_traceback_and_stops_with_2():
    done = stage("clean.max_rejected_shar=1")
    assert done.returncode == 2
    assert "clean stopped\nunknown parameter 'clean.max_rejected_shar'" in done.stderr
    assert "did you mean clean.max_rejected_share?" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_says_what_a_stage_reads_and_writes():
    done = stage("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Reads   data/raw/" in done.stdout


@pytest.mark.parametrize("own_data", [False, True])
def test_simulated_data_are_said_unless_the_stage_has_data_of_its_own(monkeypatch, caplog, own_data):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["trial"])
    caplog.set_level(logging.INFO, logger="stages.trial")
    run(lambda cfg: None, own_data=own_data)
    assert ("trial: SIMULATED data (lab)" in caplog.text) is not own_data
