"""The user's own folder (fusion_alpha/sources/csv_folder.py) as a live feed: files that grow, are replaced, go, return.

Every poll looks at the files; of one that changed, what is new is read, by the rules of the pipeline:

    a line counts when its line break is there: half a number is a number too. One that stays without is named
    a row that breaks a rule, or repeats a bar of its file, is refused by name (file, line, rule); its neighbours stay
    a file that cannot be read at all (a column missing, not UTF-8) or is gone silences its own ticker until it is right
    a file that was replaced is read anew; a bar that is known with other numbers is `revised` in the journal
    bars of one close wait half a minute for each other, since files are written one after the other
    a bar that is written before it counts as over waits until it does; what the file says last of it counts

Headlines are handed over once; an item whose text changes later counts as another one from then on, as in the pipeline.
"""

import hashlib
import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from fusion_alpha import cleaning, pii, sealed, stage
from fusion_alpha.config import Config
from fusion_alpha.errors import InputError
from fusion_alpha.live.clock import Hours
from fusion_alpha.live.feed import QUOTES, YEARS, Bar, Headline, History, Polled, Problem
from fusion_alpha.live.together import Together
from fusion_alpha.sources import csv_folder, parsing

log = logging.getLogger(__name__)

_PATIENCE = pd.Timedelta(seconds=30)  # of bars of one close with each other
_UNFINISHED = pd.Timedelta(seconds=60)  # after which a line without its break is named


_IN_TIME: cleaning.Rule = (
    "published_utc",
    f"from {YEARS[0]} to {YEARS[-1]}",
    lambda rows: rows["published_utc"].dt.year.isin(YEARS),
)


@dataclass
class _File:
    """What was read of a file."""

    name: str  # below the folder
    ticker: str = ""
    stamp: tuple[object, ...] | None = None
    done: int = 0  # bytes, whole lines all of them
    digest: bytes = hashlib.sha256().digest()
    lines: int = 0
    closes: dict[pd.Timestamp, int] = field(default_factory=dict)  # line of each bar after the history
    frame: pd.DataFrame | None = None  # all rows, where their adjustment has to be made from actions.csv
    rest_since: pd.Timestamp | None = None  # when a line without its break was first seen
    trouble: Problem | None = None


