"""How long the live router takes from a bar to its journalled decision, by step: p50 and p99 on this machine.

The router runs as it does live, over one-minute bars that are random numbers: this measures time, not signals. Model
and parameters are those of the one-minute run in minute/ (`make repro`). Simulated time passes at --speed while the
router waits; it polls every simulated second. With --headlines, that many texts that nobody has seen come at random
times of each minute, are cleaned and go through the run's own encoder. The journal is a file in the folder of --output,
so that the disk's fsync counts.

Run     python -m fusion_alpha.live.bench [--tickers 3 100] [--headlines 0 5] [--bars 200] [--engine onnx]
Writes  a row for each case at the end of metrics/live_bench.csv (--output none: only the table on the screen)
"""

import argparse
import logging
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtr

from fusion_alpha import config, sessions, tables
from fusion_alpha.config import Config
from fusion_alpha.errors import InputError
from fusion_alpha.live import model, router
from fusion_alpha.live.broker import PaperBroker
from fusion_alpha.live.clock import SteppedClock
from fusion_alpha.live.feed import Headline, History, Polled, TableFeed
from fusion_alpha.live.journal import Journal
from fusion_alpha.live.monitor import Metrics
from fusion_alpha.live.switch import KillSwitch, Stop
from fusion_alpha.live.texts import Texts
from fusion_alpha.stage import console
from fusion_alpha.text import text_hash
from fusion_alpha.text.cache import Embedded
from kernels import philox
from kernels.bench import log as bench_log

Row = dict[str, Any]

OUTPUT = Path("metrics/live_bench.csv")
STEPS = ("bar_to_journal", "features", "samples", "predict", "decide", "journal")
COLUMNS = [
    *("commit", "date", "device", "versions", "engine", "threads", "n_tickers", "headlines", "bars", "speed"),
    *(f"{step}_{share}_ms" for step in STEPS for share in ("p50", "p99")),
]
RUN = config.MINUTE.parent
_FIRST, _LAST = "2019-12-02", "2020-03-31"
_HISTORY = 780  # bars, two sessions
_SD = 5e-4  # of a bar's return
_WORDS = (
    "profit",
    "loss",
    "growth",
    "lawsuit",
    "upgrade",
    "recall",
    "record",
    "cut",
    "deal",
    "strike",
    "beats",
    "misses",
)
_EVERY_S = 1.0  # between two polls, simulated

log = logging.getLogger(__name__)


class Steps:
    """In the place of `Metrics.latency`: keeps every duration of every step, in seconds."""

    def __init__(self) -> None:
        self.seconds = defaultdict[str, list[float]](list)
        self._step = ""

    def labels(self, step: str) -> "Steps":
        self._step = step
        return self

    def observe(self, seconds: float) -> None:
        self.seconds[self._step].append(seconds)


class PacedClock(SteppedClock):
    """Its seconds pass in a fraction of real ones, and stand still while the router works."""

    longest_s = _EVERY_S

    def __init__(self, start: pd.Timestamp, speed: float) -> None:
        super().__init__(start)
        self._speed = speed

    def wait(self, seconds: float, stop: Stop) -> None:
        stop.wait(seconds / self._speed)
        super().wait(seconds, stop)

    def skip(self, time: pd.Timestamp) -> None:
        self._now = max(self._now, time).as_unit("us")


class BusyFeed(TableFeed):
    """Bars of a table, and headlines that come when they are published."""

    def __init__(self, prices: pd.DataFrame, headlines: list[Headline], delay_s: float) -> None:
        super().__init__(prices, tables.empty("news"), name="bench", simulated=True, delay_s=delay_s)
        self._headlines = sorted(headlines, key=lambda one: one.published_utc, reverse=True)

    def poll(self, now: pd.Timestamp) -> Polled:
        polled = super().poll(now)
        while self._headlines and self._headlines[-1].published_utc <= now:
            polled.headlines.append(self._headlines.pop())
        return polled


def market(n_tickers: int, n_bars: int, cfg: Config) -> pd.DataFrame:
    """Interim prices of random walks, in key order."""
    table = sessions.bars(cfg.data.exchange, _FIRST, _LAST, cfg.bar_minutes).iloc[:n_bars]
    z = philox.normals(philox.normal_counter(np.arange(0, 4 * n_bars, 4)[None], np.arange(n_tickers)[:, None]), 1)
    close = 100 * np.exp(np.cumsum(_SD * z[..., 0], axis=1)).round(6)
    opened = np.concatenate([close[:, :1], close[:, :-1]], axis=1)
    high, low = (
        np.maximum(opened, close) * (1 + 1e-4 * abs(z[..., 1])),
        np.minimum(opened, close) * (1 - 1e-4 * abs(z[..., 2])),
    )
    names = [f"N{number:03}" for number in range(n_tickers)]
    columns = {
        "ticker": np.repeat(names, n_bars),
        "session": np.tile(table["session"], n_tickers),
        "bar_close_utc": pd.concat([table["bar_close_utc"]] * n_tickers).array,
        "open": opened.ravel(),
        "high": high.ravel(),
        "low": low.ravel(),
        "close": close.ravel(),
        "adj_close": close.ravel(),
        "volume": 1e5 * np.exp(0.5 * z[..., 3]).ravel().round(2),
    }
    empty = tables.empty("prices")
    return pd.DataFrame(columns)[list(empty)].astype(empty.dtypes.to_dict())


