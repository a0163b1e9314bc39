"""The router's tables: history through the batch layers once, then a row at a time by the same functions.

What a bar adds to each table is what the batch layers would write for it:

    panel           panel.adjust over the ticker's first, previous and new bar; panel.clock, target and roles of the row
    news_bars       an item belongs to the first bar whose cutoff is after its publication
    technical       indicators of fusion_alpha.indicators on the last `live.window_bars` bars; technical.cross_sections
    contradiction   sentiment, null, standardised score and severity by the functions of contradiction and nulls

Samples are built by `samples.build` on the tail of these tables. Indicators that the model does not read stay null. A
bar or an item that comes late makes the rows from its time on be computed again.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fusion_alpha import contradiction, nulls, panel, samples, tables, technical
from fusion_alpha.config import Config
from fusion_alpha.errors import InputError
from fusion_alpha.indicators import WHITELIST, Indicator
from fusion_alpha.live.broker import Quote
from fusion_alpha.live.clock import Hours
from fusion_alpha.live.feed import Bar, History
from fusion_alpha.live.texts import Vectors
from fusion_alpha.samples import Samples
from fusion_alpha.tables import BAR_KEY

_NO_MOVEMENTS = tables.empty("benchmark")
_PRICES = list(tables.schema("prices").columns)
_PANEL = list(tables.schema("panel").columns)
_MARGIN = 20  # bars beyond what a window needs, for tickers that miss some


@dataclass(frozen=True)
class News:
    """An item ready for the tables: no personal data, its text known by its hash."""

    ticker: str
    news_id: str
    published_utc: pd.Timestamp
    text_hash: str
    is_repost: bool


class State:
    """Tables of all tickers, each ticker's last rows in order of time."""

    def __init__(self, history: History, vectors: Vectors, cfg: Config) -> None:
        """Run the history through the batch layers. vectors: of every text in it."""
        self._cfg, self._vectors, self._hours = cfg, vectors, Hours(cfg)
        self._sectors = technical.read_sectors(Path(cfg.technical.sectors).expanduser())
        self._items = _needed(cfg)
        rules = cfg.contradiction
        self._keep = (
            max(cfg.live.window_bars, rules.severity_bars, 2 * rules.window_bars, rules.null_sessions) + _MARGIN
        )
        if max(item.warmup for item in self._items) >= cfg.live.window_bars:
            raise InputError(
                f"parameter live.window_bars = {cfg.live.window_bars}",
                rule="more than the longest warm-up of the model's features",
                remedy="raise it",
            )
        whole = panel.build(history.prices, _NO_MOVEMENTS, cfg)
        news_bars = _news_bars(history.news, whole, cfg)
        text = vectors.table(news_bars["text_hash"].unique().tolist())
        found = {
            "panel": whole[_PANEL],
            "technical": technical.build(whole, cfg.technical, sectors=self._sectors),
            "contradiction": contradiction.build(whole, news_bars, text, rules),
        }
        self.tickers = sorted(whole["ticker"].unique())
        self._first = {str(name): rows.head(1) for name, rows in history.prices.groupby("ticker")}
        self._prices = {str(name): rows.tail(self._keep) for name, rows in history.prices.groupby("ticker")}
        self._tables = {name: self._per_ticker(table) for name, table in found.items()}
        oldest = {ticker: rows["bar_close_utc"].iloc[0] for ticker, rows in self._tables["panel"].items()}
        recent = news_bars["bar_close_utc"] >= news_bars["ticker"].map(oldest)
        recently = dict(iter(news_bars[recent].groupby("ticker")))
        self._news = {ticker: recently.get(ticker, news_bars.iloc[:0]) for ticker in self.tickers}
        self._pending: list[News] = []
        self._known = set(zip(news_bars["ticker"], news_bars["news_id"], strict=True))

    def last_close(self, ticker: str) -> pd.Timestamp:
        return self._prices[ticker]["bar_close_utc"].iloc[-1]

    def table(self, name: str) -> pd.DataFrame:
        """The rows that are held of a table, in key order."""
        parts = self._news if name == "news_bars" else self._tables[name]
        return pd.concat(parts.values(), ignore_index=True)

    def add_news(self, *items: News) -> list[pd.Timestamp | None]:
        """Take items; of each, the close of the decided bar that it is too late for, whose rows are computed again.

        An item that is known changes nothing, and neither does one from before the tables begin.
        """
        found = [self._too_late_for(item) if self._is_new(item) else None for item in items]
        late = [close for close in found if close is not None]
        if late:
            self._again(min(late))
        return found

    def _is_new(self, item: News) -> bool:
        """Note the item as pending, unless it is known or of no ticker here."""
        key = (item.ticker, item.news_id)
        if key in self._known or item.ticker not in self._tables["panel"]:
            return False
        self._known.add(key)
        self._pending.append(item)
        return True

    def _too_late_for(self, item: News) -> pd.Timestamp | None:
        rows = self._tables["panel"][item.ticker]
        late = rows.loc[rows["cutoff_utc"] > item.published_utc, "bar_close_utc"]
        return None if late.empty else late.iloc[0]

    def add(self, close: pd.Timestamp, bars: list[Bar]) -> None:
        """Add the bars that end at `close`, of all tickers that have one. Not after every known one: rows again.

        A bar that is known, or from before the tables begin, changes nothing.
        """
        bars = [bar for bar in bars if self._takes(bar)]
        if not bars:
            return
        rows = _interim(bars, self._hours.session(close))
        late = close <= max(map(self.last_close, self.tickers))  # of any ticker: rows of a time belong together
        for name, row in rows.groupby("ticker"):
            held = pd.concat([self._prices[str(name)], row], ignore_index=True)
            held = held.sort_values("bar_close_utc", ignore_index=True)
            self._prices[str(name)] = held.tail(self._keep)
        if late:
            self._again(close)
        else:
            self._extend(close, list(rows["ticker"]))

    def span(self, ticker: str, bars: int) -> int:
        """How many bars of the calendar the ticker's last `bars` rows stretch over; 0 where it has fewer."""
        closes = self._prices[ticker]["bar_close_utc"]
        if len(closes) <= bars:
            return 0
        return self._hours.bars_between(closes.iloc[-bars - 1], closes.iloc[-1])

    def samples(self, close: pd.Timestamp, tickers: list[str]) -> tuple[Samples, NDArray[np.int64]]:
        """Samples of the tail of the tables, and the rows in it that end at `close`, are of `tickers` and usable."""
        depth = self._cfg.model.sessions + self._cfg.model.news_lookback_bars
        tails = {name: [rows.tail(depth) for rows in parts.values()] for name, parts in self._tables.items()}
        frames = {name: pd.concat(parts, ignore_index=True) for name, parts in tails.items()}
        oldest = {rows["ticker"].iloc[0]: rows["bar_close_utc"].iloc[0] for rows in tails["panel"]}
        recent = [rows[rows["bar_close_utc"] >= oldest[ticker]] for ticker, rows in self._news.items()]
        news = pd.concat(recent, ignore_index=True)
        frames |= {"news_bars": news, "text": self._vectors.table(news["text_hash"].unique().tolist())}
        built = samples.build(frames, self._cfg)
        chosen = (built.rows["bar_close_utc"] == close).to_numpy() & built.rows["ticker"].isin(tickers).to_numpy()
        return built, np.flatnonzero(chosen & built.usable)

    def clock(self, close: pd.Timestamp) -> tuple[pd.Timestamp, pd.Timestamp]:
        """decided_utc and fill_utc of the rows that end at `close`."""
        for rows in self._tables["panel"].values():
            row = rows[rows["bar_close_utc"] == close]
            if len(row):
                return row["decided_utc"].iloc[0], row["fill_utc"].iloc[0]
        raise KeyError(close)

    def quotes(self, close: pd.Timestamp) -> dict[str, Quote]:
        """Adjusted open and close of the bars that end at `close`, and the mean dollar volume of the bars before."""
        found = {}
        for ticker, held in self._tables["panel"].items():
            place = int(held["bar_close_utc"].searchsorted(close))
            if place == len(held) or held["bar_close_utc"].iloc[place] != close:
                continue
            before = held.iloc[max(place - self._cfg.strategy.volume_bars, 0) : place]
            dollars = float((before["close"] / before["adjustment"] * before["volume"]).mean())
            found[ticker] = Quote(float(held["open"].iloc[place]), float(held["close"].iloc[place]), dollars)
        return found

    def row(self, ticker: str, close: pd.Timestamp) -> dict[str, float | None]:
        """Quoted price, sentiment and contradiction score of a bar, for people; null where unknown."""
        held, price = self._tables["contradiction"][ticker], self._prices[ticker]
        place, at = int(held["bar_close_utc"].searchsorted(close)), int(price["bar_close_utc"].searchsorted(close))
        values = {"price": price["close"].iloc[at]} | {name: held[name].iloc[place] for name in ("s", "cs")}
        return {name: float(value) if np.isfinite(value) else None for name, value in values.items()}

    def _takes(self, bar: Bar) -> bool:
        closes = self._prices[bar.ticker]["bar_close_utc"] if bar.ticker in self._prices else None
        return closes is not None and bar.close_utc > closes.iloc[0] and not (closes == bar.close_utc).any()

    def _per_ticker(self, table: pd.DataFrame) -> dict[str, pd.DataFrame]:
        return {str(name): rows.tail(self._keep).reset_index(drop=True) for name, rows in table.groupby("ticker")}

    def _again(self, close: pd.Timestamp) -> None:
        """Compute all rows from `close` on again."""
        for name, parts in self._tables.items():
            self._tables[name] = {ticker: rows[rows["bar_close_utc"] < close] for ticker, rows in parts.items()}
        for ticker, rows in self._news.items():
            back = rows[rows["bar_close_utc"] >= close]
            self._pending += [
                News(*item)
                for item in back[["ticker", "news_id", "published_utc", "text_hash", "is_repost"]].itertuples(
                    index=False, name=None
                )
            ]
            self._news[ticker] = rows[rows["bar_close_utc"] < close]
        closes = {time for rows in self._prices.values() for time in rows["bar_close_utc"] if time >= close}
        for time in sorted(closes):
            self._extend(time, [name for name, rows in self._prices.items() if (rows["bar_close_utc"] == time).any()])

    def _extend(self, close: pd.Timestamp, tickers: list[str]) -> None:
        """The rows of `close`, for tickers that have a bar there; every earlier row is in the tables."""
        tickers = sorted(tickers)
        rows = self._panel_rows(close, tickers)
        for ticker in tickers:
            self._append("panel", ticker, rows[rows["ticker"] == ticker])
        new_news = self._assign(rows)
        features = self._technical_rows(rows, tickers)
        scores = self._contradiction_rows(rows, new_news, tickers)
        for ticker in tickers:
            self._append("technical", ticker, features[features["ticker"] == ticker])
            self._append("contradiction", ticker, scores[scores["ticker"] == ticker])

    def _append(self, name: str, ticker: str, row: pd.DataFrame) -> None:
        held = self._tables[name][ticker]
        self._tables[name][ticker] = pd.concat([held, row], ignore_index=True).tail(self._keep)

    def _panel_rows(self, close: pd.Timestamp, tickers: list[str]) -> pd.DataFrame:
        parts = []
        for ticker in tickers:
            held = self._prices[ticker]
            place = int(held["bar_close_utc"].searchsorted(close))
            near = pd.concat([self._first[ticker], held.iloc[max(place - 1, 0) : place + 1]])
            parts.append(near.drop_duplicates("bar_close_utc"))
        adjusted = panel.adjust(pd.concat(parts, ignore_index=True))
        rows = panel.clock(adjusted[adjusted["bar_close_utc"] == close].reset_index(drop=True), self._cfg)
        rows = panel.target(rows, _NO_MOVEMENTS, self._cfg)
        return rows.assign(split=panel.roles(rows, self._cfg.data))[_PANEL]

    def _assign(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Give pending items to the new rows; returns them as rows of news_bars."""
        cutoffs = dict(zip(rows["ticker"], zip(rows["cutoff_utc"], rows["bar_close_utc"], strict=True), strict=True))
        found, pending = [], []
        for item in self._pending:
            cutoff, close = cutoffs.get(item.ticker, (None, None))
            if cutoff is None or item.published_utc >= cutoff:
                pending.append(item)
                continue
            age = (cutoff - item.published_utc) // pd.Timedelta(microseconds=1) / 3.6e9
            found.append((item.ticker, item.news_id, close, item.published_utc, age, item.text_hash, item.is_repost))
        self._pending = pending
        empty = next(iter(self._news.values())).iloc[:0]
        new = pd.DataFrame(sorted(found), columns=list(empty)).astype(empty.dtypes.to_dict())  # in key order, as batch
        for name, part in new.groupby("ticker"):
            oldest = self._tables["panel"][str(name)]["bar_close_utc"].iloc[0]
            held = pd.concat([self._news[str(name)], part], ignore_index=True)
            self._news[str(name)] = held[held["bar_close_utc"] >= oldest]
        return new

    def _technical_rows(self, rows: pd.DataFrame, tickers: list[str]) -> pd.DataFrame:
        found = [self._indicators(self._tables["panel"][ticker]) for ticker in tickers]
        columns = pd.DataFrame(found, columns=list(technical.WARMUPS), index=rows.index, dtype="float64")
        columns = columns[[item.name for item in WHITELIST]]
        sector = rows["ticker"].map(self._sectors)
        across = technical.cross_sections(columns, rows["bar_close_utc"], sector)
        return pd.concat([rows[BAR_KEY], columns, across], axis=1)

    def _indicators(self, held: pd.DataFrame) -> dict[str, float]:
        """Indicators of the last of a ticker's panel rows, as `technical.features` has them."""
        bars = held[technical.INPUTS].tail(self._cfg.live.window_bars)
        adjusted = bars.assign(volume=bars["volume"] / bars["adjustment"])
        values = {}
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            for item in self._items:
                value = float(item.compute(adjusted).iloc[-1])
                warm = len(held) > max(item.warmup, self._cfg.technical.warmup_bars)
                values[item.name] = value if warm and np.isfinite(value) else np.nan
        return values

    def _contradiction_rows(self, rows: pd.DataFrame, news: pd.DataFrame, tickers: list[str]) -> pd.DataFrame:
        rules = self._cfg.contradiction
        text = self._vectors.table(news["text_hash"].unique().tolist())
        n_news, s = contradiction.sentiment(rows, news, text, rules.half_life_hours)
        z_s = self._standardised(rows, s)
        tails = [self._tables["panel"][ticker].tail(rules.null_sessions + 2) for ticker in tickers]
        last = np.cumsum([len(tail) for tail in tails]) - 1
        null = nulls.Features(*(column[last] for column in nulls.features(pd.concat(tails, ignore_index=True), rules)))
        cs = contradiction.score(z_s, null.z_r)
        return rows[BAR_KEY].assign(
            n_news=n_news,
            s=s,
            z_s=z_s,
            z_r=null.z_r,
            cs=cs,
            kind=contradiction.kind(cs, rules.tau_over, rules.tau_under),
            severity=[self._severity(ticker, value) for ticker, value in zip(tickers, cs, strict=True)],
            p_touch_high=null.p_touch_high,
            p_touch_low=null.p_touch_low,
            null_drawdown=null.drawdown,
        )

    def _standardised(self, rows: pd.DataFrame, s: NDArray[np.float64]) -> NDArray[np.float64]:
        """z_s of the new rows, from the scores that all tickers had before."""
        rules = self._cfg.contradiction
        columns = [*BAR_KEY, "s"]
        parts = [held[columns].tail(2 * rules.window_bars) for held in self._tables["contradiction"].values()]
        table = pd.concat([*parts, rows[BAR_KEY].assign(s=s)], ignore_index=True)
        table = table.sort_values(BAR_KEY, ignore_index=True)
        number = table.groupby("ticker").cumcount().to_numpy()
        time = np.unique(table["bar_close_utc"].to_numpy(), return_inverse=True)[1]
        scores = table["s"].to_numpy("float64")
        z_s = contradiction.standardise(scores, number, time, rules.window_bars, rules.shrink_weight)
        return z_s[(table["bar_close_utc"] == rows["bar_close_utc"].iloc[0]).to_numpy()]

    def _severity(self, ticker: str, cs: float) -> float:
        bars = self._cfg.contradiction.severity_bars
        past = self._tables["contradiction"][ticker]["cs"].tail(bars).to_numpy("float64")
        scores = np.append(past, cs)
        return float(contradiction.severity(scores, np.arange(len(scores)), bars)[-1])


def _needed(cfg: Config) -> list[Indicator]:
    """Indicators that the model reads, by itself or through a cross-section."""
    wanted = set(samples.technical_features(cfg.model.features))
    wanted |= {item.of for item in technical.CROSS_SECTIONS if item.name in wanted}
    return [item for item in WHITELIST if item.name in wanted]


def _interim(bars: list[Bar], session: pd.Timestamp) -> pd.DataFrame:
    """Rows of the prices table, in key order."""
    rows = pd.DataFrame([vars(bar) for bar in bars]).rename(columns={"close_utc": "bar_close_utc"})
    rows["bar_close_utc"] = rows["bar_close_utc"].astype("datetime64[us, UTC]")
    rows["session"] = pd.Series(session, rows.index, dtype="datetime64[us]")
    return rows[_PRICES].sort_values(BAR_KEY, ignore_index=True)


def _news_bars(news: pd.DataFrame, whole: pd.DataFrame, cfg: Config) -> pd.DataFrame:
    """`panel.join_news` on a history that is in memory."""
    with tempfile.TemporaryDirectory() as folder:
        news_path = tables.write("news", news, Path(folder) / "news.parquet")
        panel_path = tables.write("panel", whole, Path(folder) / "panel.parquet")
        joined = panel.join_news(news_path, panel_path, panel.news_since(whole, cfg))
        path = tables.write("news_bars", joined, Path(folder) / "news_bars.parquet")
        return tables.read("news_bars", path)
