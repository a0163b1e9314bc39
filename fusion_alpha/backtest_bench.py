"""The backtest beside vectorbt: 500 tickers x 2,500 sessions x 8 strategies, compilation left out for both.

Both get the same panel and the same target weights, long format, and give the net return of every session; borrow,
impact and the limit on turnover, which vectorbt does not have, are off. They take turns on the same machine. Medians
count, of seconds on the clock and of seconds of CPU; neighbours on the machine lengthen the former alone, so that the
ratio is one of CPU. The weights themselves (`baselines.weights`: one `decide` and seven baselines) are timed apart.
Prices and forecasts are random numbers: this measures time, not strategies.

Run     python -m fusion_alpha.backtest_bench [--tickers 500] [--sessions 2500] [--rounds 3] [--output FILE]
Writes  a row at the end of metrics/backtest_bench.csv (--output none: only the table on the screen)
"""

import argparse
import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fusion_alpha import baselines, config, sessions, trading
from fusion_alpha.config import Config
from fusion_alpha.errors import InputError
from fusion_alpha.stage import console
from kernels import philox
from kernels.bench import log as bench_log

Floats = NDArray[np.float64]
Row = dict[str, Any]

OUTPUT = Path("metrics/backtest_bench.csv")
COLUMNS = [
    *("commit", "date", "device", "versions", "n_tickers", "n_sessions", "n_strategies", "rounds"),
    *("weights_s", "backtest_s", "vectorbt_s", "weights_cpu_s", "backtest_cpu_s", "vectorbt_cpu_s"),
    *("vectorbt_over_backtest", "largest_difference"),
]
_FIRST_DAY, _LAST_DAY = "2005-01-03", "2029-12-31"
_SD = 0.02
_PASSIVE = [baselines.BENCHMARK]
_CASH = 1e6  # vectorbt rounds away what is below 1e-12 of a currency unit or share
_INVESTED = 0.98  # vectorbt cuts a purchase whose costs the cash does not cover; here that is a debt of a day

log = logging.getLogger(__name__)


def frictionless(cfg: Config) -> Config:
    """The strategy with the costs that both engines know: side costs, the same for all tickers."""
    strategy = replace(cfg.strategy, borrow_bps=0.0, impact_bps=0.0, max_turnover=None, costs=None)
    return replace(cfg, strategy=strategy)


def vectorbt_net(orders: pd.DataFrame, market: trading.Market, side: float, passive: bool = False) -> Floats:
    """Net return of each interval of the same orders in vectorbt, by targets in percent of a shared cash account.

    orders, passive: as in `backtest.simulate`; side: cost as a share of traded value. Its account is valued at the
    next open, and all is closed at the last one, so that intervals are those of the simulation.
    """
    import vectorbt

    first, end, size = _sizes(orders, market, passive)
    price = np.nan_to_num(market.price, nan=1.0)  # before a ticker's first bar, when its size is null
    at_open = price[first : end + 1]
    at_next = np.concatenate([at_open[1:], at_open[-1:]])
    book = vectorbt.Portfolio.from_orders(
        **{"close": pd.DataFrame(at_next), "price": pd.DataFrame(at_open), "val_price": pd.DataFrame(at_open)},
        **{"size": pd.DataFrame(size), "size_type": "targetpercent", "fees": side, "init_cash": _CASH},
        **{"cash_sharing": True, "group_by": True, "call_seq": "auto", "freq": "1D"},
    )
    value = book.value().to_numpy(copy=True)
    value[-2] = value[-1]  # the closing trades belong to the interval that they end
    return np.asarray(value[:-1] / np.append(_CASH, value[:-2]) - 1)


