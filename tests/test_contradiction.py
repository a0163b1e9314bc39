"""fusion_alpha.contradiction: the formulas by hand, nothing from the future, rows without news, refusals."""

import hashlib
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import synthetic_bars

from fusion_alpha import config, contradiction, detection, nulls, tables
from fusion_alpha.config import ContradictionConfig
from fusion_alpha.errors import InputError
from fusion_alpha.sources import lab
from stages import contradiction as stage

CUTS = [pd.Timestamp(f"2015-01-{day:02d} 21:00", tz="UTC") for day in (5, 6, 7)]


@pytest.fixture(scope="module")
def cfg() -> ContradictionConfig:
    return replace(config.load().contradiction, n_paths=256)


@pytest.fixture(scope="module")
def bars() -> pd.DataFrame:
    return synthetic_bars.panel(("AAA", "BBB", "CCC"), 130)


@pytest.fixture(scope="module")
def news(bars) -> tuple[pd.DataFrame, pd.DataFrame]:
    items, text = synthetic_bars.news(bars, 0.8)
    return items[items["ticker"] != "CCC"].reset_index(drop=True), text


@pytest.fixture(scope="module")
def table(bars, news, cfg) -> pd.DataFrame:
    return contradiction.build(bars, *news, cfg)


def test_sentiment_by_hand():
    panel = pd.DataFrame({"ticker": ["A", "A", "B"], "bar_close_utc": [CUTS[0], CUTS[1], CUTS[0]]})
    text = pd.DataFrame(
        {"text_hash": ["x", "y"], "p_negative": [0.1, 0.6], "p_neutral": [0.2, 0.4], "p_positive": [0.7, 0.0]}
    )
    news = pd.DataFrame(
        {
            "ticker": ["B", "A", "A"],
            "bar_close_utc": [CUTS[0], CUTS[0], CUTS[0]],
            "age_hours": [0.0, 12.0, 24.0],
            "text_hash": ["y", "x", "y"],
        }
    )
    n_news, s = contradiction.sentiment(panel, news, text, half_life_hours=12.0)
    np.testing.assert_array_equal(n_news, [2, 0, 1])
    # A, first bar: weights 0.5 * 0.8 and 0.25 * 0.6, tones 0.6 and -0.6;  B: weight 0.6, tone -0.6
    np.testing.assert_allclose(s, [(0.4 * 0.6 - 0.15 * 0.6) / (0.55 + 1), np.nan, -0.36 / 1.6])


def test_standardise_by_hand():
    """Window of 3 bars, weight 2. A has scores 0.1, none, 0.4, 0.6; B has 0.2, 0.3, 0.5 and ends."""
    s = np.array([0.1, np.nan, 0.4, 0.6, 0.2, 0.3, 0.5])
    number, time = np.array([0, 1, 2, 3, 0, 1, 2]), np.array([0, 1, 2, 3, 0, 1, 2])
    z_s = contradiction.standardise(s, number, time, window_bars=3, shrink_weight=2.0)
    assert np.isnan(z_s[[0, 1, 4]]).all()  # nothing before
    # A at time 3: own 0.1, 0.4 (n = 2); all 0.1, 0.2, 0.3, 0.4, 0.5
    mean = 0.5 * 0.25 + 0.5 * 0.3
    sd = 0.5 * np.std([0.1, 0.4], ddof=1) + 0.5 * np.std([0.1, 0.2, 0.3, 0.4, 0.5], ddof=1)
    assert z_s[3] == pytest.approx((0.6 - mean) / sd)
    # B at time 1: own 0.2 (n = 1, no sd of its own); all 0.1, 0.2
    mean = 1 / 3 * 0.2 + 2 / 3 * 0.15
    assert z_s[5] == pytest.approx((0.3 - mean) / np.std([0.1, 0.2], ddof=1))


def naive_z(s: pd.DataFrame, window: int, weight: float) -> pd.DataFrame:
    """s: bars x tickers without gaps; the definition row by row."""
    out = pd.DataFrame(np.nan, s.index, s.columns)
    for t in range(len(s)):
        past = s.iloc[max(t - window, 0) : t]
        everyone = past.to_numpy()[past.notna().to_numpy()]
        for ticker in s:
            own = past[ticker].dropna().to_numpy()
            if len(everyone) < 2:
                continue
            k = weight / (len(own) + weight) if len(own) else 1.0
            mean = (1 - k) * own.mean() + k * everyone.mean() if len(own) else everyone.mean()
            sd = np.std(everyone, ddof=1)
            sd = (1 - k) * np.std(own, ddof=1) + k * sd if len(own) > 1 else sd
            out.loc[s.index[t], ticker] = (s.iloc[t][ticker] - mean) / sd
    return out


