"""contradiction: panel, news and their sentiment -> contradiction score and null features of each bar.

Reads   data/processed/panel.parquet, news_bars.parquet, data/features/text.parquet
Writes  data/features/contradiction.parquet, metrics/contradiction.json
Holds   a row uses news and prices of its own bar and of earlier ones only.
Run     python -m stages.contradiction [contradiction.null_model=gaussian ...]
"""

import logging
from pathlib import Path

import pandas as pd

from fusion_alpha import contradiction, tables
from fusion_alpha.config import Config
from fusion_alpha.files import write_json
from fusion_alpha.stage import run

log = logging.getLogger(__name__)


def summary(table: pd.DataFrame) -> dict[str, object]:
    """Counts of rows, news, kinds and nulls."""
    nullable = ("s", "z_s", "z_r")
    return {
        "bars": len(table),
        "news": int(table["n_news"].sum()),
        "null_share": {name: round(float(table[name].isna().mean()), 6) for name in nullable},
        "scores": int((table["cs"] != 0).sum()),
        "kind": {name: int((table["kind"] == name).sum()) for name in ("none", "overhype", "underhype")},
    }


def main(cfg: Config) -> None:
    prices = ["ticker", "bar_close_utc", "session", "open", "high", "low", "close"]
    panel = tables.read("panel", columns=prices)
    news_bars = tables.read("news_bars", columns=["ticker", "bar_close_utc", "age_hours", "text_hash"])
    text = tables.read("text", columns=["text_hash", "p_negative", "p_neutral", "p_positive"])
    table = contradiction.build(panel, news_bars, text, cfg.contradiction, cfg.executor)
    tables.write("contradiction", table)
    metrics = summary(table)
    write_json(Path("metrics/contradiction.json"), metrics)
    log.info("%d bars, %d news items, kinds %s", metrics["bars"], metrics["news"], metrics["kind"])


if __name__ == "__main__":
    run(main)
