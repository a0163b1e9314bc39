"""Encoders on ONNX Runtime: a folder written by `onnx_export`, verified before its first use; needs no torch.

Texts of one length share a batch, so nothing is padded and no mask is needed. Each batch runs on one thread, several
batches at once. A row's bits depend on no other row: what mixes tokens (attention, normalisation, pooling) stays
inside a text, and products go row by row. With one row ONNX Runtime takes another routine for the classifier, so a
text that is alone is given twice. As with torch, another processor may give other last bits.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from fusion_alpha.config import TextConfig
from fusion_alpha.errors import InputError
from fusion_alpha.onnx_models import MANIFEST, as_exported, session, verified
from fusion_alpha.text.encoders import Part, Spec, run_ahead

MODEL, TOKENIZER, GOLDEN = "model.onnx", "tokenizer.json", "golden.safetensors"
FILES = (MODEL, TOKENIZER, GOLDEN)
FORMAT = 1
_REMEDY = "delete the folder; it is exported again at the next use (or by the stage that wrote it)"


class Limits(NamedTuple):
    """How far an exported encoder may be from torch's float32."""

    embedding: float  # largest difference of a number of a vector of unit length
    logit: float
    agreement: float = 0.99  # least share of texts with the same label
    f1_drop: float = 0.01  # of the macro-F1 on labelled texts, at most


LIMITS = {"float32": Limits(1e-5, 1e-3), "int8": Limits(0.02, 0.5)}


class OnnxEncoder:
    """`Encoder` from `folder`.

    Raises InputError when a file is absent or changed, was exported for other settings, or does not give its golden
    vectors on this machine.
    """

    def __init__(self, folder: Path, cfg: TextConfig) -> None:
        manifest = verified(folder, FORMAT, _REMEDY)
        with as_exported(folder / MANIFEST, _REMEDY):
            for name in ("name", "precision", "dim"):
                if getattr(cfg, name) != manifest[name]:
                    raise InputError(
                        f"exported for text.{name} = {manifest[name]!r}",
                        file=folder / MANIFEST,
                        rule=f"text.{name} = {getattr(cfg, name)!r}",
                    )
            if cfg.max_tokens > manifest["positions"]:
                raise InputError(
                    f"parameter text.max_tokens = {cfg.max_tokens}",
                    rule=f"at most the {manifest['positions']} positions of the model in {folder}",
                )
            model_sha256, *_ = (manifest["files"][name] for name in FILES)
            self.spec = Spec(
                cfg.name,
                cfg.dim,
                model_sha256,
                manifest["head_sha256"],
                cfg.max_tokens,
                cfg.engine,
                cfg.precision,
                cfg.batch_size,
            )
            self._last = int(np.int64(manifest["last_token"]))
        self._folder, self._threads = folder, cfg.threads
        with _as_tokenizer(folder / TOKENIZER):
            self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        with as_exported(folder / MODEL, _REMEDY):
            self._session = session((folder / MODEL).read_bytes())
        with as_exported(folder / GOLDEN, _REMEDY):
            self._check_golden(folder)

    def stream(self, texts: Sequence[str]) -> Iterator[Part]:
        ids, n_tokens = self._tokens(texts)
        by_length: dict[int, list[int]] = {}
        for row, one in enumerate(ids):
            by_length.setdefault(len(one), []).append(row)
        size = self.spec.batch_size
        batches = (
            partial(self._encode, ids, n_tokens, np.array(rows[start : start + size]))
            for _, rows in sorted(by_length.items(), reverse=True)  # the longest first, as the time left is estimated
            for start in range(0, len(rows), size)
        )
        yield from run_ahead(batches, self._threads)

    def run(self, ids: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Token ids (B, L) of texts of one length -> embeddings (B, dim), logits (B, 3) as in LABELS."""
        given = np.repeat(ids, 2, axis=0) if len(ids) == 1 else ids
        with as_exported(self._folder / MODEL, _REMEDY):
            vectors, logits = self._session.run(None, {"ids": given})
        return vectors[: len(ids)], logits[: len(ids)]

    def _tokens(self, texts: Sequence[str]) -> tuple[list[NDArray[np.int64]], NDArray[np.int64]]:
        with _as_tokenizer(self._folder / TOKENIZER):
            ids = [np.array(one.ids, np.int64) for one in self._tokenizer.encode_batch_fast(list(texts))]
        n_tokens = np.array([len(one) for one in ids], np.int64)
        most = self.spec.max_tokens
        return [np.append(one[: most - 1], self._last) if len(one) > most else one for one in ids], n_tokens

    def _encode(self, ids: list[NDArray[np.int64]], n_tokens: NDArray[np.int64], rows: NDArray[np.int64]) -> Part:
        vectors, logits = self.run(np.stack([ids[row] for row in rows]))
        raised = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
        return Part(rows, vectors, raised / raised.sum(1, keepdims=True), n_tokens[rows])

    def _check_golden(self, folder: Path) -> None:
        limits, golden = LIMITS[self.spec.precision], load_file(folder / GOLDEN)
        if golden["lengths"].ndim != 1 or not len(golden["lengths"]):
            raise ValueError(f"lengths of {golden['lengths'].shape}")
        for start, length in enumerate(golden["lengths"]):
            vectors, logits = self.run(golden["ids"][start : start + 1, :length])
            off = (
                np.abs(vectors[0] - golden["embeddings"][start]).max(),
                np.abs(logits[0] - golden["logits"][start]).max(),
            )
            if not (off[0] <= limits.embedding and off[1] <= limits.logit):
                raise InputError(
                    f"golden text {start}: vectors differ by {off[0]:.2g}, logits by {off[1]:.2g}",
                    file=folder / GOLDEN,
                    rule=f"at most {limits.embedding:g} and {limits.logit:g}",
                    remedy="this processor computes something else: set text.precision=float32, or text.engine=torch",
                )


@contextmanager
def _as_tokenizer(path: Path) -> Iterator[None]:
    """InputError where the file is no tokenizer, or one that cannot read a text."""
    try:
        yield
    except Exception as error:  # the library raises nothing more special, whatever the file holds
        said = " ".join(str(error).split())[:200]
        raise InputError(f"no tokenizer ({said})", file=path, rule="as it was exported", remedy=_REMEDY) from error
