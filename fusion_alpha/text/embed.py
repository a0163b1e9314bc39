"""Each distinct text embedded once: known ones from the cache, the others through the encoder, batch by batch."""

import logging
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from fusion_alpha.stage import console
from fusion_alpha.text.cache import Embedded, EmbeddingCache
from fusion_alpha.text.encoders import LABELS, Encoder, Spec

log = logging.getLogger(__name__)


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.0f} texts/s" if task.speed else "")


def embed(texts: Sequence[str], hashes: Sequence[str], encoder: Encoder, cache: EmbeddingCache | None) -> Embedded:
    """Rows of distinct `texts` in their order; what is not in `cache` is encoded and stored there.

    hashes: `text_hash` of each text. Cached and fresh rows are equal to the bit.
    """
    result = Embedded.zeros(len(texts), encoder.spec.dim)
    known = np.zeros(len(texts), bool)
    if cache is not None:
        known, result = cache.get(hashes)
    missing = np.flatnonzero(~known)
    todo = [texts[number] for number in missing.tolist()]
    log.info("%d distinct texts, %d from the cache, %d to encode", len(texts), known.sum(), len(missing))
    if not len(missing):
        return result
    started = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Speed(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(encoder.spec.name, total=len(missing))
        for part in encoder.stream(todo):
            rows = missing[part.rows]
            fresh = Embedded(part.embeddings.astype(np.float16), part.probabilities, part.n_tokens)
            result.embeddings[rows], result.probabilities[rows] = fresh.embeddings, fresh.probabilities
            result.n_tokens[rows] = fresh.n_tokens
            if cache is not None:
                cache.put([hashes[number] for number in rows.tolist()], fresh)
            progress.update(task, advance=len(rows))
    took = time.monotonic() - started
    log.info("%d texts encoded in %.1f s, %.0f texts/s", len(missing), took, len(missing) / took)
    return result


def figures(embedded: Embedded, spec: Spec) -> dict[str, Any]:
    """What the texts and the encoder are like: counts and shares, equal for equal texts and weights."""
    n = len(embedded.n_tokens)
    said = np.bincount(embedded.probabilities.argmax(1), minlength=len(LABELS)) if n else np.zeros(len(LABELS))
    quantiles = {"p05": 0.05, "p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
    return {
        "encoder": spec.name,
        "dim": spec.dim,
        "engine": spec.engine,
        "precision": spec.precision,
        "max_tokens": spec.max_tokens,
        "weights_sha256": spec.weights_sha256,
        "head_sha256": spec.head_sha256,
        "distinct_texts": n,
        "tokens": {
            name: int(np.quantile(embedded.n_tokens, at, method="inverted_cdf")) if n else None
            for name, at in quantiles.items()
        },
        "truncated_share": round(float((embedded.n_tokens > spec.max_tokens).mean()), 6) if n else None,
        "class_share": {
            label: round(float(count / n), 6) if n else None for label, count in zip(LABELS, said, strict=True)
        },
    }
