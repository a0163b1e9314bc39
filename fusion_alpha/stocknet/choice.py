"""What is chosen inside train + dev: each system's setting, its threshold, and the ensemble's weights.

A setting, with the place at which learning stops, is chosen by the log loss of all walk-forward answers together, a
proper score. The threshold is chosen afterwards, by the Matthews correlation of the same answers: one half, or, as the
share of ups drifts, the share of ups in what was learned from, or the median of the walk-forward answers themselves.
Random systems are judged by two seeds.

The ensemble averages the fused systems. Each is calibrated first, logit p = a + b logit q with b >= 0 (Platt 1999);
the weights are those of one member alone, or equal ones, whichever has the lowest log loss. Both on walk-forward
answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import minimize

from fusion_alpha.config import ExecutorConfig
from fusion_alpha.statistics import rounded
from fusion_alpha.stocknet import runs, scores
from fusion_alpha.stocknet.layers import Layers
from fusion_alpha.stocknet.runs import Run
from fusion_alpha.stocknet.scores import Answers
from fusion_alpha.stocknet.systems import SYSTEMS, Setting, System
from fusion_alpha.stocknet.walkforward import Fold, judged

Floats = NDArray[np.float64]

CHOICE_SEEDS = (1, 2)
THRESHOLDS = ("half", "rate", "median")
_EDGE = 1e-4  # probabilities are at least this far from 0 and 1 in losses and logits


@dataclass(frozen=True)
class Threshold:
    """Up is said above it. rule: one of THRESHOLDS; level: the median of the system's walk-forward answers."""

    rule: str
    level: float = 0.5

    def of(self, samples: pd.DataFrame, folds: Sequence[Fold]) -> Floats:
        """The threshold of every judged sample."""
        label = samples["label"].to_numpy(np.bool_)
        values = {
            "half": lambda fold: 0.5,
            "rate": lambda fold: label[fold.learn].mean(),
            "median": lambda fold: self.level,
        }
        return np.concatenate([np.full(len(fold.judge), values[self.rule](fold)) for fold in folds])


@dataclass(frozen=True)
class Choice:
    """What walk-forward chose for a system, and what it answered there."""

    setting: Setting
    threshold: Threshold
    p_up: Floats  # [choice seeds, judged samples], at the chosen setting
    loss: float  # nats
    tried: int  # settings and places to stop


@dataclass(frozen=True)
class Blend:
    """The ensemble: of each member a weight, and a and b of its calibration."""

    members: tuple[str, ...]
    weights: Floats
    calibration: Floats  # [members, 2]
    threshold: Threshold


def choose(
    layers: Layers, samples: pd.DataFrame, folds: Sequence[Fold], names: Sequence[str], settings: ExecutorConfig
) -> dict[str, Choice]:
    """Choices of the named systems; a control takes over its system's, and has no answers of its own here."""
    own = [SYSTEMS[name] for name in names if not SYSTEMS[name].settings_of]
    todo = [
        Run(layers, system.name, setting, fold, seed)
        for system in own
        for setting in system.grid
        for seed in seeds_of(system, CHOICE_SEEDS)
        for fold in folds
    ]
    found = iter(runs.answers(todo, settings, label="walk-forward"))
    chosen = {}
    for system in own:
        tried = [
            np.stack([np.hstack([next(found) for _ in folds]) for _ in seeds_of(system, CHOICE_SEEDS)], axis=1)
            for _ in system.grid
        ]  # of each setting [stops, seeds, judged]
        chosen[system.name] = best(system, tried, samples, folds)
    for name in names:
        if (of := SYSTEMS[name].settings_of) is not None:
            taken = chosen[of]
            chosen[name] = Choice({**taken.setting, **dict(SYSTEMS[name].change)}, taken.threshold, taken.p_up, 0.0, 0)
    return chosen