def stories(prices: pd.DataFrame, a_bar: float, seed: int, cleaned: bool = False) -> list[Headline]:
    """Texts that occur once, `a_bar` of them a bar on average, at random times and of random tickers."""
    names, closes = prices["ticker"].unique(), prices["bar_close_utc"].unique()
    count = round(a_bar * len(closes))
    counter = philox.normal_counter(np.arange(0, 4 * 3 * count, 4).reshape(count, 3), 0)
    share = ndtr(philox.normals(counter, seed)).reshape(count, 12)
    found = []
    for number, (when, whose, second, *drawn) in enumerate(share):
        published = closes[int(when * len(closes))] - pd.Timedelta(microseconds=int(second * 6e7))
        words = " ".join(_WORDS[int(one * len(_WORDS))] for one in drawn)
        ticker = str(names[int(whose * len(names))])
        found.append(Headline(ticker, f"{number:032x}", published, f"{ticker} {words} {number}", cleaned=cleaned))
    return found


def interim(headlines: Iterable[Headline], texts: Texts) -> pd.DataFrame:
    """Interim news, embedded as zeros and ones: what the history's texts say is of no matter here."""
    rows = []
    for one in headlines:
        news_id, text = texts.cleaned(one)
        rows.append((news_id, one.ticker, one.published_utc, text))
    names = sorted({text_hash(row[3]) for row in rows})
    vectors = np.zeros((len(names), texts.vectors.dim), np.float16)
    shares = np.tile([0.25, 0.25, 0.5], (len(names), 1))
    texts.vectors.put(names, Embedded(vectors, shares, np.ones(len(names), np.int64)))
    empty = tables.empty("news")
    frame = pd.DataFrame(rows, columns=["news_id", "ticker", "published_utc", "text"])
    frame = frame.assign(source="bench", is_repost=False)
    return (
        frame.reindex(columns=list(empty))
        .astype(empty.dtypes.to_dict())
        .sort_values(["ticker", "news_id"], ignore_index=True)
    )


def measure(cfg: Config, engine: model.Engine, case: Row, folder: Path) -> Row:
    """Milliseconds of each step at p50 and p99, over the bars of one case after those that warm everything up."""
    warm = 5
    prices = market(case["n_tickers"], _HISTORY + warm + case["bars"], cfg)
    start = prices["bar_close_utc"].unique()[_HISTORY - 1]
    before = prices["bar_close_utc"] <= start
    steps, metrics = Steps(), Metrics()
    metrics.latency = steps  # type: ignore[assignment]
    with Journal(folder / f".live_bench.{case['n_tickers']}.log") as journal, Texts(cfg) as texts:
        news = interim(stories(prices[before], 1.0 * case["n_tickers"], 2, cleaned=True), texts)
        headlines = stories(prices[~before], case["headlines"], 3)
        clock = PacedClock(start + pd.Timedelta(seconds=cfg.live.settle_s), case["speed"])
        source = BusyFeed(prices[~before], headlines, cfg.live.settle_s)
        history = History(prices[before].reset_index(drop=True), news)
        parts = router.Parts(
            cfg, source, history, clock, journal, engine, texts, PaperBroker(cfg), KillSwitch(None), metrics
        )
        router.Router(parts, sorted(prices["ticker"].unique())).run()
        journal.path.unlink()
    row = dict(case)
    for step in STEPS:
        p50, p99 = np.percentile(1e3 * np.array(steps.seconds[step][-case["bars"] :]), [50, 99])
        row |= {f"{step}_p50_ms": float(f"{p50:.4g}"), f"{step}_p99_ms": float(f"{p99:.4g}")}
    return row


def main(arguments: Sequence[str] | None = None) -> int:
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tickers", type=int, nargs="+", default=[3, 100])
    parser.add_argument("--headlines", type=float, nargs="+", default=[0, 5], help="new texts a bar")
    parser.add_argument("--bars", type=int, default=200)
    parser.add_argument("--speed", type=float, default=60.0, help="simulated seconds in a real one")
    parser.add_argument("--engine", choices=("torch", "onnx"), default="onnx")
    parser.add_argument("--output", default=str(OUTPUT))
    chosen = parser.parse_args(arguments)
    try:
        cfg = config.load([f"predict.engine={chosen.engine}"], config.MINUTE)
        engine = model.load(cfg, RUN)
        machine = {name: value for name, value in bench_log.cpu_machine().items() if name in COLUMNS}
        folder = Path() if chosen.output == "none" else Path(chosen.output).parent
        rows = []
        for n_tickers in chosen.tickers:
            for headlines in chosen.headlines:
                case = {"engine": chosen.engine, "threads": cfg.train.threads, "n_tickers": n_tickers}
                case |= {"headlines": headlines, "bars": chosen.bars, "speed": chosen.speed}
                rows.append(machine | measure(cfg, engine, case, folder))
                shown = (f"{name[:-3]} {value:g}" for name, value in rows[-1].items() if name.endswith("_ms"))
                console.print(f"{n_tickers} tickers, {headlines:g} headlines a bar, ms: {', '.join(shown)}")
        if chosen.output != "none":
            bench_log.append(rows, Path(chosen.output), COLUMNS)
    except (InputError, bench_log.OtherColumns) as error:
        console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
