"""Every system of the benchmark: what learns it, and the settings among which walk-forward chooses.

A grid is small on purpose: with 440 days to learn from, the best of many settings is the luckiest. The ablations of one
kind have the same grid, so that none is given more tries than another.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusion_alpha.stocknet import features, networks, tabular
from fusion_alpha.stocknet.features import Board
from fusion_alpha.stocknet.layers import Layers
from fusion_alpha.stocknet.walkforward import Fold

Setting = dict[str, Any]
ENSEMBLE = "fused_ensemble"  # of the other fused systems; see `ensemble`
MAIN, OTHER_TWEETS = "fused", "fused_tweets_shuffled"
PRICES = (
    ("own",),
    ("own", "calendar"),
    ("own", "relative", "calendar"),
    ("own", "relative", "market", "calendar"),
)
TWEETS = ("counts", "sentiment")


@dataclass(frozen=True)
class System:
    """One system. kind: rule, baseline, fused or control; settings_of: the system whose choice a control takes over.

    later_text: it uses the sentence encoder or the sentiment head, which were trained on text from after 2015.
    """

    name: str
    kind: str
    random: bool
    learn: Callable[[Layers, Setting, Fold, int], NDArray[np.float64]]
    grid: tuple[Setting, ...]
    settings_of: str | None = None
    change: tuple[tuple[str, Any], ...] = ()  # of that choice
    later_text: bool = False
    chooses_threshold: bool = True


@lru_cache(maxsize=1)
def board(layers: Layers) -> Board:
    """Read once in each process."""
    return features.board(layers)


def _tabular(learn: Callable[..., NDArray[np.float64]]) -> Callable[[Layers, Setting, Fold, int], NDArray[np.float64]]:
    def on_layers(layers: Layers, setting: Setting, fold: Fold, seed: int) -> NDArray[np.float64]:
        return learn(board(layers), setting, fold, seed)

    return on_layers


def _logistic(*parts: tuple[str, ...]) -> tuple[Setting, ...]:
    return tuple({"parts": names, "c": c} for names, c in product(parts, (1e-4, 1e-3, 1e-2)))


def _trees(*parts: tuple[str, ...], components: int = 0) -> tuple[Setting, ...]:
    stops = list(tabular.TREES)
    return tuple({"parts": names, "components": components, "stops": stops} for names in parts)


def _network(model: str, contexts: tuple[bool, ...] = (False, True)) -> tuple[Setting, ...]:
    stops = list(networks.EPOCHS)
    return tuple(
        {"model": model, "context": context, "lr": lr, "stops": stops}
        for context, lr in product(contexts, (0.0005, 0.002))
    )


def _rule(name: str, learn: Any, **setting: Any) -> System:
    return System(name, "rule", False, _tabular(learn), (setting,), chooses_threshold=False)


def _control(name: str, of: str, change: str) -> System:
    return System(
        name, "control", True, networks.network, (), settings_of=of, change=(("control", change),), later_text=True
    )


_LOGISTIC, _TREES = _tabular(tabular.logistic), _tabular(tabular.trees)
_BOTH = tuple((*parts, *TWEETS) for parts in PRICES)

SYSTEMS: dict[str, System] = {
    system.name: system
    for system in (
        _rule("always_up", tabular.constant, up=True),
        _rule("always_down", tabular.constant, up=False),
        _rule("momentum_1d", tabular.last_move, sign=1),
        _rule("reversal_1d", tabular.last_move, sign=-1),
        System("logistic_price", "baseline", False, _LOGISTIC, _logistic(*PRICES)),
        System("logistic_text", "baseline", False, _LOGISTIC, _logistic(TWEETS), later_text=True),
        System("tfidf_logistic", "baseline", False, _tabular(tabular.words), tuple({"c": c} for c in (0.01, 0.1, 1.0))),
        System("trees_price", "baseline", True, _TREES, _trees(*PRICES)),
        System("trees_text", "baseline", True, _TREES, _trees(TWEETS, components=16) + _trees(TWEETS), later_text=True),
        System("price_only", "baseline", True, networks.network, _network("price_only")),
        System("text_only", "baseline", True, networks.network, _network("text_only", (False,)), later_text=True),
        System("fused_logistic", "fused", False, _LOGISTIC, _logistic(*_BOTH), later_text=True),
        System("fused_trees", "fused", True, _TREES, _trees(*_BOTH, components=16) + _trees(*_BOTH), later_text=True),
        System(MAIN, "fused", True, networks.network, _network("fused"), later_text=True),
        System("fused_concat", "fused", True, networks.network, _network("concat"), later_text=True),
        System("counts_only", "control", True, _TREES, _trees(("counts",))),
        _control(OTHER_TWEETS, MAIN, "tweets"),
        _control("fused_labels_permuted", MAIN, "answers"),
    )
}
