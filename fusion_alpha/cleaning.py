"""Canonical rows -> interim tables: what is plausible, in UTC, unique and free of personal data, for all sources alike.

In this order, so that every row is accounted for once (rows = left out + rejected + kept):

    tickers    cfg.tickers; news of a ticker without prices can reach no bar. A choice: left out, not rejected
    clock      a day becomes the close of its session; a bar within the day must end on the grid of cfg.interval
    window     cfg.start .. cfg.end: sessions of prices, UTC days of publication of news. Left out, not rejected
    rules      below; the first that a row breaks rejects it, with its place
    identity   first row of a (ticker, bar) or (ticker, item) stays, later ones are rejected, equal or not
    privacy    text is scrubbed, identifiers become keyed hashes (fusion_alpha.pii)

Nothing is clamped or repaired. High and low may miss open and close by TOLERANCE of the price, since some sources carry
32-bit floats; StockNet's six decimals need none of it (no violation in 108,589 bars).
"""

import difflib
import html
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from fusion_alpha import pii, sessions, tables
from fusion_alpha.config import Config
from fusion_alpha.errors import InputError
from fusion_alpha.sources import RawRows

log = logging.getLogger(__name__)

TOLERANCE = 1e-6
SYMBOL = r"[A-Z0-9.^-]{1,12}"
NAMED = {"session": "date", "source_id": "id"}  # columns as files call them, where that differs
SHOWN = 3  # rejected rows named in the log and in errors
LEFT_OUT = {
    "tickers": "not in tickers",
    "window": "not between start and end",
    "no_prices": "their ticker has no prices",
    "source": "not between the source's own first and last session",
}

Rule = tuple[str, str, Callable[[pd.DataFrame], pd.Series]]  # column, rule, rows that keep it


def _positive(name: str) -> Rule:
    return name, "positive and finite", lambda rows: (rows[name] > 0) & np.isfinite(rows[name])


PRICE_RULES: list[Rule] = [
    ("ticker", f"symbol: {SYMBOL}", lambda rows: rows["ticker"].str.fullmatch(SYMBOL)),
    *map(_positive, ("open", "high", "low", "close", "adj_close")),
    ("volume", "0 or more and finite", lambda rows: (rows["volume"] >= 0) & np.isfinite(rows["volume"])),
    (
        "high",
        "at least open, close and low",
        lambda rows: rows["high"] * (1 + TOLERANCE) >= rows[["open", "close", "low"]].max(axis=1),
    ),
    (
        "low",
        "at most open, close and high",
        lambda rows: rows["low"] * (1 - TOLERANCE) <= rows[["open", "close", "high"]].min(axis=1),
    ),
]
NEWS_RULES: list[Rule] = [
    ("ticker", f"symbol: {SYMBOL}", lambda rows: rows["ticker"].str.fullmatch(SYMBOL)),
    ("source_id", "present", lambda rows: rows["source_id"].notna() & (rows["source_id"] != "")),
    ("published_utc", "present", lambda rows: rows["published_utc"].notna()),
    ("text", "not empty", lambda rows: rows["text"].notna() & (rows["text"] != "")),
    ("followers", "0 or more", lambda rows: (rows["followers"] >= 0).fillna(True).astype(bool)),
]


@dataclass
class Interim:
    """The interim tables and what metrics/clean.json says about them."""

    prices: pd.DataFrame
    news: pd.DataFrame
    rejected: pd.DataFrame
    benchmark: pd.DataFrame
    metrics: dict[str, Any]


@dataclass
class _Account:
    """Where the rows of one table went."""

    table: str
    rows: int
    left_out: dict[str, int] = field(default_factory=dict)
    rejected: list[pd.DataFrame] = field(default_factory=list)

    def leave_out(self, rows: pd.DataFrame, keep: pd.Series, why: str) -> pd.DataFrame:
        self.left_out[why] = int((~keep).sum())
        return rows[keep]

    def reject(self, rows: pd.DataFrame, good: pd.Series, column: str, rule: str) -> pd.DataFrame:
        """Note the rows that are not good; returns the others. The value is kept for prices only."""
        good = good.fillna(False).astype(bool)
        if good.all():
            return rows
        bad = rows[~good]
        value = bad[column].astype("str") if self.table == "prices" else pd.Series(None, index=bad.index, dtype="str")
        noted = bad[["source_file", "line"]].assign(
            table=self.table, column=NAMED.get(column, column), rule=rule, value=value
        )
        self.rejected.append(noted)
        return rows[good]


