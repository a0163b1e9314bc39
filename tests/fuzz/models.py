"""Targets of readers of models: checkpoints, exported models, heads, caches of embeddings.

Graphs of exported models are made by hand: tracing a network takes seconds.
"""

import json
import sqlite3
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx
import tiny_bert
import torch
from fusion_market import configuration, market
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save as to_bytes
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import BertConfig, BertModel

from fusion_alpha import checkpoint, config, files, onnx_fusionnet, onnx_models, samples, training
from fusion_alpha.fusionnet import FusionNet
from fusion_alpha.live import model
from fusion_alpha.text import encoders, onnx_encoder, sentiment
from fusion_alpha.text.cache import Embedded, EmbeddingCache
from fuzz.common import Target, scratch, write

# --- FusionNet


@cache
def _market() -> tuple[config.Config, samples.Samples]:
    cfg = configuration(width=4, heads=1)
    return cfg, samples.build(market(1, 40), cfg)


@cache
def _checkpoint() -> dict[str, bytes]:
    cfg, data = _market()
    net = training.start(data, cfg, training.set_up(cfg.train)).net.eval()
    folder = scratch() / "fusionnet"
    checkpoint.save(folder, net, data, cfg, {"loss": 1.5})
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@cache
def _state() -> bytes:
    cfg, data = _market()
    return training.start(data, cfg, training.set_up(cfg.train)).dump()


def _checkpoint_config(content: bytes, folder: Path) -> object:
    return _load(_checkpoint() | {checkpoint.CONFIG: content}, folder)


def _checkpoint_weights(content: bytes, folder: Path) -> object:
    description = json.loads(_checkpoint()[checkpoint.CONFIG]) | {"weights_sha256": sha256(content).hexdigest()}
    return _load({checkpoint.WEIGHTS: content, checkpoint.CONFIG: json.dumps(description).encode()}, folder)


def _load(content: dict[str, bytes], folder: Path) -> object:
    _write_all(content, folder)
    cfg, data = _market()
    return checkpoint.load(folder, data.feature_names, cfg)


def _card(content: bytes, folder: Path) -> object:
    _write_all(_checkpoint() | {checkpoint.CARD: content}, folder)
    return model.require_whole(folder)


def _train_state(content: bytes, folder: Path) -> object:
    cfg, data = _market()
    return training.start(data, cfg, training.set_up(cfg.train)).load(write(folder / "state.safetensors", content))


def _write_all(content: dict[str, bytes], folder: Path) -> None:
    for name, part in content.items():
        write(folder / name, part)


# --- exported models


def _manifest(content: bytes, folder: Path) -> object:
    write(folder / "model.onnx", b"")
    write(folder / onnx_models.MANIFEST, content)
    return onnx_models.verified(folder, 1, "export it again")


def _with_digest(read: Callable[[bytes, Path], object]) -> Callable[[bytes, Path], object]:
    """The same behind the digest of the manifest."""

    def behind(content: bytes, folder: Path) -> object:
        try:
            manifest = json.loads(content)
            manifest["digest"] = onnx_models.digest(manifest)
            whole = json.dumps(manifest, indent=2, sort_keys=True) + "\n"
        except (ValueError, TypeError, AttributeError, RecursionError):
            return None
        return read(whole.encode(), folder)

    return behind


def _whole_manifest() -> list[bytes]:
    manifest = {"format": 1, "name": "minilm", "files": {"model.onnx": sha256(b"").hexdigest()}}
    return [files.to_json(manifest | {"digest": onnx_models.digest(manifest)}).encode()]


def _exported(
    made: Callable[[], dict[str, bytes]], read: Callable[[Path], object], name: str
) -> Callable[[bytes, Path], object]:
    """A reader of an exported folder, given its file `name`; a manifest is right about any other file's hash."""

    def behind(content: bytes, folder: Path) -> object:
        parts = made() | {name: content}
        _write_all(parts, folder)
        if name != onnx_models.MANIFEST:
            manifest = json.loads(parts.pop(onnx_models.MANIFEST))
            onnx_models.write_manifest(folder, manifest, parts)
        return read(folder)

    return behind


def _folder_of(parts: dict[str, bytes], manifest: dict[str, object]) -> dict[str, bytes]:
    """The files of an exported folder, its manifest among them."""
    folder = scratch()
    _write_all(parts, folder)
    onnx_models.write_manifest(folder, manifest, parts)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _graph(nodes: list[onnx.NodeProto], sizes: dict[str, tuple], outputs: dict[str, tuple], **constants) -> bytes:
    """A model of float32 inputs (ids: int64, masks of sessions: bool) and outputs, with constants by name."""
    kinds = {"ids": TensorProto.INT64, "session_mask": TensorProto.BOOL}
    inputs = [
        helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), size) for name, size in sizes.items()
    ]
    found = [helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name, size in outputs.items()]
    known = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    made = helper.make_graph(nodes, "made", inputs, found, known)
    return helper.make_model(made, ir_version=8, opset_imports=[helper.make_opsetid("", 13)]).SerializeToString()