def _sizes(orders: pd.DataFrame, market: trading.Market, passive: bool) -> tuple[int, int, Floats]:
    """first, end and target shares of equity at the opens first .. end, null where nothing is to be traded."""
    filled = orders[orders["fill_utc"].isin(market.opens_utc)]
    grid = filled.pivot(index="fill_utc", columns="ticker", values="weight")
    at = market.opens_utc.get_indexer(grid.index)
    first, end = int(at[0]), min(int(at[-1]) + 1, len(market.opens_utc) - 1)
    opens = market.opens_utc[first : end + 1]
    size = grid.reindex(index=opens, columns=market.tickers).to_numpy(copy=True)
    if not passive:
        ordered = filled.assign(one=1.0).pivot(index="fill_utc", columns="ticker", values="one")
        size[ordered.reindex(index=opens, columns=market.tickers).isna().to_numpy()] = 0.0
    size[~market.tradable[first : end + 1]] = np.nan
    size[market.leaves[first : end + 1]] = 0.0
    size[-1] = 0.0
    return first, end, size


def invented(n_tickers: int, n_sessions: int, cfg: Config) -> dict[str, pd.DataFrame]:
    """Random panel, contradiction, technical features (one knows the target) and predictions of every bar; seeded."""
    days = sessions.sessions(cfg.data.exchange, _FIRST_DAY, _LAST_DAY).iloc[: n_sessions + 1]
    if len(days) <= n_sessions:
        raise InputError(f"{n_sessions} sessions", rule=f"fewer than {len(days)}", remedy="choose a smaller number")
    tickers = np.array([f"N{number:04}" for number in range(n_tickers)])
    counter = philox.normal_counter(np.arange(0, 4 * n_sessions, 4)[None], np.arange(n_tickers)[:, None])
    z = philox.normals(counter, cfg.evaluate.seed)  # [N, T, 4]
    close = 50 * np.exp(np.cumsum(_SD * z[..., 0], axis=1))
    opens = close * np.exp(0.3 * _SD * z[..., 1])
    rows = pd.DataFrame({"ticker": np.repeat(tickers, n_sessions)})
    now, after = (days.iloc[part].reset_index(drop=True) for part in (slice(0, -1), slice(1, None)))
    every = np.tile(np.arange(n_sessions), n_tickers)
    session_open, session_close, session = (
        now[name].array[every] for name in ("session_open_utc", "session_close_utc", "session")
    )
    score, kind = z[..., 2].ravel(), np.array(["none", "overhype", "underhype"])
    flag = kind[np.where(np.abs(score) > 1.4, 1 + (score > 0), 0)]
    split = np.array(["train", "dev", "test"])[np.searchsorted([10, 20], every, side="right")]
    target = (np.roll(opens, -2, axis=1) / np.roll(opens, -1, axis=1) - 1).ravel()
    ret = np.diff(close, axis=1, prepend=np.nan) / np.roll(close, 1, axis=1)
    keys = rows.assign(bar_close_utc=session_close)
    panel = keys.assign(
        **{"session": session, "session_open_utc": session_open, "open": opens.ravel(), "close": close.ravel()},
        **{"volume": 1e7, "adjustment": 1.0, "ret": ret.ravel(), "target_ret": target, "split": split},
    )
    clock = {"decided_utc": session_close + pd.Timedelta(minutes=1), "fill_utc": after["session_open_utc"].array[every]}
    mean = 0.003 * z[..., 3].ravel()
    return {
        "panel": panel,
        "contradiction": keys.assign(z_s=score, kind=flag),
        "technical": keys.assign(noise=score, oracle=target / _SD + z[..., 3].ravel()),
        "predictions": keys.assign(**clock, mean_ret=mean, sd_ret=_SD, severity=0.5)[split == "test"],
    }


