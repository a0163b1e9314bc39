"""Write an encoder for ONNX Runtime: graph, tokenizer, golden vectors and a manifest with hashes and measured parity.

    python -m fusion_alpha.text.onnx_export --output FOLDER text.precision=int8

`torch.onnx.export(dynamo=True)` gives the float32 graph; `onnx_quantize` makes int8 of it. Both must stay within
`onnx_encoder.LIMITS` of torch on sentences of the project's own, or nothing is written: labelled ones, and pairs of
them joined, which are longer and often between two classes. Equal weights and library versions give an equal folder.
Nothing is pickled.
"""

import argparse
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from filelock import FileLock
from numpy.typing import NDArray
from safetensors.numpy import save as to_bytes
from sklearn.metrics import f1_score

from fusion_alpha.config import TextConfig, load
from fusion_alpha.errors import InputError
from fusion_alpha.files import replace_folder, sha256, write_bytes
from fusion_alpha.onnx_graph import graph
from fusion_alpha.onnx_models import session, versions, write_manifest
from fusion_alpha.stage import root, set_up
from fusion_alpha.text import weights
from fusion_alpha.text.encoders import LABELS, create_torch
from fusion_alpha.text.onnx_encoder import (
    FILES,
    FORMAT,
    GOLDEN,
    LIMITS,
    MODEL,
    TOKENIZER,
    OnnxEncoder,
)
from fusion_alpha.text.onnx_quantize import quantized
from fusion_alpha.text.phrases import sentences
from fusion_alpha.text.transformer import TransformerEncoder, tokenize

_EVERY = 12  # of the project's sentences, one in so many
_GOLDEN = 8  # texts whose vectors every load checks

log = logging.getLogger("fusion_alpha.text.onnx_export")


class Vectors(NamedTuple):
    embeddings: NDArray[np.float32]  # (n, dim)
    logits: NDArray[np.float32]  # (n, 3), in the order of LABELS


