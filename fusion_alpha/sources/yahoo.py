"""Yahoo Finance through yfinance: daily bars of any age, recent bars within the day, recent headlines.

yfinance hands over tables, not files, so raw holds those tables, one file a ticker:

    prices/TICKER.csv    every column that came: quotes as Yahoo has them today (split-adjusted, auto_adjust=False),
                         Adj Close, dividends and splits. Bars that had not ended when they were fetched are left out
    news/TICKER.jsonl    one item a line as it came, oldest fetch first

Yahoo serves the latest headlines only and no history is claimed: each fetch adds the items that it had not seen to
.cache/yahoo/news in the main checkout, and raw gets a copy of all of them. The first wording of an item stays. That
store is apart from raw because DVC deletes a stage's outputs before it runs; a fetch of the same configuration is
repeated with `dvc repro --force --single-item ingest`.

Yahoo limits bars within the day: 1m to the last 8 days, up to 90m to the last 60. Tested against stand-ins for
yfinance's objects, written after yfinance 1.7; not tried against Yahoo's servers, whose answers change without notice.
"""

import json
import logging
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from rich.progress import track

from fusion_alpha import sealed, sessions, stage
from fusion_alpha.config import Config, YahooConfig
from fusion_alpha.errors import InputError
from fusion_alpha.sources import RawFile, RawRows, csv_folder, parsing

log = logging.getLogger(__name__)

MINUTES = (1, 2, 5, 15, 30, 60, 90)  # bars within the day that Yahoo serves
STORE = Path(".cache/yahoo/news")  # in the main checkout
HEADLINES = 100  # asked for at a time; Yahoo gives fewer
_WAIT_S = 5.0  # before the second try; doubles

# Of yfinance, over an answer of another form; NotImplementedError: of a time after the year 9999, so of milliseconds.
NO_TABLE = (ArithmeticError, AttributeError, LookupError, NotImplementedError, TypeError, ValueError)

Answer = TypeVar("Answer")


def fetch(cfg: Config, raw: Path, market: Callable[[str], Any] | None = None) -> list[RawFile]:
    """Ask Yahoo for bars and headlines of cfg.tickers and write them below `raw`.

    `market` makes an object like yfinance.Ticker from a symbol; yfinance's own by default.
    Raises InputError for no tickers, an interval that Yahoo has not, a refusal, an empty answer and a dead network.
    """
    if not cfg.tickers:
        raise InputError("parameter tickers is empty", rule="yahoo needs symbols", remedy="-S 'tickers=[TSLA,AAPL]'")
    if cfg.bar_minutes not in (None, *MINUTES):
        allowed = ", ".join(f"{minutes}m" for minutes in MINUTES)
        raise InputError(f"parameter interval = {cfg.interval}", rule=f"yahoo serves 1d, {allowed}", remedy="change it")
    block = cfg.data.yahoo
    assert block is not None
    market = market or connect()
    write = sealed.writer(cfg)
    fetched = []
    for symbol in track(cfg.tickers, "yahoo", console=stage.console, transient=True):
        asset = market(symbol)
        bars = _answer(partial(_history, asset, cfg), f"bars of {symbol}", block)
        items = _answer(partial(_headlines, asset), f"headlines of {symbol}", block)
        prices, news = raw / "prices" / f"{symbol}.csv", raw / "news" / f"{symbol}.jsonl"
        table = ended(bars, cfg, symbol, pd.Timestamp.now("UTC")).to_csv(index=False)
        quote = f"https://finance.yahoo.com/quote/{symbol}"
        fetched.append(RawFile(write(prices, table.encode()), f"{quote}/history"))
        fetched.append(RawFile(write(news, _text(remember(symbol, items, write))), f"{quote}/news"))
    return fetched


def connect(session: Any = None) -> Callable[[str], Any]:
    """yfinance.Ticker, which raises what is wrong; session: an HTTP session of curl_cffi in place of its own."""
    import yfinance

    yfinance.config.debug.hide_exceptions = False  # else it logs an error and answers with an empty table
    yfinance.set_tz_cache_location(str(stage.root() / ".cache/yahoo/yfinance"))
    return partial(yfinance.Ticker, session=session)


def _history(asset: Any, cfg: Config) -> pd.DataFrame:
    assert cfg.data.yahoo is not None
    span = {"start": cfg.start} if cfg.start else {"period": "max"}
    if cfg.end:  # Yahoo's end is exclusive
        span["end"] = str((pd.Timestamp(cfg.end) + pd.Timedelta(days=1)).date())
    interval = "1d" if cfg.bar_minutes is None else f"{cfg.bar_minutes}m"
    return asset.history(
        interval=interval, auto_adjust=False, actions=True, prepost=False, timeout=cfg.data.yahoo.timeout_s, **span
    )


def _headlines(asset: Any) -> list[dict[str, Any]]:
    items = asset.get_news(count=HEADLINES)
    if isinstance(items, list) and all(isinstance(item, dict) for item in items):
        return items
    raise ValueError("headlines are no list of objects")