def measure(n_tickers: int, n_sessions: int, rounds: int, cfg: Config) -> Row:
    """Median seconds of each part over rounds, after a round on a small market that compiles both engines."""
    cfg = frictionless(cfg)
    _round(invented(5, 90, cfg), cfg)
    frames = invented(n_tickers, n_sessions, cfg)
    found = []
    for number in range(rounds):
        found.append(_round(frames, cfg))
        log.info("round %d of %d: %s", number + 1, rounds, ", ".join(f"{k} {v:.3g}" for k, v in found[-1].items()))
    row = {name: float(f"{np.median([one[name] for one in found]):.4g}") for name in found[0]}
    row["vectorbt_over_backtest"] = float(f"{row['vectorbt_cpu_s'] / row['backtest_cpu_s']:.4g}")
    sizes = {"n_tickers": n_tickers, "n_sessions": n_sessions, "n_strategies": 8, "rounds": rounds}
    return sizes | row


def backtest_round(frames: dict[str, pd.DataFrame], cfg: Config) -> Row:
    """Seconds of our part of a round: weights_s, backtest_s."""
    return _ours(frames, cfg)[0]


def _ours(frames: dict[str, pd.DataFrame], cfg: Config) -> tuple[Row, pd.DataFrame, dict[str, pd.DataFrame]]:
    rows = frames["predictions"]
    deciding, weights = _timed(
        "weights",
        lambda: baselines.weights(rows, frames["panel"], frames["contradiction"], cfg, frames["technical"]),
    )
    weights *= _INVESTED
    trading_them, results = _timed(
        "backtest",
        lambda: trading.simulate_all(weights, rows, trading.market(frames["panel"], cfg), cfg, _PASSIVE),
    )
    return deciding | trading_them, weights, results


def _round(frames: dict[str, pd.DataFrame], cfg: Config) -> Row:
    rows = frames["predictions"]
    row, weights, ours = _ours(frames, cfg)
    side = cfg.strategy.side_cost_bps * 1e-4

    def peer() -> dict[str, Floats]:
        market = trading.market(frames["panel"], cfg)
        orders = rows[["ticker", "fill_utc"]]
        return {
            name: vectorbt_net(orders.assign(weight=weights[name]), market, side, name in _PASSIVE)
            for name in map(str, weights)
        }

    theirs_s, theirs = _timed("vectorbt", peer)
    different = max(float(np.abs(ours[name]["net_ret"] - theirs[name]).max()) for name in theirs)
    return row | theirs_s | {"largest_difference": different}


def _timed(name: str, work: Callable[[], Any]) -> tuple[Row, Any]:
    """Seconds on the clock and of CPU, as columns of `name`, and the result."""
    started, used = time.perf_counter(), time.process_time()
    result = work()
    return {f"{name}_s": time.perf_counter() - started, f"{name}_cpu_s": time.process_time() - used}, result


def main(arguments: Sequence[str] | None = None) -> int:
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    log.setLevel(logging.INFO)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tickers", type=int, default=500)
    parser.add_argument("--sessions", type=int, default=2500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", default=str(OUTPUT))
    chosen = parser.parse_args(arguments)
    machine = bench_log.cpu_machine()
    try:
        import vectorbt

        if chosen.tickers < 1 or chosen.sessions < 40 or chosen.rounds < 1:
            raise InputError(f"{chosen.tickers} tickers, {chosen.sessions} sessions", rule="at least 1 and 40, 1 round")
        row = measure(chosen.tickers, chosen.sessions, chosen.rounds, config.load())
        row |= {name: machine[name] for name in ("commit", "date", "device")}
        row["versions"] = f"{machine['versions']}; vectorbt {vectorbt.__version__}"
        if chosen.output != "none":
            bench_log.append([row], Path(chosen.output), COLUMNS)
    except ImportError as error:
        console.print(
            f"{error}\n  remedy: pip install -r requirements.txt", markup=False, highlight=False, soft_wrap=True
        )
        return 2
    except (InputError, bench_log.OtherColumns) as error:
        console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        return 2
    sys.stdout.write("".join(f"{name:24}{row[name]}\n" for name in COLUMNS))
    return 0


if __name__ == "__main__":
    sys.exit(main())
