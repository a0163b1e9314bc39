#!/usr/bin/env python
"""Route bars and headlines to signals, each one checked, decided by the trained model and written to a journal.

    python live_router.py                                     the laboratory (SIMULATED), a bar every few seconds
    python live_router.py --tickers TSLA AAPL NVDA --interval 1m
    python live_router.py --tickers TSLA AAPL --once          one bar, then the end
    python live_router.py --feed replay --from 2019-11-01 --to 2019-11-29 --speed max
    python live_router.py --feed yahoo                        bars and headlines of Yahoo, after a run on data=yahoo
    python live_router.py --feed http --url http://127.0.0.1:8000/feed --metrics-port 9100 --kill-file kill

It trades on paper only. The model is the one of the checkout's last run, with the parameters in params.yaml; where that
has bars of another length than --interval asks for, the small one-minute model of `make repro` in minute/. An interval
that has no model, and a model that is damaged, end it with status 78.
SIGTERM and Ctrl-C stop it cleanly, SIGUSR1 pulls the kill switch. docs/live.md has the rest.
"""

import argparse
import logging
import math
import os
import re
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from fusion_alpha import config, stage
from fusion_alpha.config import Config
from fusion_alpha.errors import InputError

if TYPE_CHECKING:
    from fusion_alpha.live.feed import Feed, History
    from fusion_alpha.live.journal import Journal
    from fusion_alpha.live.model import Engine
    from fusion_alpha.live.switch import KillSwitch

# Exit status beside those of the router; the latter three are EX_DATAERR, EX_IOERR and EX_CONFIG of sysexits.h.
USAGE, BAD_JOURNAL, BAD_DISK, BAD_MODEL = 2, 65, 74, 78
ON_THE_WALL = ("csv", "yahoo", "http")  # feeds without a clock of their own
FEEDS = ("lab", "replay", *ON_THE_WALL)
RUNS = (Path(), config.MINUTE.parent)  # folders of params.yaml, models/ and data/; the first of the interval counts
BAR_SECONDS = 5.0  # of the wall's clock for a bar, where a simulated market has no --speed


def parser() -> argparse.ArgumentParser:
    new = argparse.ArgumentParser(
        prog="live_router.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    new.add_argument("--tickers", nargs="+", metavar="SYMBOL", help="tickers to signal (default: all with history)")
    new.add_argument("--interval", metavar="BAR", help="of a trained model: 1d, 1m (default: that of params.yaml)")
    new.add_argument("--feed", choices=FEEDS, default="lab", help="where bars come from (default: lab, SIMULATED)")
    new.add_argument("--from", dest="first", metavar="YYYY-MM-DD", help="first session of a replay")
    new.add_argument("--to", dest="last", metavar="YYYY-MM-DD", help="last session of a replay")
    new.add_argument("--url", help="server of --feed http; fusion_alpha/live/http_feed.py has its protocol")
    new.add_argument("--speed", type=speed, metavar="X", help="of lab and replay: times as fast as the wall, or max")
    new.add_argument("--log", type=Path, default=Path("live.log"), help="journal, and what a restart goes on from")
    new.add_argument("--once", action="store_true", help="end after one bar")
    new.add_argument("--dry-run", action="store_true", help="decide and write down, trade nothing, not even on paper")
    new.add_argument("--metrics-port", type=port, metavar="N", help="serve /metrics and /health on 127.0.0.1")
    new.add_argument("--kill-file", type=Path, metavar="FILE", help="no signals from the moment it exists")
    new.add_argument("--release", metavar="REASON", help="release a latched kill switch, and say why")
    new.add_argument("--model", type=Path, metavar="FOLDER", help="of the engine (default: of the interval's run)")
    new.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="other parameters than params.yaml's")
    return new


def speed(text: str) -> float:
    try:
        value = math.inf if text == "max" else float(text)
    except ValueError:
        value = math.nan
    if not value > 0:
        raise argparse.ArgumentTypeError("a positive number, or max")
    return value


