"""The simulation's inner loop, compiled: weights, costs and equity of one strategy from open to open.

Compiled at the first call in a process. Sums run in the order of the tickers and no multiply-add is fused, so that
the same book has the same bits here and in plain Python (`decision.toward`).
"""

import numba
import numpy as np
from numpy.typing import NDArray

from fusion_alpha.decision import toward

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

# Columns of a row, one row per interval; units in `backtest.simulate_all`.
COLUMNS = [
    *("gross_ret", "trading", "impact", "borrow", "turnover", "exposure", "net_exposure"),
    *("n_halted", "n_delisted", "sent_share"),
]
_GROSS, _TRADING, _IMPACT, _BORROW, _TURNOVER, _EXPOSURE, _NET, _HALTED, _DELISTED, _SENT = range(len(COLUMNS))

# Array expressions would triple the time of compiling, and so would entries from Python for what `run` alone calls.
jit = numba.njit(nogil=True, error_model="numpy")
_inner = numba.njit(nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)

_toward = _inner(toward)


@_inner
def _fill(wanted: Floats, target: Floats, tradable: Flags, leaves: Flags, held: Floats, row: Floats) -> None:
    """Make of the wanted weights what is held after this open's trades, and count what kept them from it."""
    for n in range(len(wanted)):
        if leaves[n]:
            wanted[n] = 0.0
            row[_DELISTED] += held[n] != 0.0
        elif not tradable[n]:
            wanted[n] = held[n]
            row[_HALTED] += held[n] != 0.0
        elif np.isnan(target[n]):
            wanted[n] = held[n]


@_inner
def _charge(change: Floats, equity: float, side: Floats, impact: float, volume: Floats, row: Floats) -> None:
    """Costs of trading `change` [N] of the equity, which `volume` [N] is in units of; unknown volume has no impact."""
    for n in range(len(change)):
        traded = abs(change[n])
        row[_TURNOVER] += traded
        row[_TRADING] += side[n] * traded
        if impact > 0.0 and volume[n] > 0.0:
            row[_IMPACT] += impact * np.sqrt(traded * equity / volume[n]) * traded


@_inner
def _hold(weight: Floats, borrow: Floats, to_next: Floats, row: Floats) -> None:
    for n in range(len(weight)):
        row[_EXPOSURE] += abs(weight[n])
        row[_NET] += weight[n]
        row[_BORROW] += borrow[n] * max(-weight[n], 0.0)
        row[_GROSS] += weight[n] * to_next[n]


@jit
def run(
    target: Floats,
    tradable: Flags,
    leaves: Flags,
    to_next: Floats,
    to_mark: Floats,
    volume: Floats,
    side: Floats,
    borrow: Floats,
    impact: float,
    most: float,
    rows: Floats,
    weights: Floats,
    held_before: Floats,
) -> None:
    """Trade target [T, N] (null: leave alone) and write rows [T, COLUMNS], all zero before.

    tradable, volume [T + 1, N]: at the open and at the one that ends the last interval; volume in units of the book's
    first equity. leaves [T, N]: sold whatever the target. to_next, to_mark [T, N]: returns from the open to the next
    one and to the price known at the next decision. side, borrow [N]: shares of traded and of short value. impact:
    share of traded value at a trade as large as the volume. most: turnover of a decision. weights, held_before
    [T, N] or [0, N]: what is held after each open, and before it at the prices known when its decision was made.
    """
    length, n_tickers = target.shape
    held, known = np.zeros(n_tickers), np.zeros(n_tickers)
    wanted, weight, moved = np.zeros(n_tickers), np.zeros(n_tickers), np.zeros(n_tickers)
    equity = 1.0
    for t in range(length):
        row = rows[t]
        for n in range(n_tickers):
            wanted[n] = known[n] if np.isnan(target[t, n]) else target[t, n]
        row[_SENT] = _toward(wanted, known, most, weight)
        _fill(weight, target[t], tradable[t], leaves[t], held, row)
        for n in range(n_tickers):
            moved[n] = weight[n] - held[n]
            held[n] = weight[n] * (1.0 + to_next[t, n])
            if len(weights):
                weights[t, n], held_before[t, n] = weight[n], known[n]
        _charge(moved, equity, side, impact, volume[t], row)
        _hold(weight, borrow, to_next[t], row)
        if t == length - 1:
            _charge(held, equity, side, impact, volume[t + 1], row)
            for n in range(n_tickers):
                row[_HALTED] += held[n] != 0.0 and not tradable[t + 1, n]
        cost = row[_TRADING] + row[_IMPACT] + row[_BORROW]
        growth, until_mark = 1.0 + row[_GROSS] - cost, 1.0 - cost
        for n in range(n_tickers):
            until_mark += weight[n] * to_mark[t, n]
        if growth <= 0.0 or (until_mark <= 0.0 and t < length - 1):
            row[_GROSS] = cost - 1.0
            return
        equity *= growth
        for n in range(n_tickers):
            held[n] /= growth
            known[n] = weight[n] * (1.0 + to_mark[t, n]) / until_mark
