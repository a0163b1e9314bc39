"""The router's tables: history through the batch layers once, then a row at a time, in arrays.

What a bar adds to each table is what the batch layers would write for it:

    panel           quotes adjusted by the ticker's factor, the clock of its bar from the calendar
    news_bars       an item belongs to the first bar whose cutoff is after its publication
    technical       indicators of fusion_alpha.indicators on the last bars; technical.cross_sections
    contradiction   sentiment, null, standardised score and severity (fusion_alpha/live/rolling.py)

and `samples` takes its windows from them as `samples.build` does from whole tables. Indicators that the model does not
read are not computed. A bar or an item that comes late makes the rows from its time on be computed again.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from fusion_alpha import contradiction, nulls, panel, samples, tables, technical
from fusion_alpha.config import Config
from fusion_alpha.errors import InputError
from fusion_alpha.indicators import WHITELIST
from fusion_alpha.live import rolling
from fusion_alpha.live.broker import Quote
from fusion_alpha.live.clock import Hours, instant, microseconds
from fusion_alpha.live.feed import QUOTES, Bar, History
from fusion_alpha.live.tail import Tail
from fusion_alpha.live.texts import News, Vectors
from fusion_alpha.samples import Samples
from fusion_alpha.text import text_hash

Floats = NDArray[np.float64]
PRICES = ("open", "high", "low", "close", "volume", "adjustment", "ret")  # of the panel
SCORES = ("n_news", "s", "z_s", "z_r", "cs", "severity", "p_touch_high", "p_touch_low", "null_drawdown")
_TIMES = ("bar_close_utc", "session", "cutoff_utc", "decided_utc", "fill_utc", "label_end_utc")
_S, _CS = SCORES.index("s"), SCORES.index("cs")
_CLOSE, _CUTOFF, _DECIDED = (_TIMES.index(name) for name in ("bar_close_utc", "cutoff_utc", "decided_utc"))
_NO_MOVEMENTS = tables.empty("benchmark")
_MARGIN = 60  # bars beyond what a window needs: so far back rows can be computed again


@dataclass(frozen=True)
class BarNews:
    """The items of one ticker's bar, in the order of samples: by publication, then by name."""

    items: list[News]
    order: NDArray[np.int64]  # [k], by name alone: the order in which sentiment is added up
    age_hours: Floats  # [k]
    hours: Floats  # [k], publication
    flags: NDArray[np.float32]  # [k, 4], samples.NEWS_FEATURES without the age
    embeddings: NDArray[np.float16]  # [k, D]
    shares: Floats  # [k, 3]


