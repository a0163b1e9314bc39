"""The router's rows are the batch layers' rows: bit for bit in what the model reads."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from live_market import daily, minutes, tables

from fusion_alpha import contradiction, panel, samples, technical
from fusion_alpha import tables as stored
from fusion_alpha.live import feed
from fusion_alpha.live.feed import History
from fusion_alpha.live.state import News, State
from fusion_alpha.live.texts import Texts
from fusion_alpha.text import text_hash

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
        news_id, text = texts.cleaned(one)
        made.append(News(one.ticker, news_id, one.published_utc, text_hash(text), one.is_repost))
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
def test_what_no_row_needs_is_forgotten_and_changes_nothing(market):
    cfg, history, rest, _ = market
    with Texts(cfg) as texts:
        texts.load([*history.news["text"], *rest.news["text"]])
        state = routed((cfg, history, rest, texts))
        whole = State(history, texts.vectors, cfg)  # knows items that no row needs
        last = closes(rest)[-1]
        oldest = min(rows["times"][0, 2] for rows in state._rows.values())
        known, vectors = len(state._known), len(texts.vectors._rows)
        used = state.forget()
        texts.forget_but(used)
        assert set(texts.vectors._rows) == used
        assert len(used) < vectors
        assert len(state._known) < known
        assert min(state._known.values()) >= oldest
        before = state.table("news_bars")
        texts.load(history.news["text"])
        assert state.add_news(*items(history.news, texts)) == [None] * len(history.news)
        state._again(int(last.value // 1000))
        pd.testing.assert_frame_equal(state.table("news_bars"), before)
        assert whole._pending == state._pending == []


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


def pipeline(market, prices: pd.DataFrame, folder) -> tuple[pd.DataFrame, samples.Samples]:
    """The batch layers of the pipeline on history and these prices, through files, as the stages run them."""
    cfg, history, rest, texts = market
    prices = pd.concat([history.prices, prices]).sort_values(["ticker", "bar_close_utc"], ignore_index=True)
    end = prices["bar_close_utc"].max()
    news = pd.concat([history.news, rest.news[rest.news["published_utc"] < end]])
    whole = panel.build(prices, stored.empty("benchmark"), cfg)
    paths = [
        stored.write(name, table, folder / f"{name}.parquet") for name, table in (("news", news), ("panel", whole))
    ]
    joined = panel.join_news(*paths, panel.news_since(whole, cfg))
    joined = stored.read("news_bars", stored.write("news_bars", joined, folder / "news_bars.parquet"))
    text = texts.vectors.table(joined["text_hash"].unique().tolist())
    sectors = technical.read_sectors(Path(cfg.technical.sectors))
    frames = {
        "panel": whole,
        "news_bars": joined,
        "technical": technical.build(whole, cfg.technical, sectors=sectors),
        "text": text,
        "contradiction": contradiction.build(whole, joined, text, cfg.contradiction),
    }
    return whole, samples.build(frames, cfg)


@pytest.mark.parametrize("features", [["basic"], ["basic", "market", "sector", "adx_14", "macd_12_26"]])
def test_bar_by_bar_equals_the_batch_pipeline_through_a_late_bar_a_revision_and_a_gap(market, features, tmp_path):
    cfg, history, rest, texts = market
    cfg = replace(cfg, model=replace(cfg.model, features=features), live=replace(cfg.live, window_bars=700))
    every = sorted(rest.prices["bar_close_utc"].unique())[:30]
    prices = rest.prices[rest.prices["bar_close_utc"].isin(every)]
    gap = (prices["ticker"] == "TSLA") & prices["bar_close_utc"].between(every[3], every[7])
    known = prices[~gap].reset_index(drop=True)
    close = known["bar_close_utc"]
    late = (known["ticker"] == "NVDA") & (close == every[12])  # comes with the bar of every[17]
    market = (cfg, history, rest, texts)
    before, after = (pipeline(market, part, tmp_path)[1] for part in (known[~late], known))
    state = State(history, texts.vectors, cfg)
    compared = 0
    for number, now in enumerate(every):
        state.add_news(*items(rest.news[rest.news["published_utc"] < now], texts))
        state.add(now, feed.bars(known[~late & (close == now)]))
        if number == 17:
            state.add(every[12], feed.bars(known[late]))
        if number == 20:  # a revision: what is known stays
            state.add(every[19], [replace(bar, close=bar.close * 2) for bar in feed.bars(known[close == every[19]])])
        whole = after if number >= 17 else before
        keys = whole.rows["ticker"].where(whole.rows["bar_close_utc"] == now)
        found, rows = state.samples(now, state.tickers)
        names = found.rows["ticker"].iloc[rows].tolist()
        theirs = np.array([np.flatnonzero(keys == name)[0] for name in names])
        assert names == sorted(set(keys.dropna()[whole.usable[keys.notna()]]))
        require_same_tokens(found, rows, whole, theirs)
        compared += len(rows)
    assert compared == 3 * 30 - 5 - 1


def require_same_tokens(mine, rows, theirs, others) -> None:
    """What a network sees of the rows, to the bit; under a mask it sees nothing."""
    np.testing.assert_array_equal(mine.volatility[rows], theirs.volatility[others])
    assert mine.feature_names == theirs.feature_names
    ours, expected = mine.gather(rows), theirs.gather(others)
    for mask, names in (("session_mask", ("sessions", "score")), ("news_mask", ("news", "news_features", "news_lag"))):
        tokens = getattr(ours, mask)
        assert torch.equal(tokens, getattr(expected, mask))
        for name in names:
            one, other = (getattr(part, name)[tokens].nan_to_num(-7) for part in (ours, expected))
            assert torch.equal(one, other), name
    assert ours.news_mask.any()