_FEATURES = ("gap_1", "rsi_14")


@cache
def _prices() -> config.Config:
    return configuration("price_only", width=4, heads=1)


@cache
def _network() -> FusionNet:
    return FusionNet(_prices().model, n_features=2, text_dim=8, tau=(1.0, 1.0), seed=0).eval()


def _fusionnet_of(answers: Callable[[bytes, samples.Batch], np.ndarray]) -> dict[str, bytes]:
    """An export in float32; its golden answers [2, 4, 4] are `answers` of the graph and of two rows."""
    cfg = _prices()
    drawn = onnx_fusionnet.masks(cfg.model, 0, 4)
    given = {"sessions": ("rows", cfg.model.sessions, 2), "session_mask": ("rows", cfg.model.sessions)}
    given |= {name: ("samples", mask.shape[1]) for name, mask in drawn.items()}
    nodes = [
        helper.make_node("ReduceMax", [onnx_fusionnet.MASKS[0]], ["peak"], axes=[1], keepdims=1),
        helper.make_node("ReduceMean", ["sessions"], ["level"], keepdims=0),
        *(helper.make_node("Add", ["peak", "level"], [name]) for name in onnx_fusionnet.OUTPUTS),
    ]
    graph = _graph(nodes, given, dict.fromkeys(onnx_fusionnet.OUTPUTS, ("samples", 1)))
    rng = np.random.default_rng(0)
    tokens = {
        "sessions": rng.standard_normal((2, cfg.model.sessions, 2), np.float32),
        "session_mask": np.ones((2, cfg.model.sessions), bool),
    }
    unused = dict.fromkeys(samples.Batch.__dataclass_fields__)
    batch = samples.Batch(**unused | {name: torch.from_numpy(value) for name, value in tokens.items()})
    golden = tokens | drawn | {"float32": np.ascontiguousarray(answers(graph, batch))}
    manifest = {
        "format": onnx_fusionnet.FORMAT,
        "model_id": "0" * 12,
        "checkpoint": checkpoint.setting(_FEATURES, cfg) | {"seed": 0},
        "thresholds": None,
        "shipped": ["float32"],
        "parity": {"float32": {"refused": []}, "int8": {"refused": ["f1"]}},
    }
    return _folder_of({"float32.onnx": graph, onnx_fusionnet.GOLDEN: to_bytes(golden)}, manifest)


@cache
def _fusionnet() -> dict[str, bytes]:
    """An export with the golden answers of its graph."""
    drawn = onnx_fusionnet.masks(_prices().model, 0, 4)

    def answers(graph: bytes, batch: samples.Batch) -> np.ndarray:
        runner, names = onnx_fusionnet.Runner(graph), ("sessions", "session_mask")
        rows = [{name: getattr(batch, name)[row : row + 1].numpy() for name in names} for row in range(2)]
        return np.stack([runner.run(row, drawn) for row in rows])

    return _fusionnet_of(answers)


@cache
def _fusionnet_of_torch() -> dict[str, bytes]:
    """The same with those of torch's network."""
    return _fusionnet_of(lambda _, batch: onnx_fusionnet.of_torch(_network(), batch, 4))


def _on_onnx(folder: Path) -> object:
    return onnx_fusionnet.OnnxFusionNet(folder, "float32", _FEATURES, _prices())


def _on_torch(folder: Path) -> object:
    return onnx_fusionnet.require_golden(_network(), "0" * 12, folder)


@cache
def _encoder() -> dict[str, bytes]:
    words = {"[CLS]": 0, "[SEP]": 1, "[UNK]": 2, "up": 3, "down": 4}
    tokenizer = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    rng = np.random.default_rng(0)
    tables = {name: rng.standard_normal((len(words), size), np.float32) for name, size in (("v", 2), ("l", 3))}
    nodes = [
        node
        for table, output in (("v", "vectors"), ("l", "logits"))
        for node in (
            helper.make_node("Gather", [table, "ids"], [f"{table}_all"]),
            helper.make_node("ReduceMean", [f"{table}_all"], [output], axes=[1], keepdims=0),
        )
    ]
    graph = _graph(nodes, {"ids": ("rows", "tokens")}, {"vectors": ("rows", 2), "logits": ("rows", 3)}, **tables)
    ids, lengths = np.array([[0, 3, 1], [0, 4, 0]]), np.array([3, 2])
    rows = [row[:length] for row, length in zip(ids, lengths, strict=True)]
    golden = {"ids": ids, "lengths": lengths}
    golden |= {name: np.stack([tables[name[0]][row].mean(0) for row in rows]) for name in ("vectors", "logits")}
    golden["embeddings"] = golden.pop("vectors")
    manifest = {"format": onnx_encoder.FORMAT, "name": "finbert", "precision": "float32", "dim": 2, "positions": 128}
    manifest |= {"head_sha256": "0" * 64, "last_token": 1}
    contents = (graph, tokenizer.to_str().encode(), to_bytes(golden))
    return _folder_of(dict(zip(onnx_encoder.FILES, contents, strict=True)), manifest)


