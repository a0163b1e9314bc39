"""The stages train and predict on a small market, and what a prediction may depend on."""

from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
import torch
from fusion_market import complete, configuration, market, until

from fusion_alpha import prediction, samples, tables, tracking, training
from fusion_alpha.errors import InputError
from fusion_alpha.fusionnet import Noise
from stages import predict, train

pytestmark = pytest.mark.usefixtures("torch_as_it_was")
CPU = torch.device("cpu")


class Record:
    """Stands in for a run in MLflow."""

    def __init__(self):
        self.curves, self.finished = None, None

    def log_curves(self, curves):
        self.curves = curves

    def finish(self, **what):
        self.finished = what


@pytest.fixture(scope="module")
def frames():
    return market(3, 200)


@pytest.fixture(scope="module")
def model(frames):
    """A trained network, its samples and configuration."""
    cfg = configuration()
    training.set_up(cfg.train)
    data = samples.build(frames, cfg)
    return training.train(data, cfg, CPU).net, data, cfg


def say(net, data, rows, mc_samples=8):
    return prediction.predict(net, data, rows, mc_samples=mc_samples, device=CPU)


def test_moments_over_the_samples(model):
    net, data, _ = model
    rows = data.select()[:40]
    said = say(net, data, rows)
    with torch.no_grad():
        output = net(data.gather(rows), Noise(samples=8, share_rows=True))
    p_up = torch.sigmoid(output.logit).mean(dim=0).numpy()
    mean, sd = output.mean.numpy(), output.sd.numpy()
    np.testing.assert_allclose(said["p_up"], p_up, rtol=1e-5)
    spread = torch.sigmoid(output.logit).std(dim=0, correction=0).numpy()
    np.testing.assert_allclose(said["p_up_sd"], spread, rtol=1e-4)
    assert (spread > 0).all()
    np.testing.assert_allclose(said["mean_ret"], mean.mean(axis=0) * 0.02, rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(said["sd_ret"], np.sqrt((sd**2).mean(axis=0) + mean.var(axis=0)) * 0.02, rtol=1e-5)
    np.testing.assert_allclose(said["severity"], output.severity.mean(dim=0).numpy(), rtol=1e-5)
    assert (said["sd_ret"] > 0.02 * np.sqrt((sd**2).mean(axis=0))).all()  # the samples differ


def test_kinds_by_hard_thresholds():
    score = np.array([0.9, 0.5, 0.0, -0.5, -0.7, -0.9], np.float32)
    kinds = prediction.kinds(score, (0.8, 0.7))
    assert kinds.tolist() == ["overhype", "none", "none", "none", "underhype", "underhype"]
    assert (prediction.kinds(score, None) == "none").all()


def test_a_row_is_predicted_alone_as_among_others(model):
    net, data, _ = model
    rows = data.select()
    together = say(net, data, rows)
    for place in (0, 1, 100, 255, 256, len(rows) - 1):
        alone = say(net, data, rows[place : place + 1])
        for name in ("p_up", "p_up_sd", "mean_ret", "sd_ret", "severity"):
            assert alone[name][0] == pytest.approx(together[name][place], rel=1e-6, abs=1e-9)
        assert alone["kind"][0] == together["kind"][place]
    shuffled = np.random.default_rng(0).permutation(len(rows))
    pd.testing.assert_frame_equal(
        say(net, data, rows[shuffled]), together.iloc[shuffled].reset_index(drop=True), rtol=1e-6, atol=1e-9
    )


def test_data_after_a_prediction_does_not_change_it(model, frames):
    net, data, cfg = model
    whole = pd.concat([data.rows.iloc[data.select()].reset_index(drop=True), say(net, data, data.select())], axis=1)
    for place in (50, 121, 190):
        end = frames["panel"]["bar_close_utc"][place]
        short = samples.build(until(frames, end), cfg)
        cut = pd.concat(
            [short.rows.iloc[short.select()].reset_index(drop=True), say(net, short, short.select())], axis=1
        )
        expected = whole[whole["bar_close_utc"] <= end].reset_index(drop=True)
        pd.testing.assert_frame_equal(cut, expected, rtol=1e-6, atol=1e-9)


def test_no_rows_give_no_predictions(model):
    net, data, _ = model
    assert say(net, data, np.array([], np.int64)).empty


def run_stages(frames, cfg, folder, monkeypatch):
    """Train and predict in `folder`; returns the stand-in of the MLflow run."""
    record = Record()

    @contextmanager
    def opened(cfg):
        yield record

    monkeypatch.setattr(tracking, "training_run", opened)
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    for name, frame in frames.items():
        tables.write(name, complete(name, frame))
    train.main(cfg)
    predict.main(cfg)
    return record


OUTPUTS = [
    *(f"models/fusionnet/{name}" for name in ("model.safetensors", "config.json", "README.md")),
    *("metrics/train.json", "metrics/curves.csv", "metrics/predict.json", "data/predictions/predictions.parquet"),
]


def test_stages_write_the_same_bytes_twice(frames, tmp_path, monkeypatch):
    cfg = configuration()
    records = [run_stages(frames, cfg, tmp_path / name, monkeypatch) for name in ("first", "second")]
    for name in OUTPUTS:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes(), name
    said = tables.read("predictions", tmp_path / "second" / OUTPUTS[-1])
    assert len(said) == 3 * (200 - 20)  # every row after the warm-up, labelled or not
    assert set(said["fold"]) == {"holdout"}
    assert set(said["model_id"]) == {records[0].finished["model_id"]}
    assert list(records[0].curves["epoch"]) == [1, 2]
    assert set(records[0].finished["metrics"]) >= {"dev/loss", "dev/bce", "dev/nll"}


def test_predict_refuses_the_checkpoint_of_another_configuration(frames, tmp_path, monkeypatch):
    fused, concat = configuration(), configuration("concat")
    run_stages(frames, fused, tmp_path, monkeypatch)
    with pytest.raises(InputError, match=r"model\.name = fused, now it is concat"):
        predict.main(concat)
