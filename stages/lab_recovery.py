"""lab_recovery: does FusionNet find what was planted in a market, with either sign, and nothing where nothing was?

Three kinds of SIMULATED markets, several seeds each: planted (drift against the news after a contradiction), reversed
(with it) and null (none). Each runs through the pipeline's own stages and is learned from anew; beside the fused model
stand those that see prices or texts alone, and the oracle, who knows the rule. See fusion_alpha/recovery.py.

Reads   params.yaml alone; the markets are made here. .cache/recovery keeps what a killed run had finished
Writes  metrics/lab_recovery.json, metrics/lab_recovery_seeds.csv, metrics/lab_recovery.svg; a run in MLflow's
        experiment `recovery`
Holds   equal parameters and threads give equal bytes; a criterion that fails ends in status 1, everything written.
Run     make recovery, or python -m stages.lab_recovery [recovery.planted.seeds=3 executor.workers=4 ...]
"""

import logging
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table

from fusion_alpha import figures, lab_runs, recovery, tracking, trading
from fusion_alpha.config import Config, RecoveryMarketConfig
from fusion_alpha.files import write_json, write_text
from fusion_alpha.lab_runs import Market
from fusion_alpha.stage import console, run

METRICS, SEEDS = Path("metrics/lab_recovery.json"), Path("metrics/lab_recovery_seeds.csv")
FIGURE = Path("metrics/lab_recovery.svg")
EXPERIMENT = "recovery"  # of MLflow; no trial of a strategy
ASKED = {
    "planted": recovery.planted_criteria,
    "reversed": recovery.planted_criteria,
    "null": recovery.null_criteria,
}

log = logging.getLogger(__name__)


def kinds(cfg: Config) -> dict[str, RecoveryMarketConfig]:
    parts = cfg.recovery
    return {"planted": parts.planted, "reversed": parts.reversed, "null": parts.null_market}


def measures(kind: str, markets: list[Market], settings: RecoveryMarketConfig, cfg: Config) -> dict[str, Any]:
    """All figures of one kind of market, its criteria among them."""
    answers = {market.seed: {name: market.read(name) for name in market.variants} for market in markets}
    found = recovery.summary(recovery.gather(answers), cfg.evaluate, trading.bars_per_year(cfg))
    criteria = ASKED[kind](found)
    return {
        "delta": settings.delta,
        **found,
        "criteria": {name: asdict(one) | {"passed": one.passed} for name, one in criteria.items()},
        "passed": all(one.passed for one in criteria.values()),
    }


def by_seed(metrics: Mapping[str, Any]) -> pd.DataFrame:
    """A row for each market and system: market (its kind), seed, system, ic, ic_rank, sharpe_gross."""
    return pd.DataFrame(
        {"market": f"{kind} market", "seed": int(seed), "system": system, **values}
        for kind in ASKED
        for seed, systems in metrics[kind]["seeds"].items()
        for system, values in systems.items()
    )


def together(metrics: Mapping[str, Any]) -> pd.DataFrame:
    """A row for each kind of market and system: market, system and its measures."""
    return pd.DataFrame(
        {"market": f"{kind} market", "system": system, **values}
        for kind in ASKED
        for system, values in metrics[kind]["systems"].items()
    )


def shown(table: pd.DataFrame) -> Table:
    title = "SIMULATED markets, tested sessions: information coefficient and Sharpe ratio before costs"
    found = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0), header_style="bold underline")
    for head in ("market", "system"):
        found.add_column(head, no_wrap=True)
    for head in ("IC", "interval", "of oracle's", "Sharpe", "of oracle's"):
        found.add_column(head, justify="right", no_wrap=True)
    for row in table.to_dict("records"):
        interval = f"{row['ic_lo']:+.3f} to {row['ic_hi']:+.3f}"
        shares = (percent(row.get(f"{name}_share")) for name in ("ic", "sharpe_gross"))
        cells = (f"{row['ic']:+.3f}", interval, next(shares), f"{row['sharpe_gross']:+.2f}", next(shares))
        found.add_row(row["market"], row["system"], *cells)
    return found


def percent(value: float | None) -> str:
    return "–" if value is None or pd.isna(value) else f"{value:.0%}"


def report(metrics: Mapping[str, Any]) -> None:
    """Log every criterion."""
    for kind in ASKED:
        for name, one in metrics[kind]["criteria"].items():
            level, verdict = (logging.INFO, "holds") if one["passed"] else (logging.ERROR, "DOES NOT HOLD")
            log.log(level, "%s %s %s: %s, %s %s", kind, name, verdict, one["value"], one["rule"], one["criterion"])


def main(cfg: Config) -> None:
    log.info("SIMULATED markets: what is found says that the machinery works, never that markets are like this")
    with tracking.training_run(cfg, EXPERIMENT) as record:
        markets = {kind: lab_runs.markets(cfg, kind, settings) for kind, settings in kinds(cfg).items()}
        lab_runs.run([market for several in markets.values() for market in several], cfg.executor)
        metrics: dict[str, Any] = {
            kind: measures(kind, markets[kind], settings, cfg) for kind, settings in kinds(cfg).items()
        }
        seeds, whole = by_seed(metrics), together(metrics)
        passed = all(metrics[kind]["passed"] for kind in ASKED)
        metrics |= {"simulated": True, "passed": passed, "n_tickers": cfg.recovery.n_tickers}
        write_json(METRICS, metrics)
        write_text(SEEDS, seeds.to_csv(index=False, lineterminator="\n"))
        figures.save(FIGURE, figures.recovery(seeds, whole))
        tags = {"mlflow.runName": "lab-recovery", "simulated": "true", "verdict": "passed" if passed else "failed"}
        record.record(metrics, tags, [METRICS, SEEDS, FIGURE])
    console.print(shown(whole))
    report(metrics)
    if not passed:
        sys.exit(1)


if __name__ == "__main__":
    run(main, own_data=True)
