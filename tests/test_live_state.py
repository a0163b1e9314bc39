"""The router's rows are the batch layers' rows: bit for bit in what the model reads."""

import numpy as np
import pandas as pd
import pytest
import torch
from live_market import daily, minutes, tables

from fusion_alpha import tables as stored
from fusion_alpha.live import feed
from fusion_alpha.live.feed import History
from fusion_alpha.live.state import News, State
from fusion_alpha.live.texts import Texts

STEPS = 8
NAMES = ("panel", "news_bars", "technical", "contradiction")


@pytest.fixture(scope="module", params=["1d", "1m"])
def market(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    cfg = daily() if request.param == "1d" else minutes(folder)
    history, rest = tables(request.param, folder)
    with Texts(cfg) as texts:
        texts.load([*history.news["text"], *rest.news["text"]])
        yield cfg, history, rest, texts


def items(news: pd.DataFrame, texts: Texts) -> list[News]:
    made = []
    for one in feed.headlines(news):
        news_id, _, name = texts.take(one)
        made.append(News(one.ticker, news_id, one.published_utc, name, one.is_repost))
    return made


def closes(rest: History) -> list[pd.Timestamp]:
    return sorted(rest.prices["bar_close_utc"].unique())[:STEPS]


def routed(market, prices: pd.DataFrame | None = None) -> State:
    """The state after STEPS closes, news and bars in the order of time."""
    cfg, history, rest, texts = market
    state = State(history, texts.vectors, cfg)
    prices = rest.prices if prices is None else prices
    for close in closes(rest):
        news = rest.news[(rest.news["published_utc"] < close)]
        state.add_news(*items(news, texts))
        state.add(close, feed.bars(prices[prices["bar_close_utc"] == close]))
    return state


_BATCH: dict[str, State] = {}


def batch(market, prices: pd.DataFrame | None = None) -> State:
    """The batch layers on everything up to then; on all prices made once, and not changed by the tests."""
    cfg, history, rest, texts = market
    if prices is None and cfg.interval in _BATCH:
        return _BATCH[cfg.interval]
    prices = rest.prices if prices is None else prices
    end = closes(rest)[-1]
    parts = (
        pd.concat([old, new[new[time] <= end]], ignore_index=True)
        for old, new, time in (
            (history.prices, prices, "bar_close_utc"),
            (history.news, rest.news[rest.news["published_utc"] < end], "published_utc"),
        )
    )
    keys = (["ticker", "bar_close_utc"], ["ticker", "news_id"])
    whole = History(*(part.sort_values(key, ignore_index=True) for part, key in zip(parts, keys, strict=True)))
    state = State(whole, texts.vectors, cfg)
    if prices is rest.prices:
        _BATCH[cfg.interval] = state
    return state


def require_equal(live: State, whole: State, since: pd.Timestamp, close: pd.Timestamp) -> None:
    """Tables from `since` on, and the samples of the bar at `close`."""
    for name in NAMES:
        key = stored.schema(name).key
        mine, theirs = (
            table[table["bar_close_utc"] >= since].sort_values(key, ignore_index=True)
            for table in (live.table(name), whole.table(name))
        )
        assert len(mine) == len(theirs) > 0, name
        for column in mine:
            if column.startswith("target_"):  # the batch layers know what came after
                continue
            if name == "technical" and column not in key:
                known = mine[column].notna()
                mine[column], theirs[column] = mine[column].where(known), theirs[column].where(known)
                near = np.allclose(mine[column], theirs[column], rtol=1e-9, atol=1e-12, equal_nan=True)
                assert near, (name, column)
            else:
                pd.testing.assert_series_equal(mine[column], theirs[column], check_dtype=False, check_exact=True)
    (mine, rows), (theirs, others) = (one.samples(close, one.tickers) for one in (live, whole))
    assert len(rows) == len(others) > 0
    np.testing.assert_array_equal(mine.volatility[rows], theirs.volatility[others])
    ours, expected = vars(mine.gather(rows)), vars(theirs.gather(others))
    for name in ours.keys() - {"label", "target"}:
        assert torch.equal(ours[name].nan_to_num(-7), expected[name].nan_to_num(-7)), name


def test_rows_of_the_router_are_those_of_the_batch_layers(market):
    first, last = closes(market[2])[0], closes(market[2])[-1]
    require_equal(routed(market), batch(market), first, last)


@pytest.mark.parametrize("market", ["1d"], indirect=True)
def test_a_late_bar_makes_later_rows_be_computed_again(market):
    rest = market[2]
    first, close, last = closes(rest)[0], closes(rest)[2], closes(rest)[-1]
    late = (rest.prices["ticker"] == "TSLA") & (rest.prices["bar_close_utc"] == close)
    state = routed(market, rest.prices[~late])
    require_equal(state, batch(market, rest.prices[~late]), first, last)
    state.add(close, feed.bars(rest.prices[late]))
    require_equal(state, batch(market), first, last)


@pytest.mark.parametrize("market", ["1d"], indirect=True)
def test_a_late_headline_goes_to_the_bar_that_it_belongs_to(market):
    cfg, history, rest, texts = market
    first, last = closes(rest)[0], closes(rest)[-1]
    state = State(history, texts.vectors, cfg)
    news = items(rest.news[rest.news["published_utc"] < last], texts)
    for close in closes(rest):
        state.add(close, feed.bars(rest.prices[rest.prices["bar_close_utc"] == close]))
    found = state.add_news(*news)
    assert all(close is not None for close in found)
    assert state.add_news(news[0]) == [None]
    require_equal(state, batch(market), first, last)


@pytest.mark.parametrize("market", ["1d"], indirect=True)
def test_the_clock_is_the_panels(market):
    cfg, _, rest, _ = market
    state = batch(market)
    close = closes(rest)[-1]
    decided, fill = state.clock(close)
    assert decided == close + pd.Timedelta(seconds=cfg.target.decision_delay_s)
    assert fill == state._hours.fill(decided)
    with pytest.raises(KeyError):
        state.clock(close + pd.Timedelta(seconds=1))
