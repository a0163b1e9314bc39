"""Layers -> what the systems know of each sample: prices, their context, and tweets, all from before the target day.

A sample is asked on the row of the session before its target day (`row_session`): prices through that session's close,
tweets of UTC days before the target day. `prices` are logarithmic and come in groups: of the stock itself, of the stock
against the others (market, sector, rank of the day), of the market of all stocks, and the calendar of the target day.
Tweets are counted and summed over the last bar and the last five, each with its weight (`tweets.weigh`) and for each
day of its bar: a weekend has more tweets, and without that they would tell its system the day of the week, which prices
did not. Prices are told it by the calendar.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fusion_alpha import benchmark, sessions, tables
from fusion_alpha.errors import InputError
from fusion_alpha.stocknet import tweets
from fusion_alpha.stocknet.layers import Layers
from fusion_alpha.tables import BAR_KEY

Floats32 = NDArray[np.float32]
EXCHANGE = "XNYS"
LAG_BARS = 5  # at least the five calendar days of the benchmark's lag
USUAL_BARS = 60  # trailing bars of volatilities, betas and of a stock's usual sentiment and number of tweets
STRONG_TONE = 1.5  # sd of a stock's own tone; beyond it the tweets say something unusual
_Z_CLIP = 6.0
GROUPS = ("own", "relative", "market", "calendar")


@dataclass(frozen=True)
class Board:
    """All samples, one row each in the order of `benchmark.samples`, and what is known when they are asked."""

    samples: pd.DataFrame  # ticker, session (target day), row_session, its clock, movement, label, split, set_a
    prices: dict[str, pd.DataFrame]  # by GROUPS, float32
    counts: pd.DataFrame  # float32
    sentiment: pd.DataFrame  # float32, counts not included
    pooled: Floats32  # [n, D] weighted mean embedding of five bars, zero without tweets
    pooled_late: Floats32  # [n, D] of the tweets after the close
    documents: list[str]  # words of five bars, each text once

    @property
    def label(self) -> NDArray[np.bool_]:
        return self.samples["label"].to_numpy(np.bool_)


def samples(layers: Layers) -> pd.DataFrame:
    """The benchmark's samples with the clock of the bar on which each is asked; InputError where there is none."""
    asked = benchmark.samples(layers.read("benchmark"))
    clock = ["bar_close_utc", "decided_utc", "label_end_utc"]
    bars = layers.read("panel", ["ticker", "session", *clock]).rename(columns={"session": "row_session"})
    found = asked.merge(bars, on=["ticker", "row_session"], how="left", validate="one_to_one")
    if found["bar_close_utc"].isna().any():
        row = found[found["bar_close_utc"].isna()].iloc[0]
        raise InputError(
            f"{row['ticker']} has no bar on {row['row_session'].date()}, the session before {row['session'].date()}",
            rule="every sample of the benchmark is asked on a bar of the panel",
            remedy="leave tickers, start and end as conf/data/stocknet.yaml has them",
        )
    return found


