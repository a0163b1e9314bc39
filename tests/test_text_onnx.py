"""ONNX encoders: torch's vectors within stated limits, no influence of batch-mates, every changed bit refused."""

import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
import tiny_bert
from huggingface_hub import try_to_load_from_cache
from onnx import helper, numpy_helper

from fusion_alpha import config
from fusion_alpha.errors import InputError
from fusion_alpha.files import read_json, sha256, write_json
from fusion_alpha.onnx_models import MANIFEST, digest, session
from fusion_alpha.text import onnx_encoder, onnx_export
from fusion_alpha.text.encoders import create, create_torch, encode
from fusion_alpha.text.onnx_encoder import LIMITS, Limits, OnnxEncoder
from fusion_alpha.text.onnx_quantize import quantized

PRECISIONS = ("float32", "int8")
# Random weights put most texts between two classes: labels are compared for the real model alone.
LOOSE = {"float32": LIMITS["float32"], "int8": Limits(0.1, 5.0, agreement=0.8, f1_drop=1.0)}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return tiny_bert.build(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def folders(weights, tmp_path_factory):
    encoder = create_torch(tiny_bert.config(weights))
    made = {precision: tmp_path_factory.mktemp("onnx") / precision for precision in PRECISIONS}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_export, "LIMITS", LOOSE)
        for precision, folder in made.items():
            onnx_export.export(encoder, folder, precision)
    return made


@pytest.fixture
def loose(monkeypatch):
    for module in (onnx_encoder, onnx_export):
        monkeypatch.setattr(module, "LIMITS", LOOSE)


def tiny(folders, precision, **changes):
    return OnnxEncoder(folders[precision], settings(precision, **changes))


def settings(precision, **changes):
    return tiny_bert.config("unused", engine="onnx", precision=precision, **changes)


def test_float32_gives_what_torch_gives(folders, weights):
    texts = tiny_bert.texts(90)
    torch_encoder, encoder = create(tiny_bert.config(weights)), tiny(folders, "float32")
    for found, expected in zip(encode(encoder, texts), encode(torch_encoder, texts), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
    lengths = [np.zeros(len(texts), np.int64) for _ in range(2)]
    for one, kept in zip((encoder, torch_encoder), lengths, strict=True):
        for part in one.stream(texts):
            kept[part.rows] = part.n_tokens
    assert lengths[0].tolist() == lengths[1].tolist()
    assert lengths[0].max() > 64  # a text that is cut


@pytest.mark.parametrize("precision", PRECISIONS)
def test_bits_depend_on_the_text_alone(folders, loose, precision):
    texts = [*tiny_bert.texts(120), ""]
    vectors, probabilities = encode(tiny(folders, precision), texts)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-12)
    order = np.random.default_rng(4).permutation(len(texts))
    for changes in ({}, {"threads": 1}, {"batch_size": 3}, {"batch_size": 1}):
        again, also = encode(tiny(folders, precision, **changes), [texts[number] for number in order])
        assert again.tobytes() == vectors[order].tobytes()
        assert also.tobytes() == probabilities[order].tobytes()


def test_equal_weights_give_equal_files_that_name_no_folder(folders, weights, loose, tmp_path):
    onnx_export.export(create_torch(tiny_bert.config(weights)), tmp_path / "again", "int8")
    for name in (*onnx_encoder.FILES, MANIFEST):
        content = (folders["int8"] / name).read_bytes()
        assert (tmp_path / "again" / name).read_bytes() == content
        assert b"site-packages" not in content
        assert b"/tmp/" not in content


