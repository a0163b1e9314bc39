"""Texts of headlines, off the hot path: a thread cleans and embeds what arrives, the router takes what is ready.

A headline passes the rules of the clean stage (tidy text, no personal data, hashed identifiers) before anything is kept
of it. Embeddings go to the pipeline's own cache and come from there where the text is known. While the router deals
with a bar the thread begins nothing new, unless that bar waits for it.
"""

import logging
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

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
_REMEMBERED = 2_000  # items that a repeated one is known by at least; the tables know every other
_BATCH = 8  # headlines at a time: what has begun is not interrupted


@dataclass(frozen=True)
class News:
    """An item ready for the tables: no personal data, its text known by its hash."""

    ticker: str
    news_id: str
    published_utc: pd.Timestamp
    text_hash: str
    is_repost: bool


class Vectors:
    """Embeddings and probabilities by the hash of their text. One thread writes, others read."""

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self._rows: dict[str, tuple[NDArray[np.float16], NDArray[np.float64]]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._rows

    def put(self, names: Iterable[str], embedded: Embedded) -> None:
        rows = zip(embedded.embeddings, embedded.probabilities, strict=True)
        self._rows.update(zip(names, rows, strict=True))

    def keep(self, names: set[str]) -> None:
        """Forget all others."""
        self._rows = {name: row for name, row in self._rows.items() if name in names}

    def rows(self, names: list[str]) -> tuple[NDArray[np.float16], NDArray[np.float64]]:
        """Embeddings [n, D] and probabilities [n, 3] of these hashes; KeyError for one that is not there."""
        rows = [self._rows[name] for name in names]
        vectors = np.stack([row[0] for row in rows]) if rows else np.zeros((0, self.dim), np.float16)
        return vectors, np.stack([row[1] for row in rows]) if rows else np.zeros((0, len(LABELS)))

    def table(self, names: list[str]) -> pd.DataFrame:
        """Rows of the text table (schemas/text.yaml) for these hashes; KeyError for one that is not there."""
        vectors, shares = self.rows(names)
        columns: dict[str, object] = {"text_hash": pd.Series(names, dtype="str")}
        columns["embedding"] = tables.vector_series(vectors)
        return pd.DataFrame(columns | {f"p_{label}": shares[:, number] for number, label in enumerate(LABELS)})


class Texts:
    """The encoder of the configuration with its thread; use as a context manager."""

    def __init__(self, cfg: Config) -> None:
        self._cfg, self.vectors = cfg, Vectors(cfg.text.dim)
        self._encoder: Encoder = create(cfg.text)
        self._key = pii.key(cfg.data.public, has_authors=False)
        self._changed = threading.Condition()  # guards what follows
        self._todo, self._working, self._ready = deque[Headline](), list[Headline](), list[News]()
        self._taken: dict[int, None] = {}  # hashes of items, without their texts
        self._held = self._closing = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="texts", daemon=True)

    def __enter__(self) -> "Texts":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout=2.0)

    def load(self, texts: Iterable[str]) -> None:
        """Embed the texts of a history, here and now; those of the pipeline come from its cache."""
        distinct = {text_hash(text): text for text in texts}
        names = sorted(name for name in distinct if name not in self.vectors)
        with ExitStack() as stack:
            embedded = embed([distinct[name] for name in names], names, self._encoder, self._cache(stack))
        self.vectors.put(names, embedded)

    def cleaned(self, headline: Headline) -> tuple[str, str]:
        """news_id and text of an item as they are kept."""
        if headline.cleaned:
            return headline.item_id, headline.text
        text = pii.scrub_all(cleaning.tidy(pd.Series([headline.text], dtype="str")))[0].iloc[0]
        return self._key.hash("news", pd.Series([headline.item_id], dtype="str")).iloc[0], text

    def take(self, headline: Headline) -> None:
        """Have an item cleaned and its text embedded, once: feeds repeat what they have at every poll."""
        with self._changed:
            if hash(headline) in self._taken:
                return
            self._taken[hash(headline)] = None
            if len(self._taken) > 2 * _REMEMBERED:
                self._taken = dict.fromkeys(list(self._taken)[-_REMEMBERED:])
            self._todo.append(headline)
            self._changed.notify_all()

    def ready(self) -> list[News]:
        """Items that are done since the last call. Raises what stopped the thread."""
        with self._changed:
            self._require_going()
            done, self._ready = self._ready, []
            return done

    def forget_but(self, names: set[str]) -> None:
        """Forget embeddings of other texts, unless items that may have them are on their way to the tables."""
        with self._changed:
            if not self._working and not self._ready:
                self.vectors.keep(names)

    def missing(self, before: pd.Timestamp) -> bool:
        """Is an item that was published before then not done yet? Raises what stopped the thread."""
        with self._changed:
            return self._missing(before)

    def wait(self, before: pd.Timestamp, seconds: float) -> bool:
        """Are all items that were published before then done, after `seconds` of the wall's clock at most?"""
        with self._changed:
            held, self._held = self._held, False
            self._changed.notify_all()
            done = self._changed.wait_for(lambda: not self._missing(before), timeout=seconds)
            self._held = held
            return done

    @contextmanager
    def held(self) -> Iterator[None]:
        """Leave the processor to the router: nothing new is begun meanwhile, but while it waits."""
        self._held = True
        try:
            yield
        finally:
            with self._changed:
                self._held = False
                self._changed.notify_all()

    @property
    def queued(self) -> int:
        return len(self._todo) + len(self._working)

    def _missing(self, before: pd.Timestamp) -> bool:
        self._require_going()
        return any(item.published_utc < before for item in (*self._todo, *self._working))

    def _require_going(self) -> None:
        if self._error is not None:
            raise self._error

    def _cache(self, stack: ExitStack) -> EmbeddingCache | None:
        if self._cfg.text.name == "stub":
            return None
        return stack.enter_context(EmbeddingCache(stage.root() / _CACHE, self._encoder.spec))

    def _work(self) -> None:
        with ExitStack() as stack:
            try:
                cache = self._cache(stack)
                while self._next():
                    done = self._done(self._working, cache)
                    with self._changed:
                        self._ready += done
                        self._working = []
                        self._changed.notify_all()
            except Exception as error:  # noqa: BLE001  any end of this thread ends the router, with its reason
                with self._changed:
                    self._error = error
                    self._changed.notify_all()

    def _next(self) -> bool:
        """Take up some of what waits, as soon as there is any; False at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or (self._todo and not self._held))
            self._working = [self._todo.popleft() for _ in range(min(len(self._todo), _BATCH))]
            return not self._closing

    def _done(self, headlines: list[Headline], cache: EmbeddingCache | None) -> list[News]:
        """Items for the tables, their texts embedded."""
        items, texts = [], dict[str, str]()
        for one in headlines:
            news_id, text = self.cleaned(one)
            name = text_hash(text)
            texts[name] = text
            items.append(News(one.ticker, news_id, one.published_utc, name, one.is_repost))
        self._embed(texts, cache)
        return items

    def _embed(self, batch: dict[str, str], cache: EmbeddingCache | None) -> None:
        names = [name for name in batch if name not in self.vectors]
        known, rows = (np.zeros(len(names), bool), None) if cache is None or not names else cache.get(names)
        todo = [name for name, found in zip(names, known, strict=True) if not found]
        if rows is not None:
            place = np.flatnonzero(known)
            found = Embedded(rows.embeddings[place], rows.probabilities[place], rows.n_tokens[place])
            self.vectors.put([names[number] for number in place], found)
        if todo:
            vectors, shares = encode(self._encoder, [batch[name] for name in todo])
            self.vectors.put(todo, Embedded(vectors.astype(np.float16), shares, np.zeros(len(todo), np.int64)))
