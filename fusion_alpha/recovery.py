"""Is what was planted found, and nothing where nothing was planted? Statistics over several simulated markets.

Rows of independent markets on one calendar come together. `ic` is the Pearson correlation of forecast and return over
all of them, `ic_rank` that of their ranks; `sharpe_gross` is of all markets' books one after the other, before costs.

Intervals come in two kinds. `_lo` and `_hi` draw runs of sessions, the same ones in all markets and for all systems
(stationary bootstrap), so that differences are paired and what moves together stays together; they hold for the models
as they were trained. `_seeds_lo` and `_seeds_hi` are Student's over the markets, each with its own data and training,
of the mean of the markets' own values: they say what other seeds would do. A difference counts where both exclude 0.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri, stdtrit

from fusion_alpha import detection, evaluation, statistics
from fusion_alpha.config import EvaluateConfig
from fusion_alpha.statistics import Measures, bootstrap_interval, rounded
from fusion_alpha.tables import BAR_KEY

Floats = NDArray[np.float64]

MAIN, ORACLE = "fused", "oracle"
IC_SHARE = 0.85  # of the oracle's, at least
SHARPE_SHARE = 0.5
FLAGS_F1 = 0.9
FALSE_ALARM = 0.0025  # of each criterion where nothing is planted, both sides together
_RULES = ("score", "learned", "naive")
_KEPT = ["session", "target_ret", "target_label", "kind_score", "kind_true", "s", "cs", "ret"]


@dataclass(frozen=True)
class Criterion:
    """A figure, its limit, and how the two must stand; a figure that is undefined does not pass."""

    value: float | None
    criterion: float | None
    rule: str  # at least, above, size at most

    @property
    def passed(self) -> bool:
        if self.value is None or self.criterion is None:
            return False
        if self.rule == "size at most":
            return abs(self.value) <= self.criterion
        return self.value > self.criterion if self.rule == "above" else self.value >= self.criterion


@dataclass(frozen=True)
class Forecasts:
    """What systems said of the same n rows."""

    rows: pd.DataFrame  # [n]: seed, session, target_ret, target_label, and what evaluation.flag_rules takes
    mean: pd.DataFrame  # [n, systems] forecast of target_ret
    up: pd.DataFrame  # [n, systems] whether up is forecast
    gross: pd.DataFrame  # [sessions, (seed, system)] returns of the books before costs


def gather(answers: Mapping[int, Mapping[str, pd.DataFrame]]) -> Forecasts:
    """From the tables of lab_runs.forecast, by seed and variant; rows without a target are left out.

    The oracle becomes a system, except where it foretells nothing. Raises ValueError where the variants of a market
    answered other rows, or the markets have other sessions.
    """
    parts = {seed: _of_market(seed, tables) for seed, tables in answers.items()}
    rows, mean, up = (
        pd.concat([getattr(part, name) for part in parts.values()], ignore_index=True)
        for name in ("rows", "mean", "up")
    )
    gross = pd.concat({seed: part.gross for seed, part in parts.items()}, axis=1)
    if gross.isna().any(axis=None) or mean.isna().any(axis=None):
        raise ValueError("the markets of a kind have the same systems and the same sessions")
    return Forecasts(rows, mean, up, gross)


def _of_market(seed: int, tables: Mapping[str, pd.DataFrame]) -> Forecasts:
    main = tables[MAIN]
    known = main["target_ret"].notna()
    kept = [*BAR_KEY, "target_ret"]
    if not all(table[kept].equals(main[kept]) for table in tables.values()):
        raise ValueError(f"market {seed}: the variants {', '.join(tables)} answer other rows")
    systems = {name: (table["mean_ret"], table["p_up"] > 0.5, table["gross_ret"]) for name, table in tables.items()}
    if (main["oracle_mean_ret"] != 0).any():
        best = main["oracle_mean_ret"]
        systems[ORACLE] = (best, best > 0, main["oracle_gross_ret"])
    mean, up, gross = (pd.DataFrame({name: parts[n] for name, parts in systems.items()})[known] for n in range(3))
    rows = main.loc[known, _KEPT].assign(seed=seed, kind_learned=main["kind"])
    return Forecasts(rows, mean, up, gross.groupby(rows["session"]).first())


def summary(found: Forecasts, settings: EvaluateConfig, per_year: float) -> dict[str, Any]:
    """All measures: `systems` by system, `differences` of the fused one to the others, `flags`, `seeds` by market.

    oracle_correlation: of the forecasts with the oracle's, what the share of its ic is expected to be.
    """
    target, session = found.rows["target_ret"], found.rows["session"]
    by_seed = per_seed(found, per_year)
    books = found.gross.to_numpy(np.float64).reshape(len(found.gross), -1, found.mean.shape[1])
    compared = [
        paired("ic", correlations, moments(found.mean, target, session), by_seed["ic"], settings),
        paired(
            "ic_rank", correlations, moments(found.mean.rank(), target.rank(), session), by_seed["ic_rank"], settings
        ),
        paired("sharpe_gross", lambda sample: _sharpe(sample, per_year), books, by_seed["sharpe_gross"], settings),
    ]
    systems = {name: _of_system(found, name, by_seed) for name in map(str, found.mean)}
    differences: dict[str, Measures] = {}
    for values, less in compared:
        systems = {name: systems[name] | values[name] for name in systems}
        differences = {name: differences.get(name, {}) | less[name] for name in less}
    return {
        "rows": len(found.rows),
        "sessions": len(found.gross),
        "systems": systems,
        "differences": differences,
        "flags": flags(found.rows, settings),
        "seeds": _nested(by_seed),
    }


def per_seed(found: Forecasts, per_year: float) -> dict[str, pd.DataFrame]:
    """ic, ic_rank and sharpe_gross of each market alone: [seeds, systems] each."""
    ic, ic_rank, books = [], [], []
    groups = found.rows.groupby("seed").groups
    for seed, labels in groups.items():
        mean, target = found.mean.loc[labels], found.rows.loc[labels, "target_ret"]
        ic.append(mean.corrwith(target))
        ic_rank.append(mean.rank().corrwith(target.rank()))
        books.append(statistics.sharpe(found.gross[seed], per_year))
    parts = {"ic": ic, "ic_rank": ic_rank, "sharpe_gross": books}
    return {name: pd.DataFrame(np.array(values), list(groups), found.mean.columns) for name, values in parts.items()}


def paired(
    name: str, statistic: Callable[[Floats], Floats], rows: Floats, by_seed: pd.DataFrame, settings: EvaluateConfig
) -> tuple[dict[str, Measures], dict[str, Measures]]:
    """A statistic by system, with its share of the oracle's, and the differences of the fused one, with intervals.

    statistic: some of the rows [sessions, ...] -> a value a system, in the order of by_seed's columns; by_seed: its
    values on each market alone.
    """
    systems = [str(name) for name in by_seed]
    main, best = systems.index(MAIN), systems.index(ORACLE) if ORACLE in systems else None

    def all_of(sample: Floats) -> Floats:
        value = statistic(sample)
        share = value / value[best] if best is not None else np.full(len(systems), np.nan)
        return np.stack([value, share, value[main] - value])

    found, shape = all_of(rows), (3, len(systems))
    low, high = bootstrap_interval(lambda sample: all_of(sample).ravel(), rows, settings.block_sessions, settings)
    low, high = low.reshape(shape), high.reshape(shape)

    def measured(kind: int, number: int, called: str) -> Measures:
        ends = zip(("", "_lo", "_hi"), (found, low, high), strict=True)
        return {f"{called}{end}": rounded(part[kind, number]) for end, part in ends}

    values: dict[str, Measures] = {}
    differences: dict[str, Measures] = {}
    for number, system in enumerate(systems):
        values[system] = measured(0, number, name)
        if best is not None and number != best:
            values[system] |= measured(1, number, f"{name}_share")
        if number != main:
            lower, upper = student_interval(by_seed[MAIN] - by_seed[system], settings.confidence)
            other = measured(2, number, name) | {f"{name}_seeds_lo": rounded(lower), f"{name}_seeds_hi": rounded(upper)}
            differences[f"{MAIN}_less_{system}"] = other
    return values, differences


def moments(scores: pd.DataFrame, target: pd.Series, session: pd.Series) -> Floats:
    """Sums by session for `correlations`: [sessions, systems, 6] of 1, x, y, xx, yy, xy about the means."""
    code, days = pd.factorize(session, sort=True)
    y = (target - target.mean()).to_numpy(np.float64)
    table = np.empty((len(days), scores.shape[1], 6))
    for number, name in enumerate(scores):
        x = (scores[name] - scores[name].mean()).to_numpy(np.float64)
        for place, values in enumerate((np.ones(len(x)), x, y, x * x, y * y, x * y)):
            table[:, number, place] = np.bincount(code, values, len(days))
    return table


def correlations(sums: Floats) -> Floats:
    """Pearson correlations from `moments` of some sessions: [sessions, systems, 6] -> [systems]; NaN: no variance."""
    n, x, y, xx, yy, xy = sums.sum(axis=0).T
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((n * xy - x * y) / np.sqrt((n * xx - x * x) * (n * yy - y * y)))


def excess_hits(up: pd.Series, rows: pd.DataFrame) -> Measures:
    """Share of hits above what independence of forecast and label gives, and its z with (market, session) as clusters.

    The excess is 2 cov(up, label) within each market [Pesaran and Timmermann 1992, "A simple nonparametric test of
    predictive performance", Journal of Business & Economic Statistics 10]; its clusters' sums are independent where
    nothing can be foretold.
    """
    both = pd.DataFrame({"up": up.astype("float64"), "label": rows["target_label"].astype("float64")})
    away = both - both.groupby(rows["seed"]).transform("mean")
    excess = 2 * away["up"] * away["label"]
    clusters = excess.groupby([rows["seed"], rows["session"]]).sum()
    error = math.sqrt((clusters**2).sum())
    return {
        "excess_hits": rounded(float(excess.mean())),
        "excess_hits_z": rounded(float(clusters.sum()) / error) if error > 0 else None,
    }


def student_interval(values: ArrayLike, confidence: float) -> tuple[float, float]:
    """Of the mean of independent values; NaN for fewer than two."""
    sample = np.asarray(values, np.float64)
    if len(sample) < 2:
        return math.nan, math.nan
    reach = float(stdtrit(len(sample) - 1, (1 + confidence) / 2) * sample.std(ddof=1) / math.sqrt(len(sample)))
    return float(sample.mean()) - reach, float(sample.mean()) + reach


def student_t(values: ArrayLike) -> float:
    """Mean of independent values over its standard error; NaN for fewer than two."""
    sample = np.asarray(values, np.float64)
    return float(sample.mean() / (sample.std(ddof=1) / math.sqrt(len(sample)))) if len(sample) > 1 else math.nan


def flags(rows: pd.DataFrame, settings: EvaluateConfig) -> dict[str, Any]:
    """The flags of each rule against what was planted (fusion_alpha/detection.py), and how much was planted.

    Flags alone: the area under a score's curve takes most of a minute here, and the pipeline's evaluation has it.
    """
    rules = {name: detection.Rule(rule.kind) for name, rule in evaluation.flag_rules(rows).items() if name in _RULES}
    found = detection.compare(rules, rows["kind_true"], rows["session"], settings, reference="naive")
    kept = {
        name: {key: value for key, value in measured.items() if "auc" not in key} for name, measured in found.items()
    }
    return {"share_planted": rounded(float(rows["kind_true"].isin(detection.KINDS).mean())), **kept}


def planted_criteria(found: Mapping[str, Any]) -> dict[str, Criterion]:
    """What a market with a planted effect asks of `summary`, whatever the effect's sign."""
    main = found["systems"][MAIN]
    sharpes = [market[MAIN]["sharpe_gross"] for market in found["seeds"].values()]
    criteria = {
        "ic_share": Criterion(main["ic_share"], IC_SHARE, "at least"),
        "sharpe_gross_share": Criterion(main["sharpe_gross_share"], SHARPE_SHARE, "at least"),
        "lowest_sharpe_gross": Criterion(min(sharpes), 0.0, "above"),
        "flags_f1": Criterion(found["flags"]["score"]["f1"], FLAGS_F1, "at least"),
    }
    for name, measured in found["differences"].items():
        if name != f"{MAIN}_less_{ORACLE}":
            criteria[f"{name}_ic_lo"] = Criterion(min(measured["ic_lo"], measured["ic_seeds_lo"]), 0.0, "above")
    return criteria


def null_criteria(found: Mapping[str, Any]) -> dict[str, Criterion]:
    """What a market without any effect asks: neither books nor hits are further from nothing than chance brings."""
    sharpes = [market[MAIN]["sharpe_gross"] for market in found["seeds"].values()]
    t_limit = float(stdtrit(len(sharpes) - 1, 1 - FALSE_ALARM / 2))
    z_limit = float(ndtri(1 - FALSE_ALARM / 2))
    return {
        "sharpe_gross_t": Criterion(rounded(student_t(sharpes)), rounded(t_limit), "size at most"),
        "excess_hits_z": Criterion(found["systems"][MAIN]["excess_hits_z"], rounded(z_limit), "size at most"),
    }


def _of_system(found: Forecasts, name: str, by_seed: Mapping[str, pd.DataFrame]) -> Measures:
    measures = excess_hits(found.up[name], found.rows)
    measures["sharpe_gross_t"] = rounded(student_t(by_seed["sharpe_gross"][name]))
    if ORACLE in found.mean and name != ORACLE:
        measures["oracle_correlation"] = rounded(statistics.pearson(found.mean[name], found.mean[ORACLE]))
    return measures


def _sharpe(books: Floats, per_year: float) -> Floats:
    """[sessions, seeds, systems] -> [systems], the seeds one after the other."""
    return np.asarray(statistics.sharpe(books.reshape(-1, books.shape[-1]), per_year))


def _nested(by_seed: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """{seed: {system: {measure: value}}}"""
    seeds, systems = by_seed["ic"].index, by_seed["ic"].columns
    return {
        str(seed): {
            name: {measure: rounded(table.to_numpy()[row, column]) for measure, table in by_seed.items()}
            for column, name in enumerate(systems)
        }
        for row, seed in enumerate(seeds)
    }
