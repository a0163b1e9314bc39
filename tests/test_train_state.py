"""A training that was interrupted goes on to the same bytes; nothing but the same training goes on from its file."""

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fusion_market import complete, configuration, market
from safetensors.numpy import save as to_bytes

from fusion_alpha import samples, tables, tracking, train_state, training
from fusion_alpha.config import ExecutorConfig
from fusion_alpha.errors import InputError
from fusion_alpha.files import write_bytes
from stages import train

pytestmark = pytest.mark.usefixtures("deterministic_torch")

CPU = torch.device("cpu")
OUTPUTS = [*(f"models/fusionnet/{name}" for name in ("model.safetensors", "config.json", "README.md"))]
OUTPUTS += ["metrics/train.json", "metrics/curves.csv"]


class Killed(BaseException):
    """Stands in for a signal."""


class Record:
    """Stands in for a run in MLflow."""

    def log_curves(self, curves):
        self.curves = curves

    def finish(self, **what):
        pass


@pytest.fixture
def cfg():
    """At least four epochs, stopped early."""
    cfg = configuration()
    cfg.train = replace(cfg.train, epochs=9, patience=3, lr=0.02)
    return cfg


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder, with the tables of a small market and without MLflow."""

    @contextmanager
    def opened(cfg):
        yield Record()

    monkeypatch.setattr(tracking, "training_run", opened)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    for name, frame in market().items():
        tables.write(name, complete(name, frame))
    return tmp_path


def states(folder: Path) -> list[Path]:
    return sorted((folder / ".cache/train").glob("*"))


def kill_after(epoch: int, monkeypatch) -> None:
    run_epoch = training.run_epoch

    def run(state, *arguments):
        if state.epoch == epoch:
            raise Killed
        run_epoch(state, *arguments)

    monkeypatch.setattr(training, "run_epoch", run)


@pytest.mark.parametrize("epoch", [0, 1, 3])
def test_a_killed_stage_goes_on_to_the_same_bytes(cfg, folder, monkeypatch, epoch):
    train.main(cfg)
    whole = {name: (folder / name).read_bytes() for name in OUTPUTS}
    assert len(whole["metrics/curves.csv"].splitlines()) - 1 >= 4
    assert states(folder) == []
    for name in OUTPUTS:
        (folder / name).unlink()
    with monkeypatch.context() as patch:
        kill_after(epoch, patch)
        with pytest.raises(Killed):
            train.main(cfg)
    assert not any((folder / name).exists() for name in OUTPUTS)
    assert len(states(folder)) == (epoch > 0)
    train.main(cfg)
    assert {name: (folder / name).read_bytes() for name in OUTPUTS} == whole
    assert states(folder) == []


def test_a_training_that_only_lacked_its_checkpoint_trains_no_more(cfg, folder, monkeypatch):
    data = samples.build(market(), cfg)
    file = folder / "state"
    done = training.train(data, cfg, CPU, resume=file)
    monkeypatch.setattr(training, "run_epoch", None)
    seen = []
    again = training.train(data, cfg, CPU, seen.append, resume=file)
    assert again.dump() == done.dump()
    assert seen == again.curves


def test_a_state_becomes_itself_through_its_bytes(cfg, tmp_path):
    data = samples.build(market(), cfg)
    state = training.train(data, cfg, CPU)
    write_bytes(tmp_path / "state", state.dump())
    fresh = training.start(data, cfg, CPU)
    fresh.load(tmp_path / "state")
    assert fresh.dump() == state.dump()
    for group, other in zip(fresh.optimizer.param_groups, state.optimizer.param_groups, strict=True):
        assert {**group, "params": 0} == {**other, "params": 0}


@pytest.mark.parametrize("damage", ["half a state", "no counters", "counters of another kind", "a name of no part"])
def test_a_damaged_state_is_an_error(cfg, tmp_path, damage):
    path = tmp_path / "state"
    tensors = {"other/x" if damage == "a name of no part" else "net/x": np.zeros(1, np.float32)}
    counters = None if damage == "no counters" else {"state": "{" if damage.startswith("counters") else "{}"}
    path.write_bytes(damage.encode() if damage == "half a state" else to_bytes(tensors, counters))
    with pytest.raises(InputError, match=r"(?s)not a state of a training.*remedy: remove it"):
        training.start(samples.build(market(), cfg), cfg, CPU).load(path)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("train", {"lr": 0.001}),
        ("train", {"epochs": 10}),
        ("model", {"dropout": 0.1}),
        ("contradiction", {"tau_over": 0.5}),
        ("text", {"dim": 16}),
        ("executor", {"name": "ddp", "ranks": 2}),
    ],
)
def test_another_training_has_another_file(cfg, folder, part, change):
    paths = [tables.schema(name).path for name in samples.INPUTS]
    before = train_state.resume_path(cfg, paths)
    assert before == train_state.resume_path(cfg, paths)
    setattr(cfg, part, replace(getattr(cfg, part), **change))
    assert train_state.resume_path(cfg, paths) != before


def test_other_tables_or_other_code_have_another_file(cfg, folder, monkeypatch):
    paths = [tables.schema(name).path for name in samples.INPUTS]
    before = train_state.resume_path(cfg, paths)
    tables.write("technical", market(seed=1)["technical"])
    changed = train_state.resume_path(cfg, paths)
    monkeypatch.setattr(train_state, "_PACKAGES", ("kernels",))
    assert len({before, changed, train_state.resume_path(cfg, paths)}) == 3


def test_what_does_not_touch_the_training_keeps_the_file(cfg, folder):
    paths = [tables.schema(name).path for name in samples.INPUTS]
    before = train_state.resume_path(cfg, paths)
    cfg.executor = ExecutorConfig("ray", 7, 1)
    cfg.strategy = replace(cfg.strategy, max_gross=2.0)
    cfg.hypothesis = "another"
    assert train_state.resume_path(cfg, paths) == before
    assert before.parent == folder / ".cache/train"


def test_all_that_is_compiled_counts_as_code(cfg, monkeypatch):
    hashed = []
    monkeypatch.setattr(train_state.files, "sha256", lambda path: hashed.append(path.name) or "")
    train_state.resume_path(cfg, [])
    assert {"training.py", "torch_front.py", "dropout.cu", "philox.cuh"} <= set(hashed)
