"""The real router, killed again and again, and run for long: what is left is counted, and judged.

    python -m fusion_alpha.live.torture kills --kills 200     equal to the uninterrupted run?
    python -m fusion_alpha.live.torture soak --minutes 30     does memory stay, is no record lost?

Both start `live_router.py` as a process on a small world in a temporary folder: the laboratory's one-minute bars of
three tickers, the stub encoder, and a FusionNet that nobody trained: its decisions need to be the same, not good.
Figures go to metrics/live_faults.json, each run to its own part; the status is 1 where a rule is broken. A process that
is killed cannot be slowed down or patched, so this is a command with tests (tests/test_live_torture.py) and no stage:
when a kill strikes depends on the machine, and no DVC output may.

Kills come at seeded random moments: a quarter of them some time after the start, so that many strike before the first
record, the others after the journal has grown by a random number of bytes and some milliseconds more.
"""

import argparse
import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import requests
from prometheus_client.parser import text_string_to_metric_families

from fusion_alpha import checkpoint, cleaning, config, sources, stage, tables
from fusion_alpha.config import PARAMS, Config
from fusion_alpha.files import read_json, write_json
from fusion_alpha.fusionnet import FusionNet
from fusion_alpha.live import feed
from fusion_alpha.live.journal import Key, Record, read
from fusion_alpha.live.model import feature_names
from fusion_alpha.live.state import State
from fusion_alpha.live.texts import Texts

log = logging.getLogger(__name__)

Process = subprocess.Popen[bytes]

REPOSITORY = Path(__file__).parents[2]
METRICS = Path("metrics/live_faults.json")
SMALL = [
    *("data=lab_1m", "data.lab.first_session=2019-12-11", "data.lab.last_session=2019-12-12", "data.lab.n_news=400"),
    *("contradiction.null_model=gaussian", "contradiction.severity_bars=80", "predict.mc_samples=4"),  # quick to start
    *("model.width=16", "model.heads=2", "model.news_tokens=4", "model.sessions=6", "model.news_lookback_bars=3"),
    *("strategy.costs=null", "strategy.commission_bps=0.0", "strategy.half_spread_bps=0.0"),
    *("strategy.slippage_bps=0.0", "text=stub", "text.dim=8"),  # without costs it trades on every bar
]
REPLAYED, REPLAYED_BARS = "2019-12-13", 120  # what killed routers replay: the first bars of a session
LANES = 2  # routers that are killed at a time, each with its journal
SEED = 3
GROWTH_LIMIT_BYTES = 4096.0  # of memory that no file backs, for each bar after the warm-up
STOP_LIMIT_S = 5.0
_REPLAY = ("--feed", "replay", "--from", REPLAYED, "--speed", "max")
_STARTING = 0.25  # share of kills that are timed from the start of the process
_WARM_UP = 0.25  # of a soak
_EVERY_S = 5.0  # between two looks at its metrics


@dataclass(frozen=True)
class World:
    """A folder in which `live_router.py` runs."""

    folder: Path
    cfg: Config

    def command(self, log: Path, *options: str) -> list[str]:
        return [sys.executable, str(REPOSITORY / "live_router.py"), "--log", str(log), *options]

    def start(self, log: Path, *options: str, **more: Any) -> Process:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "TERM": "dumb"}
        environment.pop("DVC_ROOT", None)
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} | more
        return subprocess.Popen(self.command(log, *options), cwd=self.folder, env=environment, **quiet)


def world(folder: Path) -> World:
    """Make the small world: parameters, tables up to the replayed session, and a checkpoint."""
    config.compose(folder / PARAMS, SMALL)
    for name in ("conf", "schemas"):
        (folder / name).symlink_to(REPOSITORY / name)
    cfg = config.load(params=folder / PARAMS)
    history, rest = market(cfg)
    end = sorted(rest.prices["bar_close_utc"].unique())[REPLAYED_BARS - 1]
    prices, news = rest.prices[rest.prices["bar_close_utc"] <= end], rest.news[rest.news["published_utc"] <= end]
    tables.write("prices", pd.concat([history.prices, prices]), folder / tables.schema("prices").path)
    tables.write("news", pd.concat([history.news, news]), folder / tables.schema("news").path)
    with Texts(cfg) as texts:
        texts.load(history.news["text"])
        data, _ = State(history, texts.vectors, cfg).samples(history.prices["bar_close_utc"].max(), [])
    names = feature_names(cfg)
    net = FusionNet(cfg.model, n_features=len(names), text_dim=cfg.text.dim, tau=(0.5, 0.5), seed=SEED)
    checkpoint.save(folder / checkpoint.FOLDER, net, data, cfg, {})
    return World(folder, cfg)


