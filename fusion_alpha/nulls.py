"""The null law of a bar: what its log return, high and low would be if directions were coin tosses.

Unit of everything: log return from the previous close. The null of bar t knows bars before t only.

`signflip`: the walk over the overnight and intraday segments of the n = null_sessions earlier bars, oldest first, each
segment with a random sign and divided by sqrt(n):

    X = n^(-1/2) sum_{i = t-n}^{t-1} (+-o_i +-d_i),   Var X = mean of o_i^2 + d_i^2

so 2 n steps stand for one bar. Signs are independent, so the null has no covariance of night and day, and its variance
is that of one bar whose two segments keep their own sizes. The steps keep the sizes and the order of the history:
one large move among small ones makes a null that is far from Gaussian. All rows share their random bits (problem 0 of
`mc_features`), so a row does not change when a ticker or a day is added.

The law is a step function of n_paths values. It is interpolated between them, and beyond 2.5 standard deviations its
normal quantile goes on with the slope of a Gaussian tail: returns that hardly a path reached still differ, and the few
outermost paths do not decide. A law of few moves has real steps, which stay.

`gaussian`: Brownian motion with the same variance, in closed form.

Inside one session there is no night: a bar that does not open a session is one segment, close to close.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtri

from fusion_alpha import executor
from fusion_alpha.config import ContradictionConfig, ExecutorConfig
from kernels import exact
from kernels.mc_features import NONE_ABOVE, NONE_BELOW, Rank, mc_features

Float64 = NDArray[np.float64]
_CHUNK = 1 << 16  # rows a task: some seconds of work, so that it is worth a process of its own
_TAIL_SD = (
    2.5  # beyond it too few paths are left: with 2,048 their count errs by 0.1 in the normal quantile, at 3.4 by 0.35
)


class Features(NamedTuple):
    """Of n rows, float64 [n] each; NaN where a row has no null."""

    z_r: Float64  # normal quantile of the null's distribution function at the bar's return, clipped
    p_touch_high: Float64
    p_touch_low: Float64
    drawdown: Float64  # expected maximum drawdown, log return


@dataclass(frozen=True)
class Rows:
    """Rows that have a null, with the bars before them."""

    ret: Float64  # [n]
    high: Float64  # [n]
    low: Float64  # [n]
    segments: NDArray[np.float32]  # [bars, 2]: absolute overnight and intraday move
    first: NDArray[np.int64]  # [n]: bar with which a row's history begins


def features(panel: pd.DataFrame, settings: ContradictionConfig, spread: ExecutorConfig = executor.HERE) -> Features:
    """Null features of each row of a panel in key order.

    A row has a null when the `null_sessions` bars before it have a previous close and at least one of them moved.
    """
    moves = log_moves(panel)
    number = panel.groupby("ticker").cumcount().to_numpy(np.int64)
    rows = np.flatnonzero(number > settings.null_sessions)
    out = Features(*(np.full(len(panel), np.nan) for _ in Features._fields))
    tasks = list(_tasks(moves, rows, settings.null_sessions))
    of_task = partial(of_rows, settings=settings)
    results = executor.in_order(of_task, [task for _, task in tasks], spread, label="null of each bar")
    for (where, _), part in zip(tasks, results, strict=True):
        for column, values in zip(out, part, strict=True):
            column[where] = values
    return out


def log_moves(panel: pd.DataFrame) -> dict[str, Float64]:
    """ret, high, low, overnight, intraday of each row; NaN in a ticker's first one."""
    tickers = panel.groupby("ticker")
    start = tickers["close"].shift().to_numpy()
    opens_session = (panel["session"] != tickers["session"].shift()).to_numpy()
    opened, high, low, close = (panel[name].to_numpy() for name in ("open", "high", "low", "close"))
    ret = np.log(close / start)
    return {
        "ret": ret,
        "high": np.log(high / start),
        "low": np.log(low / start),
        "overnight": np.where(opens_session, np.log(opened / start), 0.0),
        "intraday": np.where(opens_session, np.log(close / opened), ret),
    }