def port(text: str) -> int:
    if not (text.isdigit() and int(text) < 1 << 16):
        raise argparse.ArgumentTypeError("a port, 0 to 65535; 0 takes a free one")
    return int(text)


class NoModel(InputError):
    """There is no whole model for bars of the length that is asked for."""


def run_of(interval: str | None) -> Path:
    """Folder of the run with bars of that length, the checkout's own where none is asked for; NoModel without one."""
    if interval is None:
        return RUNS[0]
    config.load([f"interval={interval}"])  # a length that a bar can have
    for folder in RUNS:
        if (folder / config.PARAMS).exists() and config.load(params=folder / config.PARAMS).interval == interval:
            return folder
    command = "make repro" if interval == "1m" else f"python run_pipeline.py --interval {interval} --mode predict"
    raise NoModel(
        f"no model of {interval} bars",
        rule="bars need a model that was trained on bars of their length",
        remedy=f"run `{command}`",
    )


def checked(arguments: argparse.Namespace) -> tuple[Config, Path]:
    """The configuration and the folder of its run; InputError for options that do not go together."""
    simulated = arguments.feed in ("lab", "replay")
    if arguments.speed and not simulated:
        raise InputError(f"--speed with --feed {arguments.feed}", rule="only lab and replay have a clock of their own")
    if (arguments.feed == "replay") != bool(arguments.first) or (arguments.last and not arguments.first):
        raise InputError("--from and --to", rule="--feed replay needs --from; other feeds have neither")
    if (arguments.feed == "http") != bool(arguments.url):
        raise InputError("--url", rule="--feed http needs it; other feeds have none")
    for option, day in (("--from", arguments.first), ("--to", arguments.last)):
        if day is not None and not config.is_date(day):
            raise InputError(f"{option} {day!r}", rule="a date as YYYY-MM-DD")
    if arguments.url and not re.match(r"https?://[^/]", arguments.url):
        raise InputError(f"--url {arguments.url!r}", rule="an address that begins with http:// or https://")
    folder = run_of(arguments.interval)
    cfg = config.load(arguments.set, folder / config.PARAMS)
    if cfg.target.name != "next_open":
        raise InputError(f"parameter target.name = {cfg.target.name!r}", rule="what is traded is target=next_open")
    return cfg, folder


def main() -> int:
    arguments = parser().parse_args()
    log = stage.set_up("live_router")
    from fusion_alpha.live.journal import Damaged, JournalError
    from fusion_alpha.live.switch import KillSwitch

    switch = KillSwitch(arguments.kill_file)
    signal.signal(signal.SIGUSR1, lambda *_: switch.pull())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))  # nothing has begun yet
    try:
        cfg, folder = checked(arguments)
        from fusion_alpha.live import model

        try:
            engine = model.load(cfg, folder, arguments.model)
        except model.ModelError as error:
            raise NoModel(str(error)) from None
        log.info("model %s on %s, %s bars", engine.model_id, cfg.predict.engine, cfg.interval)
        return route(arguments, cfg, folder, engine, switch)
    except InputError as error:
        stage.console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        return BAD_MODEL if isinstance(error, NoModel) else BAD_JOURNAL if isinstance(error, Damaged) else USAGE
    except JournalError as error:  # before the router runs, which ends by itself
        stage.console.print(f"the journal cannot be written: {error}", markup=False, highlight=False, soft_wrap=True)
        return BAD_DISK


def release(journal: "Journal", reason: str, switch: "KillSwitch") -> None:
    """Release the latch of a journal; InputError while what pulled the switch is still there, or JournalError."""
    from fusion_alpha.live.journal import Entry, latched

    pulled, why = switch.pulled(), latched(journal.records)
    if not reason.strip() or pulled:
        problem = f"--release, and {pulled}" if pulled else "--release without a reason"
        remedy = "remove the file first" if pulled else 'say why: --release "checked the feed"'
        raise InputError(problem, rule="a person releases, with a reason, once the cause is gone", remedy=remedy)
    if why is None:
        logging.getLogger(__name__).info("no kill switch is latched; nothing to release")
        return
    journal.append(Entry("release", {"reason": reason, "latched": why}))
    logging.getLogger(__name__).info("released: %s (it was latched: %s)", reason, why)