def best(system: System, tried: Sequence[Floats], samples: pd.DataFrame, folds: Sequence[Fold]) -> Choice:
    """The setting and place to stop of least loss. tried: of each setting of the grid, P(up) [stops, seeds, judged]."""
    truth = samples["label"].to_numpy(np.bool_)[judged(folds)]
    losses = [(log_loss(p, truth), number, stop) for number, stops in enumerate(tried) for stop, p in enumerate(stops)]
    loss, number, stop = min(losses)
    setting = dict(system.grid[number])
    if "stops" in setting:
        setting["stops"] = [setting["stops"][stop]]
    p_up = tried[number][stop]
    threshold = best_threshold(p_up, samples, folds) if system.chooses_threshold else Threshold("half")
    return Choice(setting, threshold, p_up, loss, len(losses))


def best_threshold(p_up: Floats, samples: pd.DataFrame, folds: Sequence[Fold]) -> Threshold:
    """Of THRESHOLDS the one of highest MCC, the first of equals. p_up: [seeds, judged]."""
    rows = samples.iloc[judged(folds)]
    level = float(np.median(p_up))

    def value(threshold: Threshold) -> float:
        cells = scores.cells_by_day(rows, p_up > threshold.of(samples, folds)).sum(0)
        return float(scores.mcc(cells).mean())

    return max((Threshold(rule, level) for rule in THRESHOLDS), key=value)


def seeds_of(system: System, seeds: Sequence[int]) -> Sequence[int]:
    """A system without randomness has one seed."""
    return seeds if system.random else seeds[:1]


def log_loss(p: Floats, truth: NDArray[np.bool_]) -> float:
    """Mean of -log P(what happened), in nats, p [..., n]."""
    p = p.clip(_EDGE, 1 - _EDGE)
    return float(-np.where(truth, np.log(p), np.log(1 - p)).mean())


def logit(p: Floats) -> Floats:
    p = p.clip(_EDGE, 1 - _EDGE)
    return np.log(p / (1 - p))


def calibration(p: Floats, truth: NDArray[np.bool_]) -> Floats:
    """(a, b) of least log loss with b >= 0."""
    x = logit(p)
    sign = np.where(truth, -1.0, 1.0)

    def loss(ab: Floats) -> float:
        return float(np.logaddexp(0, sign * (ab[0] + ab[1] * x)).mean())

    return np.asarray(minimize(loss, [0.0, 0.5], method="L-BFGS-B", bounds=[(-2, 2), (0, 5)]).x)


def calibrated(p: Floats, ab: Floats) -> Floats:
    return 1 / (1 + np.exp(-(ab[0] + ab[1] * logit(p))))


def blend(chosen: dict[str, Choice], members: Sequence[str], samples: pd.DataFrame, folds: Sequence[Fold]) -> Blend:
    """Calibrations and weights of least log loss on walk-forward answers, then the threshold."""
    truth = samples["label"].to_numpy(np.bool_)[judged(folds)]
    means = [chosen[name].p_up.mean(0) for name in members]
    fits = np.array([calibration(p, truth) for p in means])
    ready = np.array([calibrated(p, ab) for p, ab in zip(means, fits, strict=True)])  # [members, judged]
    candidates = [np.full(len(members), 1 / len(members)), *np.eye(len(members))]
    weights = min(candidates, key=lambda weight: log_loss(weight @ ready, truth))
    return Blend(tuple(members), weights, fits, best_threshold((weights @ ready)[None], samples, folds))


def blended(mix: Blend, p_up: dict[str, Floats]) -> Floats:
    """[n] from the members' answers [seeds, n], means over the seeds."""
    ready = [calibrated(p_up[name].mean(0), ab) for name, ab in zip(mix.members, mix.calibration, strict=True)]
    return np.asarray(mix.weights @ np.array(ready))


def said(p_up: Floats, threshold: Threshold, samples: pd.DataFrame, folds: Sequence[Fold]) -> Answers:
    return Answers(p_up, p_up > threshold.of(samples, folds))


def described(choice: Choice) -> dict[str, Any]:
    """For the results: setting, threshold, how many settings were tried."""
    shared = {"threshold": choice.threshold.rule, "level": rounded(choice.threshold.level)}
    return {"setting": choice.setting, **shared, "tried": choice.tried, "wf_loss": rounded(choice.loss)}
