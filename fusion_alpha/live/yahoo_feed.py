"""Yahoo as a live feed, through yfinance: bars that are over, headlines that say when they were published.

What Yahoo does, and what is done about it:

    one ticker a request    a few threads ask for what is missing; a slow ticker delays nobody. Bars of one close are
                            handed over together, or without those that stay away
    delayed, partial bars   a bar within the day counts when Yahoo's own clock (meta.regularMarketTime) or a later bar
                            is past its end, or after twenty minutes; a day's bar after twenty minutes, when the closing
                            auction is in. Too late for a signal, it still extends the history
    429                     everybody rests for Retry-After, or for live.breaker_rest_s
    empty answers           a problem of that ticker, asked again after growing pauses; no bar is made up, and a volume
                            that Yahoo does not know is no number, which the guards refuse
    prices adjusted again   after a split or dividend Yahoo restates the past. A new bar is adjusted as a bar that the
                            tables know, times what happened since, so its return is right; without such a bar, none
    headlines               asked for before the bars: without them, no bars. New ones go to the pipeline's store of
                            headlines too; one without a time or a title is refused by name

Times of bars come in the exchange's zone and are handed over in UTC.
"""

import json
import math
import queue
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from yfinance.exceptions import YFException, YFRateLimitError, YFTickerMissingError

from fusion_alpha import sealed
from fusion_alpha.cleaning import TOLERANCE
from fusion_alpha.config import Config
from fusion_alpha.errors import InputError
from fusion_alpha.live.clock import Hours
from fusion_alpha.live.feed import YEARS, Bar, Headline, History, Polled, Problem
from fusion_alpha.live.guards import Quarantine, strict_json
from fusion_alpha.live.http_feed import Refused, Unavailable, not_asked, tries
from fusion_alpha.live.limits import Breaker
from fusion_alpha.live.together import Together
from fusion_alpha.live.yahoo_session import RateLimited, YahooSession
from fusion_alpha.sources import parsing, yahoo

LAG = pd.Timedelta(minutes=20)  # after which delayed exchanges and closing auctions are in
_NEWS_EVERY = pd.Timedelta(minutes=15)  # besides the look before every bar
_PAUSES_S = {True: (30.0, 600.0), False: (5.0, 60.0)}  # daily or not: before a missing bar is asked for again; doubles
_PATIENCE = {True: pd.Timedelta(minutes=5), False: pd.Timedelta(seconds=30)}  # of bars of one close with each other
_ASKERS = 4
_KNOWN = 60  # bars of the history that an answer may be hung on
_MOST = 500  # bars of a ticker that are remembered
_LONGEST_ID = 60  # characters of an id; what is longer may be a text
_OVERLAP = 5  # of them are asked for again with what is new

Found = TypeVar("Found")


@dataclass
class _Ticker:
    """What is known of a ticker. While it is being asked for, it belongs to the thread that asks."""

    symbol: str
    factors: dict[pd.Timestamp, float]  # adjusted over quoted price of known bars
    after: pd.Timestamp  # the history's last close: what is older is the pipeline's
    last: pd.Timestamp  # latest bar that was taken
    taken: dict[pd.Timestamp, tuple[float, ...]] = field(default_factory=dict)  # numbers by close, as first given
    again: pd.Timestamp | None = None  # not asked before
    pause_s: float = 0.0
    news_at: pd.Timestamp | None = None
    lines: int = 0  # of the store of headlines that were handed over
    asked: bool = False


@dataclass
class _Answer:
    ticker: _Ticker
    bars: list[Bar] = field(default_factory=list)
    headlines: list[Headline] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    failed: bool = False  # Yahoo could not be reached, or made no sense


