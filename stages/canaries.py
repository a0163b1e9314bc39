"""canaries: would a leak be noticed, and is nothing found where nothing is? On the real stages and the real FusionNet.

Every canary of fusion_alpha/canaries/ at full size, and the leaks planted in the pipeline's own functions, each of
which a canary must catch. Markets are SIMULATED. Those with and without a planted effect are the ones of lab_recovery:
whichever runs first trains the models of both.

Reads   params.yaml alone; the markets are made here. .cache/canaries and .cache/recovery keep what a killed run had
        finished
Writes  metrics/canaries.json, metrics/canaries.csv, metrics/canaries.svg; a run in MLflow's experiment `canaries`
Holds   equal parameters and threads give equal bytes; a canary that fails, or a leak that none catches, ends in status
        1, everything written.
Run     make canaries, or python -m stages.canaries [canaries.shuffles=5 executor.workers=4 ...]
"""

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table

from fusion_alpha import figures, lab_runs, tracking
from fusion_alpha.canaries import (
    findings,
    label_shuffle,
    market,
    mutants,
    selection,
    simulated,
    start_shift,
    tasks,
    time_machine,
    timestamps,
)
from fusion_alpha.canaries.findings import Finding
from fusion_alpha.config import Config
from fusion_alpha.files import write_json, write_text
from fusion_alpha.stage import console, run
from fusion_alpha.workspace import Workspace

METRICS, TABLE = Path("metrics/canaries.json"), Path("metrics/canaries.csv")
FIGURE = Path("metrics/canaries.svg")
EXPERIMENT = "canaries"  # of MLflow; no trial of a strategy

log = logging.getLogger(__name__)


def of_time(cfg: Config) -> tuple[dict[str, Finding], dict[str, Any]]:
    """Canaries on the time machine's market, and what caught each mutant there."""
    own = market.configuration(cfg)
    home = tasks.home(own, market.STAGES)
    whole = Workspace(home / "market", own)
    parts = [part.tasks(whole, home) for part in (time_machine, start_shift, mutants)]
    answers = tasks.run_in(
        whole, market.STAGES, [task for part in parts for task in part], cfg.executor, "time machine"
    )
    cut, started, caught = ({task.name: answers[task.name] for task in part} for part in parts)
    for name, value in start_shift.not_live_eligible(started).items():
        log.error("%s is not live-eligible: it differs by %.2g", name, value)
    leaks = {name.removeprefix("mutant "): {"caught_by": by} for name, by in caught.items()}
    return time_machine.judged(cut) | start_shift.judged(started), leaks


def of_labels(cfg: Config) -> dict[str, Finding]:
    own = label_shuffle.configuration(cfg)
    home = tasks.home(own, market.STAGES)
    layers = Workspace(home / "planted", own)
    todo = label_shuffle.tasks(layers, home)
    return label_shuffle.judged(tasks.run_in(layers, lab_runs.LAYERS, todo, cfg.executor, "label shuffle"))


def of_markets(cfg: Config) -> dict[str, Finding]:
    """Canaries on markets with and without a planted effect, and on books without skill in the latter."""
    kinds = simulated.markets(cfg)
    lab_runs.run([one for several in kinds.values() for one in several], cfg.executor)
    forecasts = {kind: simulated.answers(several) for kind, several in kinds.items()}
    own = kinds["null"][0].variants["fused"][0]
    books = selection.tasks(forecasts["null"], cfg, tasks.home(own, market.STAGES))
    found = simulated.judged(forecasts, cfg)
    return found | selection.judged(tasks.run(books, cfg.executor, "books without skill"))


def table_of(found: Mapping[str, Finding]) -> pd.DataFrame:
    """A row for each canary: canary, value, low, high, criterion, passed, used (share of what is allowed)."""
    columns = ["value", "low", "high", "criterion", "passed", "used"]
    return pd.DataFrame([{"canary": name} | {key: getattr(one, key) for key in columns} for name, one in found.items()])


def shown(found: Mapping[str, Finding], leaks: Mapping[str, Any]) -> Table:
    table = Table(title="SIMULATED markets: canaries, and leaks planted to be caught", title_justify="left", box=None)
    for head in ("canary", "value", "asked", "verdict"):
        table.add_column(head, no_wrap=True, justify="right" if head == "value" else "left")
    for name, one in found.items():
        value = "–" if one.value is None else f"{one.value:g}"
        table.add_row(name, value, one.criterion, "passed" if one.passed else "[bold red]FAILED[/]")
    for name, leak in leaks.items():
        caught = len(leak["caught_by"])
        table.add_row(f"leak {name}", str(caught), "caught", "caught" if caught else "[bold red]NOT CAUGHT[/]")
    return table


def main(cfg: Config) -> None:
    log.info("SIMULATED markets: what is found says that the machinery works, never that markets are like this")
    with tracking.training_run(cfg, EXPERIMENT) as record:
        found = timestamps.judged(market.configuration(cfg))
        of_market, leaks = of_time(cfg)
        found = of_market | found | of_labels(cfg) | of_markets(cfg)
        passed = findings.passed(found, leaks)
        metrics = {
            "simulated": True,
            "canaries": {name: one.as_metric() for name, one in found.items()},
            "mutants": leaks,
        }
        table = table_of(found)
        write_json(METRICS, metrics)
        write_text(TABLE, table.to_csv(index=False, lineterminator="\n"))
        caught = {name: leak["caught_by"] for name, leak in leaks.items()}
        figures.save(FIGURE, figures.canaries(table, caught))
        tags = {"mlflow.runName": "canaries", "simulated": "true", "verdict": "passed" if passed else "failed"}
        record.record(metrics, tags, [METRICS, TABLE, FIGURE])
    console.print(shown(found, leaks))
    if not passed:
        sys.exit(1)


if __name__ == "__main__":
    run(main, own_data=True)