def prices(panel: pd.DataFrame) -> dict[str, dict[str, pd.DataFrame]]:
    """Features [session, ticker] by group and name, each known at the session's close. panel: adjusted bars, sector."""
    table = {name: _map(np.log, _wide(panel, name)) for name in ("open", "high", "low", "close")}
    opened, high, low, close = table.values()
    volume = _map(np.log, _wide(panel, "volume").where(lambda shares: shares > 0))
    ret = close.diff()
    sd = ret.rolling(USUAL_BARS, min_periods=20).std()
    own = {f"ret_{lag + 1}": ret.shift(lag) for lag in range(5)}
    own |= {f"sum_{bars}": close.diff(bars) for bars in (5, 10, 20, 60)}
    own |= {"gap": opened - close.shift(), "intraday": close - opened, "range": high - low}
    own |= {"place": (close - low) / (high - low).where(lambda width: width > 0)}
    channel = (low.rolling(20).min(), high.rolling(20).max())
    own |= {"place_20": (close - channel[0]) / (channel[1] - channel[0])}
    own |= {"volatility_5": ret.rolling(5).std(), "volatility_20": ret.rolling(20).std(), "volatility_60": sd}
    own |= {"volume_1": volume - volume.rolling(20).mean()}
    own |= {"volume_5": volume.rolling(5).mean() - volume.rolling(60).mean()}
    own |= {"z_1": ret / sd, "z_5": close.diff(5) / sd / np.sqrt(5)}

    market = ret.mean(axis=1)
    excess = ret.sub(market, axis=0)
    sectors = panel.drop_duplicates("ticker").set_index("ticker")["sector"].reindex(ret.columns)
    sector = ret.T.groupby(sectors).transform("mean").T
    relative = {f"excess_{bars}": excess.rolling(bars).sum() for bars in (1, 2, 5, 10, 20, 60)}
    relative |= {f"sector_{bars}": sector.sub(market, axis=0).rolling(bars).sum() for bars in (1, 5, 20)}
    relative |= {f"in_sector_{bars}": (ret - sector).rolling(bars).sum() for bars in (1, 5, 20)}
    ranked = ("ret_1", "sum_5", "sum_20", "volatility_20", "volume_1", "gap", "intraday")
    relative |= {f"rank_{name}": own[name].rank(axis=1, pct=True) for name in ranked}
    spread = market.rolling(USUAL_BARS, min_periods=20).var()
    relative |= {"beta": ret.rolling(USUAL_BARS, min_periods=20).cov(market).div(spread, axis=0)}

    of_all = {f"ret_{lag + 1}": market.shift(lag) for lag in range(5)}
    of_all |= {f"sum_{bars}": market.rolling(bars).sum() for bars in (5, 10, 20, 60)}
    of_all |= {f"volatility_{bars}": market.rolling(bars).std() for bars in (5, 20)}
    of_all |= {name: own[name].mean(axis=1) for name in ("gap", "intraday", "range", "place", "place_20", "volume_1")}
    of_all |= {"breadth": (ret > 0).mean(axis=1).where(ret.notna().any(axis=1)), "dispersion": ret.std(axis=1)}
    of_each = {f"market_{name}": _for_all(values, ret.columns) for name, values in of_all.items()}
    return {"own": own, "relative": relative, "market": of_each, "calendar": calendar(ret)}


