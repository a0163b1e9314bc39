"""The search space `tune.space`: points of it, as Optuna suggests them, and a point as a configuration.

Floats are used at three significant digits, so that a configuration file repeats a trial exactly. A point holds a list
(model.features) as text, "basic+trend". Its model.name stands for all settings in which that choice of conf/model
differs from the configuration's own; the point's other settings come on top.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fusion_alpha import config, samples
from fusion_alpha.config import Config, RangeConfig
from fusion_alpha.errors import InputError

if TYPE_CHECKING:
    from optuna import Trial

Point = dict[str, Any]  # {"train.lr": 0.002, ...}
_DIGITS = 3
_JOINT = "+"
_NAMES = ("model.name", "model.features")
_COUPLED = ("model.width", "model.heads")  # each alone says nothing about the two together


def ranges(cfg: Config) -> dict[str, RangeConfig]:
    """{dotted key: range} of what is searched, in the order of the configuration."""
    space = cfg.tune.space
    found = {
        f"{group}.{name}": item
        for group in ("train", "model")
        for name, item in getattr(space, group).items()
        if item is not None
    }
    if not found:
        raise InputError("tune.space is empty", rule="at least one parameter to search")
    return found


def check(cfg: Config) -> None:
    """InputError where an end of a range, a variant or a list of features is no valid setting by itself."""
    for key, item in ranges(cfg).items():
        if (item.choices is None and key not in _COUPLED) or key in _NAMES:
            for value in _levels(cfg, key, item, 2):
                samples.technical_features(apply(cfg, {key: value}).model.features)


def suggest(trial: "Trial", cfg: Config) -> Point:
    """The trial's point, as it is sampled."""
    return {key: _suggest(trial, cfg, key, item) for key, item in ranges(cfg).items()}


def apply(cfg: Config, point: Mapping[str, Any]) -> Config:
    """The configuration with the point's settings; InputError where they do not fit each other."""
    groups: dict[str, dict[str, Any]] = {}
    if "model.name" in point:
        groups["model"] = config.variant(cfg.model, point["model.name"])
    for key, value in point.items():
        group, name = key.split(".")
        is_list = isinstance(_value(cfg, key), list)
        groups.setdefault(group, {})[name] = value.split(_JOINT) if is_list else value
    return replace(cfg, **{group: replace(getattr(cfg, group), **values) for group, values in groups.items()})


def settings(point: Point) -> Point:
    """A sampled point as it is used: floats at three significant digits."""
    return {key: _short(value) if isinstance(value, float) else value for key, value in point.items()}


def present(cfg: Config) -> Point | None:
    """The configuration's own settings as a point; None where the space does not hold them."""
    point = {key: _as_text(_value(cfg, key)) for key in ranges(cfg)}
    return point if all(_holds(item, point[key]) for key, item in ranges(cfg).items()) else None


def grid(cfg: Config) -> list[Point]:
    """Every combination of choices and of `tune.grid_levels` evenly spaced values of ranges."""
    space = ranges(cfg)
    values = [_levels(cfg, key, item, cfg.tune.grid_levels) for key, item in space.items()]
    return [dict(zip(space, combination, strict=True)) for combination in itertools.product(*values)]


def _suggest(trial: "Trial", cfg: Config, key: str, item: RangeConfig) -> Any:
    if item.choices is not None:
        return trial.suggest_categorical(key, _choices(item))
    low, high = _ends(item)
    if isinstance(_value(cfg, key), int):
        return trial.suggest_int(key, int(low), int(high), log=item.log, step=int(item.step or 1))
    return trial.suggest_float(key, low, high, log=item.log, step=item.step)


def _levels(cfg: Config, key: str, item: RangeConfig, n: int) -> list[Any]:
    """n values from low to high, fewer where they coincide; all choices."""
    if item.choices is not None:
        return _choices(item)
    low, high = _ends(item)
    even = np.geomspace(low, high, n) if item.log else np.linspace(low, high, n)
    if item.step:
        even = low + item.step * np.floor((even - low) / item.step + 0.5)
    even = np.clip(even, low, high)
    whole = isinstance(_value(cfg, key), int)
    return sorted({round(value) if whole else _short(value) for value in even.tolist()})


def _holds(item: RangeConfig, value: Any) -> bool:
    if item.choices is not None:
        return value in _choices(item)
    low, high = _ends(item)
    steps = (value - low) / item.step if item.step else 0.0
    return low <= value <= high and abs(steps - round(steps)) < 1e-9


def _ends(item: RangeConfig) -> tuple[float, float]:
    """Low and high, the latter on a step."""
    low, high = float(item.low or 0), float(item.high or 0)
    if item.step:
        high = low + item.step * math.floor((high - low) / item.step + 1e-9)
    return low, high


def _choices(item: RangeConfig) -> list[Any]:
    return [_as_text(value) for value in item.choices or ()]


def _as_text(value: Any) -> Any:
    return _JOINT.join(value) if isinstance(value, list) else value


def _short(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _value(cfg: Config, key: str) -> Any:
    group, name = key.split(".")
    return getattr(getattr(cfg, group), name)
