"""The laboratory: what it promises about means, variances, contradictions, news and files."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fusion_alpha import cleaning, config, panel, tables
from fusion_alpha.errors import InputError
from fusion_alpha.sources import lab, lab_headlines, lab_market, lab_news, lab_odd, lab_quotes

SEEDS = range(12)


def configuration(interval="1d", **parameters):
    """The committed configuration of the daily laboratory with other parameters of it."""
    cfg = config.load([f"interval={interval}"])
    cfg.data = replace(cfg.data, lab=replace(cfg.data.lab, **parameters))
    return cfg


def minutes(**parameters):
    return configuration(
        "1m", **{"first_session": "2019-12-02", "last_session": "2019-12-13", "n_tickers": 3} | parameters
    )


def targets(made):
    """Return over each bar's target window, its true sd and its oracle mean, [tickers, bars]."""
    fill = made.clock.fill[: made.clock.n]
    market = made.market
    ret = market.open[:, fill + 1] / market.open[:, fill] - 1
    return ret, market.sigma[:, fill], market.mean_ret[:, fill]


def kinds(made):
    return made.market.kind[:, : made.clock.n]


def z_of_mean(values, weight):
    """z of a mean over chosen rows of [tickers, bars], tickers of one bar taken together: they share a market."""
    total, count = (values * weight).sum(axis=0), weight.sum(axis=0)
    residual = total - count * (total.sum() / count.sum())
    return total.sum() / np.sqrt((residual**2).sum())


def t_statistic(values):
    return values.mean() / values.std() * np.sqrt(len(values))


@pytest.fixture(scope="module")
def default():
    return lab.generate(configuration())


@pytest.fixture(scope="module")
def many():
    """Laboratories of several seeds for one delta."""
    made = {}

    def get(delta):
        if delta not in made:
            made[delta] = [
                lab.generate(configuration(seed=100 + seed, delta=delta, first_session="2017-01-03")) for seed in SEEDS
            ]
        return made[delta]

    return get


def pooled(made):
    """targets and kinds of several laboratories side by side in time."""
    parts = [(*targets(one), kinds(one)) for one in made]
    return tuple(np.concatenate(part, axis=1) for part in zip(*parts, strict=True))


def test_size_of_the_default_laboratory(default):
    assert [company.ticker for company in default.companies[:3]] == ["TSLA", "AAPL", "NVDA"]
    assert (len(default.companies), default.clock.n) == (9, 1258)
    assert len(default.items) >= 10_000
    texts = set(zip(default.items.ticker.tolist(), default.items.pool_text.tolist(), strict=True))
    assert 2_000 <= len(texts) <= 3_500


@pytest.mark.parametrize("share", [0.05, 0.10, 0.15, 0.20, 0.25])
def test_share_of_contradictions(share):
    made = lab.generate(configuration(contradiction_share=share))
    flagged = kinds(made) != 0
    assert abs(flagged.mean() - share) < 0.02
    opposed = np.stack([story.present & (story.response != story.direction) for story in made.told])[:, : made.clock.n]
    assert opposed[flagged].mean() > 0.99, "hardly any accidental ones"
    assert flagged[opposed].mean() > 0.90, "few planted ones that noise hides"
    assert abs(kinds(made)[flagged].mean()) * np.sqrt(flagged.sum()) < 4, "as many overhyped as underhyped"


def test_kind_is_the_rule_on_realised_quantities(default):
    kind, s, z = kinds(default), default.sentiment[:, : default.clock.n], default.market.z_ret[:, : default.clock.n]
    np.testing.assert_array_equal(kind == 1, (s >= 1) & (z <= -lab_market.Z_MIN))
    np.testing.assert_array_equal(kind == -1, (s <= -1) & (z >= lab_market.Z_MIN))
    assert 0.97 < z.std() < 1.05


def test_null_market_has_no_drift(many):
    ret, sigma, oracle, kind = pooled(many(0.0))
    assert (oracle == 0).all()
    z = ret / sigma
    for chosen in (np.ones_like(z), kind == 1, kind == -1, kind != 0, kind == 0):
        assert abs(z_of_mean(z, chosen)) < 4
        assert abs(z_of_mean(ret, chosen)) < 4
    before = np.concatenate([made.market.z_ret[:, : made.clock.n] for made in many(0.0)], axis=1)
    news = np.concatenate([made.sentiment[:, : made.clock.n] for made in many(0.0)], axis=1)
    for known in (before, news, before * news):
        assert abs(z_of_mean(z * known, np.ones_like(z))) < 4