@pytest.mark.parametrize(("window", "weight"), [(10, 5.0), (60, 20.0), (500, 0.0)])
def test_standardise_equals_the_definition(window, weight):
    rng = np.random.default_rng(1)
    s = pd.DataFrame(rng.normal(0, 0.3, (90, 3)), columns=list("ABC")).mask(rng.random((90, 3)) < 0.5)
    number = np.tile(np.arange(90), 3)
    z_s = contradiction.standardise(s.to_numpy().T.ravel(), number, number, window, weight)
    np.testing.assert_allclose(z_s.reshape(3, 90).T, naive_z(s, window, weight), rtol=1e-9, atol=1e-12)


def test_scores_without_spread_are_not_standardised():
    number = np.arange(6)
    assert np.isnan(contradiction.standardise(np.full(6, 0.1), number, number, 60, 20.0)).all()


def test_score_kind_and_signs():
    nan = np.nan
    z_s = np.array([2.0, -2.0, 2.0, -0.5, nan, 1.0, 0.0])
    z_r = np.array([-2.0, 0.5, 1.0, 0.5, 1.0, nan, 3.0])
    cs = contradiction.score(z_s, z_r)
    np.testing.assert_array_equal(cs, [2.0, -1.0, 0.0, -0.5, 0.0, 0.0, 0.0])
    kinds = ["overhype", "underhype", "none", "none", "none", "none", "none"]
    assert contradiction.kind(cs, tau_over=2.0, tau_under=1.0).tolist() == kinds


def test_severity_by_hand():
    cs = np.array([1.0, 0.0, -2.0, 0.5, -1.0, 3.0, 9.0, 1.0])
    number = np.array([0, 1, 2, 3, 4, 5, 0, 1])
    #                  no history; CS 0; above 1; below both; below 2, equal to 1, above 0.5; all; new ticker
    expected = [0.0, 0.0, 1.0, 0.0, 1 / 3, 1.0, 0.0, 0.0]
    np.testing.assert_allclose(contradiction.severity(cs, number, bars=252), expected)
    # a window of two bars: 0.5 sees 2; -1 sees 0.5 and 2; 3 sees 1 and 0.5
    np.testing.assert_allclose(contradiction.severity(cs, number, bars=2), [0, 0, 1, 0, 0.5, 1, 0, 0])


def test_table(bars, news, cfg, table):
    assert list(table) == list(tables.schema("contradiction").columns)
    pd.testing.assert_frame_equal(table[["ticker", "bar_close_utc"]], bars[["ticker", "bar_close_utc"]])
    assert table["n_news"].sum() == len(news[0])
    assert (table["s"].isna() == (table["n_news"] == 0)).all()
    scored = table["cs"] != 0
    assert scored.sum() > 20
    assert (np.sign(table["z_s"]) == -np.sign(table["z_r"]))[scored].all()
    np.testing.assert_allclose(np.abs(table["cs"]), np.sqrt(np.abs(table["z_s"] * table["z_r"])).where(scored, 0.0))
    assert set(table["kind"]) == {"none", "overhype", "underhype"}
    assert (table["cs"][table["kind"] == "overhype"] >= cfg.tau_over).all()
    assert (table["severity"][~scored] == 0).all()
    assert table["severity"].max() == 1


def test_tickers_without_news_and_without_history(table):
    quiet = table[table["ticker"] == "CCC"]
    assert quiet["s"].isna().all()
    assert (quiet["kind"] == "none").all()
    assert (quiet[["n_news", "cs", "severity"]] == 0).all(axis=None)
    assert quiet["z_r"].iloc[61:].notna().all()
    first = table.groupby("ticker").head(61)
    assert first["z_r"].isna().all()
    assert (first["cs"] == 0).all()


def test_no_news_at_all(bars, news, cfg):
    table = contradiction.build(bars, news[0].iloc[:0], news[1].iloc[:0], cfg)
    assert table["s"].isna().all()
    assert (table["cs"] == 0).all()


@pytest.mark.parametrize("cut", [0, 3, 63, 90, 129])
@pytest.mark.parametrize("attack", ["delete", "poison"])
def test_later_data_change_no_bit(bars, news, cfg, table, cut, attack):
    items, text = news
    edge = bars["bar_close_utc"].iloc[cut]
    late_bar, late_item = bars["bar_close_utc"] > edge, items["bar_close_utc"] > edge
    rng = np.random.default_rng(cut)
    if attack == "delete":
        bars, items = bars[~late_bar].reset_index(drop=True), items[~late_item]
    else:
        bars, items = bars.copy(), items.copy()
        bars.loc[late_bar, ["open", "high", "low", "close"]] *= rng.uniform(0.5, 2, (late_bar.sum(), 4))
        items.loc[late_item, "text_hash"] = "poison"
        items.loc[late_item, "age_hours"] = 1e3
        poison = {"text_hash": "poison", "p_negative": 1.0, "p_neutral": 0.0, "p_positive": 0.0}
        text = pd.concat([text, pd.DataFrame([poison])], ignore_index=True)
    again = contradiction.build(bars, items, text, cfg)
    kept = again[again["bar_close_utc"] <= edge].reset_index(drop=True)
    expected = table[table["bar_close_utc"] <= edge].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, expected, check_exact=True)