class FolderFeed:
    """`Feed` of the folder of data=csv."""

    name, delay_s = "csv", 0.0

    def __init__(self, cfg: Config, history: History) -> None:
        if cfg.data.source != "csv" or cfg.data.csv is None:
            raise InputError(
                f"parameter data.source = {cfg.data.source!r}", rule="--feed csv goes on where data=csv ends"
            )
        self.simulated = cfg.data.simulated
        self._cfg, self._hours = replace(cfg, tickers=[], end=None), Hours(cfg)
        self._silent_bars = cfg.live.silent_bars
        self._folder = stage.root() / Path(cfg.data.csv.folder).expanduser()
        self._last = {str(name): rows.max() for name, rows in history.prices.groupby("ticker")["bar_close_utc"]}
        self._after = dict(self._last)
        self._given: dict[tuple[str, pd.Timestamp], Bar] = {}
        self._hash = pii.key(cfg.data.public, has_authors=False)
        self._items = dict.fromkeys(zip(history.news["ticker"], history.news["news_id"], strict=True))
        self._texts: dict[
            tuple[str, str], tuple[pd.Timestamp, str]
        ] = {}  # time and text of each item, as of its last edit
        self._files: dict[str, _File] = {}
        self._settle = pd.Timedelta(seconds=cfg.live.settle_s)
        self._early: dict[tuple[str, pd.Timestamp], Bar] = {}  # written before they are over, for the guards
        self._waiting = Together(_PATIENCE)

    def ended(self, now: pd.Timestamp) -> bool:
        return False

    def seen(self, closes: dict[str, pd.Timestamp]) -> None:
        """What was handed over is known here already."""

    def poll(self, now: pd.Timestamp) -> Polled:
        problems: list[Problem] = []
        if not self._folder.is_dir():
            problem = Problem("missing", f"{self._folder} is gone", tuple(self._last))
            return Polled(self._released(now), problems=[problem], received_utc=now, answered=False)
        for file, path in self._prices(problems):
            for bar in self._new_bars(file, path, now, problems):
                self._early[bar.ticker, bar.close_utc] = bar
        for key in [key for key in self._early if key[1] <= now - self._settle]:
            bar = self._early.pop(key)
            self._last[bar.ticker] = max(self._last[bar.ticker], bar.close_utc)
            self._waiting.add(bar, now)
        headlines = self._headlines(now, problems)
        for problem in problems:
            if problem.kind == "rejected":
                log.warning("csv: %s", problem.detail)
        silenced = {ticker for problem in problems if problem.kind != "rejected" for ticker in problem.tickers}
        return Polled(
            self._released(now, silenced), headlines, problems, received_utc=now, answered=silenced < set(self._last)
        )

    def _released(self, now: pd.Timestamp, silenced: Collection[str] = ()) -> list[Bar]:
        """Bars that nobody is waited for: not the silenced, and not those that have missed several."""

        def complete(close: pd.Timestamp) -> bool:
            missing = (last for ticker, last in self._last.items() if last < close and ticker not in silenced)
            return all(self._hours.bars_between(last, close) > self._silent_bars for last in missing)

        return self._waiting.released(now, complete)

    def _prices(self, problems: list[Problem]) -> Iterator[tuple[_File, Path]]:
        """The price file of every ticker that there is history of."""
        try:
            paths = [path for path in sealed.listed(self._folder / "prices") if path.suffix.lower() == ".csv"]
        except (InputError, OSError) as error:
            problems.append(Problem("malformed", _line(error), tuple(self._last)))
            return
        for ticker in sorted(self._last):
            own = [path for path in paths if path.stem.upper() == ticker]
            if len(own) == 1:
                name = f"prices/{own[0].name}"
                yield self._files.setdefault(name, _File(name, ticker)), own[0]
            else:
                said = f"prices/{ticker}.csv is gone" if not own else f"prices has {len(own)} files of {ticker}"
                problems.append(Problem("malformed" if own else "missing", said, (ticker,)))

    def _new_bars(self, file: _File, path: Path, now: pd.Timestamp, problems: list[Problem]) -> list[Bar]:
        found: list[Bar] = []
        try:
            content = self._new_content(file, path, now, problems)
            if content is not None:
                found = self._bars(file, content, problems)
                file.trouble = None
        except (InputError, OSError) as error:
            _begin_again(file)
            file.trouble = Problem("malformed", f"{file.name}: {_line(error)}", (file.ticker,))
            log.warning("csv: %s", file.trouble.detail)
        if file.trouble is not None:
            problems.append(file.trouble)
        return found

    def _new_content(self, file: _File, path: Path, now: pd.Timestamp, problems: list[Problem]) -> bytes | None:
        """The header and the whole lines that are new, each at its line number; None where nothing is."""
        stamp = (*_stamp(path), *_stamp(self._folder / csv_folder.ACTIONS))
        if stamp == file.stamp:
            _name_unfinished(file, now, problems)
            return None
        content = sealed.read(path)
        whole = content[: content.rfind(b"\n") + 1]
        if hashlib.sha256(whole[: file.done]).digest() != file.digest:
            _begin_again(file)
        file.rest_since = now if len(content) > len(whole) else None
        head = whole.find(b"\n", len(whole) - len(whole.lstrip())) + 1
        start, before = file.done, file.lines
        file.stamp, file.done, file.lines = stamp, len(whole), whole.count(b"\n")
        file.digest = hashlib.sha256(whole).digest()
        if start == 0:
            return whole if whole or not content else None
        if not whole[start:].strip():
            return None
        return whole[:head] + b"\n" * (before - whole.count(b"\n", 0, head)) + whole[start:]

    def _bars(self, file: _File, content: bytes, problems: list[Problem]) -> list[Bar]:
        refused = parsing.Refusals()
        rows = parsing.price_file(content, file.name, file.ticker, refused)
        if len(rows) and rows["adj_close"].isna().all():
            file.frame = rows if file.frame is None else pd.concat([file.frame, rows], ignore_index=True)
            actions = csv_folder.read_actions(self._folder, set(self._last))
            adjusted = csv_folder.adjusted(file.frame, actions[actions["ticker"] == file.ticker])
            rows = rows.assign(adj_close=adjusted.to_numpy()[len(adjusted) - len(rows) :])
        good, rejected = cleaning.judged(rows, self._cfg)
        old = good["bar_close_utc"] <= self._after[file.ticker]
        named = good.loc[old, "line"].max() if not file.closes and old.any() else 0  # by the pipeline: its history
        rejected = pd.concat([refused.frame(), rejected])
        problems += [_refused(row, file.ticker) for row in rejected[rejected["line"] > named].itertuples()]
        found = []
        for row in good[~old].itertuples():
            first = file.closes.setdefault(row.bar_close_utc, row.line)
            if first != row.line:
                said = f"{file.name}:{row.line}: unique bar of a ticker: that of line {first} stays"
                problems.append(Problem("rejected", said, (file.ticker,)))
                continue
            bar = Bar(file.ticker, row.bar_close_utc, *(float(getattr(row, name)) for name in QUOTES))
            if self._given.get((file.ticker, bar.close_utc)) != bar:
                self._given[file.ticker, bar.close_utc] = bar
                found.append(bar)
        return found

    def _headlines(self, now: pd.Timestamp, problems: list[Problem]) -> list[Headline]:
        found: list[Headline] = []
        try:
            paths = [path for path in sealed.listed(self._folder / "news") if path.suffix.lower() == ".jsonl"]
        except (InputError, OSError) as error:
            problems.append(Problem("malformed", _line(error)))
            return []
        for path in paths:
            name = f"news/{path.name}"
            file = self._files.setdefault(name, _File(name))
            try:
                content = self._new_content(file, path, now, problems)
                if content:
                    found += self._items_of(file, content, problems)
                    file.trouble = None
            except (InputError, OSError) as error:
                _begin_again(file)
                file.trouble = Problem("malformed", f"{name}: {_line(error)}")
                log.warning("csv: %s", file.trouble.detail)
            problems += [] if file.trouble is None else [file.trouble]
        return found

    def _items_of(self, file: _File, content: bytes, problems: list[Problem]) -> list[Headline]:
        refused = parsing.Refusals()
        rows = list(csv_folder.items(content, file.name, refused))
        news = parsing.published(rows, refused, "published_utc", parsing.ZONED, parsing.instants)
        for column, rule, keeps in (*cleaning.NEWS_RULES, _IN_TIME):
            good = keeps(news).fillna(False).astype(bool)
            parsing.refuse(~good, news[column], news, "news", column, rule, refused)
            news = news[good]
        problems += [_refused(row, "") for row in refused.frame().itertuples()]
        news = news[news["ticker"].isin(list(self._last))].sort_values("published_utc", kind="stable")
        known = self._hash.hash("news", news["source_id"])
        return [
            item
            for row, name in zip(news.itertuples(), known, strict=True)
            if (item := self._item(row, str(name))) is not None
        ]

    def _item(self, row: Any, news_id: str) -> Headline | None:
        """The row as a headline; None where it repeats one, or is in the history."""
        key = (row.ticker, row.source_id)
        time, text = self._texts.get(key, (None, ""))
        if time is not None and (row.text == text or row.published_utc <= time):
            return None
        self._texts[key] = (row.published_utc, row.text)
        if time is None and (row.ticker, news_id) in self._items:
            return None
        edited = f"{row.source_id}\n{row.published_utc:%Y-%m-%dT%H:%M:%S.%fZ}"
        item_id = row.source_id if time is None else edited
        return Headline(row.ticker, item_id, row.published_utc, row.text, bool(row.is_repost))