def calendar(grid: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Day of the week of the target day and days since the session before, which the exchange announces years ahead."""
    following = _following(grid.index)
    weekday = pd.Series(following.day_of_week, grid.index)
    found = {f"weekday_{day}": (weekday == day).astype("float64") for day in range(5)}
    found["days_since"] = pd.Series((following - grid.index).days, grid.index).astype("float64")
    return {name: _for_all(values, grid.columns) for name, values in found.items()}


def _following(days: pd.Index) -> pd.DatetimeIndex:
    """The session after each of `days`."""
    first, last = days[0], days[-1] + pd.Timedelta(days=14)
    known = pd.DatetimeIndex(sessions.sessions(EXCHANGE, first, last)["session"])
    return known[known.searchsorted(pd.DatetimeIndex(days), side="right")]


def _days_of_bar(grid: pd.DataFrame) -> pd.Series:
    """Calendar days whose tweets belong to each bar: from its session to the day before the target day."""
    return pd.Series((_following(grid.index) - grid.index).days, grid.index).astype("float64")


def _wide(panel: pd.DataFrame, column: str) -> pd.DataFrame:
    return panel.pivot(index="session", columns="ticker", values=column)


def _map(function: Callable[[NDArray[np.float64]], NDArray[np.float64]], values: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(function(values.to_numpy(np.float64)), values.index, values.columns)


def _for_all(values: pd.Series, tickers: pd.Index) -> pd.DataFrame:
    return pd.DataFrame(np.repeat(values.to_numpy()[:, None], len(tickers), axis=1), values.index, tickers)


def take(wide: dict[str, pd.DataFrame], asked: pd.DataFrame) -> pd.DataFrame:
    """Values of each feature on the rows on which samples are asked, float32."""
    columns = {}
    for name, values in wide.items():
        row, column = (
            index.get_indexer(pd.Index(asked[key]))
            for index, key in ((values.index, "row_session"), (values.columns, "ticker"))
        )
        columns[name] = values.to_numpy(np.float32)[row, column]
    return pd.DataFrame(columns, index=asked.index)


@dataclass(frozen=True)
class Tweets:
    """All tweets that name their ticker and reach a bar, in the order of news_bars.

    rows: ticker, session, published_utc, text, text_hash, is_repost, author_key, weight, tone, p_positive, p_negative,
    late (after the session's close), fresh (no equal text about the ticker in the five days before).
    """

    rows: pd.DataFrame
    embeddings: NDArray[np.float16]  # [texts, D]
    text: NDArray[np.int64]  # [rows], index into embeddings


def read_tweets(layers: Layers) -> Tweets:
    """Tweets of the layers with their weight, tone and time."""
    asis = layers.tweets()[["ticker", "news_id", "text"]].rename(columns={"text": "asis"})
    news = layers.read("news", ["ticker", "news_id", "text", "author_key", "followers"])
    rows = layers.read("news_bars").merge(news, on=["ticker", "news_id"]).merge(asis, on=["ticker", "news_id"])
    bars = layers.read("panel", [*BAR_KEY, "session", "session_close_utc"])
    rows = rows.merge(bars, on=BAR_KEY, validate="many_to_one")
    texts = layers.read("text")
    place = pd.Index(texts["text_hash"]).get_indexer(pd.Index(rows["text_hash"]))
    for name in ("p_negative", "p_positive"):
        rows[name] = texts[name].to_numpy()[place]
    repeats = tweets.earlier(rows["ticker"] + rows["text_hash"], rows["published_utc"])
    rows["weight"] = tweets.weigh(rows.assign(n_tags=[len(tweets.tags(text)) for text in rows["asis"]]), repeats)
    rows["tone"] = rows["p_positive"] - rows["p_negative"]
    rows["late"] = rows["published_utc"] >= rows["session_close_utc"]
    rows["fresh"] = repeats == 0
    return Tweets(rows.drop(columns="asis"), tables.vectors(texts["embedding"]), place)


def counts(news: pd.DataFrame, grid: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """How much is written, whatever it says. news: rows of `Tweets`; grid: any [session, ticker] of the panel."""
    one = _sum(news, pd.Series(1.0, news.index), grid)
    late = _sum(news[news["late"]], pd.Series(1.0, news.index), grid)
    authors = _sum(news.drop_duplicates(["ticker", "session", "author_key"]), pd.Series(1.0, news.index), grid)
    reposts = _sum(news, news["is_repost"].astype("float64"), grid)
    five = one.rolling(LAG_BARS, min_periods=1).sum()
    found = {"tweets_1": one, "tweets_5": five, "tweets_late": late, "authors_1": authors}
    found = {name: _map(np.log1p, values) for name, values in found.items()}
    found |= {f"usual_{name}": values - _usual(values) for name, values in list(found.items())[:3]}
    found["reposts_1"] = reposts / (one + 1)
    return found | {"tweets_of_all": _for_all(found["usual_tweets_1"].mean(axis=1), grid.columns)}


def sentiment(news: pd.DataFrame, sectors: pd.Series, grid: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """What the tweets say: sums of weighted tone, as such and against what is usual for the stock and for the others.

    sectors: by ticker. Sums, not means: many tweets that agree say more than one.
    """
    weight, tone = news["weight"], news["weight"] * news["tone"]
    total, late = _sum(news, tone, grid), _sum(news[news["late"]], tone, grid)
    five = total.rolling(LAG_BARS, min_periods=1).sum()
    mean = total / (_sum(news, weight, grid) + 1)
    found = {"tone_1": _log(total), "tone_late": _log(late), "tone_5": _log(five), "tone_mean": mean}
    found |= {"z_tone": _z(total, 1.0), "z_tone_late": _z(late, 0.5)}
    for name in ("p_positive", "p_negative"):
        found[name.replace("p_", "")] = _map(np.log1p, _sum(news, weight * news[name], grid))
    found["tone_rank"] = found["tone_1"].rank(axis=1, pct=True)
    market = mean.mean(axis=1)
    positive, said = total > 0, total != 0
    of_others = positive.sum(axis=1).to_numpy()[:, None] - positive.to_numpy()
    n_others = said.sum(axis=1).to_numpy()[:, None] - said.to_numpy()
    found["others_positive"] = pd.DataFrame((of_others + 0.5) / (n_others + 1), grid.index, grid.columns)
    found["tone_of_all"] = _for_all(market, grid.columns)
    found["usual_tone_of_all"] = _for_all(market - market.rolling(20, min_periods=5).mean(), grid.columns)
    found["tone_of_sector"] = mean.T.groupby(sectors.reindex(grid.columns)).transform("mean").T
    return found


def _sum(news: pd.DataFrame, values: pd.Series, grid: pd.DataFrame) -> pd.DataFrame:
    """Sum over the tweets of each bar and day of it, [session, ticker]; 0 without tweets."""
    sums = values[news.index].groupby([news["session"], news["ticker"]]).sum().unstack()
    return sums.reindex(index=grid.index, columns=grid.columns).fillna(0.0).div(_days_of_bar(grid), axis=0)


def _usual(values: pd.DataFrame) -> pd.DataFrame:
    """Mean of the bars before."""
    return values.rolling(USUAL_BARS, min_periods=20).mean().shift()


def _z(values: pd.DataFrame, floor: float) -> pd.DataFrame:
    """Values against the mean and sd of the stock's bars before; `floor` is added to the sd of stocks without news."""
    sd = values.rolling(USUAL_BARS, min_periods=20).std().shift()
    return ((values - _usual(values)) / (sd + floor)).clip(-_Z_CLIP, _Z_CLIP)


def _log(values: pd.DataFrame) -> pd.DataFrame:
    return _map(lambda array: np.sign(array) * np.log1p(np.abs(array)), values)


def pool(found: Tweets, asked: pd.DataFrame, days: pd.Index, *, late: bool) -> Floats32:
    """Weighted mean embedding [samples, D] of five bars, or of what came after the last close; zero without tweets.

    days: sessions of the panel, ascending.
    """
    rows = found.rows
    chosen = (rows["late"] if late else pd.Series(True, rows.index)).to_numpy()
    bar = days.get_indexer(pd.Index(rows["session"]))
    name = {ticker: number for number, ticker in enumerate(sorted(rows["ticker"].unique()))}
    code = rows["ticker"].map(name).to_numpy()
    sums = np.zeros((len(name), len(days), found.embeddings.shape[1]), np.float32)
    vectors = found.embeddings[found.text[chosen]].astype(np.float32)
    weights = rows["weight"].to_numpy(np.float32)[chosen]
    np.add.at(sums, (code[chosen], bar[chosen]), vectors * weights[:, None])
    total = np.zeros(sums.shape[:2], np.float32)
    np.add.at(total, (code[chosen], bar[chosen]), weights)
    at = days.get_indexer(pd.Index(asked["row_session"]))
    who = asked["ticker"].map(name)
    known = who.notna().to_numpy()
    pooled = np.zeros((len(asked), sums.shape[2]), np.float32)
    weight = np.zeros(len(asked), np.float32)
    for lag in range(1 if late else LAG_BARS):
        place = (who[known].to_numpy(np.int64), np.maximum(at[known] - lag, 0))
        pooled[known] += 0.5**lag * sums[place]
        weight[known] += np.float32(0.5**lag) * total[place]
    return pooled / (weight[:, None] + np.float32(1e-6))


def documents(found: Tweets, asked: pd.DataFrame, panel_days: pd.Index) -> list[str]:
    """Texts of five bars, each once, one line each; "" without tweets."""
    rows = found.rows[found.rows["fresh"]].drop_duplicates(["ticker", "session", "text_hash"])
    by_bar = rows.groupby(["ticker", "session"])["text"].agg("\n".join).to_dict()
    at = panel_days.get_indexer(pd.Index(asked["row_session"]))
    days = list(panel_days)
    lists = [
        [by_bar.get((ticker, days[bar - lag])) for lag in range(LAG_BARS) if bar >= lag]
        for ticker, bar in zip(asked["ticker"], at, strict=True)
    ]
    return ["\n".join(filter(None, texts)) for texts in lists]


def contradictions(table: pd.DataFrame, z_ret: pd.DataFrame, grid: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The pipeline's contradiction score on the grid, 0 where it is null. table: with session."""
    wide = {name: table.pivot(index="session", columns="ticker", values=name) for name in ("z_s", "cs", "severity")}
    found = {name: values.reindex_like(grid).fillna(0.0) for name, values in wide.items()}
    return {**found, "tone_times_ret": found["z_s"] * z_ret.clip(-_Z_CLIP, _Z_CLIP).fillna(0.0)}


def board(layers: Layers) -> Board:
    """Everything that the tabular systems read. A stock without a sector is a sector of its own."""
    asked = samples(layers)
    panel = layers.read("panel", [*BAR_KEY, "session", "open", "high", "low", "close", "volume"])
    panel["sector"] = panel["ticker"].map(layers.sectors()).fillna(panel["ticker"])
    by_group = prices(panel)
    grid = by_group["own"]["ret_1"]
    found = read_tweets(layers)
    table = layers.read("contradiction", [*BAR_KEY, "z_s", "cs", "severity"]).merge(panel[[*BAR_KEY, "session"]])
    said = sentiment(found.rows, panel.drop_duplicates("ticker").set_index("ticker")["sector"], grid)
    said |= contradictions(table, by_group["own"]["z_1"], grid)
    return Board(
        samples=asked,
        prices={name: take(group, asked) for name, group in by_group.items()},
        counts=take(counts(found.rows, grid), asked),
        sentiment=take(said, asked),
        pooled=pool(found, asked, grid.index, late=False),
        pooled_late=pool(found, asked, grid.index, late=True),
        documents=documents(found, asked, grid.index),
    )