class YahooFeed:
    """`Feed` of Yahoo's servers. clock: monotonic seconds, for rests."""

    name, simulated = "yahoo", False

    def __init__(
        self, cfg: Config, history: History, quarantine: Quarantine, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Raises InputError where data=yahoo is not what the history comes from, and for what Yahoo cannot serve."""
        names = sorted(history.prices["ticker"].unique())
        _check(cfg, len(names))
        self._cfg, self._live, self._hours = cfg, cfg.live, Hours(cfg)
        self._sensitive = cfg.data.source in cfg.privacy.sensitive
        self.delay_s = LAG.total_seconds() if self._hours.daily else 0.0
        warnings.filterwarnings("ignore", module="yfinance")  # of pandas, over its use of it: the terminal is a table
        self._write = sealed.writer(cfg)
        self._quarantine = Quarantine(quarantine.folder, self._write)
        self._session = YahooSession(cfg.live, clock)
        self._market = yahoo.connect(self._session)
        self._breaker = Breaker(cfg.live.breaker_failures, cfg.live.breaker_rest_s, clock)
        self._tickers = {
            str(name): _known(str(name), rows) for name, rows in history.prices.groupby("ticker", sort=True)
        }
        self._waiting = Together(_PATIENCE[self._hours.daily])
        self._clocks: tuple[pd.Timestamp, pd.Timestamp] | None = None
        self._first = True
        self._todo: queue.Queue[tuple[_Ticker, pd.Timestamp, bool, bool]] = queue.Queue()
        self._answers: list[_Answer] = []
        self._error: BaseException | None = None
        self._came = threading.Condition()
        for number in range(_ASKERS):
            threading.Thread(target=self._work, name=f"yahoo {number}", daemon=True).start()

    def ended(self, now: pd.Timestamp) -> bool:
        return False

    def seen(self, closes: dict[str, pd.Timestamp]) -> None:
        """What was handed over is known here already."""

    def poll(self, now: pd.Timestamp) -> Polled:
        blocked = self._blocked()
        if blocked is None:
            for ticker, bars, news in self._due(now)[: 1 if self._breaker.open else None]:
                ticker.asked = True
                self._todo.put((ticker, now, bars, news))
        patience = None if self._first else self._live.read_timeout_s  # the first answers are history: all of them
        with self._came:
            self._came.wait_for(lambda: self._error is not None or not self._asking(), timeout=patience)
            answers, self._answers = self._answers, []
        self._first = False
        if self._error is not None:
            raise self._error
        for answer in answers:
            self._note(answer, now)
        if blocked is not None and not answers and self._due(now):
            return replace(blocked, bars=self._waiting.released(now, self._complete))
        server, ours = (None, None) if self._session.clocks is self._clocks else self._session.clocks or (None, None)
        self._clocks = self._session.clocks
        return Polled(
            self._waiting.released(now, self._complete),
            [item for answer in answers for item in answer.headlines],
            [problem for answer in answers for problem in answer.problems],
            server,
            ours,
            answered=None if not answers else not all(answer.failed for answer in answers),
        )

    def _blocked(self) -> Polled | None:
        """Why nobody is asked now."""
        if self._session.rest_s > 0:
            return not_asked("resting", f"yahoo wants to be left alone for {self._session.rest_s:.0f} s more")
        if not self._breaker.allows():
            return not_asked("breaker_open", "too many failures in a row; yahoo is left alone")
        return None

    def _asking(self) -> int:
        return sum(ticker.asked for ticker in self._tickers.values()) - len(self._answers)

    def _due(self, now: pd.Timestamp) -> list[tuple[_Ticker, bool, bool]]:
        """Who is to be asked, for bars and for headlines; who has waited longest comes first."""
        close = self._hours.last_close(now - self._delay)
        cutoff = close - pd.Timedelta(seconds=self._cfg.target.news_delay_s)
        found = []
        for ticker in self._tickers.values():
            if ticker.asked or (ticker.again is not None and now < ticker.again):
                continue
            bars, at = ticker.last < close, ticker.news_at
            news = at is None or (bars and at < cutoff) or now - at >= _NEWS_EVERY
            if bars or news:
                found.append((ticker, bars, news))
        return sorted(found, key=lambda item: (item[0].last, item[0].symbol))

    @property
    def _delay(self) -> pd.Timedelta:
        return LAG if self._hours.daily else pd.Timedelta(seconds=self._live.settle_s)

    def _note(self, answer: _Answer, now: pd.Timestamp) -> None:
        """Back in the router's thread: keep bars until their close is complete, and decide when to ask again."""
        ticker = answer.ticker
        ticker.asked = False
        (self._breaker.failure if answer.failed else self._breaker.success)()
        for bar in answer.bars:
            self._waiting.add(bar, now)
        shortest, longest = _PAUSES_S[self._hours.daily]
        if answer.failed or ticker.last < self._hours.last_close(now - self._delay):
            ticker.pause_s = shortest if answer.bars else min(max(2 * ticker.pause_s, shortest), longest)
            ticker.again = now + pd.Timedelta(seconds=ticker.pause_s)
        else:
            ticker.pause_s, ticker.again = 0.0, None

    def _complete(self, close: pd.Timestamp) -> bool:
        """Does nobody miss this bar but tickers that have missed several?"""
        missing = (ticker.last for ticker in self._tickers.values() if ticker.last < close)
        return all(self._hours.bars_between(last, close) > self._live.silent_bars for last in missing)

    def _work(self) -> None:
        try:
            while True:
                answer = self._ask(*self._todo.get())
                with self._came:
                    self._answers.append(answer)
                    self._came.notify_all()
        except Exception as error:  # noqa: BLE001  any end of a thread ends the router, with its reason
            with self._came:
                self._error = error
                self._came.notify_all()

    def _ask(self, ticker: _Ticker, now: pd.Timestamp, bars: bool, news: bool) -> _Answer:
        """In a thread: headlines first, so that a bar never overtakes them."""
        answer = _Answer(ticker)
        if news:
            items = self._tried(partial(self._items, ticker.symbol), answer)
            if items is not None:
                ticker.news_at = now
                answer.headlines += self._headlines(ticker, items, answer.problems)
        if bars and not answer.failed:
            table = self._tried(partial(self._table, ticker), answer)
            if table is not None:
                answer.bars += self._bars(ticker, table, now, answer.problems)
        return answer

    def _tried(self, ask: Callable[[], Found], answer: _Answer) -> Found | None:
        """What was asked for, or None and a problem of the ticker."""
        symbol, kept = answer.ticker.symbol, None
        self._session.forget()
        try:
            return tries(self._live, Unavailable, OSError)(ask)
        except RateLimited as error:
            kind, said = "rate_limited", f"HTTP 429, again in {error.rest_s:.0f} s"
        except YFRateLimitError as error:
            kind, said = "rate_limited", str(error)
        except (Unavailable, OSError) as error:
            kind, said = "unavailable", f"{type(error).__name__}: {str(error)[:160]}"
        except Refused as error:
            kind, said = error.kind, str(error)
        except YFTickerMissingError as error:  # an answer in good form that has nothing
            answer.problems.append(Problem("empty", str(error)[:200], (symbol,)))
            return None
        except YFException as error:
            kind, said = "unavailable", str(error)[:160]
        except yahoo.NO_TABLE as error:
            what = "" if self._sensitive else f": {str(error)[:160]}"  # which may quote the answer
            kind, said = "malformed", f"{type(error).__name__}{what}"
            kept = self._quarantine.keep(self._session.content)
        answer.failed = True
        answer.problems.append(Problem(kind, f"{symbol}: {said}", (symbol,), kept))
        return None

    def _items(self, symbol: str) -> list[dict[str, Any]]:
        items = self._market(symbol).get_news(count=yahoo.HEADLINES)
        strict_json(self._session.content)
        return [dict(item) for item in items]

    def _table(self, ticker: _Ticker) -> pd.DataFrame:
        """yfinance's table with `known`, up to when Yahoo's data go, and NaN for volumes that it filled in."""
        start = sorted(ticker.factors)[-_OVERLAP:][0]
        first = self._hours.session(start).date() if self._hours.daily else start.to_pydatetime()
        interval = "1d" if self._hours.daily else f"{self._cfg.bar_minutes}m"
        table = self._market(ticker.symbol).history(
            interval=interval, start=first, auto_adjust=False, actions=True, prepost=False, timeout=None
        )
        (result,) = strict_json(self._session.content)["chart"]["result"]
        volumes = result["indicators"]["quote"][0]["volume"]
        unknown = pd.to_datetime(
            [time for time, volume in zip(result["timestamp"], volumes, strict=True) if volume is None],
            unit="s",
            utc=True,
        )
        opens = pd.DatetimeIndex(table.index).tz_convert("UTC")
        if opens.hasnans:
            raise ValueError("a bar without a time")
        lost = opens.normalize().isin(unknown.normalize()) if self._hours.daily else opens.isin(unknown)
        known = max(pd.Timestamp(int(result["meta"]["regularMarketTime"]), unit="s", tz="UTC"), opens.max())
        return table.assign(Volume=table["Volume"].astype("float64").mask(lost), known=known)

    def _bars(self, ticker: _Ticker, table: pd.DataFrame, now: pd.Timestamp, problems: list[Problem]) -> list[Bar]:
        """Bars that are over and were not taken yet, or not with these numbers."""
        if table.empty:
            return []
        rows = table.assign(close_utc=yahoo.closes(table, self._cfg))
        for day in rows.index[rows["close_utc"].isna()]:
            rule = f"{ticker.symbol} of {day:%Y-%m-%d}: date is a session of {self._cfg.data.exchange}"
            problems.append(Problem("rejected", rule, (ticker.symbol,)))
        rows = rows[rows["close_utc"].notna()]
        rows["close_utc"] = rows["close_utc"].astype("datetime64[us, UTC]")
        anchors = rows["close_utc"].isin(list(ticker.factors)) & np.isfinite(rows["Adj Close"] / rows["Close"])
        if not anchors.any():
            said = f"{ticker.symbol}: yahoo's bars begin at {rows['close_utc'].min()}, the tables end at {ticker.last}"
            problems.append(Problem("no_overlap", f"{said}; run the pipeline again", (ticker.symbol,)))
            return []
        rows["factor"] = _factors(rows, rows["close_utc"][anchors].iloc[-1], ticker.factors)
        over = (rows["close_utc"] > ticker.after) & (rows["close_utc"] <= now - self._delay)
        if not self._hours.daily:
            over &= (rows["close_utc"] <= rows["known"]) | (rows["close_utc"] <= now - LAG)
        return [bar for row in rows[over].itertuples() if (bar := _taken(ticker, row)) is not None]

    def _headlines(self, ticker: _Ticker, items: list[dict[str, Any]], problems: list[Problem]) -> list[Headline]:
        """Items of the store that were not handed over: at first all that it has, then what `items` added."""
        found = []
        lines = yahoo.remember(ticker.symbol, items, self._write)
        for line in lines[ticker.lines :]:
            item = json.loads(line)  # as ingest takes what it stored, NaN in a field that nobody reads and all
            published, title = yahoo.story(item)
            time = parsing.instants(pd.Series([parsing.well_formed(published or "")], dtype="str")).iloc[0]
            if title is None or pd.isna(time) or time.year not in YEARS:
                when = f"pubDate is {parsing.ZONED}, from {YEARS[0]} to {YEARS[-1]}"
                kept = self._quarantine.keep(line.encode())
                said = f"headline {self._named(item, kept)} of {ticker.symbol}"
                rule = "title is text" if title is None else when
                problems.append(Problem("rejected", f"{said}: {rule}", (ticker.symbol,), kept))
            else:
                found.append(Headline(ticker.symbol, yahoo.identity(item), time, title))
        ticker.lines = len(lines)
        return found

    def _named(self, item: dict[str, Any], digest: str) -> str:
        """The item's id; where it has none, or the source is sensitive, how its file in the quarantine begins."""
        name = item.get("id") or item.get("uuid")
        shown = isinstance(name, str | int) and len(str(name)) <= _LONGEST_ID and not self._sensitive
        return str(name) if shown else digest[:12]


def _check(cfg: Config, n_tickers: int) -> None:
    if cfg.data.source != "yahoo":
        raise InputError(
            f"parameter data.source = {cfg.data.source!r}", rule="--feed yahoo goes on where data=yahoo ends"
        )
    if cfg.bar_minutes not in (None, *yahoo.MINUTES):
        served = ", ".join(f"{minutes}m" for minutes in yahoo.MINUTES)
        raise InputError(f"parameter interval = {cfg.interval}", rule=f"yahoo serves 1d, {served}")
    allowed = cfg.live.requests_per_minute * (cfg.bar_minutes or 24 * 60)
    if 2 * n_tickers > allowed:
        raise InputError(
            f"{n_tickers} tickers at interval {cfg.interval}",
            rule=f"yahoo answers for one ticker at a time: bars and headlines need {2 * n_tickers} requests a bar, "
            f"live.requests_per_minute allows {allowed:.0f}",
            remedy="fewer tickers, longer bars, or a higher limit if yahoo bears it",
        )


def _known(symbol: str, rows: pd.DataFrame) -> _Ticker:
    tail = rows.tail(_KNOWN)
    factors = (tail["adj_close"] / tail["close"]).tolist()
    last = tail["bar_close_utc"].iloc[-1]
    return _Ticker(symbol, dict(zip(tail["bar_close_utc"], factors, strict=True)), last, last)


def _factors(rows: pd.DataFrame, anchor: pd.Timestamp, known: dict[pd.Timestamp, float]) -> pd.Series:
    """Adjusted over quoted price in the units of the tables, by the factor that they have at `anchor`.

    Yahoo's quotes are restated for splits and its adjusted ones for both, so a ratio of factors holds the dividends
    between two bars, and the splits come on top. Ratios that differ from 1 by the rounding of 32-bit numbers are 1.
    """
    own = rows["Adj Close"] / rows["Close"]
    splits = rows["Stock Splits"].replace(0.0, 1.0).cumprod()
    at = (rows["close_utc"] == anchor).to_numpy()
    ratio = own / own[at].iloc[-1]
    return known[anchor] * ratio.where((ratio - 1).abs() > TOLERANCE, 1.0) * (splits / splits[at].iloc[-1])


def _taken(ticker: _Ticker, row: Any) -> Bar | None:
    """The row as a bar; None where it was taken with these numbers before. What came first stays the anchor."""
    quotes = (float(row.Open), float(row.High), float(row.Low), float(row.Close), float(row.Volume))
    if ticker.taken.get(row.close_utc) == quotes:
        return None
    ticker.taken[row.close_utc] = quotes
    if math.isfinite(row.factor):
        ticker.factors.setdefault(row.close_utc, float(row.factor))
    for known in (ticker.taken, ticker.factors):
        while len(known) > _MOST:
            del known[min(known)]
    ticker.last = max(ticker.last, row.close_utc)
    opened, high, low, close, volume = quotes
    return Bar(ticker.symbol, row.close_utc, opened, high, low, close, close * float(row.factor), volume)
