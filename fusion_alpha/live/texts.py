"""Texts of headlines, embedded off the hot path: a thread encodes what arrives, the router asks what is ready.

A headline passes the rules of the clean stage (tidy text, no personal data, hashed identifiers) before anything is kept
of it. Embeddings go to the pipeline's own cache and come from there where the text is known.
"""

import logging
import queue
import threading
from collections.abc import Iterable
from contextlib import ExitStack

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fusion_alpha import cleaning, pii, stage, tables
from fusion_alpha.config import Config
from fusion_alpha.live.feed import Headline
from fusion_alpha.text import text_hash
from fusion_alpha.text.cache import Embedded, EmbeddingCache
from fusion_alpha.text.embed import embed
from fusion_alpha.text.encoders import LABELS, Encoder, create, encode

log = logging.getLogger(__name__)

_CACHE = ".cache/embeddings"


class Vectors:
    """Embeddings and probabilities by the hash of their text. One thread writes, others read."""

    def __init__(self, dim: int) -> None:
        self._dim = dim
        self._rows: dict[str, tuple[NDArray[np.float16], NDArray[np.float64]]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._rows

    def put(self, names: Iterable[str], embedded: Embedded) -> None:
        rows = zip(embedded.embeddings, embedded.probabilities, strict=True)
        self._rows.update(zip(names, rows, strict=True))

    def table(self, names: list[str]) -> pd.DataFrame:
        """Rows of the text table (schemas/text.yaml) for these hashes; KeyError for one that is not there."""
        rows = [self._rows[name] for name in names]
        vectors = np.stack([row[0] for row in rows]) if rows else np.zeros((0, self._dim), np.float16)
        shares = np.stack([row[1] for row in rows]) if rows else np.zeros((0, len(LABELS)))
        columns: dict[str, object] = {"text_hash": pd.Series(names, dtype="str")}
        columns["embedding"] = tables.vector_series(vectors)
        return pd.DataFrame(columns | {f"p_{label}": shares[:, number] for number, label in enumerate(LABELS)})


class Texts:
    """The encoder of the configuration with its thread; use as a context manager."""

    def __init__(self, cfg: Config) -> None:
        self._cfg, self.vectors = cfg, Vectors(cfg.text.dim)
        self._encoder: Encoder = create(cfg.text)
        self._key = pii.key(cfg.data.public, has_authors=False)
        self._todo: queue.Queue[tuple[str, str] | None] = queue.Queue()
        self._ready = threading.Condition()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="texts", daemon=True)

    def __enter__(self) -> "Texts":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._todo.put(None)
        self._thread.join(timeout=2.0)

    def load(self, texts: Iterable[str]) -> None:
        """Embed the texts of a history, here and now; those of the pipeline come from its cache."""
        distinct = {text_hash(text): text for text in texts}
        names = sorted(distinct)
        with ExitStack() as stack:
            embedded = embed([distinct[name] for name in names], names, self._encoder, self._cache(stack))
        self.vectors.put(names, embedded)

    def take(self, headline: Headline) -> tuple[str, str, str]:
        """Clean an item and have its text embedded; returns its news_id, the text as it is kept, and its hash."""
        if headline.cleaned:
            news_id, text = headline.item_id, headline.text
        else:
            text = pii.scrub_all(cleaning.tidy(pd.Series([headline.text], dtype="str")))[0].iloc[0]
            news_id = self._key.hash("news", pd.Series([headline.item_id], dtype="str")).iloc[0]
        name = text_hash(text)
        if name not in self.vectors:
            self._todo.put((name, text))
        return news_id, text, name

    def missing(self, names: Iterable[str]) -> list[str]:
        """Those of the hashes whose texts are not embedded yet. Raises what stopped the thread."""
        if self._error is not None:
            raise self._error
        return [name for name in names if name not in self.vectors]

    def wait(self, names: list[str], seconds: float) -> bool:
        """Are all of them embedded, after `seconds` of the wall's clock at most?"""
        with self._ready:
            return self._ready.wait_for(lambda: not self.missing(names), timeout=seconds)

    @property
    def queued(self) -> int:
        return self._todo.qsize()

    def _cache(self, stack: ExitStack) -> EmbeddingCache | None:
        if self._cfg.text.name == "stub":
            return None
        return stack.enter_context(EmbeddingCache(stage.root() / _CACHE, self._encoder.spec))

    def _work(self) -> None:
        with ExitStack() as stack:
            try:
                cache = self._cache(stack)
                while (batch := self._batch()) is not None:
                    self._embed(batch, cache)
            except Exception as error:  # noqa: BLE001  any end of this thread ends the router, with its reason
                self._error = error
            with self._ready:
                self._ready.notify_all()

    def _batch(self) -> dict[str, str] | None:
        """All that waits, at least one; None at the end."""
        item = self._todo.get()
        batch = dict[str, str]()
        while item is not None:
            batch[item[0]] = item[1]
            if self._todo.empty():
                return batch
            item = self._todo.get()
        return None

    def _embed(self, batch: dict[str, str], cache: EmbeddingCache | None) -> None:
        names = [name for name in batch if name not in self.vectors]
        known, rows = (np.zeros(len(names), bool), None) if cache is None else cache.get(names)
        todo = [name for name, found in zip(names, known, strict=True) if not found]
        if rows is not None:
            place = np.flatnonzero(known)
            found = Embedded(rows.embeddings[place], rows.probabilities[place], rows.n_tokens[place])
            self.vectors.put([names[number] for number in place], found)
        if todo:
            vectors, shares = encode(self._encoder, [batch[name] for name in todo])
            fresh = Embedded(vectors.astype(np.float16), shares, np.zeros(len(todo), np.int64))
            self.vectors.put(todo, fresh)
        with self._ready:
            self._ready.notify_all()
