"""evaluate: what the model's test predictions are worth, as a classifier, as a forecast and as a strategy after costs.

Reads   data/predictions/predictions.parquet (test rows), data/processed/panel.parquet,
        data/features/technical.parquet, data/features/contradiction.parquet,
        data/truth/truth.parquet (the laboratory's answer; no other stage may), the file of strategy.costs
Writes  metrics/evaluate.json, metrics/equity.csv, metrics/calibration.csv, metrics/figures/, a run in MLflow
Holds   a weight uses nothing newer than its decision; every strategy trades the same rows at the same costs.
Run     python -m stages.evaluate [strategy.commission_bps=5]
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table

from fusion_alpha import baselines, evaluation, figures, statistics, tables, tracking
from fusion_alpha.config import Config
from fusion_alpha.files import write_json, write_text
from fusion_alpha.stage import console, run

METRICS = Path("metrics/evaluate.json")
EQUITY = Path("metrics/equity.csv")
CALIBRATION = Path("metrics/calibration.csv")
FIGURES = Path("metrics/figures")
FIGURE_BARS = 120  # of one ticker; more markers would hide each other

log = logging.getLogger(__name__)


def calibration(rows: pd.DataFrame) -> pd.DataFrame:
    """Reliability table of the rows that have a label."""
    known = rows["target_label"].notna()
    truth = rows.loc[known, "target_label"].to_numpy(np.bool_)
    return statistics.reliability(rows.loc[known, "p_up"].to_numpy(np.float64), truth)


def example(rows: pd.DataFrame, panel: pd.DataFrame, contradiction: pd.DataFrame, truth: pd.DataFrame) -> pd.DataFrame:
    """The last test bars of the ticker with the most contradictions, for the figure; kind_true where it is known."""
    bars = rows[tables.BAR_KEY].merge(contradiction, on=tables.BAR_KEY)
    bars = bars.merge(panel[[*tables.BAR_KEY, "session", "close"]], on=tables.BAR_KEY)
    if len(truth):
        planted = truth[[*tables.BAR_KEY, "kind"]].rename(columns={"kind": "kind_true"})
        bars = bars.merge(planted, on=tables.BAR_KEY)
    flagged = (bars["kind"] != "none").groupby(bars["ticker"]).sum()
    return bars[bars["ticker"] == flagged.idxmax()].tail(FIGURE_BARS)


def draw(equity: pd.DataFrame, reliability: pd.DataFrame, bars: pd.DataFrame, ece: float | None, cfg: Config) -> None:
    simulated = cfg.data.simulated
    labels = {name: name.replace("_", " ") for name in map(str, equity)} | {"model": f"model ({cfg.model.name})"}
    figures.save(FIGURES / "equity.svg", figures.equity(equity, "model", baselines.BENCHMARK, labels, simulated))
    figures.save(FIGURES / "calibration.svg", figures.calibration(reliability, ece, simulated))
    thresholds = (cfg.contradiction.tau_over, cfg.contradiction.tau_under)
    figures.save(FIGURES / "contradiction.svg", figures.contradictions(bars, thresholds, simulated))


def headline(strategies: dict[str, dict[str, Any]], title: str) -> Table:
    """The strategies' main measures, within the 80 columns of a narrow terminal."""
    heads = ("Sharpe", "interval", "return", "drawdown", "hits", "turnover", "b/e bps")
    shown = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0), header_style="bold underline")
    shown.add_column("strategy", no_wrap=True)
    for head in heads:
        shown.add_column(head, justify="right", no_wrap=True)
    for name, row in strategies.items():
        interval = "–" if row["sharpe_lo"] is None else f"{row['sharpe_lo']:.2f} to {row['sharpe_hi']:.2f}"
        shares = (statistics.cell(row[key], "{:.1%}") for key in ("total_return", "max_drawdown", "hit_rate"))
        rest = (statistics.cell(row["turnover"], "{:.2f}"), statistics.cell(row["break_even_bps"], "{:.1f}"))
        shown.add_row(name, statistics.cell(row["sharpe"], "{:.2f}"), interval, *shares, *rest)
    return shown


def main(cfg: Config) -> None:
    predictions, panel, contradiction, truth = (
        tables.read("predictions", columns=evaluation.INPUTS["predictions"]),
        tables.read("panel", columns=evaluation.INPUTS["panel"]),
        tables.read("contradiction", columns=evaluation.INPUTS["contradiction"]),
        tables.read("truth", columns=evaluation.INPUTS["truth"]),
    )
    rows = evaluation.decisions(predictions, panel, cfg)
    metrics, results = evaluation.evaluate(rows, panel, contradiction, truth, cfg, tables.read("technical"))
    equity = pd.DataFrame({name: statistics.equity(result) for name, result in results.items()})
    reliability = calibration(rows)

    write_json(METRICS, metrics)
    write_text(EQUITY, equity.to_csv(float_format="%.6f", lineterminator="\n"))
    write_text(CALIBRATION, reliability.to_csv(index=False, float_format="%.6f", lineterminator="\n"))
    draw(equity, reliability, example(rows, panel, contradiction, truth), metrics["ece"], cfg)
    model_id = str(rows["model_id"].iloc[0])
    tracking.record_evaluation(cfg, model_id, metrics, [METRICS, EQUITY, CALIBRATION, FIGURES])

    source = f"SIMULATED ({cfg.data.source})" if cfg.data.simulated else cfg.data.source
    console.print(headline(metrics["strategies"], f"{source}: test period, net of costs"))
    if metrics["forecast_window"] != "traded":
        log.warning("target=%s forecasts another window than the one traded: strategies say little", cfg.target.name)
    gaps = ", ".join(f"{name.removeprefix('n_')} {count}" for name, count in metrics["market"].items() if count)
    log.info("orders and market: %s", gaps.replace("_", " "))
    log.info(
        "model %s on %d test rows of %s: MCC %s [%s, %s], AUC %s, IC %s",
        *(model_id, metrics["n"], source, metrics["mcc"], metrics["mcc_lo"], metrics["mcc_hi"]),
        *(metrics["auc"], metrics["ic"]),
    )


if __name__ == "__main__":
    run(main)
