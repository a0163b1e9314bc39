"""Vectors and probabilities of the right shape from a hash of the text. They carry no meaning: for measuring scale."""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from fusion_alpha.config import TextConfig
from fusion_alpha.text.encoders import Part, Spec

_BATCH = 4096


class Stub:
    """`Encoder` without a model."""

    def __init__(self, cfg: TextConfig) -> None:
        self.spec = Spec(cfg.name, cfg.dim, None, None, cfg.max_tokens, cfg.engine, cfg.precision, cfg.batch_size)

    def stream(self, texts: Sequence[str]) -> Iterator[Part]:
        for start in range(0, len(texts), _BATCH):
            batch = texts[start : start + _BATCH]
            n_bytes = 2 * (self.spec.dim + 2)
            digests = b"".join(hashlib.shake_128(text.encode()).digest(n_bytes) for text in batch)
            uniform = (np.frombuffer(digests, "<u2").reshape(len(batch), -1) + 0.5) / 65536  # in (0, 1)
            vectors = uniform[:, 2:] * 2 - 1
            edges = np.sort(uniform[:, :2], axis=1)  # two cuts of [0, 1] leave three shares, uniform on the simplex
            yield Part(
                rows=np.arange(start, start + len(batch)),
                embeddings=(vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32),
                probabilities=np.diff(edges, axis=1, prepend=0.0, append=1.0),
                n_tokens=np.array([len(text.split()) for text in batch], np.int64),
            )