def of_rows(rows: Rows, settings: ContradictionConfig) -> Features:
    """Null features of some rows; a row does not depend on the others."""
    n = settings.null_sessions
    windows = np.lib.stride_tricks.sliding_window_view(rows.segments, n, axis=0)[rows.first]  # [rows, 2, n]
    vol = windows.transpose(0, 2, 1).reshape(len(rows.ret), 2 * n) / np.float32(np.sqrt(n))
    sd = np.sqrt(np.cumsum(np.square(vol, dtype=np.float64), axis=1)[:, -1])
    moved = sd > 0
    ret, high, low = rows.ret[moved], rows.high[moved], rows.low[moved]
    if settings.null_model == "gaussian":
        found = _gaussian(sd[moved], ret, high, low)
    else:
        found = _signflip(vol[moved], sd[moved], ret, high, low, settings)
    out = Features(*(np.full(len(moved), np.nan) for _ in Features._fields))
    for column, values in zip(out, found, strict=True):
        column[moved] = values
    np.clip(out.z_r, -settings.clip_z, settings.clip_z, out=out.z_r)
    return out


def normal_score(rank: Rank, scale: NDArray[Any], ret: Float64, sd: Float64, n_paths: int) -> Float64:
    """Normal quantile of the simulated distribution function at the ranked returns; finite, non-decreasing in `ret`.

    The k-th smallest of N terminal values has probability (k - 1/2) / N; between two of them it is interpolated, a tie
    takes its middle. Beyond the outermost one the quantile goes on with the slope of a Gaussian tail, 1 / sd.
    """
    left, right = np.ldexp(rank.next_below, -scale), np.ldexp(rank.next_above, -scale)
    share = np.clip((ret - left) / (right - left), 0.0, 1.0)
    tied = rank.equal > 0
    count = rank.below + np.where(tied, rank.equal / 2, share - 0.5)
    outer = 0.5 / n_paths
    z = ndtri(np.clip(count / n_paths, outer, 1 - outer))
    top = ~tied & (rank.next_above == NONE_ABOVE)
    bottom = ~tied & (rank.next_below == NONE_BELOW)
    z[top] = ndtri(1 - outer) + (ret[top] - left[top]) / sd[top]
    z[bottom] = ndtri(outer) + (ret[bottom] - right[bottom]) / sd[bottom]
    return z


def _tasks(moves: dict[str, Float64], rows: NDArray[np.int64], n: int) -> Iterator[tuple[NDArray[np.int64], Rows]]:
    segments = np.abs(np.column_stack([moves["overnight"], moves["intraday"]])).astype(np.float32)
    for start in range(0, len(rows), _CHUNK):
        where = rows[start : start + _CHUNK]
        first = where[0] - n
        history = segments[first : where[-1]]
        yield where, Rows(moves["ret"][where], moves["high"][where], moves["low"][where], history, where - n - first)


def _signflip(
    vol: NDArray[np.float32], sd: Float64, ret: Float64, high: Float64, low: Float64, settings: ContradictionConfig
) -> Features:
    problems = len(vol)
    ranked = np.clip(ret, -_TAIL_SD * sd, _TAIL_SD * sd)
    walks = mc_features(
        vol,
        np.zeros(problems),
        _distance(high),
        barrier_low=_distance(-low),
        observed=ranked,
        n_paths=settings.n_paths,
        n_steps=vol.shape[1],
        seed=settings.seed,
        problem_ids=np.zeros(problems, np.int64),
        increments="signflip",
        hist=False,
    )
    assert walks.rank is not None
    assert walks.sum_mdd is not None
    return Features(
        normal_score(walks.rank, walks.scale, ranked, sd, settings.n_paths) + (ret - ranked) / sd,
        np.where(high > 0, walks.hits / settings.n_paths, 1.0),
        np.where(low < 0, walks.hits_low / settings.n_paths, 1.0),
        np.ldexp(walks.sum_mdd / settings.n_paths, -walks.scale),
    )


def _gaussian(sd: Float64, ret: Float64, high: Float64, low: Float64) -> Features:
    def touch(move: Float64) -> Float64:
        return np.where(move > 0, exact.barrier_probability(_distance(move), 0.0, sd), 1.0)

    return Features(ret / sd, touch(high), touch(-low), exact.expected_max_drawdown(0.0, sd))


def _distance(move: Float64) -> Float64:
    """Distance of a barrier; a barrier that the path starts on or beyond is touched at once and needs none."""
    return np.where(move > 0, move, np.inf)