def market(cfg: Config) -> tuple[feed.History, feed.History]:
    """The laboratory's sessions of the configuration, and the one after them that is replayed."""
    assert cfg.data.lab is not None
    longer = config.changed(cfg, [f"data.lab.last_session={REPLAYED}", "data.lab.odd_rows=false"])
    source = sources.get("lab")
    with tempfile.TemporaryDirectory() as folder:
        source.fetch(longer, Path(folder))
        interim = cleaning.clean(source.read(longer, Path(folder)), longer)
    return feed.split(feed.History(interim.prices, interim.news), pd.Timestamp(REPLAYED))


def kills(made: World, n: int, seed: int = SEED, lanes: int = LANES) -> dict[str, Any]:
    """Replay while routers are killed `n` times in all; figures, with `equal` to the uninterrupted run or not."""
    whole = made.folder / "whole.log"
    began = time.monotonic()
    process = made.start(whole, *_REPLAY)
    _grown(process, whole, 0)
    start_s = time.monotonic() - began
    _ended(process, "the uninterrupted run")
    shares = [n // lanes + (lane < n % lanes) for lane in range(lanes)]
    seeds = np.random.SeedSequence(seed).spawn(lanes)
    tasks = [(share, np.random.default_rng(one)) for share, one in zip(shares, seeds, strict=True) if share]
    with ThreadPoolExecutor(len(tasks)) as pool:
        futures = [pool.submit(_lane, made, whole, start_s, number, *task) for number, task in enumerate(tasks)]
        found = sum((one.result() for one in futures), Counter[str]())
    expected = read(whole)
    journals = [read(_lane_log(made, number)) for number in range(len(tasks))]
    decided, orders = [_decided(left) for left in journals], [_orders(left) for left in journals]
    names = ("starts", "before_its_first_record", "while_it_routed", "torn_records")
    return {name: found[name] for name in names} | {
        "kills": n,
        "seed": seed,
        "journals": len(tasks),
        "start_s": round(start_s, 1),
        "bars": sum(len(_bars(left)) for left in journals),
        "records": sum(map(len, decided)),
        "orders": sum(map(len, orders)),
        "orders_twice": sum(len(sent) - len(set(sent)) for sent in orders),
        "signals_twice": sum(_signals_twice(left) for left in journals),
        "equal": all(said == _decided(expected) for said in decided),
        "book_equal": all(_bars(left)[-1].data == _bars(expected)[-1].data for left in journals),
    }


def _lane_log(made: World, number: int) -> Path:
    return made.folder / f"killed{number}.log"


def _lane(made: World, whole: Path, start_s: float, number: int, n: int, rng: np.random.Generator) -> Counter[str]:
    """Kill the routers of one journal n times, and let the last one finish."""
    path, found, size_whole = _lane_log(made, number), Counter[str](), whole.stat().st_size
    step = 1.5 * size_whole / n
    path.touch()
    while found["before_its_first_record"] + found["while_it_routed"] < n:
        process, size = made.start(path, *_REPLAY), path.stat().st_size
        found["starts"] += 1
        if rng.random() < _STARTING:
            time.sleep(rng.uniform(0.0, start_s))
        else:
            _grown(process, path, size + int(rng.uniform(0.0, step)))
            time.sleep(rng.uniform(0.0, 0.05))
        if process.poll() is None:
            process.kill()
            found["before_its_first_record" if path.stat().st_size == size else "while_it_routed"] += 1
            process.wait()
        else:
            _ended(process, "a run that nobody killed")
        found["torn_records"] += path.read_bytes()[-1:] not in (b"", b"\n")
        log.info("journal %d: %d starts, %d bytes of %d", number, found["starts"], path.stat().st_size, size_whole)
    _ended(made.start(path, *_REPLAY), "the run after the last kill")
    return found


def _grown(process: Process, path: Path, size: int) -> None:
    """Wait until the file is larger than `size`, or the process has ended."""
    while process.poll() is None and (not path.exists() or path.stat().st_size <= size):
        time.sleep(0.001)


def _ended(process: Process, what: str) -> None:
    status = process.wait()
    if status != 0:
        raise RuntimeError(f"{what} ended with status {status}")


def _decided(records: list[Record]) -> list[tuple[str, Key, dict[str, Any]]]:
    """What does not depend on clocks and restarts: records that are written once."""
    return [(record.kind, record.key, record.data) for record in records if record.key is not None]


def _bars(records: list[Record]) -> list[Record]:
    return [record for record in records if record.kind == "bar"]


def _orders(records: list[Record]) -> list[str]:
    """Decision times of the orders that were sent, from the books in which they waited; twice where one was."""
    waiting, sent = set[str](), list[str]()
    for record in _bars(records):
        now = [order["decided_utc"] for order in record.data["book"]["orders"]]
        sent += [order for order in now if order not in waiting]
        waiting = set(now)
    return sent


def _signals_twice(records: list[Record]) -> int:
    """Signals of a ticker and bar that has one already, whatever their keys: those cannot repeat in a journal."""
    signals = [record.data for record in records if record.kind == "signal"]
    return len(signals) - len({(data["ticker"], data["close_utc"]) for data in signals})


def soak(made: World, minutes: float, speed: float) -> dict[str, Any]:
    """Let the laboratory go on for minutes of the wall's clock; figures of memory, descriptors and records."""
    path, port = made.folder / "soak.log", free_port()
    options = ("--feed", "lab", "--speed", str(speed), "--metrics-port", str(port))
    process, seen = made.start(path, *options), list[dict[str, float]]()
    try:
        _grown(process, path, 0)
        end = time.monotonic() + 60 * minutes
        while time.monotonic() < end and process.poll() is None:
            time.sleep(_EVERY_S)
            seen.append(_scraped(port) | {"memory": _own_memory(process.pid)})
    finally:
        began = time.monotonic()
        process.terminate()
        status = process.wait()
    stop_s = time.monotonic() - began
    if time.monotonic() < end:
        raise RuntimeError(f"the router ended by itself, with status {status}")
    table = pd.DataFrame(seen)
    settled = table.iloc[int(_WARM_UP * len(table)) :]
    slope = float(np.polyfit(settled["bars"], settled["memory"], 1)[0])
    records = read(path)  # number, CRC and chain of each
    lost, extra = _against_feed(made, records)
    figures = {
        "minutes": minutes,
        "speed": speed,
        "bars": len(_bars(records)),
        "records": len(records),
        "signals": sum(record.kind == "signal" for record in records),
        "rows_lost": lost,
        "rows_extra": extra,
        "mib_after_warm_up": round(settled["memory"].iloc[0] / 2**20, 1),
        "mib_at_end": round(settled["memory"].iloc[-1] / 2**20, 1),
        "bytes_a_bar": round(slope),
        "limit_bytes_a_bar": GROWTH_LIMIT_BYTES,
        "descriptors_after_warm_up": int(settled["fds"].iloc[0]),
        "descriptors_most": int(settled["fds"].max()),
        "status": status,
        "stop_s": round(stop_s, 2),
    }
    kept = slope <= GROWTH_LIMIT_BYTES and figures["descriptors_most"] <= figures["descriptors_after_warm_up"]
    return figures | {"ok": kept and not lost and not extra and status == 0 and stop_s <= STOP_LIMIT_S}


def _own_memory(pid: int) -> float:
    """Bytes of a process that no file backs: pages of libraries come and go with what else the machine does."""
    resident, shared = map(int, Path(f"/proc/{pid}/statm").read_text().split()[1:3])
    return float((resident - shared) * os.sysconf("SC_PAGESIZE"))


def _scraped(port: int) -> dict[str, float]:
    """Descriptors and bars, by the router's own metrics."""
    page = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text
    values = {
        (sample.name, sample.labels.get("kind")): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }
    return {
        "fds": values["process_open_fds", None],
        "bars": values.get(("router_records_total", "bar"), 0.0),
    }


def _against_feed(made: World, records: list[Record]) -> tuple[int, int]:
    """Bars of the feed without a record up to the last one in the journal, and records without a bar."""
    _, table = feed.laboratory(made.cfg)
    last = pd.Timestamp(_bars(records)[-1].data["close_utc"])
    delay = pd.Timedelta(seconds=made.cfg.live.settle_s)
    given = {(bar.ticker, bar.close_utc.isoformat()) for bar in table.poll(last + delay).bars}
    rows = [record for record in records if record.kind in ("signal", "no_signal", "stale") and "price" in record.data]
    written = {(record.data["ticker"], record.data["close_utc"]) for record in rows}
    return len(given - written), len(written - given)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m fusion_alpha.live.torture", description="Kill the live router, or let it run for long."
    )
    what = parser.add_subparsers(dest="what", required=True)
    one = what.add_parser("kills", help="SIGKILL at random moments; is the journal that of an uninterrupted run?")
    one.add_argument("--kills", type=int, default=200, metavar="N")
    one.add_argument("--seed", type=int, default=SEED, metavar="N")
    one.add_argument("--lanes", type=int, default=LANES, metavar="N", help="routers at a time, each with its journal")
    one = what.add_parser("soak", help="the laboratory for long; do memory and journal hold?")
    one.add_argument("--minutes", type=float, default=30.0, metavar="N")
    one.add_argument("--speed", type=float, default=60.0, metavar="X", help="times as fast as the wall's clock")
    given = parser.parse_args()
    stage.set_up("torture")
    with tempfile.TemporaryDirectory() as folder:
        made = world(Path(folder))
        if given.what == "kills":
            found = kills(made, given.kills, given.seed, given.lanes)
            ok = found["equal"] and found["book_equal"] and not found["orders_twice"] and not found["signals_twice"]
        else:
            found = soak(made, given.minutes, given.speed)
            ok = found["ok"]
    before = read_json(METRICS) if METRICS.exists() else {}
    write_json(METRICS, before | {given.what: found})
    stage.console.print_json(json.dumps(found))
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
