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


@pytest.fixture(scope="module")
def deterministic_torch(torch_as_it_was) -> None:
    """Torch as a training on the tests' small market sets it up."""
    from fusion_market import configuration

    from fusion_alpha import training

    training.set_up(configuration().train)


@pytest.fixture(scope="session")
def _empty_runs(tmp_path_factory) -> Path:
    """A folder whose database of runs exists: creating one takes seconds, so tests copy it."""
    from fusion_alpha import tracking

    root = tmp_path_factory.mktemp("root")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(root))
        tracking.prepare()
    return root


@pytest.fixture
def client(_empty_runs, tmp_path, monkeypatch):
    """MLflow's client of an empty database in `tmp_path`, where runs go for the length of a test."""
    mlflow_tracking = pytest.importorskip("mlflow.tracking")
    (tmp_path / "mlflow.db").write_bytes((_empty_runs / "mlflow.db").read_bytes())
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    return mlflow_tracking.MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")


@pytest.fixture
def shared_data() -> Path:
    """Folder of real inputs beside the checkout; skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("../shared/data is absent")
    return SHARED
