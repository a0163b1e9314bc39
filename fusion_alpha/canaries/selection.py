"""The best of many books without skill must be seen through (SIMULATED null markets).

A book of a null market trades the fused model's own forecasts, less their mean, dealt out to other rows: it decides
as the strategy does (fusion_alpha/trading.py) and knows nothing. Of `canaries.trials` such books

    pbo    the probability of backtest overfitting of the first `canaries.configurations`, which is 1/2 where the best
           one in sample is no better than chance out of sample
    dsr    the Deflated Sharpe Ratio of the best one, given the ratios of all; at least 0.95 in one of twenty markets

Sources: Bailey, Borwein, Lopez de Prado and Zhu (2017), "The probability of backtest overfitting", Journal of
Computational Finance 20; Bailey and Lopez de Prado (2014), "The Deflated Sharpe Ratio", Journal of Portfolio Management
40. Both are computed as an evaluation does, by fusion_alpha/selection.py.
"""

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fusion_alpha import baselines, lab_runs, statistics, trading
from fusion_alpha.canaries import findings
from fusion_alpha.canaries.findings import Finding
from fusion_alpha.canaries.tasks import Task
from fusion_alpha.config import Config
from fusion_alpha.selection import deflated_sharpe, overfitting

CONFIDENCE = 0.95  # of a Deflated Sharpe Ratio that counts as skill
_PBO_REACH, _PBO_SEEDS = 0.136, 20  # of the mean of so many markets, by 20 configurations and 10 blocks: 3 sd
_FALSE_ALARM = 0.003  # of the count of Deflated Sharpe Ratios


def tasks(forecasts: Mapping[int, pd.DataFrame], cfg: Config, home: Path) -> list[Task]:
    """One for each null market: forecasts by seed."""
    return [
        Task(f"books of null market {seed}", home / f"books-{seed}.json", partial(of_market, rows, seed, cfg))
        for seed, rows in forecasts.items()
    ]


def of_market(rows: pd.DataFrame, seed: int, cfg: Config) -> dict[str, Any]:
    """pbo and dsr of the books of one market."""
    return measured(books(rows, seed, cfg), cfg)


def measured(returns: pd.DataFrame, cfg: Config) -> dict[str, Any]:
    """pbo and dsr of [sessions, trials]."""
    own, per_year = cfg.canaries, trading.bars_per_year(cfg)
    ratios = [float(ratio) for ratio in statistics.sharpe(returns, per_year)]
    best = returns.iloc[:, int(np.argmax(ratios))].to_numpy(np.float64)
    return {
        "pbo": overfitting(returns.iloc[:, : own.configurations], own.blocks)["pbo"],
        "dsr": deflated_sharpe(best, ratios, len(ratios), per_year)["probability"],
    }


def books(rows: pd.DataFrame, seed: int, cfg: Config) -> pd.DataFrame:
    """Returns before costs, [sessions, trials], from the columns of lab_runs.forecast."""
    free = lab_runs.without_costs(cfg)
    known = rows[rows["target_ret"].notna()].reset_index(drop=True)
    known = known.assign(mean_ret=known["mean_ret"] - known["mean_ret"].mean())
    columns = {}
    for trial in range(cfg.canaries.trials):
        dealt = baselines.shuffled(known, (cfg.canaries.seed << 32) + (seed << 16) + trial)
        columns[trial] = trading.decide(dealt, free) * known["target_ret"]
    return pd.DataFrame(columns).groupby(known["session"]).sum()


def judged(answers: Mapping[str, Any]) -> dict[str, Finding]:
    """pbo_null: mean; dsr_null: markets in which the best book seems to have skill."""
    from scipy.stats import binom

    count = len(answers)
    mean = float(np.mean([answer["pbo"] for answer in answers.values()]))
    skilled = sum(answer["dsr"] >= CONFIDENCE for answer in answers.values())
    return {
        "pbo_null": findings.within(mean, 0.5, _PBO_REACH * math.sqrt(_PBO_SEEDS / count)),
        "dsr_null": findings.at_most(skilled, float(binom.isf(_FALSE_ALARM, count, 1 - CONFIDENCE))),
    }
