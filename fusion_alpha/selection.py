"""What a result is worth after all that was tried to get it, and beside what it must beat.

    Deflated Sharpe   is the model's Sharpe more than the best of N worthless trials would show?       skfolio
    PBO               how often does the choice of the best row end below the median afterwards?       purgedcv
    SPA               does any strategy beat the baseline, seeing that many were looked at?            arch
    paired tests      by how much one strategy beats another on the same days, and could it be luck?   arch

All of them take net returns by session, one column a strategy: names and bars of one session move together, so that a
session is the smallest thing that is drawn, and blocks of sessions are, since neighbours hang together too. The same
blocks are drawn for both sides of a comparison.

The libraries take seconds to import, so they are imported inside functions.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from fusion_alpha import statistics
from fusion_alpha.config import EvaluateConfig
from fusion_alpha.statistics import Floats, Measures, rounded

BLOCKS = 10  # of PBO: 252 ways to choose half of them


def by_session(results: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Net returns [session, strategy] of simulations of the same orders' times."""
    return pd.DataFrame({name: statistics.session_returns(result) for name, result in results.items()})


def deflated_sharpe(returns: Floats, trial_sharpes: Sequence[float], n_trials: int, per_year: float) -> Measures:
    """Probability that the true Sharpe of `returns` exceeds what the best of n_trials worthless trials would show.

    returns: [n] net, per bar; trial_sharpes: annualised, of those trials whose test was looked at; n_trials: all that
    were run, at least as many. A trial without a known Sharpe, e.g. of a search that never saw test, is taken to
    spread as an independent one without skill does, with variance 1 / (n - 1) per bar:

        V = ((k - 1) var(known k) + (N - k) / (n - 1)) / (N - 1),     threshold = sqrt(V) E[max of N standard normals]

    With all known this is the formula of the paper; with one trial it is the probabilistic Sharpe ratio against 0.
    sharpe_threshold is annualised, as is trials_sd = sqrt(V). Undefined (None) without variance and below 3 bars.
    Raises ValueError for fewer trials than Sharpes, or none.
    Source: Bailey and Lopez de Prado (2014), "The deflated Sharpe ratio", Journal of Portfolio Management 40 (5).
    """
    from skfolio.measures import expected_max_sharpe_ratio, probabilistic_sharpe_ratio

    known = np.asarray(trial_sharpes, np.float64) / np.sqrt(per_year)
    if n_trials < max(len(known), 1):
        raise ValueError(f"{n_trials} trials, {len(known)} Sharpe ratios of trials: expected at least one, and as many")
    spread = (len(known) - 1) * known.var(ddof=1) if len(known) > 1 else 0.0
    unknown = min(n_trials - len(known), n_trials - 1)
    variance = (spread + unknown / max(len(returns) - 1, 1)) / max(n_trials - 1, 1)
    threshold = expected_max_sharpe_ratio(n_trials=n_trials, trial_sharpe_ratio_std=float(np.sqrt(variance)))
    return {
        "probability": rounded(probabilistic_sharpe_ratio(returns, benchmark_sharpe_ratio=threshold)),
        "probability_of_one_trial": rounded(probabilistic_sharpe_ratio(returns)),
        "sharpe_threshold": rounded(threshold * np.sqrt(per_year)),
        "trials": n_trials,
        "trials_with_sharpe": len(known),
        "trials_sd": rounded(np.sqrt(variance * per_year)),
    }


def overfitting(returns: pd.DataFrame, blocks: int = BLOCKS) -> Measures:
    """Probability of backtest overfitting (PBO) of choosing the column with the best Sharpe.

    returns: [n, k] by session. Sessions are cut into `blocks`; for every half of them the best column is chosen there
    and ranked on the other half: PBO is the share of choices below the median. 0.5 is what choosing among worthless
    columns gives. Columns that are equal count once, since two names for one thing are no choice.
    Undefined (None) with fewer than 2 different columns or fewer sessions than 2 a block.
    Source: Bailey, Borwein, Lopez de Prado, Zhu (2017), "The probability of backtest overfitting", Journal of
    Computational Finance 20 (4).
    """
    from purgedcv import probability_of_backtest_overfitting

    different = returns.T.drop_duplicates().to_numpy(np.float64)
    result: Measures = {"configurations": len(different), "blocks": blocks, "pbo": None, "combinations": None}
    if len(different) < 2 or different.shape[1] < 2 * blocks:
        return result
    found = probability_of_backtest_overfitting(different, n_splits=blocks)
    return result | {"pbo": rounded(found.pbo), "combinations": found.n_combos}


