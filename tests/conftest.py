"""What every test needs: quiet libraries, the repository as working folder, and the real inputs where present."""

import os
from pathlib import Path

import pytest

from fusion_alpha.stage import QUIET

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"

os.environ.update(QUIET)


@pytest.fixture(autouse=True)
def _in_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture
def shared_data() -> Path:
    """Folder of real inputs beside the checkout; skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("../shared/data is absent")
    return SHARED