def clean(rows: RawRows, cfg: Config) -> Interim:
    """Decide about every row that a source has read.

    Raises InputError for an unknown ticker, bars of another interval, no bar left, and when more than
    clean.max_rejected_share of the prices or of the news is rejected; it names the first rejected rows.
    """
    _check_tickers(rows.prices, cfg)
    accounts = [_Account("prices", len(rows.prices)), _Account("news", len(rows.news))]
    prices = _prices(rows.prices, cfg, accounts[0])
    if prices.empty:
        accounts[1].rows = 0  # no bar, so no time before which news could be judged
        news = rows.news.head(0)
    else:
        news = _news(rows.news, prices, rows.prices["ticker"], cfg, accounts[1])
    rejected = _rejected_table(rows.rejected, accounts)
    summaries = {
        account.table: _summary(account, rows, len(kept))
        for account, kept in zip(accounts, (prices, news), strict=True)
    }
    _report(rejected, summaries, cfg)
    if prices.empty:
        raise InputError("no price rows are left", rule="at least one bar", remedy="check tickers, start and end")
    private, privacy = _without_personal_data(news, cfg)
    movements = rows.benchmark[rows.benchmark["ticker"].isin(prices["ticker"].unique())]
    metrics = summaries | {"rejected_by_rule": _by_rule(rejected), "pii": privacy, "span": _span(prices, private)}
    price_columns = list(tables.schema("prices").columns)
    return Interim(prices[price_columns], private, rejected, movements.reset_index(drop=True), metrics)


