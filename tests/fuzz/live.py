"""Targets of the live router's readers: its journal and its feeds."""

import io
import json
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd
import requests
import source_inputs as inputs
import urllib3
import yahoo_server
from curl_cffi.requests import Response

from fusion_alpha import cleaning, config, sources
from fusion_alpha.live import guards, http_feed, journal, yahoo_feed, yahoo_session
from fusion_alpha.live.clock import Hours
from fusion_alpha.live.feed import History
from fusion_alpha.live.folder_feed import FolderFeed
from fusion_alpha.sources import yahoo
from fuzz.common import Target, environment, scratch, write

# --- journal


def _journal(content: bytes, folder: Path) -> object:
    path = write(folder / "live.log", content)
    records, seen = journal.read(path), list[journal.Record]()
    with journal.Journal(path, seen.append) as opened:
        assert seen == records
        assert journal.latched(opened.records) == journal.latched(records)
        opened.append(journal.Entry("stop", {}))
    return journal.latched(records)


def _journal_with_crc(content: bytes, folder: Path) -> object:
    """Lines of any JSON with the right CRC, number and chain."""
    lines, prev = list[bytes](), journal.START
    for number, line in enumerate(content.split(b"\n")):
        try:
            body = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(body, dict):
            body |= {name: value for name, value in (("seq", number), ("prev", prev)) if name in body}
        text = json.dumps(body).encode()
        lines.append(text[:-1] + b',"crc":"%08x"}' % zlib.crc32(text))
        prev = sha256(lines[-1]).hexdigest()
    return _journal(b"".join(line + b"\n" for line in lines), folder)


def _records() -> list[bytes]:
    folder = scratch()
    with journal.Journal(folder / "live.log") as made:
        made.append(
            journal.Entry("signal", {"weight": 0.5}, ("TSLA", "1"), {"ms": 1}), journal.Entry("latch", {"reason": "x"})
        )
    return [(folder / "live.log").read_bytes()]


def _headers(line: bytes, names: tuple[str, ...]) -> dict[str, str]:
    values = [part.decode("latin-1").strip() for part in line.split(b"|")]
    return {name: value for name, value in zip(names, values, strict=False) if value}


class _Server:
    """A requests.Session whose every answer is one of these bytes; its first line holds three headers."""

    def __init__(self, content: bytes) -> None:
        head, _, self._body = content.partition(b"\n")
        self._headers = _headers(head, ("Date", "Retry-After", "Content-Encoding"))

    def get(self, url: str, **_: object) -> requests.Response:
        response = requests.Response()
        response.status_code = 429 if "Retry-After" in self._headers else 200
        response.headers.update(self._headers)
        response.raw = urllib3.HTTPResponse(io.BytesIO(self._body), self._headers, preload_content=False)
        return response


def _http(content: bytes, folder: Path) -> object:
    settings = replace(inputs.defaults().live, tries=1)
    feed = http_feed.HttpFeed("http://x/", ["TSLA"], "1m", settings, guards.Quarantine(folder / "kept"))
    feed._session = _Server(content)  # type: ignore[assignment]
    now = pd.Timestamp("2024-07-01T13:31:02Z")
    polled = feed.poll(now)
    guards.SkewGuard(settings).judge(polled.server_utc, polled.received_utc)
    guard = guards.BarGuard(settings, _minutes())
    guard.learn(_minutes_before())
    return [guard.judge(guard.adjusted(bar), now) for bar in polled.bars]


@cache
def _minutes() -> Hours:
    """The calendar, made once."""
    return Hours(replace(inputs.defaults(), interval="1m"))


def _minutes_before() -> pd.DataFrame:
    """What the guards know before the minute of `_FEED`."""
    closes = pd.date_range(end="2024-06-28T20:00Z", periods=30, freq="min").as_unit("us")
    rows = pd.DataFrame({"ticker": "TSLA", "bar_close_utc": closes, "volume": 100.0})
    return rows.assign(**dict.fromkeys(("open", "high", "low", "close", "adj_close"), 1.0))


_FEED = {
    "bars": [
        {"ticker": "TSLA", "bar_close_utc": "2024-07-01T13:31:00Z", "open": 1.0, "high": 1.0, "low": 1.0, "close": 1.0}
        | {"volume": 100, "adj_close": 1.0}
    ],
    "headlines": [
        {"id": "7", "ticker": "TSLA", "published_utc": "2024-07-01T13:30:10Z", "text": "up", "is_repost": False}
    ],
}

# --- the user's folder

_NOW = pd.Timestamp("2015-07-01T12:00Z")
_BARS = "Date,Open,High,Low,Close,Volume\n" + "".join(f"{day},100,102,98,101,1000\n" for day in inputs.days(10))


@cache
def _known() -> History:
    """What the pipeline has of the folder of `_folder`."""
    folder = inputs.csv_folder(scratch() / "mine", 8, ("TSLA",))
    cfg = inputs.configuration("csv", {"folder": str(folder)})
    known = cleaning.clean(sources.get("csv").read(cfg, folder), cfg)
    return History(known.prices, known.news)


