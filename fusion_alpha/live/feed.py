"""What a feed says, and feeds that are tables: the laboratory at a set speed, and a replay.

A feed answers `poll(now)` with what it has that was not handed over before: bars by their closing time, headlines by
their publication. It may hand over the same bar again, too early, late or wrong: the guards decide what counts.
"""

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import pandas as pd

from fusion_alpha import cleaning, sources, tables
from fusion_alpha.config import Config
from fusion_alpha.errors import InputError
from fusion_alpha.sources.parsing import well_formed

LAB_DAYS_AHEAD, LAB_DAYS_AHEAD_MINUTES = 365, 14  # of simulated market beyond what the pipeline has seen
QUOTES = ("open", "high", "low", "close", "adj_close", "volume")
YEARS = range(1990, 2200)  # that a time may lie in: the calendar begins then, and nanoseconds end soon after


@dataclass(frozen=True)
class Bar:
    """A bar as a feed gives it, nothing checked; prices as quoted.

    Ratios of adj_close carry splits and dividends; None says that there were none since the bar before.
    """

    ticker: str
    close_utc: pd.Timestamp
    open: float
    high: float
    low: float
    close: float
    adj_close: float | None
    volume: float


@dataclass(frozen=True)
class Headline:
    """A news item as a feed gives it, personal data and all. cleaned: text and identifier are those of interim news.

    Half a surrogate pair becomes U+FFFD, as in the pipeline.
    """

    ticker: str
    item_id: str
    published_utc: pd.Timestamp
    text: str
    is_repost: bool = False
    cleaned: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "item_id", well_formed(self.item_id))
        object.__setattr__(self, "text", well_formed(self.text))


@dataclass(frozen=True)
class Problem:
    """Something that a feed could not do: `kind` is one of a few words, for metrics; `tickers` whom it concerns.

    A problem of kind "rejected" is about a row or an item: `detail` names its place and the rule that it breaks.
    """

    kind: str
    detail: str
    tickers: tuple[str, ...] = ()
    quarantined: str | None = None  # SHA-256 of the bytes that were kept

    def __post_init__(self) -> None:
        object.__setattr__(self, "detail", well_formed(self.detail))  # it may quote what came


@dataclass(frozen=True)
class Polled:
    """One answer. server_utc: the server's clock, where there is one; received_utc: ours at that moment.

    answered: did the source answer at all, whatever was wrong with parts of it? None where nobody was asked this time.
    """

    bars: list[Bar] = field(default_factory=list)
    headlines: list[Headline] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    server_utc: pd.Timestamp | None = None
    received_utc: pd.Timestamp | None = None
    answered: bool | None = True


class Feed(Protocol):
    """Where bars and headlines come from."""

    @property
    def name(self) -> str: ...

    @property
    def simulated(self) -> bool: ...

    @property
    def delay_s(self) -> float:
        """How long after its close a bar comes at the earliest."""
        ...

    def poll(self, now: pd.Timestamp) -> Polled: ...

    def ended(self, now: pd.Timestamp) -> bool:
        """Will nothing come any more?"""
        ...

    def seen(self, closes: dict[str, pd.Timestamp]) -> None:
        """Close of the latest good bar of each ticker, for a feed that can be asked for what comes after."""
        ...


@dataclass(frozen=True)
class History:
    """What is known when the router starts: interim prices and news (schemas/), in key order."""

    prices: pd.DataFrame
    news: pd.DataFrame


class TableFeed:
    """Rows of interim tables, each when its time has come; bars `delay_s` after their close."""

    def __init__(
        self, prices: pd.DataFrame, news: pd.DataFrame, *, name: str, simulated: bool, delay_s: float = 0.0
    ) -> None:
        self.name, self.simulated, self.delay_s = name, simulated, delay_s
        self._prices = prices.sort_values(["bar_close_utc", "ticker"], ignore_index=True)
        self._news = news.sort_values(["published_utc", "ticker", "news_id"], ignore_index=True)
        self._bar = self._item = 0

    def ended(self, now: pd.Timestamp) -> bool:
        return self._bar >= len(self._prices)

    def poll(self, now: pd.Timestamp) -> Polled:
        shown = now - pd.Timedelta(seconds=self.delay_s)
        last_bar = int(self._prices["bar_close_utc"].searchsorted(shown, side="right"))
        last_item = int(self._news["published_utc"].searchsorted(now, side="right"))
        prices, news = self._prices.iloc[self._bar : last_bar], self._news.iloc[self._item : last_item]
        self._bar, self._item = max(last_bar, self._bar), max(last_item, self._item)
        return Polled(bars(prices), headlines(news), received_utc=now)

    def seen(self, closes: dict[str, pd.Timestamp]) -> None:
        """A table hands over each row once."""