def test_a_bar_without_its_ticker_still_counts_bars(cfg):
    """A ticker that starts later and misses bars: its windows count its own bars, the market's count bar times."""
    full = synthetic_bars.panel(("AAA", "BBB"), 140)
    gaps = (full["ticker"] == "BBB") & full.groupby("ticker").cumcount().isin([*range(20), 70, 71, 100])
    bars = full[~gaps].reset_index(drop=True)
    table = contradiction.build(bars, *synthetic_bars.news(bars), cfg)
    late = table[table["ticker"] == "BBB"].reset_index(drop=True)
    assert late["z_r"].first_valid_index() == 61
    assert late["z_s"].first_valid_index() == late["s"].first_valid_index()  # the market lends it its moments


def test_missing_bar_and_missing_text_are_refused(bars, news, cfg):
    items, text = news
    with pytest.raises(InputError, match=r"panel\.parquet"):
        contradiction.build(bars[bars["ticker"] != "AAA"].reset_index(drop=True), items, text, cfg)
    with pytest.raises(InputError, match=r"text\.parquet"):
        contradiction.build(bars, items, text.iloc[1:], cfg)


def test_runs_the_kernel(bars, news, cfg, monkeypatch):
    calls = []

    def spy(*args, **options):
        calls.append(options["n_paths"])
        return kernel(*args, **options)

    kernel = nulls.mc_features
    monkeypatch.setattr(nulls, "mc_features", spy)
    contradiction.build(bars, *news, cfg)
    assert calls == [cfg.n_paths]


@pytest.mark.parametrize("seed", [7, 8])
def test_planted_contradictions_are_found_better_than_by_sign(cfg, seed):
    """On the laboratory's own prices and sentiment, read without mistakes, but with a shade of tone in neutral news."""
    market_cfg = config.load(["data.lab.n_tickers=4", "data.lab.last_session='2017-06-30'", f"data.lab.seed={seed}"])
    made, truth = lab.generate(market_cfg), lab.truth(market_cfg)
    n = made.clock.n
    prices = {name: getattr(made.market, name)[:, :n].ravel() for name in ("open", "high", "low", "close")}
    session = np.tile(made.clock.session[:n], 4)
    panel = truth[["ticker", "bar_close_utc"]].assign(session=session, **prices)
    rng = np.random.default_rng(seed)
    tone = 0.8 * np.tanh(truth["sentiment"]) + 0.03 * rng.standard_normal(len(truth))
    told = (truth["sentiment"] != 0) | (rng.random(len(truth)) < 0.3)
    hashes = [f"{number:032x}" for number in range(told.sum())]
    items = panel.loc[told, ["ticker", "bar_close_utc"]].assign(age_hours=1.0, text_hash=hashes)
    text = pd.DataFrame({"text_hash": hashes, "p_negative": (-tone[told]).clip(0), "p_positive": tone[told].clip(0)})
    text["p_neutral"] = 1 - text["p_negative"] - text["p_positive"]
    order = panel.sort_values(["ticker", "bar_close_utc"]).index
    table = contradiction.build(panel.loc[order].reset_index(drop=True), items, text, cfg)
    rows = table.assign(true=truth["kind"][order].to_numpy(), session=session[order])
    rows["ret"] = panel["close"][order].groupby(panel["ticker"][order]).pct_change().to_numpy()
    rows = rows[rows["z_r"].notna() & rows["z_s"].notna() | rows["s"].isna()]
    sign = np.sign(rows["s"]).where(rows["s"] * rows["ret"] < 0, 0.0)
    naive = sign.map({1.0: "overhype", -1.0: "underhype", 0.0: "none"})
    rules = {"score": detection.Rule(rows["kind"], rows["cs"]), "naive": detection.Rule(naive, sign)}
    settings = replace(market_cfg.evaluate, bootstrap_samples=200)
    found = detection.compare(rules, rows["true"], rows["session"], settings, reference="naive")
    score, less = found["score"], found["score_less_naive"]
    assert score["precision_lo"] > 0.9
    assert score["recall_lo"] > 0.8
    assert score["auc_lo"] > 0.98
    assert min(less["precision_lo"], less["f1_lo"], less["auc_lo"]) > 0
    assert less["recall_hi"] <= 0  # opposite signs miss nothing that was planted


def test_stage_writes_the_same_bytes_twice(bars, news, tmp_path, monkeypatch):
    cfg = config.load(["executor.workers=1", "contradiction.n_paths=64"])
    monkeypatch.chdir(tmp_path)
    items, text = news
    tables.write("panel", bars)
    tables.write("news_bars", items)
    tables.write("text", text.assign(embedding=tables.vector_series(np.ones((len(text), 4), np.float16))))
    digests = []
    for _ in range(2):
        stage.main(cfg)
        outputs = ("data/features/contradiction.parquet", "metrics/contradiction.json")
        digests.append([hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in outputs])
    assert digests[0] == digests[1]
    assert len(tables.read("contradiction")) == len(bars)
