"""technical: panel -> indicators of each bar, and how its ticker compares with the market and its sector.

Reads   data/processed/panel.parquet, the file of technical.sectors
Writes  data/features/technical.parquet, metrics/technical.json
Holds   a row uses its own bar and earlier ones, and none before its warm-up; other tickers' bars of the same time only.
Run     python -m stages.technical [technical.warmup_bars=90 executor=ray ...]
"""

import logging
from collections import Counter
from pathlib import Path

import pandas as pd

from fusion_alpha import tables, technical
from fusion_alpha.config import Config
from fusion_alpha.files import write_json
from fusion_alpha.stage import run

log = logging.getLogger(__name__)


def summary(table: pd.DataFrame, sectors: dict[str, str], warmup_bars: int) -> dict[str, object]:
    """Counts of rows, features and tickers, and per feature the share of nulls after its warm-up."""
    number = table.groupby("ticker").cumcount().to_numpy()
    nulls = {}
    for name, warmup in technical.WARMUPS.items():
        after = table.loc[number >= max(warmup, warmup_bars), name]
        nulls[name] = round(float(after.isna().mean()), 6) if len(after) else 0.0
    tickers = table["ticker"].unique()
    return {
        "bars": len(table),
        "features": len(nulls),
        "families": dict(Counter(technical.FAMILIES.values())),
        "tickers": len(tickers),
        "tickers_without_sector": sum(ticker not in sectors for ticker in tickers),
        "warmup": int((number < warmup_bars).sum()),
        "null_share": nulls,
    }


def main(cfg: Config) -> None:
    panel = tables.read("panel", columns=["ticker", "bar_close_utc", *technical.INPUTS])
    sectors = technical.read_sectors(Path(cfg.technical.sectors).expanduser())
    table = technical.build(panel, cfg.technical, cfg.executor, sectors)
    tables.write("technical", table)
    metrics = summary(table, sectors, cfg.technical.warmup_bars)
    write_json(Path("metrics/technical.json"), metrics)
    log.info("%d features of %d bars of %d tickers", metrics["features"], metrics["bars"], metrics["tickers"])
    if metrics["tickers_without_sector"]:
        log.info("%d of them are not in %s", metrics["tickers_without_sector"], cfg.technical.sectors)


if __name__ == "__main__":
    run(main)