def bars(prices: pd.DataFrame) -> list[Bar]:
    """Interim rows as bars, in their order."""
    quotes = zip(*(prices[name].astype("float64").tolist() for name in QUOTES), strict=True)
    return [
        Bar(ticker, close, *row)
        for ticker, close, row in zip(prices["ticker"], prices["bar_close_utc"], quotes, strict=True)
    ]


def headlines(news: pd.DataFrame) -> list[Headline]:
    """Interim rows as headlines, in their order; identifiers are hashed and texts scrubbed already."""
    columns = [news[name].tolist() for name in ("ticker", "news_id", "published_utc", "text", "is_repost")]
    return [
        Headline(ticker, news_id, published, text, repost, cleaned=True)
        for ticker, news_id, published, text, repost in zip(*columns, strict=True)
    ]


def laboratory(cfg: Config) -> tuple[History, TableFeed]:
    """The laboratory's market (SIMULATED): what the pipeline learned from as history, and how it goes on as feed.

    The same generator with a later last session: it changes nothing that is already there.
    """
    if cfg.data.source != "lab" or cfg.data.lab is None:
        raise InputError(f"parameter data.source = {cfg.data.source!r}", rule="--feed lab goes on where data=lab ends")
    lab = cfg.data.lab
    last = pd.Timestamp(lab.last_session)
    ahead = pd.Timedelta(days=LAB_DAYS_AHEAD if cfg.bar_minutes is None else LAB_DAYS_AHEAD_MINUTES)
    longer = replace(lab, last_session=str((last + ahead).date()), odd_rows=False)
    history, rest = split(_interim(replace(cfg, data=replace(cfg.data, lab=longer))), last + pd.Timedelta(days=1))
    return history, TableFeed(rest.prices, rest.news, name="lab", simulated=True, delay_s=cfg.live.settle_s)


def replay(cfg: Config, first: str, last: str | None, folder: Path = Path()) -> tuple[History, TableFeed]:
    """Interim tables of the run in `folder`: before session `first` as history, from then up to `last` as feed."""
    known = recorded(folder)
    prices, news = known.prices, known.news
    if last is not None:
        end = pd.Timestamp(last) + pd.Timedelta(days=1)
        prices, news = prices[prices["session"] < end], news[news["published_utc"] < end.tz_localize("UTC")]
    history, rest = split(History(prices, news), pd.Timestamp(first))
    if rest.prices.empty:
        raise InputError(f"no bars from {first} to {last or 'the end'}", rule="--from and --to lie in the data")
    delay = cfg.live.settle_s
    return history, TableFeed(rest.prices, rest.news, name="replay", simulated=cfg.data.simulated, delay_s=delay)


def recorded(folder: Path = Path()) -> History:
    """Interim tables of the run in `folder`, all of them, as the history of a feed that goes on now."""
    prices, news = (tables.read(name, folder / tables.schema(name).path) for name in ("prices", "news"))
    return History(prices, news)


def split(whole: History, first: pd.Timestamp) -> tuple[History, History]:
    """History before session `first`, and what comes then. News belong to the later part from the last close on."""
    prices, news = whole.prices, whole.news
    before = prices["session"] < first
    if not before.any():
        raise InputError(f"no bars before {first.date()}", rule="indicators need history", remedy="start later")
    old = news["published_utc"] <= prices.loc[before, "bar_close_utc"].max()
    return (
        History(prices[before].reset_index(drop=True), news[old].reset_index(drop=True)),
        History(prices[~before].reset_index(drop=True), news[~old].reset_index(drop=True)),
    )


def _interim(cfg: Config) -> History:
    """Raw files of a source through the pipeline's own reader and cleaning."""
    source = sources.get(cfg.data.source)
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw"
        source.fetch(cfg, raw)
        interim = cleaning.clean(source.read(cfg, raw), cfg)
    return History(interim.prices, interim.news)