def _stamp(path: Path) -> tuple[object, ...]:
    """What changes when a file does, sealed or not; nothing of one that is absent."""
    for form in (path, path.with_name(path.name + sealed.SUFFIX)):
        try:
            found = form.stat()
        except FileNotFoundError:
            continue
        return found.st_mtime_ns, found.st_size, found.st_ino
    return ()


def _begin_again(file: _File) -> None:
    """Nothing was read of the file yet; when it was looked at last stays known."""
    file.done, file.digest, file.lines, file.frame = 0, hashlib.sha256().digest(), 0, None
    file.closes.clear()


def _name_unfinished(file: _File, now: pd.Timestamp, problems: list[Problem]) -> None:
    if file.rest_since is not None and now - file.rest_since >= _UNFINISHED:
        said = f"{file.name}:{file.lines + 1}: a row ends with a line break"
        problems.append(Problem("rejected", said, (file.ticker,) if file.ticker else ()))
        file.rest_since = None


def _refused(row: Any, ticker: str) -> Problem:
    """A row of the rejected table."""
    place = f"{row.source_file}:{row.line}, {row.column}"
    value = "" if pd.isna(row.value) else f" = {row.value}"
    return Problem("rejected", f"{place}{value}: {row.rule}", (ticker,) if ticker else ())


def _line(error: Exception) -> str:
    """The message in one line."""
    return "; ".join(part.strip() for part in str(error).splitlines())[:200]
