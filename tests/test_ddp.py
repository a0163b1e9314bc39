"""Training spread over processes: masks and loss curve are those of one process, states the same, ends clean."""

import json
import os
import subprocess
import sys
from pathlib import Path

import ddp_worker
import numpy as np
import pytest
import torch
from fusion_market import DIM, complete, market
from safetensors import safe_open
from safetensors.torch import load_file

from fusion_alpha import config, ranks, tables, training
from fusion_alpha.errors import InputError
from fusion_alpha.ranks import Ranks

ROOT = Path(__file__).parents[1]
ENV = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
SMALL = ["text=stub", f"text.dim={DIM}", "model.width=16", "train.epochs=2"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Folder of what this process sees of the training by itself."""
    threads = torch.get_num_threads()
    training.set_up(config.load().train)
    folder = tmp_path_factory.mktemp("alone")
    ddp_worker.everything(Ranks(), folder)
    yield folder / "0"
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.slow)])
def together(request, tmp_path_factory):
    """Folders of what each of 2 or 3 ranks sees."""
    folder = tmp_path_factory.mktemp("together")
    worker = str(ROOT / "tests/ddp_worker.py")
    command = [*TORCHRUN, f"--nproc-per-node={request.param}", worker, str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=ENV, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [folder / str(rank) for rank in range(request.param)]


def curves(folder: Path) -> list[dict[str, float]]:
    with safe_open(folder / "state", framework="pt") as file:
        return json.loads(file.metadata()["state"])["curves"]


def test_every_row_has_the_mask_that_it_has_in_one_process(alone, together):
    expected, seen = load_file(alone / "masks"), [load_file(folder / "masks") for folder in together]
    assert len(expected) == 5 * 6 * 2  # epochs, batches, layers
    assert {len(whole) for whole in expected.values()} == {ddp_worker.BATCH, 1}
    for address, whole in expected.items():
        shares = [Ranks(rank, len(together)).share(len(whole)) for rank in range(len(together))]
        parts = [masks[address][: share.stop - share.start] for masks, share in zip(seen, shares, strict=True)]
        assert torch.equal(torch.cat(parts), whole), address


def test_the_loss_curve_is_that_of_one_process(alone, together):
    for curve, expected in zip(curves(together[0]), curves(alone), strict=True):
        assert curve == pytest.approx(expected, rel=1e-5)


def test_the_weights_are_those_of_one_process(alone, together):
    found = load_file(together[0] / "state")
    for name, expected in load_file(alone / "state").items():
        close = np.abs((found[name] - expected).numpy()) < 1e-4
        if name.endswith("in_proj_bias"):  # softmax does not see the keys' bias: its gradient is rounding alone,
            close = np.delete(close, range(16, 32))  # and Adam takes steps of the same size for any gradient
        assert close.all(), name


def test_all_ranks_end_in_the_same_state_to_the_bit_and_a_difference_is_found(together):
    assert len({(folder / "state").read_bytes() for folder in together}) == 1
    message = f"the state of ranks {list(range(1, len(together)))} is not that of rank 0"
    assert all((folder / "difference").read_text().startswith(message) for folder in together)


def test_an_interrupted_training_goes_on_to_the_same_bits(alone, together):
    """Two trainings in the same processes, the second one stopped after two epochs: it also repeats to the bit."""
    for folder in (alone, *together):
        assert (folder / "resumed").read_bytes() == (folder / "state").read_bytes()


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("n", [0, 1, 2, 7, 256])
def test_shares_are_the_rows_in_order_and_differ_by_one_at_most(n, size):
    shares = [Ranks(rank, size).share(n) for rank in range(size)]
    assert [row for share in shares for row in range(n)[share]] == list(range(n))
    lengths = [share.stop - share.start for share in shares]
    assert max(lengths) - min(lengths) <= 1


def test_a_killed_rank_ends_all_and_leaves_a_whole_state(tmp_path):
    code = f"from fusion_alpha import ranks; ranks.launch('ddp_worker', [{str(tmp_path)!r}, 'killed'], 2)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=ENV, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "rank 1 killed by SIGKILL" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]
    assert load_file(tmp_path / "state.safetensors")


def stage(folder: Path, command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run stages.train with executor=ddp in a folder of its own."""
    (folder / "conf").symlink_to(ROOT / "conf")
    (folder / "params.yaml").symlink_to(ROOT / "params.yaml")
    command = [*command, "-m", "stages.train", "executor=ddp", *SMALL]
    env = ENV | {"DVC_ROOT": str(folder)}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    "command",
    [
        pytest.param([sys.executable], id="python"),
        pytest.param([*TORCHRUN, "--nproc-per-node=2"], id="torchrun", marks=pytest.mark.slow),
    ],
)
def test_a_mistake_is_named_once(tmp_path, command):
    done = stage(tmp_path, command)
    assert done.stderr.count("train stopped") == 1
    assert "data/processed/panel.parquet" in done.stderr
    if "torch.distributed.run" not in command:  # torchrun has its own status and its own report
        assert done.returncode == 2
        assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_stage_writes_the_same_bytes_however_it_is_started(tmp_path, monkeypatch):
    outputs = [f"models/fusionnet/{name}" for name in ("model.safetensors", "config.json", "README.md")]
    outputs += ["metrics/train.json", "metrics/curves.csv"]
    found = []
    for name, command in {"python": [sys.executable], "torchrun": [*TORCHRUN, "--nproc-per-node=2"]}.items():
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        for table, frame in market().items():
            tables.write(table, complete(table, frame))
        done = stage(tmp_path / name, command)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("dev loss") == 1
        found.append([(tmp_path / name / output).read_bytes() for output in outputs])
    assert found[0] == found[1]
    assert json.loads(found[0][1])["training"]["ranks"] == 2


def test_torchrun_without_ddp_is_refused(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    with (
        pytest.raises(InputError, match=r"(?s)executor\.name = 'pool'.*add executor=ddp"),
        ranks.joined(config.load()),
    ):
        pass


def test_a_process_without_a_gpu_of_its_own_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match=r"(?s)process 2 of this machine has no GPU.*executor\.workers"):
        training.set_up(config.load(["train.device=cuda"]).train, local_rank=1)