class State:
    """Tables of all tickers, each ticker's last rows in order of time."""

    def __init__(self, history: History, vectors: Vectors, cfg: Config) -> None:
        """Run the history through the batch layers. vectors: of every text in it."""
        self._cfg, self._vectors, self._hours = cfg, vectors, Hours(cfg)
        self._sectors = technical.read_sectors(Path(cfg.technical.sectors).expanduser())
        self._wanted = samples.technical_features(cfg.model.features)
        across = {item.name: item.of for item in technical.CROSS_SECTIONS if item.name in self._wanted}
        self._items = [item for item in WHITELIST if item.name in {*self._wanted, *across.values()}]
        self._across = bool(across)
        rules = cfg.contradiction
        self._keep = max(cfg.live.window_bars, rules.severity_bars, rules.window_bars, rules.null_sessions) + _MARGIN
        if max(item.warmup for item in self._items) >= cfg.live.window_bars:
            raise InputError(
                f"parameter live.window_bars = {cfg.live.window_bars}",
                rule="more than the longest warm-up of the model's features",
                remedy="raise it",
            )
        if cfg.target.session_rule != "cutoff":
            raise InputError(
                f"parameter target.session_rule = {cfg.target.session_rule!r}",
                rule="the router decides at a bar's close: cutoff",
            )
        self._known = dict[tuple[str, str], int]()  # when each known item was published
        self._news = dict[str, dict[int, BarNews]]()
        self._load(history)

    def last_close(self, ticker: str) -> pd.Timestamp:
        return instant(self._quotes[ticker]["times"][-1, _CLOSE])

    def table(self, name: str) -> pd.DataFrame:
        """The rows that are held of a table, in key order, for tests and for people; of features what is computed."""
        if name == "news_bars":
            return self._news_table()
        held = [self._rows[ticker] for ticker in self.tickers]
        owner = np.repeat(np.array(self.tickers, object), [len(rows) for rows in held])
        times = np.concatenate([rows["times"] for rows in held])
        frame = pd.DataFrame({"ticker": pd.Series(owner, dtype="str")})
        for number, column in enumerate(_TIMES if name == "panel" else _TIMES[:1]):
            frame[column] = _utc(times[:, number])
        columns = {"panel": PRICES, "technical": self._wanted, "contradiction": SCORES}[name]
        frame[list(columns)] = np.concatenate([rows[name] for rows in held])
        if name == "panel":
            label = pd.Series(pd.NA, frame.index, dtype="boolean")
            return frame.assign(target_ret=np.nan, target_label=label, split=panel.roles(frame, self._cfg.data))
        if name == "contradiction":
            rules = self._cfg.contradiction
            kind = contradiction.kind(frame["cs"].to_numpy(), rules.tau_over, rules.tau_under)
            return frame.assign(n_news=frame["n_news"].astype("int64"), kind=kind)
        return frame

    def add_news(self, *items: News) -> list[pd.Timestamp | None]:
        """Take items; of each, the close of the decided bar that it is too late for, whose rows are computed again.

        An item that is known changes nothing, and neither does one whose rows cannot be computed again.
        """
        found = [self._too_late_for(item) if self._is_new(item) else None for item in items]
        late = [close for close in found if close is not None]
        if late:
            self._again(min(late))
        return [None if close is None else instant(close) for close in found]

    def add(self, close: pd.Timestamp, bars: list[Bar]) -> None:
        """Add the bars that end at `close`, of all tickers that have one. Not after every known one: rows again.

        A bar that is known changes nothing, and neither does one whose rows cannot be computed again.
        """
        at = microseconds(close)
        bars = [bar for bar in bars if self._takes(bar.ticker, at)]
        if not bars:
            return
        session = microseconds(self._hours.session(close))
        late = at <= max(held["times"][-1, _CLOSE] for held in self._quotes.values())  # rows of a time belong together
        for bar in bars:
            held = self._quotes[bar.ticker]
            row = {"times": (at, session), "values": [getattr(bar, name) for name in QUOTES]}
            held.insert(int(held["times"][:, _CLOSE].searchsorted(at)), row)
        if late:
            self._again(at)
        else:
            self._extend(at, sorted(bar.ticker for bar in bars))

    def forget(self) -> set[str]:
        """Forget items from before the rows that are held: they change none. Returns hashes of the other texts."""
        oldest = {name: int(rows["times"][0, _CUTOFF]) for name, rows in self._rows.items()}
        self._known = {key: time for key, time in self._known.items() if time >= oldest[key[0]]}
        held = (item for news in self._news.values() for one in news.values() for item in one.items)
        return {item.text_hash for item in (*self._pending, *held)}

    def span(self, ticker: str, bars: int) -> int:
        """How many bars of the calendar the ticker's last `bars` rows stretch over; 0 where it has fewer."""
        closes = self._quotes[ticker]["times"][:, _CLOSE]
        if len(closes) <= bars:
            return 0
        return self._hours.bars_between(instant(closes[-bars - 1]), instant(closes[-1]))

    def samples(self, close: pd.Timestamp, tickers: Iterable[str]) -> tuple[Samples, NDArray[np.int64]]:
        """Samples of the tail of the tables, and the rows in it that end at `close`, are of `tickers` and usable.

        The other rows are there for the windows of these; they have no news of their own look-back.
        """
        model, at, asked = self._cfg.model, microseconds(close), set(tickers)
        depth = model.sessions + model.news_lookback_bars
        held = [self._rows[ticker] for ticker in self.tickers]
        lengths = [min(len(rows), depth) for rows in held]
        first = np.cumsum([0, *lengths[:-1]])
        times = np.concatenate([rows["times"][-depth:] for rows in held])
        volatility = np.concatenate(
            [rows["technical"][-depth:, self._wanted.index(samples.VOLATILITY)] for rows in held]
        )
        usable = volatility > 0
        here = np.flatnonzero(times[:, _CLOSE] == at)
        owner = np.repeat(np.arange(len(held)), lengths)
        blocks = list[BarNews]()
        count = np.zeros(len(times), np.int64)
        for row in here:
            ticker = self.tickers[owner[row]]
            for number in range(max(row - model.news_lookback_bars + 1, first[owner[row]]), row + 1):
                found = self._news[ticker].get(times[number, _CLOSE])
                if found is not None:
                    blocks.append(found)
                    count[number] = len(found.items)
        built = Samples(
            rows=self._keys(owner, times),
            feature_names=self._feature_names,
            usable=usable,
            volatility=volatility,
            sessions=torch.from_numpy(np.concatenate([rows["features"][-depth:] for rows in held])),
            score=torch.from_numpy(np.concatenate([rows["score"][-depth:] for rows in held])),
            label=torch.full((len(times),), torch.nan),
            target=torch.full((len(times),), torch.nan),
            first=torch.from_numpy(first[owner]),
            cutoff_hours=torch.from_numpy(_hours(times[:, _CUTOFF])),
            **self._sample_news(blocks, count),
            n_sessions=model.sessions,
            n_news=model.news_tokens,
            lookback=model.news_lookback_bars,
            use_text=model.use_text,
        )
        chosen = [row for row in here if usable[row] and self.tickers[owner[row]] in asked]
        return built, np.array(chosen, np.int64)

    def clock(self, close: pd.Timestamp) -> tuple[pd.Timestamp, pd.Timestamp]:
        """decided_utc and fill_utc of the rows that end at `close`."""
        at = microseconds(close)
        if not any((rows["times"][:, _CLOSE] == at).any() for rows in self._rows.values()):
            raise KeyError(close)
        times = self._clock(at)
        return instant(times[_DECIDED]), instant(times[_TIMES.index("fill_utc")])

    def quotes(self, close: pd.Timestamp) -> dict[str, Quote]:
        """Adjusted open and close of the bars that end at `close`, and the mean dollar volume of the bars before."""
        found, at = {}, microseconds(close)
        for ticker, held in self._rows.items():
            place = _place(held, at)
            if place is None:
                continue
            before = held["panel"][max(place - self._cfg.strategy.volume_bars, 0) : place]
            opened, close_, volume, adjustment = (
                PRICES.index(name) for name in ("open", "close", "volume", "adjustment")
            )
            dollars = before[:, close_] / before[:, adjustment] * before[:, volume]
            mean = float(dollars.mean()) if len(dollars) else np.nan
            row = held["panel"][place]
            found[ticker] = Quote(float(row[opened]), float(row[close_]), mean)
        return found

    def row(self, ticker: str, close: pd.Timestamp) -> dict[str, float | None]:
        """Quoted price, sentiment and contradiction score of a bar, for people; null where unknown."""
        at = microseconds(close)
        scores = self._rows[ticker]["contradiction"][self._rows[ticker]["times"][:, _CLOSE].searchsorted(at)]
        quotes = self._quotes[ticker]
        price = quotes["values"][quotes["times"][:, _CLOSE].searchsorted(at), QUOTES.index("close")]
        values = {"price": price, "s": scores[_S], "cs": scores[_CS]}
        return {name: float(value) if np.isfinite(value) else None for name, value in values.items()}

    def _load(self, history: History) -> None:
        """The tables of a history, by the batch layers."""
        cfg, rules = self._cfg, self._cfg.contradiction
        whole = panel.build(history.prices, _NO_MOVEMENTS, cfg)
        joined = joined_news(history.news, whole, cfg)
        text = self._vectors.table(joined["text_hash"].unique().tolist())
        scores = contradiction.build(whole, joined, text, rules)
        features = technical.build(whole, cfg.technical, sectors=self._sectors)[self._wanted]
        inputs = samples.contradiction_features(scores, features[samples.VOLATILITY].to_numpy("float64"))
        everything = [features, inputs] if cfg.model.use_contradiction else [features]
        columns = pd.concat([part.astype("float32") for part in everything], axis=1)
        self._feature_names = tuple(map(str, columns))
        log_moves = nulls.log_moves(whole)
        held = {
            "times": np.column_stack([_microseconds(whole[name]) for name in _TIMES]),
            "panel": whole[list(PRICES)].to_numpy("float64"),
            "moves": np.column_stack([log_moves[name] for name in rolling.MOVES]),
            "technical": features.to_numpy("float64"),
            "contradiction": scores[list(SCORES)].to_numpy("float64"),
            "features": columns.to_numpy("float32"),
            "score": scores["cs"].to_numpy("float32"),
        }
        quotes = {
            "times": np.column_stack([_microseconds(history.prices[name]) for name in _TIMES[:2]]),
            "values": history.prices[list(QUOTES)].to_numpy("float64"),
        }
        of = whole.groupby("ticker").indices
        self.tickers = sorted(map(str, of))
        self._rows = {
            name: Tail({key: part[of[name]] for key, part in held.items()}, self._keep) for name in self.tickers
        }
        self._quotes = {
            name: Tail({key: part[of[name]] for key, part in quotes.items()}, self._keep) for name in self.tickers
        }
        ratio = (history.prices["adj_close"] / history.prices["close"]).to_numpy("float64")
        self._ratio = {name: float(ratio[of[name][0]]) for name in self.tickers}
        self._pending = list[News]()
        published = _microseconds(joined["published_utc"]).tolist()
        self._known = dict(zip(zip(joined["ticker"], joined["news_id"], strict=True), published, strict=True))
        self._news = {name: {} for name in self.tickers}
        oldest = joined["ticker"].map({name: instant(rows["times"][0, _CLOSE]) for name, rows in self._rows.items()})
        recent = joined[joined["bar_close_utc"] >= oldest]
        for (name, _), part in recent.groupby(["ticker", "bar_close_utc"]):
            columns_ = ["ticker", "news_id", "published_utc", "text_hash", "is_repost"]
            items = [News(*item) for item in part[columns_].itertuples(index=False, name=None)]
            self._note(str(name), microseconds(part["bar_close_utc"].iloc[0]), items)

    def _is_new(self, item: News) -> bool:
        """Note the item as pending, unless it is known or of no ticker here."""
        key = (item.ticker, item.news_id)
        if key in self._known or item.ticker not in self._rows:
            return False
        self._known[key] = microseconds(item.published_utc)
        self._pending.append(item)
        return True

    def _too_late_for(self, item: News) -> int | None:
        times = self._rows[item.ticker]["times"]
        place = int(times[:, _CUTOFF].searchsorted(microseconds(item.published_utc), side="right"))
        if place == len(times):
            return None
        if place < self._first_again(self._rows[item.ticker]):
            self._pending.remove(item)
            return None
        return int(times[place, _CLOSE])

    def _takes(self, ticker: str, at: int) -> bool:
        if ticker not in self._quotes:
            return False
        held = self._quotes[ticker]
        closes = held["times"][:, _CLOSE]
        place = int(closes.searchsorted(at))
        return place == len(closes) or (place >= self._first_again(held) and bool(closes[place] != at))

    def _first_again(self, held: Tail) -> int:
        """First row that can be computed again: one with all the rows before it that it needs."""
        return self._keep - _MARGIN if len(held) == self._keep else 1

    def _again(self, at: int) -> None:
        """Compute all rows from the bar that ends at `at` on again."""
        for ticker, held in self._rows.items():
            held.cut(int(held["times"][:, _CLOSE].searchsorted(at)))
            news = self._news[ticker]
            for close in [close for close in news if close >= at]:
                self._pending += news.pop(close).items
        closes = {int(time) for held in self._quotes.values() for time in held["times"][:, _CLOSE] if time >= at}
        for time in sorted(closes):
            self._extend(time, [name for name in self.tickers if _place(self._quotes[name], time) is not None])

    def _extend(self, at: int, tickers: list[str]) -> None:
        """The rows of the bar that ends at `at`, for tickers that have one; every earlier row is in the tables."""
        held = [self._rows[ticker] for ticker in tickers]
        times = self._clock(at)
        prices, moves = self._panel_rows(at, tickers)
        for rows, price, move in zip(held, prices, moves, strict=True):
            rows.append({"times": times, "panel": price, "moves": move})
        features = self._technical_rows(tickers)
        scores = self._scores(at, times, tickers)
        columns = [pd.DataFrame(features, columns=self._wanted).astype("float32")]
        if self._cfg.model.use_contradiction:
            volatility = features[:, self._wanted.index(samples.VOLATILITY)]
            columns.append(samples.contradiction_features(pd.DataFrame(scores, columns=list(SCORES)), volatility))
        inputs = np.concatenate([part.to_numpy("float32") for part in columns], axis=1)
        for rows, feature, score, given in zip(held, features, scores, inputs, strict=True):
            rows["technical"][-1], rows["contradiction"][-1] = feature, score
            rows["features"][-1], rows["score"][-1] = given, score[_CS]

    def _clock(self, at: int) -> tuple[int, ...]:
        """_TIMES of the bar that ends at `at`, as panel.clock has them."""
        target, close = self._cfg.target, instant(at)
        decided = close + pd.Timedelta(seconds=target.decision_delay_s)
        fill = self._hours.fill(decided)
        cutoff = close - pd.Timedelta(seconds=target.news_delay_s)
        session = self._hours.session(close)
        return tuple(map(microseconds, (close, session, cutoff, decided, fill, self._hours.next_open(fill))))

    def _panel_rows(self, at: int, tickers: list[str]) -> tuple[Floats, Floats]:
        """PRICES and rolling.MOVES of new rows: panel.adjust and nulls.log_moves from the rows before."""
        quoted = np.empty((len(tickers), len(QUOTES)))
        before, earlier = np.full(len(tickers), np.nan), np.full(len(tickers), -1, np.int64)
        sessions = np.empty(len(tickers), np.int64)
        for number, ticker in enumerate(tickers):
            quotes, rows = self._quotes[ticker], self._rows[ticker]
            place = int(quotes["times"][:, _CLOSE].searchsorted(at))
            quoted[number], sessions[number] = quotes["values"][place], quotes["times"][place, 1]
            if len(rows):
                before[number] = rows["panel"][-1, PRICES.index("close")]
                earlier[number] = rows["times"][-1, 1]
        opened, high, low, close, adj_close, volume = quoted.T
        factor = adj_close / close / np.array([self._ratio[ticker] for ticker in tickers])
        adjusted = np.column_stack([opened, high, low, close]) * factor[:, None]
        prices = np.column_stack([adjusted, volume, factor, adjusted[:, 3] / before - 1])
        return prices, rolling.moves(adjusted, before, sessions != earlier)

    def _technical_rows(self, tickers: list[str]) -> Floats:
        """What is wanted of the technical table, for the last row of each ticker."""
        bars, numbers = [], np.empty(len(tickers), np.int64)
        for number, ticker in enumerate(tickers):
            held = self._rows[ticker]["panel"][-self._cfg.live.window_bars :]
            adjusted = held[:, : len(rolling.BARS)].copy()
            adjusted[:, -1] /= held[:, PRICES.index("adjustment")]
            bars.append(adjusted)
            numbers[number] = len(self._rows[ticker]) - 1
        found = rolling.indicators(self._items, bars, self._cfg.live.window_bars)
        warm = np.array([max(item.warmup, self._cfg.technical.warmup_bars) for item in self._items])
        found = np.where(np.isfinite(found) & (numbers[:, None] >= warm), found, np.nan)
        values = dict(zip([item.name for item in self._items], found.T, strict=True))
        if self._across:
            columns = pd.DataFrame(values).reindex(columns=[item.name for item in WHITELIST])
            sector = pd.Series(tickers, dtype="str").map(self._sectors)
            across = technical.cross_sections(columns, pd.Series(0, columns.index), sector)
            values |= {str(name): across[name].to_numpy() for name in across}
        return np.column_stack([values[name] for name in self._wanted])

    def _scores(self, at: int, times: Sequence[int], tickers: list[str]) -> Floats:
        """SCORES of the last row of each ticker."""
        rules, held = self._cfg.contradiction, [self._rows[ticker] for ticker in tickers]
        news = self._assign(at, times[_CUTOFF], tickers)
        none = np.zeros(0)
        n_news, s = rolling.sentiment(
            np.repeat(np.arange(len(news)), [0 if one is None else len(one.items) for one in news]),
            np.concatenate([none, *(one.age_hours[one.order] for one in news if one is not None)]),
            np.concatenate([np.zeros((0, 3)), *(one.shares[one.order] for one in news if one is not None)]),
            len(tickers),
            rules.half_life_hours,
        )
        for rows, value in zip(held, s, strict=True):
            rows["contradiction"][-1, _S] = value
        z_s = self._standardised(tickers)
        null = rolling.null([rows["moves"] for rows in held], rules)
        cs = contradiction.score(z_s, null.z_r)
        past = [rows["contradiction"][:-1, _CS] for rows in held]
        severity = rolling.severity(cs, past, rules.severity_bars)
        columns = (n_news, s, z_s, null.z_r, cs, severity, null.p_touch_high, null.p_touch_low, null.drawdown)
        return np.column_stack(columns)

    def _standardised(self, tickers: list[str]) -> Floats:
        bars = self._cfg.contradiction.window_bars + 1
        s = [self._rows[name]["contradiction"][-bars:, _S] for name in self.tickers]
        times = [self._rows[name]["times"][-bars:, _CLOSE] for name in self.tickers]
        place = {name: number for number, name in enumerate(self.tickers)}
        return rolling.standardised(s, times, self._cfg.contradiction)[[place[name] for name in tickers]]

    def _assign(self, at: int, cutoff: int, tickers: list[str]) -> list[BarNews | None]:
        """Give pending items to the new rows; returns the news of each."""
        mine = {name: list[News]() for name in tickers}
        pending = []
        for item in self._pending:
            if item.ticker in mine and microseconds(item.published_utc) < cutoff:
                mine[item.ticker].append(item)
            else:
                pending.append(item)
        self._pending = pending
        for name, items in mine.items():
            news, oldest = self._news[name], self._rows[name]["times"][0, _CLOSE]
            while news and next(iter(news)) < oldest:
                news.pop(next(iter(news)))
            if items:
                self._note(name, at, items, cutoff)
        return [self._news[name].get(at) for name in tickers]

    def _note(self, ticker: str, at: int, items: list[News], cutoff: int | None = None) -> None:
        """Keep the items of a bar, as samples and sentiment need them."""
        if cutoff is None:
            cutoff = at - round(self._cfg.target.news_delay_s * 1e6)
        items = sorted(items, key=lambda item: (item.published_utc, item.news_id))
        published = np.array([microseconds(item.published_utc) for item in items], np.int64)
        embeddings, shares = self._vectors.rows([item.text_hash for item in items])
        reposts = np.array([item.is_repost for item in items], np.float32)
        self._news[ticker][at] = BarNews(
            items=items,
            order=np.array(sorted(range(len(items)), key=lambda number: items[number].news_id), np.int64),
            age_hours=_hours(cutoff - published),
            hours=_hours(published),
            flags=np.column_stack([reposts, shares.astype(np.float32)]),
            embeddings=embeddings,
            shares=shares,
        )

    def _keys(self, owner: NDArray[np.int64], times: NDArray[np.int64]) -> pd.DataFrame:
        """`Samples.rows`."""
        columns = {
            name: _utc(times[:, _TIMES.index(name)]) for name in ("bar_close_utc", "decided_utc", "label_end_utc")
        }
        frame = pd.DataFrame({"ticker": pd.Series(np.array(self.tickers, object)[owner], dtype="str")} | columns)
        return frame.assign(split=panel.roles(frame, self._cfg.data))

    def _news_table(self) -> pd.DataFrame:
        names = ("ticker", "news_id", "published_utc", "text_hash", "is_repost")
        rows = [
            (*(getattr(item, name) for name in names), instant(close), age)
            for news in self._news.values()
            for close, one in news.items()
            for item, age in zip(one.items, one.age_hours, strict=True)
        ]
        empty = tables.empty("news_bars")
        table = pd.DataFrame(rows, columns=[*names, "bar_close_utc", "age_hours"])[list(empty)]
        return table.astype(empty.dtypes.to_dict()).sort_values(["ticker", "news_id"], ignore_index=True)

    def _sample_news(self, blocks: list[BarNews], count: NDArray[np.int64]) -> dict[str, Any]:
        """The news arrays of `Samples`; one item that nothing points at where there are none."""
        start = np.concatenate([[0], np.cumsum(count)])
        if not blocks:
            blocks = [_nothing(self._cfg.text.dim)]
            count = np.eye(1, len(count), dtype=np.int64)[0]
        row = np.repeat(np.arange(len(count)), count)
        embeddings = np.concatenate([block.embeddings for block in blocks])
        return {
            "news_start": torch.from_numpy(start),
            "news_row": torch.from_numpy(row),
            "news_hours": torch.from_numpy(np.concatenate([block.hours for block in blocks])),
            "news_text": torch.arange(len(embeddings)),
            "news_features": torch.from_numpy(np.concatenate([block.flags for block in blocks])),
            "embeddings": embeddings,
        }