@pytest.mark.parametrize("delta", [0.3, -0.3])
def test_drift_after_contradictions(many, delta):
    ret, sigma, oracle, kind = pooled(many(delta))
    for sign in (1, -1):
        chosen = kind == sign
        excess = (ret - oracle) / sigma
        assert abs(z_of_mean(excess, chosen)) < 4
        mean = (ret / sigma)[chosen].mean()
        assert -sign * np.sign(delta) * mean > 0.2
        assert mean == pytest.approx(-sign * delta, abs=0.06)
    assert abs(z_of_mean(excess, kind == 0)) < 4


def test_sigma_target_is_the_standard_deviation(many):
    ret, sigma, oracle, _ = pooled(many(0.3))
    square = ((ret - oracle) / sigma) ** 2 - 1
    assert abs(square.mean()) < 0.02
    assert abs(z_of_mean(square, np.ones_like(square))) < 4


@pytest.mark.parametrize("half_life", [0.5, 1.0, 2.0])
def test_drift_decays_with_the_half_life(half_life):
    made = lab.generate(configuration(half_life_bars=half_life, last_session="2016-12-30"))
    _, sigma, oracle = targets(made)
    state = -oracle / sigma / 0.3
    expected = state[:, :-1] * 2 ** (-1 / half_life) + kinds(made)[:, 1:]
    np.testing.assert_allclose(state[:, 1:], expected, atol=1e-12)


def test_oracle_sees_the_future_a_little(many):
    for delta in (0.3, -0.3):
        ret, sigma, oracle, _ = pooled(many(delta))
        correlation = np.corrcoef((oracle / sigma).ravel(), (ret / sigma).ravel())[0, 1]
        assert correlation == pytest.approx(0.134, abs=0.03)


def test_news_moves_prices_when_it_is_published(default):
    bars, market = default.clock, default.market
    for ticker, story in enumerate(default.told[:3]):
        gap = np.log(market.open[ticker, 1:] / market.close[ticker, :-1])
        inside = np.log(market.close[ticker] / market.open[ticker])[1:]
        jump = (default.rates.jump * default.sd.close_to_close[ticker] * story.response)[1:]
        for chosen, moved, still in (
            (story.present[1:] & story.overnight[1:], gap, inside),
            (story.present[1:] & ~story.overnight[1:], inside, gap),
        ):
            slope = (moved * jump)[chosen].sum() / (jump**2)[chosen].sum()
            assert slope == pytest.approx(1.0, abs=0.15)
            assert abs(t_statistic((still * np.sign(jump))[chosen])) < 4
        first = story.published_s[story.present]
        assert (first < bars.close_s[story.present]).all()


def test_minute_bar_moves_in_the_minute_of_publication():
    made = lab.generate(minutes())
    bars, story = made.clock, made.told[0]
    chosen = np.flatnonzero(story.present & ~story.overnight)[:-1]
    ret = np.log(made.market.close[0] / made.market.open[0])
    direction = story.response[chosen]
    assert (story.published_s[chosen] >= bars.open_s[chosen]).all()
    assert (story.published_s[chosen] < bars.close_s[chosen]).all()
    before, during, after = (direction * ret[chosen + shift] for shift in (-1, 0, 1))
    assert t_statistic(during) > 20
    assert abs(t_statistic(before)) < 4
    assert abs(t_statistic(after)) < 4


def test_a_headline_at_the_cutoff_counts_for_the_next_bar(default):
    bars = default.clock
    zero = np.zeros(3, np.int64)
    times = np.array([bars.close_s[4] - 1, bars.close_s[4], bars.close_s[5] - 1])
    item = lab_news.Items(zero, zero, zero - 1, times, times, zero, np.array([1, 2, -1]), zero, zero - 1)
    assert lab_news.sentiment(item, bars, 1)[0, 3:7].tolist() == [0, 1, 1, 0]


def test_stories_are_fair_coins(default):
    present = np.stack([story.present for story in default.told])
    direction, response = (
        np.stack([getattr(story, name) for story in default.told]) for name in ("direction", "response")
    )
    for sign in (direction[present], response[present]):
        assert abs(sign.mean()) * np.sqrt(sign.size) < 4


