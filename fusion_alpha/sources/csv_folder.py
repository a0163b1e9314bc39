"""Your own prices and news: a folder of CSV and JSONL files, all of them UTF-8.

    FOLDER/prices/TICKER.csv     one file a ticker; the header in any case, other columns ignored
    FOLDER/actions.csv           optional: splits and dividends
    FOLDER/news/*.jsonl          optional: one JSON object a line; other fields ignored

| file | column or field | required | meaning |
|---|---|---|---|
| prices | date | one of the two | session as YYYY-MM-DD, for daily bars |
| prices | bar_close_utc | one of the two | end of the bar, ISO 8601 with offset, for bars within the day |
| prices | open, high, low, close | yes | prices of the bar, positive, split or not as you have them |
| prices | volume | yes | shares, 0 or more |
| prices | adj_close | no | close adjusted for splits and dividends; only its ratios are used |
| actions | ticker, session | yes | the first session without the dividend, or with the new share count |
| actions | split | yes | new shares for one old share; 1 or empty = none |
| actions | dividend | yes | per share after that day's split, in the currency of the prices; 0 or empty = none |
| news | id | yes | text or whole number; unique for each ticker |
| news | ticker or tickers | one of the two | a symbol, or a list of symbols |
| news | published_utc | yes | ISO 8601 with offset; a time without one is refused |
| news | text | yes | headline or message |
| news | author, followers, lang, is_repost | no | text or whole number; 0 or more; language code; true or false |

Without adj_close it is built from actions.csv, forward from the first bar; without either it is the close, and a split
then looks like a crash. A mistake in actions.csv stops the run, since it would bend every later price.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fusion_alpha import sealed, stage
from fusion_alpha.config import Config
from fusion_alpha.errors import InputError
from fusion_alpha.sources import PRICE_COLUMNS, RawFile, RawRows, parsing

log = logging.getLogger(__name__)

ACTIONS = "actions.csv"
ACTION_COLUMNS = ("ticker", "session", "split", "dividend")
LAYOUT = "FOLDER/prices/TICKER.csv, FOLDER/news/*.jsonl; see fusion_alpha/sources/csv_folder.py"


def fetch(cfg: Config, raw: Path) -> list[RawFile]:
    """Copy the folder's price, action and news files below `raw`, unchanged, or sealed where the source is sensitive.

    The folder may hold sealed files itself. Raises InputError when it is absent or holds no price file, and for sealed
    files of a source that is not sensitive: raw would hold their content in the clear.
    """
    folder, write = _folder(cfg), sealed.writer(cfg)
    chosen = [path for path in sorted(folder.rglob("*")) if path.is_file() and _is_input(path.relative_to(folder))]
    if not any(path.parent.name == "prices" for path in chosen):
        raise InputError("no prices/TICKER.csv inside", file=folder, rule=LAYOUT, remedy="correct data.csv.folder")
    ignored = [path for path in folder.rglob("*") if path.is_file() and path not in set(chosen)]
    if ignored:
        log.warning("csv: %d other files in %s are not read, e.g. %s", len(ignored), folder, min(ignored).name)
    fetched = []
    for path in chosen:
        if sealed.is_sealed(path) and "csv" not in cfg.privacy.sensitive:
            raise InputError(
                "a sealed file of a source that is not sensitive",
                file=path,
                rule="what is sealed stays so",
                remedy="-S 'privacy.sensitive=[csv]', with privacy.recipients",
            )
        place = sealed.plain(path).relative_to(folder)
        written = write(raw / place, sealed.read(sealed.plain(path)))
        fetched.append(RawFile(written, f"file:{path.relative_to(folder).as_posix()}"))
    return fetched


def _folder(cfg: Config) -> Path:
    assert cfg.data.csv is not None
    folder = stage.root() / Path(cfg.data.csv.folder).expanduser()
    if not folder.is_dir():
        raise InputError("no such folder", file=folder, rule=LAYOUT, remedy="correct data.csv.folder")
    return folder


def _is_input(place: Path) -> bool:
    """Is a file at this place below the folder one that `read` reads?"""
    place = sealed.plain(place)
    if len(place.parts) == 2:
        return (place.parts[0], place.suffix.lower()) in {("prices", ".csv"), ("news", ".jsonl")}
    return place.as_posix() == ACTIONS


def read(cfg: Config, raw: Path) -> RawRows:
    """Bars and news of the files below `raw`."""
    refused = parsing.Refusals()
    return RawRows(prices=read_prices(raw, refused), news=_news(raw, refused), rejected=refused.frame())


def read_prices(raw: Path, refused: parsing.Refusals) -> pd.DataFrame:
    """Bars of prices/*.csv with a complete adj_close. InputError where two files are of one ticker."""
    frames: dict[str, pd.DataFrame] = {}
    for path in sealed.listed(raw / "prices"):
        ticker, file = path.stem.upper(), path.relative_to(raw).as_posix()
        if ticker in frames:
            raise InputError(f"a second file of {ticker}", file=file, rule="one file a ticker", remedy="merge the two")
        frames[ticker] = parsing.price_file(sealed.read(path), file, ticker, refused)
        if frames[ticker].empty:
            log.warning("%s: not one bar; %s is left out", file, ticker)
    actions = read_actions(raw, set(frames))
    for ticker, frame in frames.items():
        if frame["adj_close"].isna().all():
            frame["adj_close"] = adjusted(frame, actions[actions["ticker"] == ticker])
    return pd.concat(frames.values(), ignore_index=True).astype(PRICE_COLUMNS)


def read_actions(raw: Path, tickers: set[str]) -> pd.DataFrame:
    """ticker, session, split, dividend; InputError for any row that is not right."""
    path = raw / ACTIONS
    if not sealed.exists(path):
        return pd.DataFrame({"ticker": [], "session": [], "split": [], "dividend": []})
    refused = parsing.Refusals()
    frame = parsing.csv_rows(sealed.read(path), ACTIONS, "prices", refused)
    parsing.require_columns(frame, ACTION_COLUMNS, ACTIONS)
    parsed = frame[["line"]].assign(
        source_file=ACTIONS,
        ticker=frame["ticker"].str.strip().str.upper(),
        session=parsing.days(frame["session"]),
        split=pd.to_numeric(frame["split"].replace("", "1"), errors="coerce"),
        dividend=pd.to_numeric(frame["dividend"].replace("", "0"), errors="coerce"),
    )
    infinite = float("inf")
    checks = {
        "ticker": (parsed["ticker"].isin(tickers), "a ticker with a file in prices/"),
        "session": (parsed["session"].notna(), parsing.DAY),
        "split": ((parsed["split"] > 0) & (parsed["split"] < infinite), "above 0: new shares for one old share"),
        "dividend": ((parsed["dividend"] >= 0) & (parsed["dividend"] < infinite), "0 or more, per share"),
    }
    for column, (good, rule) in checks.items():
        parsing.refuse(~good, frame[column], parsed, "prices", column, rule, refused)
    for _, file, line, column, rule, value in refused.rows[:1]:
        remedy = "correct it: it would bend every later price"
        raise InputError(repr(value), file=file, line=line, column=column, rule=rule, remedy=remedy)
    return parsed[list(ACTION_COLUMNS)]


def adjusted(bars: pd.DataFrame, actions: pd.DataFrame) -> pd.Series:
    """adj_close of one ticker: the close times all splits and reinvested dividends up to the bar.

    On the first bar at or after an action's session with a price, the factor grows by split * (1 + dividend / close).
    It starts at 1 with the first bar, so later actions never change earlier rows.
    """
    times = bars["session"].fillna(bars["bar_close_utc"].dt.tz_localize(None)).to_numpy()
    closes = bars["close"].to_numpy()
    order = np.argsort(times, kind="stable")
    order = order[closes[order] > 0]
    factor = np.ones(len(bars))
    for session, split, dividend in actions.sort_values("session")[["session", "split", "dividend"]].to_numpy():
        place = np.searchsorted(times[order], np.datetime64(session))
        if 0 < place < len(order):  # else it is before the first bar, or not yet in effect
            factor[order[place:]] *= split * (1 + dividend / closes[order[place]])
    return pd.Series(closes * factor, index=bars.index)


def _news(raw: Path, refused: parsing.Refusals) -> pd.DataFrame:
    rows: list[tuple[Any, ...]] = []
    for path in sealed.listed(raw / "news"):
        file = path.relative_to(raw).as_posix()
        rows += items(sealed.read(path), file, refused)
    return parsing.published(rows, refused, "published_utc", parsing.ZONED, parsing.instants)


def items(content: bytes, file: str, refused: parsing.Refusals) -> Iterator[tuple[Any, ...]]:
    """Values in the order of NEWS_COLUMNS, one row a ticker, but published_utc as text."""
    for line, item in parsing.json_lines(content, file, refused):
        broken = next((column for column, good in _FIELDS.items() if not good[0](item)), None)
        if broken is not None:
            refused.add("news", file, line, broken, _FIELDS[broken][1])
            continue
        author = item.get("author")
        shared = (
            str(item["id"]),
            item["published_utc"],
            item["text"],
            item.get("lang"),
            bool(item.get("is_repost")),
            None if author is None else str(author),
            item.get("followers"),
        )
        for ticker in dict.fromkeys(symbol.strip().upper() for symbol in _tickers(item)):
            yield file, line, ticker, *shared


def _tickers(item: dict[str, Any]) -> list[str]:
    """The item's symbols; empty unless exactly one of the two fields is there and right."""
    one, several = item.get("ticker"), item.get("tickers")
    if isinstance(one, str) and several is None:
        return [one]
    right = one is None and isinstance(several, list) and all(isinstance(symbol, str) for symbol in several)
    return several if right and several else []


def _is_name(value: object) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool) and value != ""


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


_FIELDS = {
    "id": (lambda item: _is_name(item.get("id")), "text or a whole number"),
    "ticker": (lambda item: bool(_tickers(item)), "a symbol in ticker, or a list of them in tickers"),
    "published_utc": (lambda item: isinstance(item.get("published_utc"), str), parsing.ZONED),
    "text": (lambda item: isinstance(item.get("text"), str), "a JSON string"),
    "lang": (lambda item: isinstance(item.get("lang"), str | None), "text or null"),
    "is_repost": (lambda item: isinstance(item.get("is_repost"), bool | None), "true, false or null"),
    "author": (lambda item: item.get("author") is None or _is_name(item["author"]), "text, a whole number or null"),
    "followers": (lambda item: item.get("followers") is None or _is_count(item["followers"]), "0 or more, or null"),
}
