"""The log of looks at test: a line whenever the answers of test are scored, before they are.

metrics/stocknet_test_runs.csv is kept by git and is no output of DVC, which would remove it before a run. The number of
different configurations in it says how often something could have been learned from test.
"""

import csv
import io
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from fusion_alpha.errors import InputError
from fusion_alpha.files import write_text
from fusion_alpha.workspace import REPOSITORY

LOG = Path("metrics/stocknet_test_runs.csv")
COLUMNS = ("date", "commit", "configuration", "systems", "samples")


def note(configuration: str, systems: Sequence[str], n_samples: int, log: Path = LOG) -> tuple[int, int]:
    """Add a line; returns the number of looks and of different configurations, this one included."""
    line = (f"{datetime.now(UTC).date()}", commit(), configuration, " ".join(systems), str(n_samples))
    lines = [*read(log), line]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *lines])
    write_text(log, text.getvalue())
    return len(lines), len({each[2] for each in lines})


def read(log: Path = LOG) -> list[tuple[str, ...]]:
    """Lines so far; InputError where the file is not such a log."""
    if not log.exists():
        return []
    try:
        rows = [tuple(row) for row in csv.reader(io.StringIO(log.read_text()))]
    except (UnicodeDecodeError, csv.Error):
        rows = []
    if not rows or rows[0] != COLUMNS or any(len(row) != len(COLUMNS) for row in rows):
        raise InputError(
            "not a log of looks at test",
            file=log,
            rule=f"columns {', '.join(COLUMNS)}",
            remedy=f"bring it back with `git checkout -- {log}`; lines are only ever added",
        )
    return rows[1:]


def commit() -> str:
    """First digits of the commit, with + where tracked files differ from it; "unknown" without git."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--exclude=*", "--dirty=+", "--abbrev=10"],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()