def judged(rows: pd.DataFrame, cfg: Config) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What `clean` says of price rows alone: those that it keeps, with their places, and the rejected table."""
    account = _Account("prices", len(rows))
    kept = _prices(rows, cfg, account)
    return kept, _rejected_table(tables.empty("rejected"), [account])


def _summary(account: _Account, rows: RawRows, kept: int) -> dict[str, Any]:
    """Where the rows of a table went, those that the source could not parse or left out itself included."""
    refused = sum(len(part) for part in account.rejected)
    left_out = dict(account.left_out)
    balance = sum(left_out.values()) + refused + kept
    assert account.rows == balance, f"{account.table}: {account.rows} rows came, {balance} are accounted for"
    unparsed = int((rows.rejected["table"] == account.table).sum())
    if rows.left_out.get(account.table):
        left_out["source"] = rows.left_out[account.table]
    total = account.rows + unparsed + left_out.get("source", 0)
    return {"rows": total, "kept": kept, "rejected": refused + unparsed, "left_out": left_out}


def _check_tickers(prices: pd.DataFrame, cfg: Config) -> None:
    known = sorted(prices["ticker"].unique())
    for ticker in cfg.tickers:
        if ticker not in known:
            close = difflib.get_close_matches(ticker.upper(), known, n=3)
            shown = ", ".join(close or known[:20]) + ("" if close or len(known) <= 20 else ", ...")
            raise InputError(
                f"parameter tickers: {ticker!r} is not in source {cfg.data.source}",
                rule="a ticker with prices",
                remedy=f"did you mean {shown}?" if close else f"choose from {shown}",
            )


def _prices(rows: pd.DataFrame, cfg: Config, account: _Account) -> pd.DataFrame:
    if cfg.tickers:
        rows = account.leave_out(rows, rows["ticker"].isin(cfg.tickers), "tickers")
    _check_interval(rows, cfg)
    rows = _on_the_clock(rows, cfg)
    day = rows["session"].fillna(rows["bar_close_utc"].dt.tz_localize(None).dt.normalize())
    if cfg.start or cfg.end:
        rows = account.leave_out(rows, _within(day, cfg), "window")
    daily = cfg.bar_minutes is None
    on_clock = rows["bar_close_utc"].notna() & rows["session"].notna()
    rule = f"a session of {cfg.data.exchange}" if daily else f"the end of a {cfg.interval} bar of {cfg.data.exchange}"
    rows = account.reject(rows, on_clock, "session" if daily else "bar_close_utc", rule)
    for column, rule, good in PRICE_RULES:
        rows = account.reject(rows, good(rows), column, rule)
    first = ~rows.duplicated(tables.BAR_KEY)
    column = "session" if daily else "bar_close_utc"
    return account.reject(rows, first, column, "unique bar of a ticker: the first row stays")


def _check_interval(rows: pd.DataFrame, cfg: Config) -> None:
    daily = cfg.bar_minutes is None
    wrong = rows[rows["session" if daily else "bar_close_utc"].isna()]
    if len(wrong):
        raise InputError(
            "a bar within the day" if daily else "a daily bar",
            file=wrong["source_file"].iloc[0],
            line=int(wrong["line"].iloc[0]),
            column="bar_close_utc" if daily else "date",
            rule=f"interval = {cfg.interval}",
            remedy="set interval to the length of the source's bars",
        )


def _on_the_clock(rows: pd.DataFrame, cfg: Config) -> pd.DataFrame:
    """Fill bar_close_utc from session (daily), else session from bar_close_utc; null where the calendar has no bar."""
    if rows.empty:
        return rows
    daily = cfg.bar_minutes is None
    times = rows["session"] if daily else rows["bar_close_utc"].dt.tz_localize(None)
    first, last = (pd.Timestamp(day).normalize() for day in (times.min(), times.max()))
    margin = pd.Timedelta(days=1)
    calendar = sessions.bars(cfg.data.exchange, first - margin, last + margin, cfg.bar_minutes)
    known, wanted = ("session", "bar_close_utc") if daily else ("bar_close_utc", "session")
    place = pd.Index(calendar[known]).get_indexer(rows[known])
    found = pd.Series(calendar[wanted].array.take(place, allow_fill=True), index=rows.index)
    return rows.assign(**{wanted: found.astype(rows[wanted].dtype)})


def _within(day: pd.Series, cfg: Config) -> pd.Series:
    """Days in start .. end; days that are not known count as inside, for the rules to reject."""
    inside = pd.Series(True, index=day.index)
    if cfg.start:
        inside &= ~(day < pd.Timestamp(cfg.start))
    if cfg.end:
        inside &= ~(day > pd.Timestamp(cfg.end))
    return inside


def _news(
    rows: pd.DataFrame, prices: pd.DataFrame, tickers_with_prices: pd.Series, cfg: Config, account: _Account
) -> pd.DataFrame:
    if cfg.tickers:
        rows = account.leave_out(rows, rows["ticker"].isin(cfg.tickers), "tickers")
    rows = account.leave_out(rows, rows["ticker"].isin(tickers_with_prices.unique()), "no_prices")
    if cfg.start or cfg.end:
        rows = account.leave_out(
            rows, _within(rows["published_utc"].dt.tz_localize(None).dt.normalize(), cfg), "window"
        )
    rows = rows.assign(text=tidy(rows["text"]))
    for column, rule, good in NEWS_RULES:
        rows = account.reject(rows, good(rows), column, rule)
    days = cfg.clean.news_after_end_days
    latest = prices["bar_close_utc"].max() + pd.Timedelta(days=days)
    rule = f"not from the future: at most {days} days after the last bar"
    rows = account.reject(rows, rows["published_utc"] <= latest, "published_utc", rule)
    rows = rows.assign(version=_versions(rows))
    return account.reject(rows, rows["version"] >= 0, "source_id", "unique item of a ticker: the earliest stays")


def _versions(rows: pd.DataFrame) -> pd.Series:
    """0 for an item, 1 and up for its edits, each known from its own time on; -1 for a repetition.

    By publication, not by place in the file: in a feed with the newest first, an edit would replace what was known.
    """
    item = ["ticker", "source_id"]
    ordered = rows.sort_values("published_utc", kind="stable").drop_duplicates([*item, "published_utc"])
    before = ordered.groupby(item, sort=False)["text"].shift()
    kept = ordered[before.isna() | (ordered["text"] != before)]
    return kept.groupby(item, sort=False).cumcount().reindex(rows.index, fill_value=-1)


# Control characters, and marks without width or against the reading direction, which could hide a handle.
_INVISIBLE = dict.fromkeys([*range(9), 11, *range(14, 28), *range(127, 133), *range(134, 160), 0x200B, 0x2060, 0xFEFF])
_INVISIBLE |= dict.fromkeys([0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)])


def tidy(texts: pd.Series) -> pd.Series:
    """HTML entities decoded, invisible characters out, runs of white space one space."""
    codes, distinct = pd.factorize(texts)
    tidy = [" ".join(html.unescape(text).translate(_INVISIBLE).split()) for text in distinct]
    return pd.Series([*tidy, None], dtype="str").take(codes).set_axis(texts.index)  # code -1, a null, takes the last


def _without_personal_data(news: pd.DataFrame, cfg: Config) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Interim news (schemas/news.yaml), and what personal data it held before and holds now."""
    key = pii.key(cfg.data.public, has_authors=bool(news["author"].notna().any()))
    text, before = pii.scrub_all(news["text"])
    _, after = pii.scrub_all(text)
    if any(after.values()):
        raise AssertionError(f"personal data is left in interim text: {after}")
    absent = [kind for kind in pii.RARE if not before[kind]]
    before, after = ({kind: n for kind, n in counts.items() if kind not in absent} for counts in (before, after))
    private = news.assign(
        text=text,
        news_id=key.hash("news", _identifiers(news)),
        author_key=key.hash("author", news["author"]),
        source=cfg.data.source,
    )
    private = private[list(tables.schema("news").columns)].reset_index(drop=True)
    counts = {
        "before": before | {"author_ids": int(news["author"].notna().sum())},
        "after": after | {"author_ids": int(private["author_key"].isin(news["author"].dropna()).sum())},
        "key_fingerprint": key.fingerprint,
        "key_private": key.private,
    }
    return private, counts