def texts() -> tuple[list[str], NDArray[np.int64]]:
    """Sentences and their labels, then unlabelled pairs of sentences (label -1)."""
    own = sentences()[::_EVERY]
    pairs = [f"{one[0]}; {other[0]}" for one, other in zip(own, own[len(own) // 2 :], strict=False)]
    return [one for one, _ in own] + pairs, np.array([LABELS.index(label) for _, label in own] + [-1] * len(pairs))


def exported(cfg: TextConfig) -> OnnxEncoder:
    """The encoder of `cfg` from `.cache/onnx` of the main checkout, exported there at its first use."""
    source = weights.installed_package() if cfg.path is None else weights.locate(cfg.path)
    key = {
        "weights": weights.check(source, cfg),
        "head": None if cfg.head is None else sha256(Path(cfg.head) / weights.WEIGHTS),
        "format": FORMAT,
        "versions": versions("transformers"),
    }
    name = blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=8).hexdigest()
    folder = root() / ".cache" / "onnx" / f"{cfg.name}-{cfg.precision}-{name}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            log.info("%s in %s is exported for ONNX Runtime, once", cfg.name, cfg.precision)
            export(create_torch(replace(cfg, engine="torch", precision="float32")), folder, cfg.precision)
    return OnnxEncoder(folder, cfg)


def export(encoder: TransformerEncoder, folder: Path, precision: str) -> dict[str, Any]:
    """Write `encoder` to `folder` (replaced as a whole) in float32 or int8; returns the manifest.

    Raises InputError, and writes nothing, when the result is further from torch than LIMITS[precision] allows.
    """
    said, labels = texts()
    ids = [one.astype(np.int64) for one in tokenize(encoder.tokenizer, said, encoder.spec.max_tokens)[0]]
    module = encoder.unpadded().eval()
    model = _graph(module)
    if precision == "int8":
        model = quantized(model, [one[None] for one in ids[::3]])
    content = model.SerializeToString(deterministic=True)
    running = session(content)
    reference, found = _of_torch(module, ids), _of_onnx(running, ids)
    measured = parity(reference, found, labels)
    _gate(measured, precision)
    golden = np.linspace(0, len(ids) - 1, _GOLDEN).astype(int)
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "name": encoder.spec.name,
        "precision": precision,
        "dim": encoder.spec.dim,
        "positions": encoder.positions,
        "last_token": encoder.tokenizer.sep_token_id,
        "labels": list(LABELS),
        "weights_sha256": encoder.spec.weights_sha256,
        "head_sha256": encoder.spec.head_sha256,
        "versions": versions("transformers"),
        "parity": measured | {"limits": LIMITS[precision]._asdict()},
    }

    def fill(partial: Path) -> None:
        write_bytes(partial / MODEL, content)
        encoder.tokenizer.backend_tokenizer.save(str(partial / TOKENIZER))
        write_bytes(partial / GOLDEN, to_bytes(_golden([ids[row] for row in golden], found, golden)))
        write_manifest(partial, manifest, FILES)

    replace_folder(folder, fill)
    return manifest


def parity(reference: Vectors, found: Vectors, labels: NDArray[np.int64]) -> dict[str, Any]:
    """How far `found` is from `reference`; macro-F1 over the texts that have a label (not -1)."""
    cosine = (reference.embeddings.astype(np.float64) * found.embeddings).sum(1)
    said, before = found.logits.argmax(1), reference.logits.argmax(1)
    known = labels >= 0
    numbers = range(len(LABELS))
    f1 = [
        f1_score(labels[known], one[known], average="macro", labels=numbers, zero_division=0) for one in (before, said)
    ]
    return {
        "texts": len(labels),
        "labelled": int(known.sum()),
        "embedding": float(np.abs(reference.embeddings - found.embeddings).max()),
        "cosine_least": float(cosine.min()),
        "logit": float(np.abs(reference.logits - found.logits).max()),
        "agreement": float((said == before).mean()),
        "macro_f1_torch": float(f1[0]),
        "macro_f1": float(f1[1]),
        "f1_drop": float(f1[0] - f1[1]),
    }


def _gate(measured: dict[str, Any], precision: str) -> None:
    limits = LIMITS[precision]
    broken = [name for name in ("embedding", "logit", "f1_drop") if not measured[name] <= getattr(limits, name)]
    broken += ["agreement"] if not measured["agreement"] >= limits.agreement else []
    if broken:
        said = ", ".join(f"{name} {measured[name]:.4g} (limit {getattr(limits, name):g})" for name in broken)
        raise InputError(
            f"the exported encoder is too far from torch: {said}",
            rule=f"limits of text.precision={precision} in fusion_alpha/text/onnx_encoder.py",
            remedy="set text.precision=float32" if precision == "int8" else "set text.engine=torch",
        )


def _graph(module: torch.nn.Module) -> onnx.ModelProto:
    """The float32 graph of token ids (B, L), both free."""
    rows, tokens = torch.export.Dim("rows", min=2), torch.export.Dim("tokens", min=2, max=512)
    shapes = ({0: rows, 1: tokens},)
    return graph(module, (torch.full((3, 11), 7),), shapes, inputs=["ids"], outputs=["vectors", "class_logits"])


def _of_torch(module: torch.nn.Module, ids: Sequence[NDArray[np.int64]]) -> Vectors:
    def run(batch: NDArray[np.int64]) -> tuple[NDArray, NDArray]:
        vectors, logits = module(torch.from_numpy(batch))
        return vectors.numpy(), logits.numpy()

    with torch.inference_mode():
        return _in_order(ids, run)


def _of_onnx(running: Any, ids: Sequence[NDArray[np.int64]]) -> Vectors:
    return _in_order(ids, lambda batch: running.run(None, {"ids": batch}))


def _in_order(ids: Sequence[NDArray[np.int64]], run: Any) -> Vectors:
    """Vectors of all texts, run in batches of one length, each of two rows at least."""
    rows, parts = [], []
    for same in _by_length(ids):
        batch = np.stack([ids[row] for row in same])
        vectors, logits = run(np.repeat(batch, 2, axis=0) if len(batch) == 1 else batch)
        rows += same
        parts.append((vectors[: len(same)], logits[: len(same)]))
    order = np.argsort(rows)
    return Vectors(*(np.concatenate(kind)[order] for kind in zip(*parts, strict=True)))


def _by_length(ids: Sequence[NDArray[np.int64]]) -> Iterator[list[int]]:
    lengths = np.array([len(one) for one in ids])
    for length in np.unique(lengths):
        yield np.flatnonzero(lengths == length).tolist()


def _golden(ids: list[NDArray[np.int64]], found: Vectors, rows: NDArray[np.int64]) -> dict[str, NDArray]:
    lengths = np.array([len(one) for one in ids])
    padded = np.zeros((len(ids), lengths.max()), np.int64)
    for row, one in enumerate(ids):
        padded[row, : len(one)] = one
    return {"ids": padded, "lengths": lengths, "embeddings": found.embeddings[rows], "logits": found.logits[rows]}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m fusion_alpha.text.onnx_export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="replaced as a whole")
    parser.add_argument("overrides", nargs="*", metavar="text.KEY=VALUE", help="of params.yaml")
    chosen = parser.parse_args(arguments)
    set_up("onnx_export")
    try:
        cfg = load(chosen.overrides).text
        manifest = export(create_torch(replace(cfg, engine="torch", precision="float32")), chosen.output, cfg.precision)
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(json.dumps(manifest["parity"], indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
