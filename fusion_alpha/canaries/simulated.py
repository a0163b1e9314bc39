"""Nothing is found in null markets, and what was planted is found with either sign (SIMULATED).

The markets, their forecasts by FusionNet, the figures and the criteria are those of fusion_alpha/recovery.py: whichever
of `make recovery` and `make canaries` runs first trains the models of both.
"""

from collections.abc import Mapping
from dataclasses import replace

import pandas as pd

from fusion_alpha import lab_runs, recovery, trading
from fusion_alpha.canaries import findings
from fusion_alpha.canaries.findings import Finding
from fusion_alpha.config import Config
from fusion_alpha.lab_runs import Market

KINDS = {"planted": "planted", "reversed": "reversed", "null": "null_market"}  # in file names; in the parameters
_CRITERIA = {
    "planted": recovery.planted_criteria,
    "reversed": recovery.planted_criteria,
    "null": recovery.null_criteria,
}


def markets(cfg: Config) -> dict[str, list[Market]]:
    """Of each kind, forecast by the fused model alone."""
    return {
        kind: lab_runs.markets(cfg, kind, replace(getattr(cfg.recovery, name), variants=[recovery.MAIN]))
        for kind, name in KINDS.items()
    }


def answers(every: list[Market]) -> dict[int, pd.DataFrame]:
    """Forecasts of the tested rows by seed, columns as in lab_runs.forecast."""
    return {market.seed: market.read(recovery.MAIN) for market in every}


def judged(forecasts: Mapping[str, Mapping[int, pd.DataFrame]], cfg: Config) -> dict[str, Finding]:
    """KIND_market_FIGURE: figures and limits of recovery's criteria, the information coefficient with its interval."""
    found = {}
    for kind, by_seed in forecasts.items():
        gathered = recovery.gather({seed: {recovery.MAIN: table} for seed, table in by_seed.items()})
        summary = recovery.summary(gathered, cfg.evaluate, trading.bars_per_year(cfg))
        measures = summary["systems"][recovery.MAIN]
        for name, criterion in _CRITERIA[kind](summary).items():
            one = findings.of_criterion(criterion)
            if f"{name}_lo" in measures:
                one = replace(one, low=measures[f"{name}_lo"], high=measures[f"{name}_hi"])
            found[f"{kind}_market_{name}"] = one
    return found
