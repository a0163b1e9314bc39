"""The interface of an encoder and the choice of one by `cfg.text`.

An encoder turns texts into sentence vectors and class probabilities. What it computes for a text depends on nothing
but the text and its `Spec`: not on the other texts, on their order, or on where a batch ends.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from fusion_alpha.config import TextConfig
from fusion_alpha.errors import InputError

if TYPE_CHECKING:
    from fusion_alpha.text.transformer import TransformerEncoder

LABELS = ("negative", "neutral", "positive")  # the order of the columns of every array of probabilities


@dataclass(frozen=True)
class Spec:
    """All that decides an encoder's numbers; the cache is keyed by it."""

    name: str
    dim: int
    weights_sha256: str | None
    head_sha256: str | None  # of the sentiment head, where it is a file of its own
    max_tokens: int  # of a text, with the two special tokens; the rest is cut off
    engine: str
    precision: str
    batch_size: int  # rows of every batch; the last bits of a small product depend on it


@dataclass(frozen=True)
class Part:
    """Some of the texts given to `Encoder.stream`, encoded."""

    rows: NDArray[np.int64]  # (n,) positions in the texts given
    embeddings: NDArray[np.float32]  # (n, dim), unit length
    probabilities: NDArray[np.float64]  # (n, 3), in the order of LABELS, rows sum to 1
    n_tokens: NDArray[np.int64]  # (n,) before truncation


class Encoder(Protocol):
    """Texts to vectors and sentiment."""

    @property
    def spec(self) -> Spec: ...

    def stream(self, texts: Sequence[str]) -> Iterator[Part]:
        """Encode batch by batch, in an order of the encoder's choice; every text comes exactly once."""
        ...


def encode(encoder: Encoder, texts: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Embeddings (n, dim) and probabilities (n, 3) of `texts`, in their order."""
    embeddings = np.zeros((len(texts), encoder.spec.dim), np.float32)
    probabilities = np.zeros((len(texts), len(LABELS)), np.float64)
    for part in encoder.stream(texts):
        embeddings[part.rows], probabilities[part.rows] = part.embeddings, part.probabilities
    return embeddings, probabilities


def run_ahead(tasks: Iterable[Callable[[], Part]], threads: int) -> Iterator[Part]:
    """Results in the order of the tasks, `threads` of which run at once; only a few wait for the caller in memory."""
    pending: deque[Future[Part]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for task in tasks:
            if len(pending) == 2 * threads:
                yield pending.popleft().result()
            pending.append(pool.submit(task))
        while pending:
            yield pending.popleft().result()


def create(cfg: TextConfig) -> Encoder:
    """The encoder that `cfg` names, its weights loaded and checked; with engine onnx, exported where it is not yet.

    Raises InputError for an engine or precision that does not exist, for absent or unexpected weights, and for a
    sentiment head that does not belong to the weights.
    """
    if cfg.name == "stub":
        from fusion_alpha.text.stub import Stub

        _require("engine", ("none",), cfg)
        return Stub(cfg)
    _require("engine", ("torch", "onnx"), cfg)
    if cfg.engine == "onnx":
        from fusion_alpha.text.onnx_export import exported

        _require("precision", ("float32", "int8"), cfg)
        return exported(cfg)
    _require("precision", ("float32",), cfg)
    return create_torch(cfg)


def create_torch(cfg: TextConfig) -> "TransformerEncoder":
    """MiniLM or FinBERT in torch."""
    if cfg.name == "minilm":
        from fusion_alpha.text.minilm import MiniLM

        return MiniLM(cfg)
    from fusion_alpha.text.finbert import FinBert

    return FinBert(cfg)


def _require(name: str, known: tuple[str, ...], cfg: TextConfig) -> None:
    value = getattr(cfg, name)
    if value not in known:
        rule = f"one {name}: {known[0]}" if len(known) == 1 else f"{len(known)} {name}s: {', '.join(known)}"
        where = f"text={cfg.name}, text.engine={cfg.engine}" if name == "precision" else f"text={cfg.name}"
        raise InputError(
            f"parameter text.{name} = {value!r}",
            rule=f"{where} knows {rule}",
            remedy=f"set text.{name}={known[0]}, or leave it to conf/text/{cfg.name}.yaml",
        )