def test_timing_of_the_items(default):
    items, bars = default.items, default.clock
    published = np.searchsorted(bars.open_s, items.published_s, side="right") - 1
    during = (items.published_s < bars.close_s[np.maximum(published, 0)]) & (published >= 0)
    assert 0.3 < during.mean() < 0.8
    weekday = (items.published_s // 86_400 + 3) % 7
    assert (weekday >= 5).sum() > 50, "weekend items"
    assert (np.diff(items.arrival_s) >= 0).all()
    late = items.arrival_s > items.published_s
    assert 20 < late.sum() < 0.02 * len(items)
    assert (items.latent[late] == 0).all(), "what arrives late moves nothing"
    assert len(np.unique(items.code)) == len(items)
    assert (items.partner >= 0).sum() > 100
    assert (items.latent[items.partner >= 0] == 0).all()


def test_reposts_repeat_an_earlier_item_by_another_author(default):
    items = default.items
    again = items[items.repost_of >= 0]
    assert 0.04 < len(again) / len(items) < 0.1
    place = {code: k for k, code in enumerate(items.code.tolist())}
    original = items[np.array([place[code] for code in again.repost_of.tolist()])]
    assert (again.pool_text == original.pool_text).all()
    assert (again.ticker == original.ticker).all()
    assert (again.author != original.author).all()
    assert (again.published_s > original.published_s).all()
    assert (again.published_s - original.published_s <= 1801).all()


def test_half_days_and_clock(default):
    bars = default.clock
    half = bars.close_s - bars.open_s == 210 * 60
    thanksgiving = ["2015-11-27", "2016-11-25", "2017-11-24", "2018-11-23", "2019-11-29"]
    eves = ["2015-12-24", "2017-07-03", "2018-07-03", "2018-12-24", "2019-07-03", "2019-12-24"]
    held = np.datetime_as_string(bars.session[: bars.n][half[: bars.n]].astype("datetime64[D]"))
    assert held.tolist() == sorted(thanksgiving + eves)
    assert set(bars.octets[half].tolist()) == {42}
    assert set(bars.octets[~half].tolist()) == {78}
    np.testing.assert_array_equal(bars.fill[: bars.n], np.arange(1, bars.n + 1))
    share = (default.sd.inside[:, :-1] / default.sd.gap[:, 1:]) ** 2  # of a session's inside over the gap after it
    full = (1 - lab_market.GAP_SHARE) / lab_market.GAP_SHARE
    np.testing.assert_allclose(share[:, half[:-1]], full * 210 / 390)
    np.testing.assert_allclose(share[:, ~half[:-1]], full)
    minute = lab.generate(minutes()).clock
    lag = minute.fill[: minute.n] - np.arange(minute.n)
    assert minute.n == 3900
    last_of_session = np.flatnonzero(np.diff(minute.session_number[: minute.n + 1]))
    assert set(lag[last_of_session].tolist()) == {1}
    assert set(np.delete(lag, last_of_session).tolist()) == {2}


def test_bars_hold_open_and_close(default):
    market = default.market
    assert (market.high >= np.maximum(market.open, market.close)).all()
    assert (market.low <= np.minimum(market.open, market.close)).all()
    assert (market.high > np.maximum(market.open, market.close)).mean() > 0.9
    assert (market.volume > 0).all()
    size = np.abs(market.z_ret[:, 1:])
    assert np.corrcoef(np.log(market.volume[0, 1:]), size[0])[0, 1] > 0.3


def test_volatility_clusters_and_tickers_move_together(default):
    ret = np.diff(np.log(default.market.close), axis=1)
    size = np.abs(ret)
    lagged = np.mean([np.corrcoef(row[1:], row[:-1])[0, 1] for row in size])
    assert lagged > 0.05
    cross = np.corrcoef(ret)[np.triu_indices(9, 1)]
    assert cross.mean() > 0.02


def written(cfg, folder):
    lab._generate.cache_clear()
    files = lab.fetch(cfg, folder)
    assert {file.path for file in files} == {path for path in folder.rglob("*") if path.is_file()}
    return {file.path.relative_to(folder).as_posix(): file.path.read_bytes() for file in files}


SMALL = {"first_session": "2015-01-02", "last_session": "2016-06-30"}


def test_the_same_bytes_twice_and_others_for_another_seed(tmp_path):
    first = written(configuration(**SMALL), tmp_path / "a")
    assert first == written(configuration(**SMALL), tmp_path / "b")
    other = written(configuration(**SMALL, seed=8), tmp_path / "c")
    assert first["prices/TSLA.csv"] != other["prices/TSLA.csv"]
    assert b"SIMULATED" in first["README.md"]


def test_a_ticker_does_not_depend_on_how_many_there_are(tmp_path):
    few = written(configuration(**SMALL, n_tickers=3), tmp_path / "few")
    many = written(configuration(**SMALL, n_tickers=12), tmp_path / "many")
    for name in ("prices/TSLA.csv", "prices/AAPL.csv", "prices/NVDA.csv"):
        assert few[name] == many[name]
    truths = [lab.truth(configuration(**SMALL, n_tickers=n)) for n in (3, 12)]
    pd.testing.assert_frame_equal(truths[0], truths[1].head(len(truths[0])))
    assert "prices/T0011.csv" in many


def test_a_later_end_changes_nothing_before(tmp_path):
    short = written(configuration(**SMALL | {"last_session": "2015-12-31"}), tmp_path / "short")
    long = written(configuration(**SMALL), tmp_path / "long")
    for name in ("prices/TSLA.csv", "prices/PFE.csv", "actions.csv"):
        lines = short[name].splitlines()
        assert set(lines) <= set(long[name].splitlines())
        if name != "actions.csv":
            assert lines == long[name].splitlines()[: len(lines)]
    truths = [lab.truth(configuration(**SMALL | {"last_session": last})) for last in ("2015-12-31", "2016-06-30")]
    merged = truths[0].merge(truths[1], on=["ticker", "bar_close_utc"], suffixes=("", "_long"))
    for name in ("kind", "sentiment", "z_ret", "sigma_target", "oracle_mean_ret"):
        assert (merged[name] == merged[f"{name}_long"]).all(), name


@pytest.mark.parametrize("make", [lambda: configuration(**SMALL), minutes], ids=["1d", "1m"])
def test_cleaning_finds_the_odd_rows_and_loses_nothing(make, tmp_path):
    cfg = make()
    lab.fetch(cfg, tmp_path)
    made = lab.generate(cfg)
    clean = cleaning.clean(lab.read(cfg, tmp_path), cfg)
    n_tickers = len(made.companies)
    assert len(clean.prices) == n_tickers * made.clock.n
    refused = clean.rejected.groupby("table").size()
    assert refused["prices"] == n_tickers * lab_odd.PRICES_A_TICKER
    assert refused["news"] == lab_odd.NEWS
    assert len(clean.news) == len(made.items) + (made.items.partner >= 0).sum()
    total = clean.metrics["prices"]["rows"], clean.metrics["news"]["rows"]
    assert lab_odd.PRICES_A_TICKER * n_tickers / total[0] < 0.01
    assert lab_odd.NEWS / total[1] < 0.01


@pytest.mark.parametrize("make", [lambda: configuration(**SMALL), minutes], ids=["1d", "1m"])
def test_panel_of_the_files_is_the_market(make, tmp_path):
    """Through files, cleaning and adjustment: splits and dividends leave no trace in returns and targets."""
    cfg = make()
    lab.fetch(cfg, tmp_path)
    made = lab.generate(cfg)
    clean = cleaning.clean(lab.read(cfg, tmp_path), cfg)
    built = panel.build(clean.prices, clean.benchmark, cfg)
    truth = lab.truth(cfg)
    both = built.merge(truth, on=["ticker", "bar_close_utc"], validate="one_to_one")
    assert len(both) == len(built) == len(truth)
    order = [company.ticker for company in made.companies]
    ret, _, _ = targets(made)
    close = made.market.close[:, : made.clock.n]
    for i, ticker in enumerate(order):
        rows = both[both["ticker"] == ticker].sort_values("bar_close_utc")
        due = rows["target_ret"].notna().to_numpy()
        assert due.sum() >= len(rows) - 3
        np.testing.assert_allclose(rows["target_ret"].to_numpy()[due], ret[i][due], atol=2e-5)
        np.testing.assert_allclose(rows["ret"].to_numpy()[1:], close[i, 1:] / close[i, :-1] - 1, atol=2e-5)
    tables.validate("truth", truth.astype({"bar_close_utc": "datetime64[us, UTC]"}), Path("truth"))


def test_splits_and_dividends_show_in_quotes(tmp_path):
    cfg = configuration(**SMALL)
    files = written(cfg, tmp_path)
    actions = pd.read_csv(tmp_path / "actions.csv")
    split = actions[actions["split"] != 1]
    assert {"TSLA", "MSFT", "XOM"} <= set(split["ticker"])
    assert (actions["dividend"] > 0).sum() > 20
    assert "TSLA" not in set(actions.loc[actions["dividend"] > 0, "ticker"])
    quotes = pd.read_csv(tmp_path / "prices/TSLA.csv").drop_duplicates("date").set_index("date")["close"]
    row = split[split["ticker"] == "TSLA"].iloc[0]
    place = quotes.index.get_loc(row["session"])
    assert quotes.iloc[place - 1] / quotes.iloc[place] == pytest.approx(row["split"], rel=0.2)
    assert files["prices/TSLA.csv"].splitlines()[1].startswith(b"2015-01-02,214.0000,")


def test_penny_quotes_are_put_together():
    close = np.full((1, 200), 20.0)
    close[:, 10:] = 4.0
    factor, split, _ = lab_quotes.plan(np.concatenate([np.full((1, 200), 50.0), close]))
    assert (split[1] == 0.1).sum() == 1
    assert lab_quotes.quoted(close[0, -1], factor[1, -1]) > 30


def test_feed_lines(tmp_path):
    cfg = configuration(**SMALL, odd_rows=False)
    lab.fetch(cfg, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "news/news.jsonl").read_text().splitlines()]
    assert len(lines) == len(lab.generate(cfg).items)
    assert set(lines[0]) == {
        *("id", "tickers", "published_utc", "text", "author", "followers", "lang", "is_repost", "repost_of")
    }
    assert {len(line["tickers"]) for line in lines} == {1, 2}
    assert all(line["is_repost"] == (line["repost_of"] is not None) for line in lines)
    personal = ["@tape_reader", "https://news.example.com", "@example.com", "202-555-01"]
    for mark in personal:
        assert any(mark in line["text"] for line in lines), mark


