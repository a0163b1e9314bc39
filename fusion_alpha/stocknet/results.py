"""From choices to figures: walk-forward figures, answers on test, and what metrics/stocknet.json says."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fusion_alpha import statistics
from fusion_alpha.config import Config, EvaluateConfig
from fusion_alpha.statistics import rounded
from fusion_alpha.stocknet import choice, features, runs, scores, walkforward
from fusion_alpha.stocknet.choice import Blend, Choice
from fusion_alpha.stocknet.layers import Layers
from fusion_alpha.stocknet.runs import Run
from fusion_alpha.stocknet.scores import Answers
from fusion_alpha.stocknet.systems import ENSEMBLE, MAIN, OTHER_TWEETS, SYSTEMS
from fusion_alpha.stocknet.walkforward import Fold

Floats = NDArray[np.float64]
SETS = ("A", "B")


def fused() -> list[str]:
    """Members of the ensemble."""
    return [name for name, system in SYSTEMS.items() if system.kind == "fused"]


def in_set(samples: pd.DataFrame, name: str) -> NDArray[np.bool_]:
    """Which samples are in set A (the paper's) or B (all)."""
    return samples["set_a"].to_numpy(np.bool_) if name == "A" else np.ones(len(samples), np.bool_)


def restricted(answers: Answers, chosen: NDArray[np.bool_]) -> Answers:
    return Answers(answers.p_up[:, chosen], answers.up[:, chosen])


def walk_forward(
    samples: pd.DataFrame, folds: Sequence[Fold], chosen: Mapping[str, Choice], mix: Blend, cfg: Config
) -> dict[str, dict[str, Any]]:
    """Measures of every system that chose for itself, on the samples that the folds judge: of sets A and B."""
    rows = samples.iloc[walkforward.judged(folds)]
    found = {
        name: choice.said(picked.p_up, picked.threshold, samples, folds)
        for name, picked in chosen.items()
        if not SYSTEMS[name].settings_of
    }
    p_up = choice.blended(mix, {name: chosen[name].p_up for name in mix.members})[None]
    found[ENSEMBLE] = choice.said(p_up, mix.threshold, samples, folds)
    kept = ("mcc", "mcc_ci", "balanced_accuracy", "accuracy", "share_up", "bce", "ic_daily")
    result: dict[str, dict[str, Any]] = {name: {} for name in found}
    for letter in SETS:
        inside = in_set(rows, letter)
        for name, answers in found.items():
            measures = scores.measure(
                rows[inside], restricted(answers, inside), cfg.evaluate, cfg.benchmark.block_sessions
            )
            result[name][letter] = {key: measures[key] for key in kept}
    return result


def best_baseline(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """The baseline of highest MCC on set B in walk-forward; test has no say in it."""
    rivals = [name for name, system in SYSTEMS.items() if system.kind in ("rule", "baseline")]
    return max(rivals, key=lambda name: figures[name]["B"]["mcc"])


def answer(
    layers: Layers, samples: pd.DataFrame, chosen: Mapping[str, Choice], mix: Blend, cfg: Config
) -> dict[str, Answers]:
    """What every system, learned from all of train and dev at its choice, says about the samples of test."""
    fold = walkforward.final(samples)
    seeds = range(1, cfg.benchmark.seeds + 1)
    todo = [
        Run(layers, name, picked.setting, fold, seed)
        for name, picked in chosen.items()
        for seed in choice.seeds_of(SYSTEMS[name], seeds)
    ]
    found = iter(runs.answers(todo, cfg.executor, label="test"))
    p_up = {
        name: np.stack([next(found)[0] for _ in choice.seeds_of(SYSTEMS[name], seeds)]) for name in chosen
    }  # [seeds, test samples]
    answers = {name: choice.said(p, chosen[name].threshold, samples, [fold]) for name, p in p_up.items()}
    answers[ENSEMBLE] = choice.said(ensemble(mix, p_up, len(seeds)), mix.threshold, samples, [fold])
    return answers


def ensemble(mix: Blend, p_up: Mapping[str, Floats], n_seeds: int) -> Floats:
    """[seeds, n]: the blend of all seeds but one, for each that is left out; with one seed, the blend of it."""
    if n_seeds == 1:
        return choice.blended(mix, dict(p_up))[None]
    left = [
        {name: np.delete(p, seed, axis=0) if len(p) > 1 else p for name, p in p_up.items()} for seed in range(n_seeds)
    ]
    return np.stack([choice.blended(mix, part) for part in left])


def assemble(
    samples: pd.DataFrame,
    answers: Mapping[str, Answers],
    figures: Mapping[str, Any],
    chosen: Mapping[str, Choice],
    mix: Blend,
    cfg: Config,
) -> dict[str, Any]:
    """The content of metrics/stocknet.json but for the log of looks. samples: all; answers: of test."""
    test = samples.iloc[walkforward.final(samples).judge].reset_index(drop=True)
    rival = best_baseline(figures)
    result: dict[str, Any] = {letter: _of_set(samples, test, letter, answers, pairs(rival), cfg) for letter in SETS}
    result["choices"] = {name: choice.described(picked) for name, picked in chosen.items()}
    result["choices"][ENSEMBLE] = {
        "members": list(mix.members),
        "weights": [rounded(float(weight)) for weight in mix.weights],
        "calibration": [[rounded(float(value)) for value in pair] for pair in mix.calibration],
        "threshold": mix.threshold.rule,
        "level": rounded(mix.threshold.level),
    }
    result["walk_forward"] = dict(figures)
    result["best_baseline"] = rival
    return result


def pairs(rival: str) -> list[tuple[str, str]]:
    """Every fused system against prices alone, text alone and the best baseline; FusionNet against other tweets."""
    others = dict.fromkeys(("price_only", "text_only", rival))
    found = [(name, other) for name in (*fused(), ENSEMBLE) for other in others]
    return [*found, (MAIN, OTHER_TWEETS)] if OTHER_TWEETS in SYSTEMS else found


def _of_set(
    samples: pd.DataFrame,
    test: pd.DataFrame,
    letter: str,
    answers: Mapping[str, Answers],
    compared: Sequence[tuple[str, str]],
    cfg: Config,
) -> dict[str, Any]:
    inside = in_set(test, letter)
    rows = test[inside].reset_index(drop=True)
    mine = {name: restricted(each, inside) for name, each in answers.items()}
    block = cfg.benchmark.block_sessions
    systems = {}
    for name, each in mine.items():
        kind = SYSTEMS[name].kind if name in SYSTEMS else "fused"
        random, later = (name not in SYSTEMS or getattr(SYSTEMS[name], flag) for flag in ("random", "later_text"))
        systems[name] = scores.measure(rows, each, cfg.evaluate, block)
        systems[name] |= {"kind": kind, "random": random, "later_text": later}
    splits = samples[in_set(samples, letter)].groupby("split")["label"]
    return {
        "n": len(rows),
        "n_up": int(rows["label"].sum()),
        "n_days": int(rows["session"].nunique()),
        "splits": {str(name): {"n": len(part), "share_up": rounded(float(part.mean()))} for name, part in splits},
        "systems": systems,
        "paired": scores.paired_tests(rows, mine, compared, cfg.evaluate, block),
    }


def strong_tone(samples: pd.DataFrame, z_tone: pd.Series, settings: EvaluateConfig, block_days: int) -> dict[str, Any]:
    """Of the samples whose tweets are unusually positive or negative for their stock: how often the sign came true.

    z_tone: `features.sentiment`'s, of each sample; at least features.STRONG_TONE from 0. No fit, no threshold chosen.
    """
    loud = z_tone.abs().to_numpy() >= features.STRONG_TONE
    rows = samples[loud]
    cells = scores.cells_by_day(rows, (z_tone.to_numpy()[loud] > 0)[None]) if len(rows) else np.zeros((0, 1, 4))
    if not len(rows):
        return {"n": 0, "accuracy": None, "accuracy_ci": [None, None]}
    low, high = statistics.bootstrap_interval(
        lambda days: scores.accuracy(days.sum(0)).mean(), cells, block_days, settings
    )
    return {
        "n": len(rows),
        "accuracy": rounded(float(scores.accuracy(cells.sum(0)).mean())),
        "accuracy_ci": [rounded(float(low[0])), rounded(float(high[0]))],
    }


def table(samples: pd.DataFrame, answers: Mapping[str, Answers]) -> pd.DataFrame:
    """schemas/stocknet.yaml: every answer about every sample of test."""
    test = samples.iloc[walkforward.final(samples).judge]
    columns = ["ticker", "session", "bar_close_utc", "set_a", "movement", "label"]
    parts = [
        test[columns].assign(system=name, seed=number + 1, p_up=each.p_up[number], up=each.up[number])
        for name, each in answers.items()
        for number in range(len(each.up))
    ]
    return pd.concat(parts, ignore_index=True)