def on_the_wall(arguments: argparse.Namespace, cfg: Config, history: "History") -> "Feed":
    """A feed of the real time, which goes on where the history ends."""
    from fusion_alpha import sealed
    from fusion_alpha.live.folder_feed import FolderFeed
    from fusion_alpha.live.guards import Quarantine
    from fusion_alpha.live.http_feed import HttpFeed
    from fusion_alpha.live.yahoo_feed import YahooFeed

    quarantine = Quarantine(arguments.log.with_suffix(".quarantine"), sealed.writer(cfg))
    if arguments.feed == "csv":
        return FolderFeed(cfg, history)
    if arguments.feed == "yahoo":
        return YahooFeed(cfg, history, quarantine)
    return HttpFeed(arguments.url, sorted(history.prices["ticker"].unique()), cfg.interval, cfg.live, quarantine)


def route(arguments: argparse.Namespace, cfg: Config, folder: Path, engine: "Engine", switch: "KillSwitch") -> int:
    from fusion_alpha.live import broker, feed, router
    from fusion_alpha.live.clock import Clock, Hours, SimulatedClock, SteppedClock, WallClock
    from fusion_alpha.live.display import Display
    from fusion_alpha.live.journal import Journal
    from fusion_alpha.live.monitor import Metrics, Monitor
    from fusion_alpha.live.texts import Texts

    source: feed.Feed
    clock: Clock
    with ExitStack() as stack:
        kind = broker.DryRun.name if arguments.dry_run else broker.PaperBroker.name
        about = {"feed": arguments.feed, "interval": cfg.interval, "orders": kind}
        before = broker.Reconciliation(about, arguments.log)
        journal = stack.enter_context(Journal(arguments.log, before.take))
        if arguments.release is not None:
            release(journal, arguments.release, switch)
        if arguments.feed == "lab":
            history, source = feed.laboratory(cfg)
        elif arguments.feed == "replay":
            history, source = feed.replay(cfg, arguments.first, arguments.last, folder)
        else:
            history = feed.recorded(folder)
        tickers = sorted({name.upper() for name in arguments.tickers or history.prices["ticker"]})
        if arguments.feed in ON_THE_WALL:
            source = on_the_wall(arguments, cfg, history)
        end = history.prices["bar_close_utc"].max()
        start = end if before.close is None else max(end, before.close)
        if arguments.feed in ON_THE_WALL:
            clock = WallClock()
        elif arguments.speed == math.inf or (arguments.once and arguments.speed is None):
            clock = SteppedClock(start + pd.Timedelta(seconds=cfg.live.settle_s))
        else:
            bar_s, hours = 60.0 * (cfg.bar_minutes or 24 * 60), Hours(cfg)
            if not (hours.daily or hours.is_open(start)):
                start = hours.next_open(start)  # nobody waits for a simulated night to pass
            clock = SimulatedClock(start, arguments.speed or bar_s / BAR_SECONDS)
        texts = stack.enter_context(Texts(cfg))
        trader = broker.DryRun() if arguments.dry_run else broker.PaperBroker(cfg, before.book)
        metrics = Metrics()
        parts = router.Parts(cfg, source, history, clock, journal, engine, texts, trader, switch, metrics)
        running = router.Router(parts, tickers, once=arguments.once)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: running.interrupt())
        if arguments.metrics_port is not None:
            monitor = stack.enter_context(Monitor(arguments.metrics_port, metrics, running.health))
            stage.console.print(f"metrics and health on http://127.0.0.1:{monitor.port}", highlight=False)
        stack.enter_context(Display(running))
        return running.run()


if __name__ == "__main__":
    status = main()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # nothing is left to do, and taking the interpreter apart takes longer than the stop itself
