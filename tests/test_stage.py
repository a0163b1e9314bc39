"""How a stage ends: help, a user's mistake without a traceback, and its status."""

import subprocess
import sys
from pathlib import Path

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
