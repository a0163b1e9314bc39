"""What a backtest and a classifier are worth: every measure is defined here once.

Conventions: Sharpe is the mean over the standard deviation (n - 1) of simple net returns per bar, times the square
root of the bars in a year, at a risk-free rate of 0. Drawdown is negative. An undefined measure (no rows, no
variance, one class) is None. Numbers keep six significant digits, so that files stay comparable.

scikit-learn, arch and empyrical take a second each to import and arch writes a font cache, so that they are imported
inside functions.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from fusion_alpha.config import EvaluateConfig

Floats = NDArray[np.float64]
Measures = dict[str, float | int | None]

_BINS = 10  # of the reliability table
_MIN_NAMES = 3  # a day with fewer names has no meaningful rank correlation


def rounded(value: float) -> float | None:
    """Six significant digits; None where the value is not finite."""
    return float(f"{value:.6g}") if np.isfinite(value) else None


def cell(value: float | None, form: str) -> str:
    """A measure in a table; a dash where it is undefined."""
    return "–" if value is None else form.format(value)


def sharpe(returns: ArrayLike, per_year: float) -> Any:
    """Annualised Sharpe ratio of [n] or [n, k] returns per bar, a float or [k]; not finite without variance.

    Source: Sharpe (1994), "The Sharpe ratio", Journal of Portfolio Management 21 (1).
    """
    import empyrical

    return empyrical.sharpe_ratio(np.asarray(returns, np.float64), annualization=per_year)


def bootstrap_interval(
    statistic: Callable[[Floats], Any], rows: Floats, block: float, settings: EvaluateConfig
) -> tuple[Floats, Floats]:
    """Percentile interval of `statistic(rows)` under the stationary bootstrap of rows with this mean block length.

    rows: [n, ...] in time order; statistic: [n, ...] -> k numbers. Returns (low, high), k numbers each, NaN where the
    statistic is undefined in some sample. Blocks are at most a fifth of the rows, or no sample would differ.
    Source: Politis and Romano (1994), "The stationary bootstrap", JASA 89.
    """
    from arch.bootstrap import StationaryBootstrap

    width = np.size(statistic(rows))
    if len(rows) < 2:
        return np.full(width, np.nan), np.full(width, np.nan)
    bootstrap = StationaryBootstrap(max(1.0, min(block, len(rows) / 5)), rows, seed=settings.seed)
    low, high = bootstrap.conf_int(
        lambda sample: np.atleast_1d(statistic(sample)),
        settings.bootstrap_samples,
        method="percentile",
        size=settings.confidence,
    )
    return low, high


def holm(p: Sequence[float]) -> list[float]:
    """p-values corrected for their number, valid under any dependence.

    Source: Holm (1979), "A simple sequentially rejective multiple test procedure", Scand. Journal of Statistics 6.
    """
    order = np.argsort(p)
    stepped = np.maximum.accumulate(np.asarray(p)[order] * (len(p) - np.arange(len(p))))
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(stepped, 1.0)
    return [float(value) for value in corrected]


def strategies(
    results: Mapping[str, pd.DataFrame], benchmark: str, per_year: float, settings: EvaluateConfig
) -> dict[str, Measures]:
    """Measures of simulated strategies that share their intervals (frames of `trading.simulate`).

    sharpe, sharpe_lo, sharpe_hi; sharpe_gross (before costs); total_return; return_annual (compound); volatility
    (annual); max_drawdown; hit_rate = share of sessions whose net return exceeds the benchmark's; turnover = mean per
    session of sum |change of weight|; exposure, net_exposure = mean of sum |weight|, sum weight; cost_annual;
    break_even_bps = the side cost at which the net mean is 0 once borrow and impact are paid (negative: it loses before
    any side cost).
    The bootstrap draws the same blocks for all, so that their intervals can be compared.
    """
    net = np.column_stack([result["net_ret"] for result in results.values()])
    sessions = next(iter(results.values()))["session"]
    block = settings.block_sessions * len(net) / sessions.nunique()
    low, high = bootstrap_interval(lambda sample: sharpe(sample, per_year), net, block, settings)
    by_session = {name: session_returns(result) for name, result in results.items()}
    measures = {}
    for number, (name, result) in enumerate(results.items()):
        measures[name] = _measures(result, per_year)
        better = (by_session[name] > by_session[benchmark]).mean()
        measures[name] |= {
            "sharpe_lo": rounded(low[number]),
            "sharpe_hi": rounded(high[number]),
            "hit_rate": None if name == benchmark else rounded(better),
        }
    return measures


def equity(result: pd.DataFrame) -> pd.Series:
    """Value at the end of each session of 1 invested before the first trade, net of costs."""
    value = (1 + result["net_ret"]).cumprod()
    return value.groupby(result["session"]).last()


def session_returns(result: pd.DataFrame) -> pd.Series:
    """Net return of each session of one simulation, compounded over its bars."""
    return (1 + result["net_ret"]).groupby(result["session"]).prod() - 1


def _measures(result: pd.DataFrame, per_year: float) -> Measures:
    import empyrical

    net, turnover = result["net_ret"].to_numpy(), result["turnover"].sum()
    total = float(np.prod(1 + net) - 1)
    before_trading = (result["gross_ret"] - result["borrow"] - result["impact"]).sum()
    return {
        "sharpe": rounded(sharpe(net, per_year)),
        "sharpe_gross": rounded(sharpe(result["gross_ret"], per_year)),
        "total_return": rounded(total),
        "return_annual": rounded((1 + total) ** (per_year / len(net)) - 1),
        "volatility": rounded(empyrical.annual_volatility(net, annualization=per_year)),
        "max_drawdown": rounded(empyrical.max_drawdown(net)),
        "turnover": rounded(turnover / result["session"].nunique()),
        "exposure": rounded(result["exposure"].mean()),
        "net_exposure": rounded(result["net_exposure"].mean()),
        "cost_annual": rounded(result["cost"].mean() * per_year),
        "break_even_bps": rounded(before_trading / turnover * 1e4) if turnover > 0 else None,
    }


def classification(p_up: pd.Series, label: pd.Series, session: pd.Series, settings: EvaluateConfig) -> Measures:
    """Measures of P(up) against the label, over rows that have one; up is predicted where p_up > 0.5.

    MCC comes with an interval that keeps the rows of a session, and runs of sessions, together: names move
    together, so that rows are worth far less than their count. ece: see `reliability`. Losses are in nats.
    """
    from sklearn import metrics

    known = label.notna().to_numpy()
    probability, truth = p_up.to_numpy(np.float64)[known], label[known].to_numpy(bool)
    guess = probability > 0.5
    n, n_up = len(truth), int(truth.sum())
    result: Measures = {"n": n, "n_up": n_up, "n_sessions": session[known].nunique()}
    names = ("tp", "fp", "fn", "tn")
    cells = np.column_stack([guess & truth, guess & ~truth, ~guess & truth, ~guess & ~truth]).astype(np.float64)
    counts = cells.sum(axis=0)
    result |= {name: int(count) for name, count in zip(names, counts, strict=True)}
    both = 0 < n_up < n
    by_session = pd.DataFrame(cells).groupby(session[known].to_numpy()).sum().to_numpy()
    low, high = bootstrap_interval(_mcc, by_session, settings.block_sessions, settings) if n else ([np.nan], [np.nan])
    undefined = float("nan")
    numbers = {
        "accuracy": (guess == truth).mean() if n else undefined,
        "accuracy_always_up": n_up / n if n else undefined,
        "balanced_accuracy": metrics.balanced_accuracy_score(truth, guess) if both else undefined,
        "mcc": float(_mcc(counts[None])),
        "mcc_lo": low[0],
        "mcc_hi": high[0],
        "share_predicted_up": guess.mean() if n else undefined,
        "auc": metrics.roc_auc_score(truth, probability) if both else undefined,
        "bce": metrics.log_loss(truth, probability, labels=[False, True]) if n else undefined,
        "brier": metrics.brier_score_loss(truth, probability) if both else undefined,
        "ece": expected_calibration_error(reliability(probability, truth)),
    }
    return result | {name: rounded(value) for name, value in numbers.items()}


def _mcc(cells: Floats) -> Floats:
    """Matthews correlation of counts (tp, fp, fn, tn) [m, 4] summed over m; 0 where a margin is empty.

    Source: Matthews (1975); the convention for empty margins is scikit-learn's.
    """
    tp, fp, fn, tn = cells.sum(axis=0)
    margins = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return np.asarray((tp * tn - fp * fn) / np.sqrt(margins) if margins else 0.0)


def reliability(probability: Floats, truth: NDArray[np.bool_]) -> pd.DataFrame:
    """Reliability table of at most 10 bins of equal count: p_low, p_high, n, p_mean, share_up.

    Equal counts, because probabilities of daily returns crowd around 0.5 and would fill one bin of equal width.
    """
    columns = ["p_low", "p_high", "n", "p_mean", "share_up"]
    if not len(probability):
        return pd.DataFrame({name: pd.Series(dtype="float64") for name in columns})
    rank = pd.Series(probability).rank(pct=True).to_numpy()  # equal probabilities share a bin
    bins = np.ceil(rank * _BINS).astype(int)
    rows = pd.DataFrame({"p": probability, "up": truth.astype(np.float64)}).groupby(bins)
    p, up = rows["p"], rows["up"]
    table = {"p_low": p.min(), "p_high": p.max(), "n": rows.size(), "p_mean": p.mean(), "share_up": up.mean()}
    return pd.DataFrame(table).reset_index(drop=True)


def expected_calibration_error(table: pd.DataFrame) -> float:
    """Mean of |share_up - p_mean| over the bins of a reliability table, weighted by n; NaN without rows."""
    if table.empty:
        return float("nan")
    return float(np.average((table["share_up"] - table["p_mean"]).abs(), weights=table["n"]))


def information(score: pd.Series, target: pd.Series, decided: pd.Series) -> Measures:
    """Information coefficients of a score for the return that followed, over rows that have one.

    ic: Pearson correlation over all rows; ic_rank: Spearman's. ic_daily: mean over decision times of Spearman's across
    names (at least 3, none of the two constant), with ic_daily_t = mean / (sd / sqrt(n_times)).
    """
    known = target.notna().to_numpy()
    rows = pd.DataFrame({"score": score[known], "target": target[known]})
    daily = _correlation_within(rows.groupby(decided[known]).rank(), decided[known])
    n_times = len(daily)
    error = daily.std(ddof=1) / np.sqrt(n_times) if n_times > 1 else np.nan
    return {
        "ic": rounded(pearson(rows["score"], rows["target"])),
        "ic_rank": rounded(pearson(rows["score"].rank(), rows["target"].rank())),
        "ic_daily": rounded(daily.mean()) if n_times else None,
        "ic_daily_t": rounded(daily.mean() / error) if n_times > 1 and error > 0 else None,
    }


def pearson(a: pd.Series, b: pd.Series) -> float:
    """Pearson correlation; NaN with fewer than 2 rows or without variance."""
    if len(a) < 2 or a.nunique() < 2 or b.nunique() < 2:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def _correlation_within(ranks: pd.DataFrame, groups: pd.Series) -> Floats:
    """Pearson correlation of the two columns within each group that has enough rows and variance."""
    centred = ranks - ranks.groupby(groups).transform("mean")
    score, target = centred["score"], centred["target"]
    sums = pd.DataFrame({"cross": score * target, "score": score**2, "target": target**2}).groupby(groups)
    size, total = sums.size(), sums.sum()
    usable = (size >= _MIN_NAMES) & (total["score"] > 0) & (total["target"] > 0)
    total = total[usable]
    return (total["cross"] / np.sqrt(total["score"] * total["target"])).to_numpy(np.float64)
