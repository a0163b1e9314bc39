"""A workspace: the key, what is linked and shared, that stages run in it, once, and that a killed run goes on."""

import logging
import os
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from fusion_alpha import config, lab_runs, stage, workspace

TOY = {
    "first": {
        "cmd": "python -m stages.first",
        "deps": ["stages/first.py", "models/head", "${data.watched}"],
        "params": ["data", "train.epochs"],
        "outs": [{"data/raw": {"persist": True}}],
        "metrics": [{"metrics/first.json": {"cache": False}}],
    },
    "second": {"deps": ["stages/second.py", "data/raw", "metrics/first.json"], "params": ["technical"], "outs": []},
}


@pytest.fixture
def cfg():
    return config.load()


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A repository of two stages, and the log of their runs."""
    repository = tmp_path / "repository"
    for name in ("stages/first.py", "stages/second.py", "models/head/weights", "fusion_alpha/sources/lab.py"):
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_text(name)
    (repository / "dvc.yaml").write_text(yaml.safe_dump({"stages": TOY}))
    ran = []
    for name in TOY:
        module = SimpleNamespace(main=lambda cfg, name=name: ran.append((name, Path.cwd(), stage.root())))
        monkeypatch.setitem(sys.modules, f"stages.{name}", module)
    monkeypatch.setattr(workspace, "REPOSITORY", repository)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "root"))
    forget()
    yield SimpleNamespace(repository=repository, ran=ran, folder=tmp_path / "root/.cache/here/toy-1")
    forget()


def forget():
    workspace.pipeline.cache_clear()
    workspace._contents.cache_clear()


def test_key_depends_on_what_dvc_yaml_names_and_on_nothing_else(toy, cfg):
    known = workspace.key(cfg, ["first"])
    assert workspace.key(replace(cfg, hypothesis="other"), ["first"]) == known
    assert workspace.key(config.changed(cfg, ["train.patience=2", "technical.warmup_bars=90"]), ["first"]) == known
    assert workspace.key(config.changed(cfg, ["train.epochs=2"]), ["first"]) != known
    assert workspace.key(config.changed(cfg, ["data.lab.seed=8"]), ["first"]) != known
    assert workspace.key(cfg, ["first", "second"]) != known
    assert workspace.key(cfg, ["first"], also=["archive"]) != known


@pytest.mark.parametrize("name", ["stages/first.py", "models/head/weights", "fusion_alpha/sources/lab.py"])
def test_key_depends_on_the_files_that_dvc_yaml_names(toy, cfg, name):
    known = workspace.key(cfg, ["first"])
    (toy.repository / name).write_text("changed")
    forget()
    assert workspace.key(cfg, ["first"]) != known


def test_key_of_the_real_layers_knows_their_parameters(cfg):
    known = workspace.key(cfg, lab_runs.LAYERS)
    assert workspace.key(config.changed(cfg, ["evaluate.seed=9", "model=concat"]), lab_runs.LAYERS) == known
    assert workspace.key(config.changed(cfg, ["contradiction.n_paths=64"]), lab_runs.LAYERS) != known


def test_stages_run_once_in_the_workspace(toy, cfg, tmp_path):
    before = Path.cwd()
    for _ in range(2):
        with workspace.opened(toy.folder, cfg, ["first", "second"]) as place:
            place.run("first", "second")
    assert toy.ran == [(name, toy.folder, toy.folder) for name in ("first", "second")]
    assert (Path.cwd(), os.environ["DVC_ROOT"]) == (before, str(tmp_path / "root"))


def test_what_was_interrupted_is_done_again(toy, cfg, monkeypatch):
    def killed(cfg):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["stages.second"], "main", killed)
    with workspace.opened(toy.folder, cfg, TOY) as place, pytest.raises(KeyboardInterrupt):
        place.run("first", "second")
    assert os.environ["DVC_ROOT"] != str(toy.folder)
    monkeypatch.setattr(sys.modules["stages.second"], "main", lambda cfg: toy.ran.append("again"))
    with workspace.opened(toy.folder, cfg, TOY) as place:
        place.run("first", "second")
        place.once("between", lambda: toy.ran.append("between"))
        place.once("between", lambda: toy.ran.append("between"))
    assert [toy.ran[0][0], *toy.ran[1:]] == ["first", "again", "between"]


def test_inputs_are_linked_outputs_are_not_and_embeddings_are_shared(toy, cfg, tmp_path):
    with workspace.opened(toy.folder, cfg, TOY) as place:
        assert (place.folder / "models/head").resolve() == toy.repository / "models/head"
        assert {path.name for path in place.folder.iterdir()} == {"models", ".cache", "params.yaml"}
        assert (place.folder / ".cache/embeddings").resolve() == tmp_path / "root/.cache/embeddings"


def test_its_configuration_is_the_one_that_it_was_given(toy, cfg):
    cfg = config.changed(cfg, ["data.lab.seed=123", "train.lr=0.5", "tickers=[TSLA]"])
    with workspace.opened(toy.folder, cfg, TOY) as place:
        assert place.configuration() == cfg
        assert place.configuration("model=concat").model.name == "concat"


def test_quiet_hides_what_is_no_error_and_ends(toy, cfg, monkeypatch, caplog):
    def speak(cfg):
        logging.getLogger("stages.first").warning("rejected")
        assert stage.console.quiet
        logging.getLogger("fusion_alpha.x").error("broken")

    monkeypatch.setattr(sys.modules["stages.first"], "main", speak)
    with workspace.opened(toy.folder, cfg, TOY) as place:
        place.run("first", quiet=True)
    assert [record.message for record in caplog.records] == ["broken"]
    assert not stage.console.quiet
    logging.getLogger("stages.first").warning("heard")
    assert caplog.records[-1].message == "heard"