def test_pools_of_texts():
    for ticker in (0, 8, 137):
        texts = lab_headlines.pool(ticker)
        assert len(texts) == len(set(texts)) == lab_headlines.POOL_SIZE
        own, other = lab_headlines.company(ticker), lab_headlines.company(ticker ^ 1)
        assert all(own.name in text or f"${own.ticker}" in text for text in texts)
        assert all(other.name in text for text in texts[lab_headlines.PAIR_START :])
        assert not any("{" in text for text in texts)
    names = [company.name for company in lab_headlines.companies(1200)]
    assert len(set(names)) == 1200


def test_noise_fills_the_feed_and_moves_nothing():
    base, full = (lab.generate(configuration(**SMALL, n_news=n)) for n in (0, 12_345))
    assert len(full.items) == 12_345 > len(base.items)
    np.testing.assert_array_equal(base.market.close, full.market.close)
    np.testing.assert_array_equal(base.sentiment, full.sentiment)


def test_minute_laboratory_has_its_shares_and_drift():
    made = lab.generate(minutes())
    assert abs((kinds(made) != 0).mean() - 0.15) < 0.02
    ret, sigma, oracle = targets(made)
    excess = (ret - oracle) / sigma
    assert abs(z_of_mean(excess, np.ones_like(excess))) < 4
    correlation = np.corrcoef((oracle / sigma).ravel(), (ret / sigma).ravel())[0, 1]
    assert correlation > 0.08