def _identifiers(news: pd.DataFrame) -> pd.Series:
    """The source's own; an edit's carries its time, since an item keeps its text of each time."""
    edited = news["source_id"] + "\n" + news["published_utc"].dt.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return news["source_id"].where(news["version"] == 0, edited)


def _rejected_table(unparsed: pd.DataFrame, accounts: list[_Account]) -> pd.DataFrame:
    """All rejected rows, by place; one row for each place and rule, also where a line was about two tickers."""
    empty = tables.empty("rejected")
    parts = [part for part in (unparsed, *(part for account in accounts for part in account.rejected)) if len(part)]
    if not parts:
        return empty
    table = pd.concat([part[list(empty)] for part in parts], ignore_index=True).astype(empty.dtypes.to_dict())
    key = tables.schema("rejected").key
    return table.drop_duplicates(key).sort_values(key, ignore_index=True)


def _by_rule(rejected: pd.DataFrame) -> dict[str, int]:
    names = rejected["table"] + "." + rejected["column"] + ": " + rejected["rule"]
    return {str(name): int(count) for name, count in names.value_counts().sort_index().items()}


def _report(rejected: pd.DataFrame, accounts: dict[str, dict[str, Any]], cfg: Config) -> None:
    """Log what was rejected; InputError where it is too much."""
    for name, count in _by_rule(rejected).items():
        log.warning("rejected %d: %s", count, name)
    for place in _places(rejected):
        log.warning("  %s", place)
    for table, account in accounts.items():
        for why, count in account["left_out"].items():
            if count:
                log.info("%d rows of %s left out: %s", count, table, LEFT_OUT[why])
        judged = account["kept"] + account["rejected"]
        if account["rejected"] > cfg.clean.max_rejected_share * judged:
            mine = rejected[rejected["table"] == table]
            first = mine.iloc[0]
            raise InputError(
                f"{account['rejected']} of {judged} rows of {table} are rejected; the first:\n    "
                + "\n    ".join(_places(mine)),
                file=first["source_file"],
                line=int(first["line"]),
                column=first["column"],
                rule=f"at most clean.max_rejected_share = {cfg.clean.max_rejected_share} of the rows",
                remedy="correct the rows at their source, or allow more: clean.max_rejected_share=0.05",
            )


def _places(rejected: pd.DataFrame) -> list[str]:
    first = rejected.head(SHOWN)
    return [
        f"{file}, line {line}, column {column}: {rule}" + ("" if pd.isna(value) else f" (value: {value})")
        for file, line, column, rule, value in zip(
            *(first[name] for name in ("source_file", "line", "column", "rule", "value")), strict=True
        )
    ]


def _span(prices: pd.DataFrame, news: pd.DataFrame) -> dict[str, Any]:
    return {
        "tickers": int(prices["ticker"].nunique()),
        "first_session": str(prices["session"].min().date()),
        "last_session": str(prices["session"].max().date()),
        "distinct_texts": int(news["text"].nunique()),
    }
