"""From predictions to positions: the one `decide`, of the backtest and of the live router.

Weights are shares of equity (0.2 = 20%; negative = short). Returns are simple, over one bar.

A decision has two parts. Targets depend on the predictions of their decision time alone (`decide` without `held`, all
times at once). What is then sent also depends on the book, because strategy.max_turnover limits how far one decision
may move it: the router calls `decide` with its weights as `held`, and the backtest applies `toward` to its own inside
the simulation. Both run the arithmetic of the same function in the same order, so that they agree to the last bit.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fusion_alpha.config import Config
from fusion_alpha.costs import bars_per_year, rates
from fusion_alpha.errors import InputError

Floats = NDArray[np.float64]


def decide(predictions: pd.DataFrame, cfg: Config, held: pd.Series | None = None) -> pd.Series:
    """Weights to hold, from ticker, decided_utc, mean_ret, sd_ret (simple returns over one bar) and severity in [0, 1].

    The edge is what mean_ret leaves after a round trip and the demanded minimum; a short also pays its borrow:

        edge = max(|mean_ret| - 2 side cost - edge_min - borrow of a bar if short, 0), with the sign of mean_ret
        wanted weight = (1 - k + k severity) edge / sd_ret^2        k = severity_share    [Kelly 1956; Merton 1969]

    `under_limits` then scales the rows of one decision time down together. So a row is sized by its edge until the
    limits bind, and by its edge beside the other rows' from then on. Rows of different times do not see each other.
    Impact is not in the edge: it depends on the size that the edge decides.

    Without `held` the answer has the predictions' index and no limit on turnover. held: the book's weights by ticker
    as they are known at the decision (each position at its last price), for predictions of one decision time. Then
    the answer is by ticker, of all that are predicted or held, sorted; whatever is held without a prediction is to be
    closed; and the sum of |change of weight| is at most strategy.max_turnover.

    Raises InputError for a mean that is not finite, a deviation that is not positive or a severity outside [0, 1]:
    such a row may not trade.
    """
    strategy, k = cfg.strategy, cfg.strategy.severity_share
    if k > 0 and "severity" not in predictions:
        raise InputError(
            "predictions have no severity",
            column="severity",
            rule="strategy.severity_share above 0 sizes positions by it",
            remedy="add the column, or set strategy.severity_share=0",
        )
    mean, sd = (predictions[name].to_numpy(np.float64) for name in ("mean_ret", "sd_ret"))
    severity = predictions["severity"].to_numpy(np.float64) if k > 0 else np.ones(len(mean))
    bad = ~(np.isfinite(mean) & np.isfinite(sd) & (sd > 0) & (severity >= 0) & (severity <= 1))
    if bad.any():
        row = predictions[bad].iloc[0]
        raise InputError(
            f"{row['ticker']} at {row['decided_utc']}: mean_ret {row['mean_ret']}, sd_ret {row['sd_ret']}, "
            f"severity {row.get('severity')}",
            rule="mean_ret is finite, sd_ret finite and positive, severity in [0, 1]",
            remedy="train the model again; its predictions are not usable",
        )
    cost = rates(predictions["ticker"], cfg)
    hurdle = 2 * cost.side + strategy.edge_min
    edge = np.maximum(mean - hurdle, 0.0)
    if strategy.allow_short:
        edge -= np.maximum(-mean - hurdle - cost.borrow, 0.0)
    wanted = pd.Series((1 - k + k * severity) * edge / sd**2, predictions.index)
    target = under_limits(wanted, sd, predictions["decided_utc"], cfg)
    return target if held is None else _from_book(target, predictions, held, cfg)


def under_limits(wanted: pd.Series, sd: Floats, decided: pd.Series, cfg: Config) -> pd.Series:
    """Scale the wanted weights of each decision time down to the limits of cfg.strategy.

    The book's volatility over one bar, with the assumed correlation r between any two names, is

        sqrt((1 - r) sum (w sd)^2 + r (sum w sd)^2)  <=  vol_target / sqrt(bars per year)

    First the book is scaled to that, then each weight is clipped to max_weight, then the book is scaled again so
    that volatility and max_gross both hold. Shorts are dropped first where the strategy may not have them.
    """
    strategy = cfg.strategy
    weight = wanted.to_numpy(np.float64)
    if not strategy.allow_short:
        weight = np.maximum(weight, 0.0)
    group, times = pd.factorize(decided)
    budget = strategy.vol_target / np.sqrt(bars_per_year(cfg))

    def total(values: Floats) -> Floats:
        return np.bincount(group, values, minlength=len(times)).astype(np.float64)

    def volatility(weight: Floats) -> Floats:
        common, own = total(weight * sd) ** 2, total((weight * sd) ** 2)
        return np.sqrt((1 - strategy.correlation) * own + strategy.correlation * common)

    weight = weight * _down(budget, volatility(weight))[group]
    weight = weight.clip(-strategy.max_weight, strategy.max_weight)
    factor = np.minimum(_down(budget, volatility(weight)), _down(strategy.max_gross, total(np.abs(weight))))
    return pd.Series(weight * factor[group], wanted.index, name="weight")


def _down(limit: float, value: Floats) -> Floats:
    """Factor in [0, 1] that brings `value` to at most `limit`."""
    return limit / np.maximum(value, limit)


def toward(target: Floats, held: Floats, most: float, weight: Floats) -> float:
    """Write to `weight` [n] the point on the way from held [n] to target [n] at which sum |change| is at most `most`.

    Returns the share of the way, in (0, 1]. A point between two books that keep a limit keeps it too: position,
    gross and volatility limits are convex. Plain loops, because the simulation compiles this very function and
    a sum in another order would have other bits.
    """
    change = 0.0
    for n in range(len(target)):
        change += abs(target[n] - held[n])
    share = most / change if change > most else 1.0
    for n in range(len(target)):
        weight[n] = held[n] + share * (target[n] - held[n]) if share < 1.0 else target[n]
    return share


def turnover_limit(cfg: Config) -> float:
    """strategy.max_turnover, infinite where there is none."""
    return np.inf if cfg.strategy.max_turnover is None else cfg.strategy.max_turnover


def _from_book(target: pd.Series, predictions: pd.DataFrame, held: pd.Series, cfg: Config) -> pd.Series:
    wanted = target.set_axis(predictions["ticker"])
    if not (wanted.index.is_unique and held.index.is_unique and predictions["decided_utc"].nunique() <= 1):
        raise InputError(
            f"{len(wanted)} predictions of {predictions['decided_utc'].nunique()} times, {len(held)} weights held",
            rule="with weights held: one decision time, one prediction and one weight a ticker",
            remedy="call decide for each decision time",
        )
    if not np.isfinite(held.to_numpy(np.float64)).all():
        raise InputError("a held weight is not finite", rule="weights are shares of equity", remedy="check the book")
    tickers = pd.Index(sorted({*wanted.index, *held.index}), name="ticker")
    end, start = (side.reindex(tickers, fill_value=0.0).to_numpy(np.float64) for side in (wanted, held))
    weight = np.empty(len(tickers))
    toward(end, start, turnover_limit(cfg), weight)
    return pd.Series(weight, tickers, name="weight")
