"""The router on ONNX Runtime: its signals are the batch pipeline's to the bit, and near those of torch."""

import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import test_live_router
import torch
from live_market import batch_samples

import live_router
from fusion_alpha import checkpoint, onnx_export, onnx_fusionnet, training
from fusion_alpha.fusionnet import FusionNet
from fusion_alpha.live import model
from fusion_alpha.live.model import ModelError, OnnxEngine, TorchEngine
from fusion_alpha.onnx_fusionnet import LIMITS, Limits
from fusion_alpha.trading import decide

BARS, route, said_by = test_live_router.BARS, test_live_router.route, test_live_router.said_by
world = test_live_router.world  # a fixture
PRECISIONS = ("float32", "int8")
NUMBERS = ("p_up", "p_up_sd", "mean_ret", "sd_ret", "severity")


@pytest.fixture(scope="module", autouse=True)
def _int8_whatever_it_says():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(LIMITS, "int8", Limits(1e9, agreement=0, f1_drop=1))
        yield


@pytest.fixture(scope="module")
def data(world):
    """Samples of all bars, those of the replay included, as the batch layers make them."""
    cfg, history, rest, _ = world
    return batch_samples(cfg, history, rest)


@pytest.fixture(scope="module")
def exported(world, data):
    """The world's checkpoint in both precisions, beside it in a run's folder."""
    cfg, _, _, folder = world
    net, _ = checkpoint.load(folder, data.feature_names, cfg)
    labels = np.random.default_rng(0).integers(0, 2, len(data.rows)).astype("float32")
    judged = replace(data, rows=data.rows.assign(split="dev"), label=torch.from_numpy(labels))
    run = folder.with_name("run")
    shutil.copytree(folder, run / checkpoint.FOLDER)
    training.set_up(cfg.train)
    onnx_export.export(folder, net, judged, run / onnx_fusionnet.FOLDER)
    return run


def settings(cfg, precision):
    return replace(cfg, predict=replace(cfg.predict, engine="onnx", precision=precision))


def signals(path) -> pd.DataFrame:
    found = pd.DataFrame([data for _, _, data in said_by(path, "signal")])
    return found.sort_values(["ticker", "close_utc"], ignore_index=True)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_replay_is_predict_and_decide_of_the_batch_pipeline_to_the_bit(
    world,
    data,
    exported,
    precision,
    tmp_path,
):
    cfg = settings(world[0], precision)
    route(world, model.load(cfg, exported), tmp_path / "all.log", cfg=cfg)
    routed = signals(tmp_path / "all.log")
    assert len(routed) == BARS * 3

    rows = data.select()  # stages/predict.py: all rows of the table at once
    net = onnx_fusionnet.OnnxFusionNet(exported / onnx_fusionnet.FOLDER, precision, data.feature_names, cfg)
    found = net.predict(data, rows, mc_samples=cfg.predict.mc_samples)
    batch = pd.concat([data.rows.iloc[rows].reset_index(drop=True), found], axis=1)
    batch["close_utc"] = batch["bar_close_utc"].map(lambda close: close.isoformat())
    batch = batch[batch["close_utc"].isin(routed["close_utc"])].sort_values(["ticker", "close_utc"], ignore_index=True)
    for name in (*NUMBERS, "kind"):
        assert routed[name].tolist() == batch[name].tolist(), name
    for close, said in routed.groupby("close_utc"):
        held = said.set_index("ticker")["held"]
        weights = decide(batch[batch["close_utc"] == close], cfg, held=held[held != 0])
        assert said.set_index("ticker")["weight"].to_dict() == weights.to_dict()
    assert (routed["weight"] != 0).any()

    for ticker in routed["ticker"].unique():  # a batch of one
        path = tmp_path / f"{ticker}.log"
        route(world, model.load(cfg, exported), path, cfg=cfg, tickers=[ticker])
        alone, among = signals(path), routed[routed["ticker"] == ticker].reset_index(drop=True)
        for name in (*NUMBERS, "kind"):
            assert alone[name].tolist() == among[name].tolist(), name


def test_torch_and_onnx_signal_alike_within_the_stated_tolerance(world, exported, tmp_path):
    said = {}
    for engine in ("torch", "onnx"):
        cfg = replace(world[0], predict=replace(world[0].predict, engine=engine))
        route(world, model.load(cfg, exported), tmp_path / f"{engine}.log", cfg=cfg)
        said[engine] = signals(tmp_path / f"{engine}.log")
    limit = LIMITS["float32"].difference
    for name in (*NUMBERS, "weight"):
        np.testing.assert_allclose(said["onnx"][name], said["torch"][name], rtol=limit, atol=limit, err_msg=name)
    assert said["onnx"]["kind"].tolist() == said["torch"]["kind"].tolist()


def test_one_wrong_bit_anywhere_ends_the_router_with_status_78(world, exported, tmp_path):
    cfg, folder = settings(world[0], "float32"), exported / onnx_fusionnet.FOLDER
    OnnxEngine(folder, cfg)
    rng = np.random.default_rng(7)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["float32.onnx", "golden.safetensors", "int8.onnx", "manifest.json"]
    for name in names:
        damaged = tmp_path / name
        shutil.copytree(folder, damaged)
        content = (folder / name).read_bytes()
        for place in rng.integers(0, 8 * len(content), 8):
            flipped = bytearray(content)
            flipped[place // 8] ^= 1 << place % 8
            (damaged / name).write_bytes(flipped)
            with pytest.raises(ModelError):
                OnnxEngine(damaged, cfg)
    command = [sys.executable, "live_router.py", "--set", "predict.engine=onnx", "--log", str(tmp_path / "live.log")]
    done = subprocess.run([*command, "--model", str(tmp_path / "float32.onnx")], capture_output=True, text=True)
    assert (done.returncode, "SHA-256 is" in done.stderr) == (live_router.BAD_MODEL, True), done.stderr
    assert not (tmp_path / "live.log").exists()


def test_the_engine_is_the_one_of_the_configuration_and_of_the_runs_checkpoint(world, data, exported, tmp_path):
    cfg = world[0]
    by_torch, by_onnx = model.load(cfg, exported), model.load(settings(cfg, "int8"), exported)
    assert (type(by_torch), type(by_onnx)) == (TorchEngine, OnnxEngine)
    assert by_torch.model_id == by_onnx.model_id
    assert by_torch.sha256 != by_onnx.sha256
    assert type(model.load(cfg, tmp_path, exported / checkpoint.FOLDER)) is TorchEngine
    with pytest.raises(ModelError, match="no such file"):
        model.load(settings(cfg, "float32"), tmp_path)
    with pytest.raises(ModelError, match="interval = 1d, now it is 1m"):
        model.load(replace(settings(cfg, "float32"), interval="1m"), exported)
    shutil.copytree(exported / onnx_fusionnet.FOLDER, tmp_path / onnx_fusionnet.FOLDER)
    model.load(settings(cfg, "float32"), tmp_path)  # the export alone is enough
    names = model.feature_names(cfg)
    other = FusionNet(cfg.model, n_features=len(names), text_dim=cfg.text.dim, tau=(0.5, 0.5), seed=4)
    checkpoint.save(tmp_path / checkpoint.FOLDER, other, data, cfg, {})
    with pytest.raises(ModelError, match=f"exported was {by_onnx.model_id}"):
        model.load(settings(cfg, "float32"), tmp_path)
