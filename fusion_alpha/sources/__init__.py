"""Where data comes from. A source has two verbs: `fetch` (to data/raw, unmodified) and `read` (raw to canonical rows).

Each source is one module of this package with two functions of these names:

    fetch(cfg: Config, raw: Path) -> list[RawFile]     files it put below `raw`, for the manifest
    read(cfg: Config, raw: Path) -> RawRows            canonical rows, and the rows that it could not parse

`read` only parses; what is plausible, in UTC, deduplicated and free of personal data is decided once, for all
sources, in `fusion_alpha.cleaning`.
"""

from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pandas as pd

from fusion_alpha import tables

PRICE_COLUMNS = {
    "source_file": "str",  # below data/raw
    "line": "int64",  # first line of a file is 1
    "ticker": "str",
    "session": "datetime64[us]",  # exchange day; NaT where the row gives bar_close_utc instead
    "bar_close_utc": "datetime64[us, UTC]",  # NaT where the row gives a session instead (daily bars)
    "open": "float64",
    "high": "float64",
    "low": "float64",
    "close": "float64",
    "adj_close": "float64",
    "volume": "float64",
}

NEWS_COLUMNS = {
    "source_file": "str",
    "line": "int64",
    "ticker": "str",
    "source_id": "str",  # the source's identifier of the item
    "published_utc": "datetime64[us, UTC]",
    "text": "str",  # as published, personal data and all
    "lang": "str",  # may be null, as may all below
    "is_repost": "bool",
    "author": "str",
    "followers": "Int64",
}


@dataclass(frozen=True)
class RawFile:
    """A file below data/raw and where it came from; ingest adds sha256 and bytes in the manifest."""

    path: Path
    url: str


@dataclass
class RawRows:
    """Canonical rows of a source: columns as above; `rejected` and `benchmark` as in schemas/.

    `left_out` counts, by table, rows that the source's own parameters leave out: a choice, not a fault.
    """

    prices: pd.DataFrame
    news: pd.DataFrame
    rejected: pd.DataFrame = field(default_factory=lambda: tables.empty("rejected"))
    benchmark: pd.DataFrame = field(default_factory=lambda: tables.empty("benchmark"))
    left_out: dict[str, int] = field(default_factory=dict)


def get(name: str) -> ModuleType:
    """The module of source `name`: lab, stocknet, csv or yahoo."""
    module = {"csv": "csv_folder"}.get(name, name)
    return import_module(f"fusion_alpha.sources.{module}")