@pytest.mark.parametrize("name", [*onnx_encoder.FILES, MANIFEST])
def test_one_flipped_bit_is_refused(folders, loose, tmp_path, name):
    shutil.copytree(folders["int8"], tmp_path / "copy")
    content = (folders["int8"] / name).read_bytes()
    for at in (len(content) // 3, len(content) - 2):
        (tmp_path / "copy" / name).write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(InputError, match=r"SHA-256|manifest was changed|not JSON"):
            OnnxEncoder(tmp_path / "copy", settings("int8"))


def test_an_absent_file_and_other_settings_are_refused(folders, loose, tmp_path):
    shutil.copytree(folders["int8"], tmp_path / "copy")
    (tmp_path / "copy" / onnx_encoder.GOLDEN).unlink()
    with pytest.raises(InputError, match="no such file"):
        OnnxEncoder(tmp_path / "copy", settings("int8"))
    for changes, said in (({"dim": 8}, "text.dim"), ({"name": "minilm"}, "text.name"), ({"max_tokens": 200}, "128")):
        with pytest.raises(InputError, match=said):
            tiny(folders, "int8", **changes)
    with pytest.raises(InputError, match=r"exported for text\.precision = 'int8'"):
        OnnxEncoder(folders["int8"], settings("float32"))


def test_a_machine_that_computes_something_else_is_refused(folders, tmp_path, monkeypatch):
    """A model that does not give its golden vectors, with every hash in order."""
    monkeypatch.setattr(onnx_encoder, "LIMITS", LOOSE | {"int8": LOOSE["float32"]})
    folder = tmp_path / "copy"
    shutil.copytree(folders["float32"], folder)
    shutil.copy(folders["int8"] / onnx_encoder.MODEL, folder)
    manifest = read_json(folder / MANIFEST)
    manifest["files"][onnx_encoder.MODEL] = sha256(folder / onnx_encoder.MODEL)
    write_json(folder / MANIFEST, manifest | {"digest": digest(manifest)})
    with pytest.raises(InputError, match="golden text"):
        OnnxEncoder(folder, settings("float32"))


def test_an_export_beyond_the_limits_writes_nothing(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "LIMITS", {"int8": Limits(1e-6, 1e-6)})
    with pytest.raises(InputError, match=r"too far from torch: embedding 0\.\d+ \(limit 1e-06\), logit"):
        onnx_export.export(create_torch(tiny_bert.config(weights)), tmp_path / "out", "int8")
    assert not (tmp_path / "out").exists()


def product(weight):
    """A graph of one product of activations (B, L, K), looked up by token, with `weight` (K, N)."""
    table = np.random.default_rng(2).normal(size=(50, len(weight))).astype(np.float32)
    table[:, 3] *= 40  # an input much larger than the others
    nodes = [helper.make_node("Gather", ["table", "ids"], ["x"]), helper.make_node("MatMul", ["x", "weight"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, ["rows", "tokens"])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(weight, "weight")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), table


def test_int8_product_is_the_formula_and_smoothing_halves_its_error():
    weight = np.random.default_rng(1).normal(size=(32, 16)).astype(np.float32)
    model, table = product(weight)
    ids = np.arange(50).reshape(5, 10)
    found = session(quantized(model, [ids]).SerializeToString()).run(None, {"ids": ids})[0].reshape(50, 16)

    def formula(smoothing):
        x, w = table / smoothing, weight * smoothing[:, None]
        of_token, of_output = np.abs(x).max(1, keepdims=True) / 127, np.abs(w).max(0) / 127
        whole = np.rint(x / of_token).astype(np.int64) @ np.rint(w / of_output).astype(np.int64)
        return whole * of_token * of_output

    smooth = formula(np.sqrt(np.abs(table).max(0) / np.abs(weight).max(1)).astype(np.float32))
    exact = table.astype(np.float64) @ weight
    np.testing.assert_allclose(found, smooth, rtol=1e-4, atol=0.05 * np.abs(found - exact).mean())
    assert np.abs(found - exact).mean() < 0.5 * np.abs(formula(np.ones(32, np.float32)) - exact).mean()


@pytest.fixture(scope="module")
def minilm(tmp_path_factory):
    """The shipped encoder in int8, exported by its first use, and the main checkout that keeps it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(tmp_path_factory.mktemp("main")))
        cfg = replace(config.load([]).text, engine="onnx", precision="int8")
        encoder = create(cfg)
        patch.setattr(onnx_export, "export", None)  # a second export would fail
        return encoder, create(cfg)


@pytest.mark.slow
def test_minilm_in_int8_is_exported_once_within_its_limits(minilm):
    texts, _ = onnx_export.texts()
    some = [*texts[::9], *texts[-20:]]
    plain = encode(create(config.load([]).text), some)
    for encoder in minilm:
        vectors, probabilities = encode(encoder, some)
        assert (vectors * plain[0]).sum(1).min() > 0.995
        assert (probabilities.argmax(1) == plain[1].argmax(1)).mean() >= 0.97
        assert np.abs(probabilities - plain[1]).max() < 0.12
    assert minilm[0].spec == minilm[1].spec
    assert (minilm[0].spec.engine, minilm[0].spec.precision) == ("onnx", "int8")
    assert minilm[0].spec.weights_sha256 != config.load([]).text.sha256  # of the file that computes: the cache's key


@pytest.mark.slow
def test_minilm_in_int8_has_equal_bits_alone_and_among_others(minilm):
    texts = tiny_bert.texts(60)
    together, probabilities = encode(minilm[0], texts)
    alone = [encode(minilm[1], [text]) for text in texts[::4]]
    assert np.concatenate([one for one, _ in alone]).tobytes() == together[::4].tobytes()
    assert np.concatenate([one for _, one in alone]).tobytes() == probabilities[::4].tobytes()


@pytest.mark.slow
def test_finbert_of_the_hub_stays_within_the_limits(tmp_path):
    if not isinstance(try_to_load_from_cache("ProsusAI/finbert", "model.safetensors"), str):
        pytest.skip("no weights of ProsusAI/finbert in safetensors on this machine")
    cfg = tiny_bert.config("ProsusAI/finbert", dim=768)
    for precision in PRECISIONS:
        onnx_export.export(create_torch(cfg), tmp_path / precision, precision)


def test_running_needs_no_torch(folders):
    code = f"""
import sys, pathlib
from fusion_alpha.config import TextConfig
from fusion_alpha.text.encoders import encode
from fusion_alpha.text.onnx_encoder import OnnxEncoder
cfg = TextConfig("finbert", None, None, None, {tiny_bert.DIM}, "onnx", "float32", 64, 16, 2)
encode(OnnxEncoder(pathlib.Path({str(folders["float32"])!r}), cfg), ["profit rise"])
assert not {{"torch", "transformers", "onnx"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