def superior(returns: pd.DataFrame, baseline: str, settings: EvaluateConfig) -> Measures:
    """Test of superior predictive ability: p-value of "no column earns more than the baseline".

    returns: [n, k] by session. p is the consistent one; p_lower and p_upper bound it, p_upper is White's reality check.
    Columns that equal the baseline are left out. Undefined (None) where none is left or with fewer than 2 sessions.
    Source: Hansen (2005), "A test for superior predictive ability", Journal of Business & Economic Statistics 23 (4).
    """
    from arch.bootstrap import SPA

    others = returns.drop(columns=baseline)
    others = others.loc[:, others.sub(returns[baseline], axis=0).std() > 0]
    result: Measures = {"strategies": others.shape[1], "p": None, "p_lower": None, "p_upper": None}
    if others.empty or len(others) < 2:
        return result
    block = max(1, min(settings.block_sessions, len(returns) // 5))
    test = SPA(
        -returns[baseline].to_numpy(),
        -others.to_numpy(),
        block_size=block,
        reps=settings.bootstrap_samples,
        seed=settings.seed,
    )
    test.compute()
    p = {name: float(value) for name, value in test.pvalues.items()}
    return result | {
        "p": rounded(p["consistent"]),
        "p_lower": rounded(p["lower"]),
        "p_upper": rounded(p["upper"]),
    }


def paired_tests(
    returns: pd.DataFrame, pairs: Sequence[tuple[str, str]], per_year: float, settings: EvaluateConfig
) -> list[dict[str, Any]]:
    """What each pair (strategy, against) differs by on the same sessions, with intervals and p-values.

    returns: [n, k] by session; per_year: sessions in a year. excess_annual = mean difference of net returns times
    per_year (no compounding); sharpe_difference = difference of annualised Sharpe ratios; both with a percentile
    interval. p: two-sided, of a mean difference of 0, from the bootstrap distribution moved there; p_holm: corrected
    for the number of pairs. Undefined measures are None, as where the two are equal.
    Source: Politis and Romano (1994), "The stationary bootstrap", JASA 89; Holm (1979), Scand. Journal of Statistics 6.
    """
    from arch.bootstrap import StationaryBootstrap

    if not pairs:
        return []
    rows = returns.to_numpy(np.float64)
    one, other = (returns.columns.get_indexer(pd.Index([pair[side] for pair in pairs])) for side in (0, 1))

    def differences(sample: Floats) -> Floats:
        excess = (sample[:, one] - sample[:, other]).mean(0) * per_year
        ratio = statistics.sharpe(sample, per_year)
        return np.concatenate([excess, ratio[one] - ratio[other]])

    observed = differences(rows)
    block = max(1.0, min(settings.block_sessions, len(rows) / 5))
    draws = StationaryBootstrap(block, rows, seed=settings.seed).apply(differences, settings.bootstrap_samples)
    tail = (1 - settings.confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail], axis=0)
    excess, k = observed[: len(pairs)], len(pairs)
    farther = np.abs(draws[:, :k] - excess) >= np.abs(excess)
    p = (1 + farther.sum(0)) / (1 + len(draws))
    return [
        {
            "strategy": pairs[number][0],
            "against": pairs[number][1],
            "excess_annual": rounded(excess[number]),
            "excess_annual_lo": rounded(low[number]),
            "excess_annual_hi": rounded(high[number]),
            "sharpe_difference": rounded(observed[k + number]),
            "sharpe_difference_lo": rounded(low[k + number]),
            "sharpe_difference_hi": rounded(high[k + number]),
            "p": rounded(p[number]),
            "p_holm": rounded(corrected),
        }
        for number, corrected in enumerate(statistics.holm(list(p)))
    ]
