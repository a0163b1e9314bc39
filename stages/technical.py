"""technical: panel -> indicators of each bar.

Reads   data/processed/panel.parquet
Writes  data/features/technical.parquet, metrics/technical.json
Holds   a row uses its own bar and earlier ones of its ticker only, and none before its warm-up.
Run     python -m stages.technical [technical.warmup_bars=90 executor=ray ...]
"""

import logging
from pathlib import Path

import pandas as pd

from fusion_alpha import tables, technical
from fusion_alpha.config import Config
from fusion_alpha.files import write_json
from fusion_alpha.stage import run

log = logging.getLogger(__name__)


def summary(table: pd.DataFrame, warmup_bars: int) -> dict[str, object]:
    """Counts of rows, and per feature the share of nulls after the warm-up."""
    after = table[table.groupby("ticker").cumcount() >= warmup_bars]
    features = after.columns.drop(tables.BAR_KEY)
    nulls = {name: round(float(after[name].isna().mean()), 6) if len(after) else 0.0 for name in features}
    return {
        "bars": len(table),
        "features": len(features),
        "tickers": int(table["ticker"].nunique()),
        "warmup": len(table) - len(after),
        "null_share": nulls,
    }


def main(cfg: Config) -> None:
    panel = tables.read("panel", columns=["ticker", "bar_close_utc", *technical.INPUTS])
    table = technical.build(panel, cfg.technical, cfg.executor)
    tables.write("technical", table)
    metrics = summary(table, cfg.technical.warmup_bars)
    write_json(Path("metrics/technical.json"), metrics)
    log.info("%d features of %d bars of %d tickers", metrics["features"], metrics["bars"], metrics["tickers"])


if __name__ == "__main__":
    run(main)
