"""Checkpoints: whole or absent, equal bytes for equal training, nothing pickled, refused where they do not fit."""

import json
import re
from dataclasses import replace

import pytest
import torch
from fusion_market import configuration, market

from fusion_alpha import checkpoint, samples, training
from fusion_alpha.errors import InputError


@pytest.fixture(scope="module")
def trained():
    cfg = configuration()
    data = samples.build(market(), cfg)
    net = training.start(data, cfg, torch.device("cpu")).net.eval()
    return net, data, cfg, {"loss": 1.5, "ic": 0.125}


@pytest.fixture
def folder(trained, tmp_path):
    checkpoint.save(tmp_path / "fusionnet", *trained)
    return tmp_path / "fusionnet"


def test_what_is_loaded_is_what_was_saved(trained, folder):
    net, data, cfg, _ = trained
    loaded, model_id = checkpoint.load(folder, data.feature_names, cfg)
    assert not loaded.training
    assert re.fullmatch("[0-9a-f]{12}", model_id)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in net.state_dict().items())
    batch = data.gather(data.select()[:10])
    assert torch.equal(loaded(batch).mean, net(batch).mean)


def test_equal_training_gives_equal_bytes_and_another_configuration_another_id(trained, folder, tmp_path):
    net, data, cfg, dev = trained
    again = tmp_path / "again"
    model_id = checkpoint.save(again, *trained)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["README.md", "config.json", "model.safetensors"]
    assert all((folder / name).read_bytes() == (again / name).read_bytes() for name in names)
    assert checkpoint.save(tmp_path / "other", net, data, replace(cfg, interval="5m"), dev) != model_id


def test_the_card_says_what_the_data_was(folder, trained):
    card = (folder / "README.md").read_text()
    assert "SIMULATED" in card
    assert "| train | 216 | 156 | 156 |" in card
    assert "| ic | 0.1250 |" in card
    assert checkpoint.load(folder, trained[1].feature_names, trained[2])[1] in card


def test_the_real_market_is_not_called_simulated(trained, tmp_path):
    net, data, cfg, dev = trained
    real = replace(cfg, data=replace(cfg.data, simulated=False))
    checkpoint.save(tmp_path / "real", net, data, real, dev)
    assert "SIMULATED" not in (tmp_path / "real" / "README.md").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda cfg: replace(cfg, interval="5m"), "interval = 1d, now it is 5m"),
        (lambda cfg: replace(cfg, text=replace(cfg.text, dim=9)), "text.dim = 8, now it is 9"),
        (lambda cfg: replace(cfg, text=replace(cfg.text, sha256="ab")), "text.sha256 = None, now it is ab"),
        (lambda cfg: replace(cfg, model=replace(cfg.model, width=32)), "model.width = 16, now it is 32"),
        (lambda cfg: replace(cfg, target=replace(cfg.target, news_delay_s=9.0)), "target.news_delay_s = 0.0"),
    ],
)
def test_another_configuration_is_refused(trained, folder, change, message):
    with pytest.raises(InputError, match=re.escape(message)):
        checkpoint.load(folder, trained[1].feature_names, change(trained[2]))


def test_other_features_are_refused(trained, folder):
    _, data, cfg, _ = trained
    with pytest.raises(InputError, match=r"session_features = \['ret_1'\], now it is \['macd'\]"):
        checkpoint.load(folder, ("macd", *data.feature_names[1:]), cfg)
    with pytest.raises(InputError, match="session_features = another order"):
        checkpoint.load(folder, data.feature_names[::-1], cfg)


def test_a_flipped_bit_is_noticed(trained, folder):
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"(?s)model\.safetensors.*not those that were saved"):
        checkpoint.load(folder, trained[1].feature_names, trained[2])


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 99}', None])
def test_a_broken_or_absent_config_is_refused(trained, folder, content):
    path = folder / "config.json"
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    with pytest.raises(InputError, match=r"config\.json"):
        checkpoint.load(folder, trained[1].feature_names, trained[2])


def test_weights_of_another_shape_are_refused(trained, folder):
    _, data, cfg, dev = trained
    description = json.loads((folder / "config.json").read_text())
    checkpoint.save(folder, training.start(data, wide(cfg), torch.device("cpu")).net, data, wide(cfg), dev)
    description["weights_sha256"] = json.loads((folder / "config.json").read_text())["weights_sha256"]
    (folder / "config.json").write_text(json.dumps(description))
    with pytest.raises(InputError, match="do not fit the network"):
        checkpoint.load(folder, data.feature_names, cfg)


def wide(cfg):
    return replace(cfg, model=replace(cfg.model, width=32))


def test_a_kill_leaves_the_former_checkpoint_and_the_next_run_cleans_up(trained, folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "card", die)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(folder, *trained)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    monkeypatch.undo()
    checkpoint.save(folder, *trained)
    assert [path.name for path in folder.parent.iterdir()] == ["fusionnet"]
