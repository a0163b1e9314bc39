"""FusionNet on ONNX Runtime: torch's predictions within stated limits, bits of a row its own, nothing changed loads."""

import copy
import shutil
from dataclasses import replace
from functools import cache

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from fusion_market import complete, configuration, market

from fusion_alpha import (
    checkpoint,
    onnx_export,
    onnx_fusionnet,
    prediction,
    prediction_bench,
    samples,
    tables,
    training,
)
from fusion_alpha.errors import InputError
from fusion_alpha.files import read_json, sha256, write_json
from fusion_alpha.onnx_fusionnet import GOLDEN, LIMITS, Limits, OnnxFusionNet, file_name
from fusion_alpha.onnx_models import MANIFEST, digest
from kernels.dropout import keep_mask, scale
from stages import export as export_stage
from stages import predict as predict_stage

pytestmark = pytest.mark.usefixtures("torch_as_it_was")
CPU = torch.device("cpu")
NUMBERS = ["p_up", "p_up_sd", "mean_ret", "sd_ret", "severity"]
LOOSE = Limits(1e9, agreement=0, f1_drop=1)  # int8 is shipped whatever it says


@cache
def frames():
    """Features are unknown here and there, as windows without trades leave them."""
    found = market(3, 120)
    technical = found["technical"]
    holes = np.random.default_rng(3).random((len(technical), 2)) < 0.2
    for place, name in enumerate(("rsi_14", "gap_1")):
        technical[name] = technical[name].mask(holes[:, place])
    return found


