"""Stage text: embedding and sentiment of each distinct text.

Reads   data/interim/news.parquet (the texts alone)
Writes  data/features/text.parquet, metrics/text.json
Keeps   .cache/embeddings in the main checkout: what any experiment embedded before is not embedded again

Invariant: a row depends on its text and the encoder alone, never on the other texts, their order, the batches, the
number of threads, or on whether it came from the cache.

    python -m stages.text                 by hand, with params.yaml
    python -m stages.text text.threads=4  batches at a time
"""

import logging
from pathlib import Path

import pandas as pd

from fusion_alpha import tables
from fusion_alpha.config import Config
from fusion_alpha.files import write_json
from fusion_alpha.stage import root, run
from fusion_alpha.text import text_hashes
from fusion_alpha.text.cache import Embedded, EmbeddingCache
from fusion_alpha.text.embed import embed, figures
from fusion_alpha.text.encoders import LABELS, create

METRICS = Path("metrics/text.json")

log = logging.getLogger("stages.text")


def distinct(texts: pd.Series) -> pd.DataFrame:
    """Each text once with its hash, in the order of the hashes: columns text_hash, text."""
    texts = texts.drop_duplicates()
    frame = pd.DataFrame({"text_hash": text_hashes(texts), "text": texts.to_numpy()}, dtype="str")
    return frame.sort_values("text_hash", ignore_index=True)


def as_table(hashes: pd.Series, embedded: Embedded) -> pd.DataFrame:
    """The columns of schemas/text.yaml."""
    columns: dict[str, object] = {"text_hash": hashes, "embedding": tables.vector_series(embedded.embeddings)}
    for number, label in enumerate(LABELS):
        columns[f"p_{label}"] = embedded.probabilities[:, number]
    return pd.DataFrame(columns)


def main(cfg: Config) -> None:
    texts = distinct(tables.read("news", columns=["text"])["text"])
    encoder = create(cfg.text)
    hashes, plain = texts["text_hash"].tolist(), texts["text"].tolist()
    if cfg.text.name == "stub":  # a hash is faster than a look-up
        log.warning("text=stub: vectors and probabilities are hashes of the texts; they carry no meaning")
        embedded = embed(plain, hashes, encoder, cache=None)
    else:
        with EmbeddingCache(root() / ".cache" / "embeddings", encoder.spec) as cache:
            embedded = embed(plain, hashes, encoder, cache)
    tables.write("text", as_table(texts["text_hash"], embedded))
    write_json(METRICS, figures(embedded, encoder.spec))


if __name__ == "__main__":
    run(main)
