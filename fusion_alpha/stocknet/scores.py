"""What answers are worth: measures of a system over its seeds, and paired tests between two systems.

A system answers n samples once for each of its S seeds; up is the positive class. Measures are means over the seeds,
`*_sd` their standard deviation (null for one seed). Stocks of a day move together, so that all uncertainty here is
about days: intervals draw blocks of days (stationary bootstrap), all seeds with them; the paired test swaps the two
systems in blocks of days. An interval is about the test days, `*_sd` about the seeds; neither holds the other.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fusion_alpha import statistics
from fusion_alpha.config import EvaluateConfig
from fusion_alpha.statistics import rounded

Floats = NDArray[np.float64]
CELLS = ("tp", "fp", "fn", "tn")
_MOST_BLOCKS = 14  # of the paired test, which looks at all 2^blocks ways to swap


@dataclass(frozen=True)
class Answers:
    """Of one system, for S seeds and n samples. What is said (`up`) need not be p_up > 1/2."""

    p_up: Floats  # [S, n]
    up: NDArray[np.bool_]  # [S, n]


def mcc(cells: Floats) -> Floats:
    """Matthews correlation of counts (tp, fp, fn, tn) in the last axis; 0 where a margin is empty."""
    tp, fp, fn, tn = np.moveaxis(np.asarray(cells, np.float64), -1, 0)
    margins = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return np.where(margins > 0, (tp * tn - fp * fn) / np.sqrt(np.maximum(margins, 1)), 0.0)


def accuracy(cells: Floats) -> Floats:
    return (cells[..., 0] + cells[..., 3]) / cells.sum(-1)


def balanced_accuracy(cells: Floats) -> Floats:
    """Mean of the shares of ups and of downs that are found; a class that is absent counts as one half."""
    tp, fp, fn, tn = np.moveaxis(np.asarray(cells, np.float64), -1, 0)
    found = [np.where(a + b > 0, a / np.maximum(a + b, 1), 0.5) for a, b in ((tp, fn), (tn, fp))]
    return (found[0] + found[1]) / 2


MEASURES = {"accuracy": accuracy, "balanced_accuracy": balanced_accuracy, "mcc": mcc}


def cells_by_day(samples: pd.DataFrame, up: NDArray[np.bool_]) -> Floats:
    """Counts [days, S, 4] of (tp, fp, fn, tn). samples: session, label; up: [S, n]."""
    truth = samples["label"].to_numpy(np.bool_)
    codes, days = pd.factorize(samples["session"], sort=True)
    hits = np.stack([up & truth, up & ~truth, ~up & truth, ~up & ~truth], axis=-1).astype(np.float64)  # [S, n, 4]
    cells = np.zeros((len(days), *np.moveaxis(hits, 1, 0).shape[1:]))
    np.add.at(cells, codes, np.moveaxis(hits, 1, 0))
    return cells


def measure(samples: pd.DataFrame, answers: Answers, settings: EvaluateConfig, block_days: int) -> dict[str, Any]:
    """All measures of one system on one set. samples: n rows of session, movement, label.

    Beside MEASURES (with _sd over the seeds and _ci, the day-block interval): share_up, confusion (mean counts), seeds,
    brier, bce (log loss in nats, null for rules), ic_daily (mean over days of the rank correlation of p_up with the
    movement; ic_daily_t), by_month.
    """
    days = cells_by_day(samples, answers.up)  # [D, S, 4]
    total = days.sum(0)
    low, high = statistics.bootstrap_interval(_means, days, block_days, settings)
    result: dict[str, Any] = {"seeds": len(total)}
    for number, (name, function) in enumerate(MEASURES.items()):
        values = function(total)
        result[name] = rounded(float(values.mean()))
        result[f"{name}_sd"] = rounded(float(values.std(ddof=1))) if len(values) > 1 else None
        result[f"{name}_ci"] = [rounded(float(low[number])), rounded(float(high[number]))]
    result["share_up"] = rounded(float(answers.up.mean()))
    result["confusion"] = {name: rounded(float(value)) for name, value in zip(CELLS, total.mean(0), strict=True)}
    result |= _probabilities(samples, answers)
    result["by_month"] = _by_month(samples, answers)
    return result


def _means(days: Floats) -> Floats:
    """Counts [days, S, 4] -> MEASURES of their sum, means over the seeds."""
    total = days.sum(0)
    return np.array([function(total).mean() for function in MEASURES.values()])


def _probabilities(samples: pd.DataFrame, answers: Answers) -> dict[str, float | None]:
    """Losses and rank correlations, means over the seeds."""
    truth = samples["label"].to_numpy(np.float64)
    p = answers.p_up
    sure = bool(((p == 0) | (p == 1)).any())  # a rule: its log loss is infinite
    rank = [
        statistics.information(pd.Series(one, samples.index), samples["movement"], samples["session"])
        for one in answers.p_up
    ]
    means = {
        name: None if any(one[name] is None for one in rank) else float(np.mean([one[name] for one in rank]))
        for name in ("ic_daily", "ic_daily_t")
    }
    return {
        "brier": rounded(float(((answers.p_up - truth) ** 2).mean())),
        "bce": None if sure else rounded(float(-np.log(np.where(truth > 0, p, 1 - p)).mean())),
        **{name: None if value is None else rounded(value) for name, value in means.items()},
    }


def _by_month(samples: pd.DataFrame, answers: Answers) -> dict[str, dict[str, Any]]:
    months = samples["session"].dt.strftime("%Y-%m").to_numpy()
    found = {}
    for month in np.unique(months):
        chosen = months == month
        cells = cells_by_day(samples[chosen], answers.up[:, chosen]).sum(0)
        found[str(month)] = {
            "n": int(chosen.sum()),
            "n_up": int(samples.loc[chosen, "label"].sum()),
            **{name: rounded(float(function(cells).mean())) for name, function in MEASURES.items()},
            "share_up": rounded(float(answers.up[:, chosen].mean())),
        }
    return found


def compare(
    samples: pd.DataFrame, first: Answers, second: Answers, settings: EvaluateConfig, block_days: int
) -> dict[str, Any]:
    """How much better `first` is: differences of MCC and accuracy, their intervals, and the p-value of the first.

    p: exact, two-sided, of "the two systems could be swapped in any block of days": the share of all swaps whose
    difference of MCC is at least as far from 0. A system of one seed meets each seed of the other.
    """
    ours, theirs = (cells_by_day(samples, answers.up) for answers in (first, second))
    seeds = max(ours.shape[1], theirs.shape[1])
    ours, theirs = (np.repeat(cells, seeds // cells.shape[1], axis=1) for cells in (ours, theirs))
    if ours.shape != theirs.shape:
        raise ValueError(f"{first.up.shape[0]} and {second.up.shape[0]} seeds cannot be paired")
    both = np.stack([ours, theirs])  # [2, D, S, 4]

    def differences(days: Floats) -> Floats:  # [D, 2, S, 4]
        means = [_means(days[:, side]) for side in (0, 1)]
        return means[0] - means[1]

    low, high = statistics.bootstrap_interval(differences, both.swapaxes(0, 1), block_days, settings)
    observed = differences(both.swapaxes(0, 1))
    names = list(MEASURES)
    result: dict[str, Any] = {}
    for name in ("mcc", "accuracy"):
        number = names.index(name)
        result[f"{name}_difference"] = rounded(float(observed[number]))
        result[f"{name}_difference_ci"] = [rounded(float(low[number])), rounded(float(high[number]))]
    return result | {"p": rounded(swap_test(ours, theirs, block_days))}


def swap_test(ours: Floats, theirs: Floats, block_days: int) -> float:
    """p-value of `compare` from counts [D, S, 4]; blocks are longer where there would be more than 14.

    Source: the randomisation test for paired data, Fisher (1935), The Design of Experiments, section 21, on blocks.
    """
    blocks = min(-(-len(ours) // block_days), _MOST_BLOCKS)
    parts = np.array_split(np.arange(len(ours)), blocks)
    sums = np.array([[cells[part].sum(0) for part in parts] for cells in (ours, theirs)])  # [2, blocks, S, 4]
    swaps = np.array(list(itertools.product((0.0, 1.0), repeat=blocks)))  # [2^blocks, blocks]
    moved = np.tensordot(swaps, sums[1] - sums[0], axes=1)  # [2^blocks, S, 4]
    difference = (mcc(sums[0].sum(0) + moved) - mcc(sums[1].sum(0) - moved)).mean(1)
    return float((np.abs(difference) >= abs(difference[0]) - 1e-12).mean())


def paired_tests(
    samples: pd.DataFrame,
    answers: Mapping[str, Answers],
    pairs: Sequence[tuple[str, str]],
    settings: EvaluateConfig,
    block_days: int,
) -> list[dict[str, Any]]:
    """`compare` for every pair (system, against), with p_holm corrected for the number of pairs."""
    found = [compare(samples, answers[one], answers[other], settings, block_days) for one, other in pairs]
    corrected = statistics.holm([result["p"] for result in found])
    return [
        {"system": one, "against": other, **result, "p_holm": rounded(p)}
        for (one, other), result, p in zip(pairs, found, corrected, strict=True)
    ]