def _answer(ask: Callable[[], Answer], what: str, block: YahooConfig) -> Answer:
    """Ask up to block.tries times; InputError says what Yahoo or the network said last and what to do."""
    from yfinance.exceptions import YFException, YFRateLimitError

    attempt = 0
    while True:
        attempt += 1
        try:
            return ask()
        except YFRateLimitError as error:
            remedy = "wait some minutes; ask for fewer tickers at a time"
            raise InputError(f"no {what}: {error}", rule="yahoo limits requests", remedy=remedy) from None
        except (YFException, OSError, *NO_TABLE) as error:  # OSError: every network error
            said = " ".join(f"{type(error).__name__}: {str(error)[:200]}".split())
            if attempt >= block.tries:
                raise InputError(
                    f"no {what} after {block.tries} tries ({said})",
                    rule="yahoo knows the symbol and answers",
                    remedy="check the network, the symbol and start/end, or raise data.yahoo.timeout_s",
                ) from None
            log.warning("yahoo: no %s (%s); trying again", what, said)
            time.sleep(_WAIT_S * 2 ** (attempt - 1))


def ended(bars: pd.DataFrame, cfg: Config, symbol: str, now: pd.Timestamp) -> pd.DataFrame:
    """yfinance's table -> the CSV's: date or bar_close_utc first, only bars that had ended at `now`.

    InputError when nothing is left.
    """
    table = bars.reset_index(drop=True)
    if len(bars):
        ends = closes(bars, cfg)
        if cfg.bar_minutes is None:
            table.insert(0, "date", _days(bars).strftime("%Y-%m-%d"))
        else:
            table.insert(0, "bar_close_utc", ends.strftime("%Y-%m-%dT%H:%M:%SZ"))
        table = table[(ends <= now) | ends.isna()]
    if len(table):
        return table
    raise InputError(
        f"no bars of {symbol}",
        rule=f"yahoo has {cfg.interval} bars between start = {cfg.start} and end = {cfg.end}",
        remedy="check the symbol and the dates; bars within the day go back 8 to 60 days only",
    )


def closes(bars: pd.DataFrame, cfg: Config) -> pd.DatetimeIndex:
    """When each bar of yfinance's table ends, in UTC; NaT for a day that is no session, which cleaning refuses.

    yfinance's index is the bar's opening in the exchange's zone.
    """
    days = _days(bars)
    clock = sessions.sessions(cfg.data.exchange, days.min(), days.max()).set_index("session")
    ends = pd.DatetimeIndex(clock["session_close_utc"].reindex(days))
    if cfg.bar_minutes is None:
        return ends
    opens = pd.DatetimeIndex(bars.index).tz_convert("UTC")
    stops = opens + pd.Timedelta(minutes=cfg.bar_minutes)
    return stops.where(~((opens < ends) & (ends < stops)), ends)  # the session's last bar may be short


def _days(bars: pd.DataFrame) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(bars.index).tz_localize(None).normalize()


def remember(symbol: str, items: Iterable[dict[str, Any]], write: sealed.Write) -> list[str]:
    """Add unseen items to the store of the main checkout; returns all lines of the ticker, oldest fetch first."""
    store = stage.root() / STORE / f"{symbol}.jsonl"
    lines = parsing.decode(sealed.read(store), str(store)).split("\n")[:-1] if sealed.exists(store) else []
    seen = {identity(_stored(line, store, number)) for number, line in enumerate(lines, start=1)}
    for item in items:
        if identity(item) not in seen:
            seen.add(identity(item))
            lines.append(json.dumps(item, sort_keys=True))
    write(store, _text(lines))
    return lines


def _stored(line: str, store: Path, number: int) -> dict[str, Any]:
    try:
        item = json.loads(line)
    except (ValueError, RecursionError):
        item = None
    if isinstance(item, dict):
        return item
    remedy = "take the line out; what it held is lost"
    raise InputError("not an item", file=store, line=number, rule="one whole JSON object a line", remedy=remedy)


def _text(lines: list[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def identity(item: dict[str, Any]) -> str:
    """The item's id (yfinance before 0.2.54 called it uuid), else all of it."""
    return str(item.get("id") or item.get("uuid") or json.dumps(item, sort_keys=True))


def story(item: dict[str, Any]) -> tuple[str | None, str | None]:
    """When an item was published, as text, and its title; None for what it does not say."""
    content = item["content"] if isinstance(item.get("content"), dict) else item
    published, title = content.get("pubDate", content.get("providerPublishTime")), content.get("title")
    if type(published) is int:  # seconds since 1970, in yfinance's older form
        published = _instant(published)
    return published if isinstance(published, str) else None, title if isinstance(title, str) else None


def _instant(seconds: int) -> str | None:
    try:
        return pd.Timestamp(seconds, unit="s", tz="UTC").isoformat()
    except (ValueError, OverflowError):
        return None


def read(cfg: Config, raw: Path) -> RawRows:
    """Bars and headlines of the files below `raw`."""
    refused = parsing.Refusals()
    prices = csv_folder.read_prices(raw, refused)
    rows: list[tuple[Any, ...]] = []
    for path in sealed.listed(raw / "news"):
        file = path.relative_to(raw).as_posix()
        for line, item in parsing.json_lines(sealed.read(path), file, refused):
            published, title = story(item)
            if published is None or title is None:
                refused.add("news", file, line, "title" if title is None else "pubDate", "present, as text")
                continue
            rows.append((file, line, path.stem.upper(), identity(item), published, title, None, False, None, None))
    news = parsing.published(rows, refused, "pubDate", parsing.ZONED, parsing.instants)
    return RawRows(prices=prices, news=news, rejected=refused.frame())
