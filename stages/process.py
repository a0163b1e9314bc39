"""process: interim -> processed. Adjusted bars with a clock, a target and a role; news joined to bars.

Reads   data/interim/prices.parquet, news.parquet, benchmark.parquet
Writes  data/processed/panel.parquet, news_bars.parquet, metrics/process.json
Holds   no row depends on later data, except in target_ret and target_label.
Run     python -m stages.process [target.decision_delay_s=120 ...]
"""

import logging
from pathlib import Path

import pandas as pd

from fusion_alpha import benchmark, panel, tables
from fusion_alpha.config import Config
from fusion_alpha.files import write_json
from fusion_alpha.stage import run

log = logging.getLogger(__name__)


def summary(bars: pd.DataFrame, news: int, news_bars: pd.DataFrame) -> dict[str, object]:
    """Counts of rows, labels by role, and of news with and without a bar."""
    labelled = bars[bars["target_label"].notna()]
    by_role = {
        str(role): {
            "bars": int((bars["split"] == role).sum()),
            "labels": len(rows),
            "up": int(rows["target_label"].sum()),
        }
        for role, rows in labelled.groupby("split")
    }
    return {
        "bars": len(bars),
        "tickers": int(bars["ticker"].nunique()),
        "sessions": int(bars["session"].nunique()),
        "split": by_role,
        "news": news,
        "news_with_bar": len(news_bars),
        "news_without_bar": news - len(news_bars),
        "distinct_texts": int(news_bars["text_hash"].nunique()),
    }


def main(cfg: Config) -> None:
    prices = tables.read("prices")
    movements = tables.read("benchmark")
    bars = panel.build(prices, movements, cfg)
    panel_path = tables.write("panel", bars)
    news_path = tables.schema("news").path
    news = tables.read("news", columns=["ticker", "news_id", "published_utc"])
    news_bars = panel.join_news(news_path, panel_path, panel.news_since(bars, cfg))
    tables.write("news_bars", news_bars)
    metrics = summary(bars, len(news), news_bars)
    if not movements.empty:
        metrics["benchmark"] = benchmark.counts(movements)
    write_json(Path("metrics/process.json"), metrics)
    log.info(
        "%d bars of %d tickers, %d of %d news items with a bar",
        len(bars),
        metrics["tickers"],
        len(news_bars),
        len(news),
    )


if __name__ == "__main__":
    run(main)