def test_five_minute_bars():
    cfg = configuration("5m", first_session="2019-11-25", last_session="2019-12-06", n_tickers=2)
    made = lab.generate(cfg)
    assert made.clock.n == 8 * 78 + 42
    assert abs((kinds(made) != 0).mean() - 0.15) < 0.04


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": {"name": "stocknet"}}, "next_open"),
        ({"target": {"session_rule": "utc_date"}}, "next_open"),
        ({"lab": {"first_session": "2015-01-03", "last_session": "2015-01-04"}}, "at least one session"),
        ({"lab": {"first_session": "2016-01-04", "last_session": "2015-01-05"}}, "at least one session"),
    ],
)
def test_refuses_what_allows_no_market(change, message, tmp_path):
    cfg = configuration(**change.get("lab", {}))
    cfg.target = replace(cfg.target, **change.get("target", {}))
    with pytest.raises(InputError, match=message):
        lab.fetch(cfg, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "override",
    ["seed=-1", f"seed={1 << 64}", "first_session='2015-02-31x'", "last_session=soon", "n_tickers=0", "delta=1.5"],
)
def test_refuses_parameters_out_of_range(override):
    with pytest.raises(InputError, match=f"data.lab.{override.split('=')[0]}"):
        config.load([f"data.lab.{override}"])


@pytest.mark.parametrize(
    ("days", "n_tickers"), [(("2015-01-02", "2015-01-02"), 1), (("2015-01-02", "2015-01-05"), 2)], ids=["one", "two"]
)
def test_smallest_laboratories(days, n_tickers, tmp_path):
    cfg = configuration(first_session=days[0], last_session=days[1], n_tickers=n_tickers)
    lab.fetch(cfg, tmp_path)
    assert len(lab.truth(cfg)) == n_tickers * len(set(days))
