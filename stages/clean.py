"""clean: raw -> interim. Typed, in UTC, unique, plausible, without personal data; every refused row has its place.

Reads   data/raw/
Writes  data/interim/prices.parquet, news.parquet, rejected.parquet, benchmark.parquet, metrics/clean.json
Holds   rows read = left out by choice + rejected + kept; nothing is clamped; the tables are whole or as they were.
Run     python -m stages.clean [clean.max_rejected_share=0.05 ...]
"""

import logging
from pathlib import Path

from fusion_alpha import cleaning, raw, sources, tables
from fusion_alpha.config import Config
from fusion_alpha.files import replace_files, write_json
from fusion_alpha.stage import run

log = logging.getLogger(__name__)

RAW = Path("data/raw")
INTERIM = Path("data/interim")


def write(interim: cleaning.Interim, folder: Path) -> None:
    """The four tables, below `folder`."""
    tables.write("prices", interim.prices, folder / "prices.parquet")
    tables.write("news", interim.news, folder / "news.parquet")
    tables.write("rejected", interim.rejected, folder / "rejected.parquet")
    tables.write("benchmark", interim.benchmark, folder / "benchmark.parquet")


def main(cfg: Config) -> None:
    raw.verify(RAW, cfg.data.source)
    interim = cleaning.clean(sources.get(cfg.data.source).read(cfg, RAW), cfg)
    replace_files(INTERIM, lambda folder: write(interim, folder))
    write_json(Path("metrics/clean.json"), interim.metrics)
    log.info(
        "%d bars, %d news items, %d rejected rows; personal data before %s, after %s",
        len(interim.prices),
        len(interim.news),
        len(interim.rejected),
        interim.metrics["pii"]["before"],
        interim.metrics["pii"]["after"],
    )


if __name__ == "__main__":
    run(main)