def trained(variant, folder, **model):
    """A trained checkpoint in `folder`: its network, samples and configuration."""
    cfg = configuration(variant, **model)
    cfg.train = replace(cfg.train, epochs=1)
    training.set_up(cfg.train)
    data = samples.build(frames(), cfg)
    net = training.train(data, cfg, CPU).net
    checkpoint.save(folder, net, data, cfg, {"loss": 0.0})
    return net, data, cfg


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A checkpoint exported in both precisions: (folder, network, samples, configuration)."""
    folder = tmp_path_factory.mktemp("whole")
    net, data, cfg = trained("fused", folder / "fusionnet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(LIMITS, "int8", LOOSE)
        onnx_export.export(folder / "fusionnet", net, data, folder / "onnx")
    return folder, net, data, cfg


@pytest.fixture
def loose(monkeypatch):
    monkeypatch.setitem(LIMITS, "int8", LOOSE)


@pytest.fixture
def graph_again(whole, monkeypatch):
    """The graph of the first export in place of another tracing, which takes seconds."""
    import onnx

    model = onnx.load(whole[0] / "onnx" / file_name("float32"))
    monkeypatch.setattr(onnx_export, "network", lambda net, examples: model)


def loaded(whole, precision="float32", folder=None) -> OnnxFusionNet:
    _, _, data, cfg = whole
    return OnnxFusionNet(folder or whole[0] / "onnx", precision, data.feature_names, cfg)


def near(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    """Within the stated tolerance: that of outputs is 1e-5, and no moment moves by more than its outputs."""
    for name in NUMBERS:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-5, err_msg=name)
    assert (found["kind"] == expected["kind"]).all()


def test_torch_must_give_the_golden_answers_of_its_own_export(whole):
    folder, net, _, _ = whole
    model_id = checkpoint.fingerprint(folder / "fusionnet")[:12]
    onnx_fusionnet.require_golden(net, model_id, folder / "onnx")
    with pytest.raises(InputError, match="exported was"):
        onnx_fusionnet.require_golden(net, "0" * 12, folder / "onnx")
    other = copy.deepcopy(net)
    with torch.no_grad():
        next(other.heads.parameters())[0, 0] += 0.01
    with pytest.raises(InputError, match=r"golden row \d: answers differ by"):
        onnx_fusionnet.require_golden(other, model_id, folder / "onnx")


def test_float32_predicts_what_torch_predicts_also_where_features_are_unknown(whole):
    _, net, data, _ = whole
    rows = data.select()
    assert data.sessions[rows].isnan().any()
    for count in (8, 2, 64):  # whatever the export compared
        expected = prediction.predict(net, data, rows, mc_samples=count, device=CPU)
        near(loaded(whole).predict(data, rows, mc_samples=count), expected)
    assert not expected["kind"].eq("none").all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "model"),
    [
        ("attention", {}),
        ("concat", {}),
        ("price_only", {}),
        ("text_only", {}),
        ("fused", {"mask": "torch"}),
        ("fused", {"dropout": 0.3, "sticky_p": 0.3}),
    ],
)
def test_every_variant_is_exported_and_predicts_what_torch_predicts(variant, model, tmp_path, loose):
    net, data, cfg = trained(variant, tmp_path / "fusionnet", **model)
    onnx_export.export(tmp_path / "fusionnet", net, data, tmp_path / "onnx")
    rows = data.select()
    found = OnnxFusionNet(tmp_path / "onnx", "float32", data.feature_names, cfg).predict(data, rows, mc_samples=8)
    near(found, prediction.predict(net, data, rows, mc_samples=8, device=CPU))


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_bits_of_a_row_do_not_depend_on_other_rows(whole, loose, precision):
    _, _, data, _ = whole
    net, rows = loaded(whole, precision), data.select()
    together = net.predict(data, rows, mc_samples=8)
    order = np.random.default_rng(0).permutation(len(rows))
    shuffled = net.predict(data, rows[order], mc_samples=8)
    pd.testing.assert_frame_equal(shuffled, together.iloc[order].reset_index(drop=True), check_exact=True)
    again = loaded(whole, precision)  # another session
    for place in (0, 1, 7, 255, 256, len(rows) - 1):
        alone = again.predict(data, rows[place : place + 1], mc_samples=8)
        pd.testing.assert_frame_equal(alone, together.iloc[[place]].reset_index(drop=True), check_exact=True)
    assert net.predict(data, rows[:0], mc_samples=8).empty


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_what_lies_under_the_masks_changes_no_bit(whole, precision):
    """Windows are gathered from tables, so a masked token is some token of another row."""
    folder, net, data, _ = whole
    runner = onnx_fusionnet.Runner((folder / "onnx" / file_name(precision)).read_bytes())
    drawn, rng = onnx_fusionnet.masks(net.model, net.seed, 8), np.random.default_rng(6)
    rows = data.select()[::40]
    seen = 0
    for tokens in onnx_fusionnet.each_row(data.gather(rows), onnx_fusionnet.inputs(net.model)):
        expected = runner.run(tokens, drawn)
        other = {name: value.copy() for name, value in tokens.items()}
        for name, mask in (("sessions", "session_mask"), ("news", "news_mask"), ("news_features", "news_mask")):
            noise = 100 * rng.standard_normal(other[name].shape).astype(np.float32)
            other[name] = np.where(tokens[mask][..., None], other[name], noise)
        other["news_lag"] = np.where(tokens["news_mask"], other["news_lag"], 2)
        seen += (~tokens["news_mask"]).sum()
        assert np.array_equal(runner.run(other, drawn), expected)
    assert seen


def test_rows_and_samples_are_free_dimensions_of_the_graph(whole):
    folder, net, data, _ = whole
    session = onnxruntime.InferenceSession(folder / "onnx" / file_name("float32"), providers=["CPUExecutionProvider"])
    names = onnx_fusionnet.inputs(net.model)
    for n_rows, count in ((1, 2), (5, 6)):
        rows = data.select()[:n_rows]
        drawn = onnx_fusionnet.masks(net.model, net.seed, count)
        outputs = session.run(None, {name: getattr(data.gather(rows), name).numpy() for name in names} | drawn)
        assert [one.shape for one in outputs] == [(count, n_rows)] * 4
        with torch.no_grad():
            expected = net(data.gather(rows), onnx_export.Noise(samples=count, share_rows=True))
        for name, found in zip(onnx_fusionnet.OUTPUTS, outputs, strict=True):
            assert onnx_fusionnet.difference(found, getattr(expected, name).numpy()) <= LIMITS["float32"].difference


def test_masks_are_those_of_the_kernels(whole):
    _, net, _, _ = whole
    drawn = onnx_fusionnet.masks(net.model, net.seed, 6)
    for layer, (name, units) in enumerate((("mask_0", 48), ("mask_1", 16))):
        keep = keep_mask(units, 0.5, seed=net.seed, step=0, layer=layer, samples=6)
        assert np.array_equal(drawn[name], keep * np.float32(scale(0.5)))


def test_metrics_say_why_int8_is_not_shipped(whole, graph_again, monkeypatch, tmp_path):
    folder, net, data, _ = whole
    monkeypatch.setitem(LIMITS, "int8", Limits(1e-9, agreement=1.01, f1_drop=-2))
    measured = onnx_export.export(folder / "fusionnet", net, data, tmp_path / "onnx")
    for said in ("outputs differ by", "of the rows keep their side (limit 101%)", "macro-F1 falls by"):
        assert said in measured["int8"]["refused"]
    assert measured["float32"]["refused"] == ""
    assert not (tmp_path / "onnx" / file_name("int8")).exists()
    assert read_json(tmp_path / "onnx" / MANIFEST)["shipped"] == ["float32"]
    with pytest.raises(InputError, match="there is no model in int8: outputs differ by"):
        loaded(whole, "int8", tmp_path / "onnx")
    near(loaded(whole, folder=tmp_path / "onnx").predict(data, data.select()[:4], mc_samples=8), whole_torch(whole, 4))


def whole_torch(whole, n_rows):
    _, net, data, _ = whole
    return prediction.predict(net, data, data.select()[:n_rows], mc_samples=8, device=CPU)


def test_a_network_that_the_graph_is_not_leaves_the_folder_as_it_was(whole, graph_again, loose, tmp_path):
    folder, net, data, cfg = whole
    other = training.start(data, cfg, CPU).net.eval()
    with pytest.raises(InputError, match=r"too far from torch: outputs differ by .* \(limit 1e-05\)"):
        onnx_export.export(folder / "fusionnet", other, data, tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()
    assert net.seed == other.seed


@pytest.mark.parametrize("name", [file_name("float32"), file_name("int8"), GOLDEN, MANIFEST])
def test_one_wrong_bit_is_refused(whole, loose, tmp_path, name):
    shutil.copytree(whole[0] / "onnx", tmp_path / "copy")
    content = (whole[0] / "onnx" / name).read_bytes()
    for place in np.random.default_rng(5).integers(0, 8 * len(content), 12):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        (tmp_path / "copy" / name).write_bytes(flipped)
        with pytest.raises(InputError, match=r"SHA-256|manifest was changed|not JSON"):
            loaded(whole, folder=tmp_path / "copy")


def test_a_bit_that_leaves_the_manifests_meaning_is_refused_too(whole, loose, tmp_path):
    shutil.copytree(whole[0] / "onnx", tmp_path / "copy")
    path = tmp_path / "copy" / MANIFEST
    content = path.read_bytes()
    assert b"1e-05" in content
    path.write_bytes(content.replace(b"1e-05", b"1E-05", 1))
    assert read_json(path) == read_json(whole[0] / "onnx" / MANIFEST)
    with pytest.raises(InputError, match="manifest was changed"):
        loaded(whole, folder=tmp_path / "copy")


def rewritten(whole, folder, change) -> None:
    """A copy of the export with something changed and every hash in order."""
    shutil.copytree(whole[0] / "onnx", folder)
    manifest = read_json(folder / MANIFEST)
    change(manifest)
    manifest["files"] = {name: sha256(folder / name) for name in manifest["files"]}
    write_json(folder / MANIFEST, manifest | {"digest": digest(manifest)})


def test_wrong_answers_to_golden_rows_are_refused(whole, tmp_path):
    def swap(manifest):
        shutil.copy(tmp_path / "swapped" / file_name("int8"), tmp_path / "swapped" / file_name("float32"))

    rewritten(whole, tmp_path / "swapped", swap)
    with pytest.raises(InputError, match=r"golden row \d: answers differ by"):
        loaded(whole, folder=tmp_path / "swapped")
    rewritten(whole, tmp_path / "seed", lambda manifest: manifest["checkpoint"].update(seed=2))
    with pytest.raises(InputError, match="masks are not those of the export"):
        loaded(whole, folder=tmp_path / "seed")
    rewritten(whole, tmp_path / "format", lambda manifest: manifest.update(format=0))
    with pytest.raises(InputError, match="format 0"):
        loaded(whole, folder=tmp_path / "format")
    rewritten(whole, tmp_path / "same", lambda manifest: None)
    loaded(whole, folder=tmp_path / "same")


def test_another_setting_or_checkpoint_is_refused(whole, tmp_path):
    folder, _, data, cfg = whole
    with pytest.raises(InputError, match="interval = 1d, now it is 1m"):
        OnnxFusionNet(folder / "onnx", "float32", data.feature_names, replace(cfg, interval="1m"))
    with pytest.raises(InputError, match="session_features"):
        OnnxFusionNet(folder / "onnx", "float32", data.feature_names[1:], cfg)
    with pytest.raises(InputError, match="no such file"):
        OnnxFusionNet(tmp_path, "float32", data.feature_names, cfg)
    exported = loaded(whole)
    exported.require_exported_from(folder / "fusionnet")
    exported.require_exported_from(tmp_path)  # only the export is there
    checkpoint.save(tmp_path / "other", training.start(data, cfg, CPU).net, data, cfg, {})
    with pytest.raises(InputError, match=f"exported was {exported.model_id}"):
        exported.require_exported_from(tmp_path / "other")


def test_stages_export_twice_to_the_same_bytes_and_predict_with_both_engines(whole, tmp_path, monkeypatch):
    folder, _, data, cfg = whole
    monkeypatch.chdir(tmp_path)
    for name, frame in frames().items():
        tables.write(name, complete(name, frame))
    shutil.copytree(folder / "fusionnet", checkpoint.FOLDER)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(LIMITS, "int8", LOOSE)
        export_stage.main(cfg)
    for path in sorted((folder / "onnx").iterdir()):
        content = (onnx_fusionnet.FOLDER / path.name).read_bytes()
        assert b"site-packages" not in content
        assert b"/tmp/" not in content
        assert content == path.read_bytes(), path.name
    assert set(read_json(export_stage.METRICS)) == {"float32", "int8"}
    said = {}
    for engine in ("torch", "onnx"):
        predict_stage.main(replace(cfg, predict=replace(cfg.predict, engine=engine)))
        said[engine] = tables.read("predictions")
    near(said["onnx"], said["torch"])
    others = [name for name in said["torch"] if name not in NUMBERS]
    pd.testing.assert_frame_equal(said["onnx"][others], said["torch"][others])
    rows = data.select()
    expected = loaded(whole).predict(data, rows, mc_samples=cfg.predict.mc_samples)
    for name in NUMBERS:
        assert said["onnx"][name].tolist() == expected[name].tolist()

    monkeypatch.setattr(prediction_bench.config, "load", lambda: cfg)
    asked = ["--rows", "1", "3", "--rounds", "2", "--output", "bench.csv"]
    assert prediction_bench.main(asked) == prediction_bench.main(asked) == 0
    measured = pd.read_csv("bench.csv")
    assert list(measured) == prediction_bench.COLUMNS
    assert len(measured) == 2 * 2 * 5
    assert measured.loc[measured["provider"] != "onnx_int8", "p_up_difference"].max() < 1e-5
    assert prediction_bench.main(["--rows", "0"]) == 2
