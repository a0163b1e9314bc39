"""Trading in one import: decide how much to hold (decision.py), at what cost (costs.py), and what that earns
(market.py, backtest.py). Stages, tests and the live router use these names."""

from fusion_alpha.backtest import held_back, lapsed, positions, simulate, simulate_all
from fusion_alpha.costs import bars_per_year
from fusion_alpha.decision import decide, under_limits
from fusion_alpha.market import Market, bar_open_utc, market

__all__ = [
    "Market",
    "bar_open_utc",
    "bars_per_year",
    "decide",
    "held_back",
    "lapsed",
    "market",
    "positions",
    "simulate",
    "simulate_all",
    "under_limits",
]