def _encodes(folder: Path) -> object:
    encoder = onnx_encoder.OnnxEncoder(folder, tiny_bert.config(folder, engine="onnx", dim=2))
    return list(encoder.stream(["up", "down and up", "up " * 99]))


# --- encoders' parts

_HEAD_OF = "0" * 64  # SHA-256 of its encoder


@cache
def _bert() -> BertModel:
    sizes = {"vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "max_position_embeddings": 8}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return BertModel(BertConfig(num_hidden_layers=2, num_attention_heads=2, **sizes)).eval()


@cache
def _head() -> dict[str, bytes]:
    folder = scratch()
    sentiment.save(folder, sentiment.SentimentBranch(_bert(), 1), _bert(), {"encoder_sha256": _HEAD_OF})
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _head_config(content: bytes, folder: Path) -> object:
    return _load_head(_head() | {sentiment.CONFIG: content}, folder)


def _head_weights(content: bytes, folder: Path) -> object:
    description = json.loads(_head()[sentiment.CONFIG]) | {"weights_sha256": sha256(content).hexdigest()}
    return _load_head({sentiment.WEIGHTS: content, sentiment.CONFIG: json.dumps(description).encode()}, folder)


@torch.inference_mode()
def _load_head(content: dict[str, bytes], folder: Path) -> object:
    _write_all(content, folder)
    branch, _ = sentiment.load(folder, _bert(), _HEAD_OF)
    mask = torch.ones(1, 2, dtype=torch.bool)
    out = _bert()(input_ids=torch.zeros(1, 2, dtype=torch.int64), attention_mask=mask, output_hidden_states=True)
    return branch(out.hidden_states[branch.first_layer], mask)  # as MiniLM does


_SPEC = encoders.Spec("stub", 4, "0" * 64, "0" * 64, 16, "torch", "float32", 2)


def _embedding_cache(content: bytes, folder: Path) -> object:
    with EmbeddingCache(folder, _SPEC) as made:
        path = made.path
    for leftover in folder.iterdir():
        leftover.unlink()
    write(path, content)
    with EmbeddingCache(folder, _SPEC) as opened:
        opened.put(["b"], Embedded.zeros(1, 4))
        return opened.get(["a", "b"])


def _embedding_file() -> list[bytes]:
    folder = scratch()
    with EmbeddingCache(folder, _SPEC) as made:
        made.put(["a"], Embedded.zeros(1, 4))
    with sqlite3.connect(made.path) as database:
        database.execute("PRAGMA journal_mode=DELETE")
        database.execute("VACUUM")
    database.close()
    return [made.path.read_bytes()]


def _part(name: str, made: Callable[[], dict[str, bytes]], read: Callable[[Path], object]) -> Target:
    reader = _exported(made, read, name)
    return Target(_with_digest(reader) if name == onnx_models.MANIFEST else reader, lambda: [made()[name]])


TARGETS = {
    "checkpoint_config": Target(_checkpoint_config, lambda: [_checkpoint()[checkpoint.CONFIG]]),
    "checkpoint_weights": Target(_checkpoint_weights, lambda: [_checkpoint()[checkpoint.WEIGHTS]]),
    "checkpoint_card": Target(_card, lambda: [_checkpoint()[checkpoint.CARD]]),
    "train_state": Target(_train_state, lambda: [_state()]),
    "onnx_manifest": Target(_manifest, _whole_manifest),
    "onnx_manifest_content": Target(_with_digest(_manifest), _whole_manifest),
    "onnx_fusionnet_manifest": _part(onnx_models.MANIFEST, _fusionnet, _on_onnx),
    "onnx_fusionnet_model": _part("float32.onnx", _fusionnet, _on_onnx),
    "onnx_fusionnet_golden": _part(onnx_fusionnet.GOLDEN, _fusionnet, _on_onnx),
    "onnx_fusionnet_golden_torch": _part(onnx_fusionnet.GOLDEN, _fusionnet_of_torch, _on_torch),
    "onnx_encoder_manifest": _part(onnx_models.MANIFEST, _encoder, _encodes),
    "onnx_encoder_model": _part(onnx_encoder.MODEL, _encoder, _encodes),
    "onnx_encoder_tokenizer": _part(onnx_encoder.TOKENIZER, _encoder, _encodes),
    "onnx_encoder_golden": _part(onnx_encoder.GOLDEN, _encoder, _encodes),
    "head_config": Target(_head_config, lambda: [_head()[sentiment.CONFIG]]),
    "head_weights": Target(_head_weights, lambda: [_head()[sentiment.WEIGHTS]]),
    "embedding_cache": Target(_embedding_cache, _embedding_file),
}
