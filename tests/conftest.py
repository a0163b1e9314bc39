"""What every test needs: quiet libraries, the repository as working folder, and the real inputs where present."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fusion_alpha import QUIET
from kernels import cuda

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"

os.environ.update(QUIET)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        try:
            cuda.current()
        except RuntimeError as error:
            pytest.skip(f"no GPU: {error}")


@pytest.fixture(autouse=True)
def _in_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def torch_as_it_was() -> Iterator[None]:
    """Settings of torch that a training changes, as they were before the module's tests."""
    import torch  # seconds, which tests without it need not pay

    threads = torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


@pytest.fixture
def shared_data() -> Path:
    """Folder of real inputs beside the checkout; skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("../shared/data is absent")
    return SHARED