def _folder(file: str) -> Callable[[bytes, Path], object]:
    """A file that grows from its first half to the whole, as the router sees it."""

    def read(content: bytes, folder: Path) -> object:
        mine = folder / "mine"
        write(mine / "prices/TSLA.csv", _BARS.encode())
        feed = FolderFeed(inputs.configuration("csv", {"folder": str(mine)}), _known())
        found = []
        for part in (content[: len(content) // 2], content):
            write(mine / file, part)
            found += [guards.impossible(bar) for bar in feed.poll(_NOW).bars]
        return found

    return read


# --- Yahoo


class _Wire(yahoo_session.YahooSession):
    """Yahoo's servers: the answer with bars, that with headlines, and three headers of both."""

    headers_of_all: dict[str, str]
    bars = news = b""

    def request(self, method: Any, url: str, *_: Any, **options: Any) -> Response:
        response = Response()
        response.headers.update(self.headers_of_all)
        if "getcrumb" in url:
            response.content = b"crumb"
        elif "range" in (options.get("params") or {}):  # yfinance asks for the time zone first
            response.content = yahoo_server.chart("TSLA", []).body
        elif any(part in url for part in yahoo_session._DATA):
            response.content = self.bars if "/chart/" in url else self.news
            response.status_code = 429 if "Retry-After" in response.headers else 200
            self._look_at(response)
        return response


_CLOSES = {
    "1m": pd.date_range("2024-03-05T14:53Z", "2024-03-05T15:00Z", freq="min"),
    "1d": pd.DatetimeIndex([f"2024-02-{day}T21:00Z" for day in (26, 27, 28, 29)]),
}


@cache
def _yahoo(interval: str) -> tuple[yahoo_feed.YahooFeed, pd.DataFrame]:
    """A feed and its history: made once, since its threads, which have nothing to do here, never end."""
    closes = _CLOSES[interval].as_unit("us")
    rows = pd.DataFrame({"ticker": "TSLA", "bar_close_utc": closes, "close": 100.0, "adj_close": 100.0})
    cfg = config.load(["data=yahoo", "tickers=[TSLA]", f"interval={interval}"], params=inputs.ROOT / "params.yaml")
    cfg = replace(cfg, live=replace(cfg.live, tries=1, requests_per_minute=60000))
    folder = scratch()
    with environment(DVC_ROOT=folder):
        feed = yahoo_feed.YahooFeed(cfg, History(rows, pd.DataFrame()), guards.Quarantine(folder / "kept"))
        feed._session = _Wire(cfg.live)
        feed._market = yahoo.connect(feed._session)
    return feed, rows


def _yahoo_live(interval: str) -> Callable[[bytes, Path], object]:
    """Lines: headers, the answer with bars, the answer with headlines, and all others of the store of headlines."""

    def read(content: bytes, folder: Path) -> object:
        feed, rows = _yahoo(interval)
        lines = [*content.split(b"\n", 3), b"", b"", b""]
        write(folder / yahoo.STORE / "TSLA.jsonl", lines[3])
        wire, ticker = feed._session, yahoo_feed._known("TSLA", rows)
        wire.headers_of_all, wire.bars, wire.news = _headers(lines[0], ("Date", "Retry-After", "Age")), *lines[1:3]
        wire._rest_until, feed._tickers, feed._quarantine = 0.0, {"TSLA": ticker}, guards.Quarantine(folder / "kept")
        with environment(DVC_ROOT=folder):
            answer = feed._ask(ticker, now := pd.Timestamp("2024-03-05T15:01:30Z"), True, True)
        feed._note(answer, now)
        return [guards.impossible(bar) for bar in feed._waiting.released(now + pd.Timedelta(hours=1), lambda _: True)]

    return read


def _bars_of_yahoo(interval: str) -> bytes:
    minutes = {"1m": pd.Timedelta(minutes=1), "1d": pd.Timedelta(hours=6.5)}[interval]
    rows = [(str(close - minutes), 100.0, 101.0, 99.0, 100.0, 10, 100.0) for close in _CLOSES[interval]]
    later = {"1m": ("2024-03-05T15:00:00Z", "2024-03-05T15:01:00Z"), "1d": ("2024-03-01T14:30Z", "2024-03-04T14:30Z")}
    rows += [(time, 101.0, 102.0, 100.0, 101.0, None, 100.5) for time in later[interval]]
    body = yahoo_server.chart("TSLA", rows, until="2024-03-05T15:01:20Z", interval=interval).body
    news = yahoo_server.stories(yahoo_server.story(1, "2024-03-05T15:00:00Z", "up")).body
    stored = json.dumps(yahoo_server.story(2, "2024-03-05T14:00:00Z", "stored") | {"score": float("nan")}).encode()
    return b"Tue, 05 Mar 2024 15:01:25 GMT||3\n" + body + b"\n" + news + b"\n" + stored + b"\n"


TARGETS = {
    "journal": Target(_journal, _records),
    "journal_content": Target(_journal_with_crc, _records),
    "feed": Target(
        _http,
        lambda: [
            b"Mon, 01 Jul 2024 13:31:02 GMT\n" + json.dumps(_FEED).encode(),
            b"Mon, 01 Jul 2024 13:31:02 GMT|7\n{}",
            b"||deflate\n" + zlib.compress(json.dumps(_FEED).encode()),
        ],
    ),
    "feed_folder_prices": Target(_folder("prices/TSLA.csv"), lambda: [_BARS.encode()]),
    "feed_folder_actions": Target(
        _folder("actions.csv"),
        lambda: [f"ticker,session,split,dividend\nTSLA,{inputs.days(9)[8]},2,\nTSLA,2015-01-06,,0.5\n".encode()],
    ),
    "feed_folder_news": Target(
        _folder("news/2016.jsonl"), lambda: [f"{inputs.item(70)}\n{inputs.item(71)}\n".encode()]
    ),
    "feed_yahoo_minutes": Target(_yahoo_live("1m"), lambda: [_bars_of_yahoo("1m"), b"|7\n{}"]),
    "feed_yahoo_days": Target(_yahoo_live("1d"), lambda: [_bars_of_yahoo("1d")]),
}