def joined_news(news: pd.DataFrame, whole: pd.DataFrame, cfg: Config) -> pd.DataFrame:
    """`panel.join_news` on tables in memory."""
    since = panel.news_since(whole, cfg).set_index("ticker")["since"]
    bars, parts = dict(iter(whole.groupby("ticker"))), [tables.empty("news_bars")]
    for ticker, items in news.groupby("ticker"):
        if ticker not in bars:
            continue
        cutoffs, published = _microseconds(bars[ticker]["cutoff_utc"]), _microseconds(items["published_utc"])
        place = cutoffs.searchsorted(published, side="right")
        inside = (published >= microseconds(since[ticker])) & (place < len(cutoffs))
        place, kept = place[inside], items[inside]
        columns = {
            "ticker": kept["ticker"],
            "news_id": kept["news_id"],
            "bar_close_utc": bars[ticker]["bar_close_utc"].iloc[place].set_axis(kept.index),
            "published_utc": kept["published_utc"],
            "age_hours": _hours(cutoffs[place] - published[inside]),
            "text_hash": [text_hash(text) for text in kept["text"]],
            "is_repost": kept["is_repost"],
        }
        parts.append(pd.DataFrame(columns).astype(parts[0].dtypes.to_dict()))
    return pd.concat(parts).sort_values(["ticker", "news_id"], ignore_index=True)


def _nothing(dim: int) -> BarNews:
    """An item that nothing points at: arrays of news are never empty."""
    return BarNews(
        items=[],
        order=np.zeros(0, np.int64),
        age_hours=np.zeros(1),
        hours=np.zeros(1),
        flags=np.zeros((1, 4), np.float32),
        embeddings=np.zeros((1, dim), np.float16),
        shares=np.zeros((1, 3)),
    )


def _place(held: Tail, at: int) -> int | None:
    """Row of the bar that ends at `at`."""
    closes = held["times"][:, _CLOSE]
    place = int(closes.searchsorted(at))
    return place if place < len(closes) and closes[place] == at else None


def _hours(microseconds_: NDArray[np.int64]) -> Floats:
    return microseconds_ / 3.6e9


def _microseconds(times: pd.Series) -> NDArray[np.int64]:
    return times.to_numpy("datetime64[us]").astype("int64")


def _utc(microseconds_: NDArray[np.int64]) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(microseconds_.astype("datetime64[us]")).tz_localize("UTC")
