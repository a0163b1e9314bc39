"""The benchmark's own data layers: a workspace in which the pipeline's own stages run with data=stocknet.

Between `clean` and `process` stands one step of our own: tweets become what `tweets.plain` reads in them, and those
that do not name their ticker leave (most of them are about D, T and C, which are letters before they are stocks). The
tweets as they were stay beside. The folder, .cache/stocknet/layers-KEY, is named by a hash of the configuration, of the
archive and of the code; what is done in it is not done again.
"""

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from fusion_alpha import config, stage, tables, technical, workspace
from fusion_alpha.config import Config
from fusion_alpha.files import sha256
from fusion_alpha.sources import stocknet
from fusion_alpha.stocknet import tweets

BEFORE, AFTER = ("ingest", "clean"), ("process", "technical", "text", "contradiction")
TWEETS = Path("data/interim/tweets.parquet")  # schemas/news.yaml, as `clean` wrote it


@dataclass(frozen=True)
class Layers:
    """Where the layers are, and the hash of what made them."""

    folder: Path
    key: str

    def read(self, table: str, columns: list[str] | None = None) -> pd.DataFrame:
        return tables.read(table, self.folder / tables.schema(table).path, columns)

    def tweets(self) -> pd.DataFrame:
        """Tweets as the interim layer has them, those included that do not name their ticker."""
        return tables.read("news", self.folder / TWEETS)

    def sectors(self) -> dict[str, str]:
        """Sector of each ticker, as the technical features have it."""
        return technical.read_sectors(self.folder / self.configuration().technical.sectors)

    def configuration(self, *overrides: str) -> Config:
        """The configuration of this pipeline with `key=value` or `group=choice` changed."""
        return config.load(list(overrides), self.folder / workspace.PARAMS)


def prepare(overrides: list[str]) -> Layers:
    """Layers of the composed configuration data=stocknet with `overrides`, made where they are not there yet.

    Raises InputError for a bad configuration or archive, and what a stage raises.
    """
    cache = stage.root() / ".cache" / "stocknet"
    cache.mkdir(parents=True, exist_ok=True)
    cfg = composed(overrides, cache / f".params.{os.getpid()}.yaml")
    block = cfg.data.stocknet
    assert block is not None
    local = stocknet.local_archive(block)
    identity = sha256(local) if local else block.url
    block.archive = None  # where it lies does not matter
    stages = (*BEFORE, *AFTER)
    ours = [identity, *(sha256(Path(module)) for module in (__file__, tweets.__file__))]
    layers = Layers(cache / f"layers-{(key := workspace.key(cfg, stages, ours))}", key)
    at_hand = replace(block, archive=str(local.resolve()) if local else None)
    cfg = replace(cfg, data=replace(cfg.data, stocknet=at_hand))
    with workspace.opened(layers.folder, cfg, stages) as space:
        space.run(*BEFORE)
        space.once("tweets", lambda: _as_they_are_read(layers))
        space.run(*AFTER)
    return layers


def composed(overrides: list[str], scratch: Path) -> Config:
    """What conf/ composes to for data=stocknet; `scratch` is a file for the time being."""
    try:
        config.compose(scratch, ["data=stocknet", *overrides])
        return config.load(params=scratch)
    finally:
        scratch.unlink(missing_ok=True)


def _as_they_are_read(layers: Layers) -> None:
    """Put `tweets.plain` in the place of the interim texts."""
    news = layers.folder / tables.schema("news").path
    if not (layers.folder / TWEETS).exists():
        shutil.copyfile(news, layers.folder / TWEETS)
    table = layers.tweets()
    table = table[tweets.named(table)]
    table = table.assign(text=[tweets.plain(*row) for row in zip(table["text"], table["ticker"], strict=True)])
    tables.write("news", table[table["text"] != ""], news)
