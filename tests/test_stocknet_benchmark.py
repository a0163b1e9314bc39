"""The StockNet benchmark: planted answers are found, nothing looks ahead, every figure can be computed again."""

import importlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.metrics import balanced_accuracy_score, matthews_corrcoef
from stocknet_inputs import small_archive

from fusion_alpha import config, statistics, tables
from fusion_alpha.errors import InputError
from fusion_alpha.files import read_json, sha256
from fusion_alpha.sources import stocknet as source
from fusion_alpha.stocknet import (
    choice,
    features,
    layers,
    looks,
    networks,
    results,
    runs,
    scores,
    systems,
    tweets,
    walkforward,
)
from fusion_alpha.stocknet.choice import Choice
from fusion_alpha.stocknet.scores import Answers
from fusion_alpha.stocknet.walkforward import Fold

ROOT = Path(__file__).parents[1]
OVERRIDES = ["text=stub", "text.dim=32", "contradiction.n_paths=64", "executor.workers=1", "model.width=16"]


# ---- what a tweet says and weighs


@pytest.mark.parametrize(
    ("text", "ticker", "said"),
    [
        ("RT @user: $AAPL beats, $MSFT does not <url>", "AAPL", "the company beats, another company does not"),
        ("$AAPL $FB $TWTR", "AAPL", ""),
        ("Why banks fell <url> $BAC $C, $JPM and $WFC #banks #stocks", "C", "Why banks fell"),
        ("$BRK.B buys a railway via @user", "BRK-A", "the company buys a railway"),
        ("#Apple sells 10M #iPhones at $650", "AAPL", "Apple sells 10M iPhones at $650"),
        ("Q&amp;A with Cisco&#39;s chief $CSCO", "CSCO", "Q&A with Cisco's chief the company"),
        ("A$AP and L$D", "D", "A$AP and L$D"),
    ],
)
def test_a_tweet_keeps_what_it_says(text, ticker, said):
    assert tweets.plain(text, ticker) == said


def test_letters_after_a_dollar_within_a_word_name_no_ticker():
    news = pd.DataFrame({"text": ["L$D", "$D pays", "$brk.b up", "$DD pays"], "ticker": ["D", "D", "BRK-A", "D"]})
    assert tweets.named(news).tolist() == [False, True, True, False]
    assert tweets.tags("$AAPL, $fb and A$AP $12 $BRK.A") == {"AAPL", "FB", "BRK"}


def test_earlier_counts_five_days_of_the_same_key_and_nothing_later():
    rng = np.random.default_rng(0)
    when = pd.Series(pd.Timestamp("2014-01-01", tz="UTC") + pd.to_timedelta(rng.integers(0, 20 * 86400, 300), unit="s"))
    key = pd.Series(rng.choice(list("abc"), 300))
    slow = [
        ((key == k) & (when < t) & (when >= t - pd.Timedelta(days=5))).sum() for k, t in zip(key, when, strict=True)
    ]
    assert tweets.earlier(key, when).tolist() == slow
    assert tweets.earlier(key.head(0), when.head(0)).empty


def test_reposts_lists_machines_and_age_weigh_less():
    one = {"published_utc": pd.Timestamp("2014-01-01", tz="UTC"), "author_key": "a", "followers": 100, "n_tags": 1}
    news = pd.DataFrame([one | {"age_hours": 0.0}] * 2).assign(author_key=["a", "b"])
    base = tweets.weigh(news, pd.Series([0, 0]))
    assert (tweets.weigh(news, pd.Series([3, 3])) == base / 4).all()
    assert tweets.weigh(news.assign(n_tags=4), pd.Series([0, 0])).tolist() == pytest.approx((base / 2).tolist())
    assert tweets.weigh(news.assign(age_hours=24.0), pd.Series([0, 0])).tolist() == pytest.approx((base / 2).tolist())
    later = pd.concat(
        [news, news.assign(published_utc=one["published_utc"] + pd.Timedelta(hours=1))], ignore_index=True
    )
    assert (tweets.weigh(later, pd.Series(0, later.index))[2:].to_numpy() < base.to_numpy()).all()


# ---- scores


def board_of(n_days: int = 30, per_day: int = 20, seed: int = 0, together: float = 0.0) -> pd.DataFrame:
    """Samples whose labels agree within a day by the share `together`."""
    rng = np.random.default_rng(seed)
    day = np.repeat(pd.bdate_range("2015-10-01", periods=n_days), per_day)
    common = np.repeat(rng.random(n_days) < 0.5, per_day)
    label = np.where(rng.random(len(day)) < together, common, rng.random(len(day)) < 0.5)
    movement = np.where(label, 0.01, -0.01) * rng.uniform(1, 2, len(day))
    return pd.DataFrame({"session": day, "label": label, "movement": movement})


def answers_of(samples: pd.DataFrame, skill: float, seeds: int = 3, seed: int = 1) -> Answers:
    rng = np.random.default_rng(seed)
    truth = samples["label"].to_numpy(bool)
    known = rng.random((seeds, len(truth))) < skill
    up = np.where(known, truth, rng.random((seeds, len(truth))) < 0.5)
    return Answers(np.where(up, 0.6, 0.4), up)


SETTINGS = config.load(params=ROOT / "params.yaml").evaluate


def test_measures_are_scikit_learns():
    samples = board_of()
    answers = answers_of(samples, 0.2)
    found = scores.measure(samples, answers, SETTINGS, 5)
    for name, function in (("mcc", matthews_corrcoef), ("balanced_accuracy", balanced_accuracy_score)):
        values = [function(samples["label"], up) for up in answers.up]
        assert found[name] == pytest.approx(np.mean(values), rel=1e-5)
        assert found[f"{name}_sd"] == pytest.approx(np.std(values, ddof=1), rel=1e-4)
    assert found["accuracy"] == pytest.approx((answers.up == samples["label"].to_numpy(bool)).mean(), rel=1e-5)
    assert sum(found["confusion"].values()) == pytest.approx(len(samples))
    assert found["seeds"] == 3
    assert found["mcc_ci"][0] < found["mcc"] < found["mcc_ci"][1]
    assert sum(month["n"] for month in found["by_month"].values()) == len(samples)


def test_a_constant_answer_is_worth_nothing_and_a_perfect_one_everything():
    samples = board_of()
    always = Answers(np.ones((1, len(samples))), np.ones((1, len(samples)), bool))
    found = scores.measure(samples, always, SETTINGS, 5)
    assert (found["mcc"], found["mcc_ci"], found["balanced_accuracy"], found["share_up"]) == (0, [0, 0], 0.5, 1)
    assert (found["mcc_sd"], found["bce"], found["ic_daily"]) == (None, None, None)
    right = samples["label"].to_numpy(bool)[None]
    found = scores.measure(samples, Answers(np.where(right, 0.9, 0.1), right), SETTINGS, 5)
    assert (found["mcc"], found["accuracy"]) == (1, 1)
    assert found["ic_daily"] > 0.5
    assert found["bce"] == pytest.approx(-np.log(0.9), rel=1e-5)


def test_intervals_are_wider_where_stocks_move_together():
    def width(together):
        samples = board_of(60, together=together)
        day = samples["session"].rank(method="dense").to_numpy().astype(int)
        up = (np.random.default_rng(3).random(61) < 0.5)[day][None]  # one answer a day
        low, high = scores.measure(samples, Answers(np.where(up, 0.6, 0.4), up), SETTINGS, 5)["mcc_ci"]
        return high - low

    assert width(0.9) > 2 * width(0.0)


def test_the_swap_test_is_exact():
    samples = board_of(20)
    good, bad, same = (
        scores.cells_by_day(samples, answers_of(samples, skill, seed=seed).up)
        for skill, seed in ((0.9, 1), (0.0, 2), (0.9, 1))
    )
    assert scores.swap_test(good, bad, 5) == 2 / 2**4  # four blocks, every one better: only all and none are as far
    assert scores.swap_test(good, same, 5) == 1
    assert scores.swap_test(good, bad, 1) == 2 / 2**14  # at most fourteen blocks


def test_under_the_null_the_swap_test_is_honest():
    p = []
    for seed in range(60):
        samples = board_of(32, 6, seed=seed, together=0.7)
        pair = (scores.cells_by_day(samples, answers_of(samples, 0, 1, 100 * i + seed).up) for i in (1, 2))
        p.append(scores.swap_test(*pair, 4))
    assert 0.35 < np.mean(p) < 0.65
    assert np.mean(np.array(p) < 0.1) < 0.25


def test_holm_corrects_for_the_number_of_tests():
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.6, 0.7]) == [1, 1]
    assert statistics.holm([]) == []


def test_pairs_of_one_and_many_seeds_can_be_compared_others_not():
    samples = board_of()
    many, one, two = (answers_of(samples, 0.5, seeds) for seeds in (3, 1, 2))
    found = scores.compare(samples, many, one, SETTINGS, 5)
    assert found["mcc_difference_ci"][0] <= found["mcc_difference"] <= found["mcc_difference_ci"][1]
    with pytest.raises(ValueError, match="3 and 2 seeds"):
        scores.compare(samples, many, two, SETTINGS, 5)
    tests = scores.paired_tests(samples, {"a": many, "b": one}, [("a", "b"), ("b", "a")], SETTINGS, 5)
    assert [test["against"] for test in tests] == ["b", "a"]
    assert all(test["p_holm"] >= test["p"] for test in tests)


# ---- choices


def asked(n_days: int = 60, per_day: int = 4) -> pd.DataFrame:
    samples = board_of(n_days, per_day)
    day = samples["session"].dt.tz_localize("UTC")
    split = np.where(np.arange(len(samples)) < len(samples) * 0.8, "train", "test")
    return samples.assign(
        decided_utc=day.dt.as_unit("us"), label_end_utc=(day + pd.Timedelta(hours=21)).dt.as_unit("us"), split=split
    )


def benchmark_settings(**changes) -> config.BenchmarkConfig:
    whole = config.load(params=ROOT / "params.yaml").benchmark
    return replace(whole, **({"folds": 2, "fold_sessions": 10, "embargo_sessions": 3} | changes))


def test_folds_are_purged_blocks_that_never_touch_test():
    samples = asked()
    folds = walkforward.folds(samples, benchmark_settings())
    days = samples["session"].drop_duplicates().to_numpy()
    for number, fold in enumerate(folds):
        start = 48 - 20 + 10 * number
        assert samples["session"].iloc[fold.judge].unique().tolist() == days[start : start + 10].tolist()
        assert samples["session"].iloc[fold.learn].unique().tolist() == days[: start - 3].tolist()
    assert (samples["split"].iloc[walkforward.judged(folds)] == "train").all()
    last = walkforward.final(samples)
    assert set(samples["split"].iloc[last.judge]) == {"test"}
    assert len(last.learn) + len(last.judge) == len(samples)
    with pytest.raises(InputError, match=r"benchmark\.folds = 5"):
        walkforward.folds(samples, benchmark_settings(folds=5))


def test_the_setting_of_least_loss_and_the_better_threshold_are_chosen():
    samples = asked()
    folds = walkforward.folds(samples, benchmark_settings())
    truth = samples["label"].to_numpy(float)[walkforward.judged(folds)]
    good = np.stack([np.full((2, len(truth)), 0.5), np.tile(0.3 + 0.4 * truth, (2, 1))])  # the second stop knows
    system = replace(
        systems.SYSTEMS["trees_price"], grid=({"leaves": 4, "stops": [1, 2]}, {"leaves": 8, "stops": [1, 2]})
    )
    picked = choice.best(system, [np.full((2, 2, len(truth)), 0.6), good], samples, folds)
    assert picked.setting == {"leaves": 8, "stops": [2]}
    assert (picked.threshold.rule, picked.tried) == ("half", 4)
    assert picked.loss == pytest.approx(-np.log(0.7))

    def chosen(level: object) -> str:
        return choice.best_threshold(level + np.where(truth > 0, 0.001, -0.001)[None], samples, folds).rule

    assert chosen(0.5) == "half"
    share = choice.Threshold("rate").of(samples, folds)
    assert sorted(set(share)) == sorted({samples["label"].to_numpy(bool)[fold.learn].mean() for fold in folds})
    assert chosen(share) == "rate"
    assert chosen(0.7) == "median"
    assert set(choice.Threshold("median", 0.7).of(samples, folds)) == {0.7}


def test_calibration_never_turns_a_system_around_and_the_blend_takes_who_knows():
    samples = asked(200)
    folds = walkforward.folds(samples, benchmark_settings(fold_sessions=50))
    truth = samples["label"].to_numpy(bool)[walkforward.judged(folds)]
    rng = np.random.default_rng(0)
    knows = np.where(truth, 0.9, 0.1) * 0.5 + 0.5 * rng.random(len(truth))
    assert choice.calibration(1 - knows, truth)[1] == 0
    assert choice.calibration(knows, truth)[1] > 0.5
    exact = choice.calibrated(np.array([0.3]), np.array([0.0, 1.0]))
    assert exact == pytest.approx([0.3])
    chosen = {
        name: Choice({}, choice.Threshold("half"), p[None], 0.0, 1)
        for name, p in (("knows", knows), ("against", 1 - knows), ("noise", rng.random(len(truth))))
    }
    mix = choice.blend(chosen, list(chosen), samples, folds)
    assert mix.weights.tolist() == [1, 0, 0]
    p = choice.blended(mix, {name: picked.p_up for name, picked in chosen.items()})
    assert matthews_corrcoef(truth, p > 0.5) > 0.5


def test_the_ensemble_leaves_out_one_seed_at_a_time():
    mix = choice.Blend(("a", "b"), np.array([0.5, 0.5]), np.array([[0.0, 1.0], [0.0, 1.0]]), choice.Threshold("half"))
    p = {"a": np.array([[0.2], [0.4], [0.6]]), "b": np.array([[0.5]])}
    assert results.ensemble(mix, p, 3).ravel() == pytest.approx([0.5, 0.45, 0.4])
    assert results.ensemble(mix, {"a": p["a"][:1], "b": p["b"]}, 1).ravel() == pytest.approx([0.35])


# ---- the log of looks


def test_every_look_is_logged_and_other_files_are_refused(tmp_path):
    log = tmp_path / "looks.csv"
    assert looks.note("one", ["a", "b"], 5, log) == (1, 1)
    assert looks.note("one", ["a", "b"], 5, log) == (2, 1)
    assert looks.note("two", ["a"], 5, log) == (3, 2)
    assert log.read_text().splitlines()[0] == "date,commit,configuration,systems,samples"
    assert [line[3] for line in looks.read(log)] == ["a b", "a b", "a"]
    log.write_text("system,mcc\n")
    with pytest.raises(InputError, match="git checkout"):
        looks.note("three", [], 0, log)


# ---- on a small archive


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Working folder with conf/, an archive, and the layers made from it by the real stages, in this process."""
    folder = tmp_path_factory.mktemp("stocknet")
    small_archive(folder / source.ARCHIVE_NAME)
    (folder / "conf").symlink_to(ROOT / "conf")
    return folder


@pytest.fixture
def inside(home, monkeypatch) -> Path:
    monkeypatch.chdir(home)
    monkeypatch.setenv("DVC_ROOT", str(home))
    monkeypatch.setenv(source.VARIABLE, str(home))
    monkeypatch.delenv("FUSION_ALPHA_PII_KEY", raising=False)
    for cached in (systems.board, networks.material):
        cached.cache_clear()
    return home


def prepared() -> layers.Layers:
    return layers.prepare([*OVERRIDES, "data.stocknet.price_sha256=null"])


def test_layers_are_made_once_and_named_by_what_made_them(inside):
    layer = prepared()
    assert {"AAPL", "BRK-A"} <= set(layer.sectors())
    before = {path: path.stat().st_mtime_ns for path in layer.folder.rglob("*.parquet")}
    assert prepared() == layer
    assert {path: path.stat().st_mtime_ns for path in layer.folder.rglob("*.parquet")} == before
    assert len(layer.tweets()) >= len(layer.read("news"))
    assert not layer.read("news")["text"].str.contains(r"\$", regex=True).any()
    assert not Path("data").exists()


def test_an_interrupted_preparation_goes_on(inside, tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    technical = importlib.import_module("stages.technical")

    def stops(cfg: config.Config) -> None:
        raise InputError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(technical, "main", stops)
        with pytest.raises(InputError, match="stopped"):
            prepared()
    clean = importlib.import_module("stages.clean")
    monkeypatch.setattr(clean, "main", lambda cfg: pytest.fail("clean was done"))
    layer = prepared()
    assert not layer.read("contradiction").empty


def test_nothing_that_is_known_of_a_sample_depends_on_what_comes_later(inside):
    """Prices after a cut are poisoned and tweets after it removed: samples asked up to it keep every number."""
    layer = prepared()
    panel = layer.read("panel", ["ticker", "bar_close_utc", "session", "open", "high", "low", "close", "volume"])
    panel["sector"] = panel["ticker"].map(layer.sectors())
    cut = pd.Timestamp("2015-03-13")
    poisoned = panel.copy()
    late = poisoned["session"] > cut
    for name in ("open", "high", "low", "close"):
        poisoned.loc[late, name] *= 1.7
    found = features.read_tweets(layer)
    sectors = panel.drop_duplicates("ticker").set_index("ticker")["sector"]
    rows = features.samples(layer)
    rows = rows[rows["row_session"] <= cut]

    def known(bars: pd.DataFrame, news: pd.DataFrame) -> pd.DataFrame:
        groups = features.prices(bars)
        grid = groups["own"]["ret_1"]
        parts = [*groups.values(), features.counts(news, grid), features.sentiment(news, sectors, grid)]
        return pd.concat([features.take(part, rows) for part in parts], axis=1)

    whole = known(panel, found.rows)
    part = known(poisoned, found.rows[found.rows["session"] <= cut])
    pd.testing.assert_frame_equal(whole, part, check_exact=True)
    assert whole.notna().to_numpy().mean() > 0.9


def test_tweets_reach_the_sample_of_the_next_session(inside):
    layer = prepared()
    found = features.read_tweets(layer)
    rows = features.samples(layer)
    assert (found.rows["published_utc"].dt.tz_localize(None) < found.rows["session"] + pd.Timedelta(days=5)).all()
    sessions = pd.Index(sorted(layer.read("panel", ["session"])["session"].unique()))
    documents = features.documents(found, rows, sessions)
    pooled = features.pool(found, rows, sessions, late=False)
    has = np.array([bool(text) for text in documents])
    assert (pooled[~has] == 0).all()
    assert has.mean() > 0.5
    row = int(np.flatnonzero(has)[-1])
    sample = rows.iloc[row]
    bars = sessions[sessions <= sample["row_session"]][-features.LAG_BARS :]
    mine = found.rows[(found.rows["ticker"] == sample["ticker"]) & found.rows["session"].isin(bars)]
    assert (mine["published_utc"].dt.tz_localize(None) < sample["session"]).all()
    for text in documents[row].splitlines():
        assert text in set(mine["text"])
    weight = mine["weight"] * 0.5 ** (len(bars) - 1 - pd.Index(bars).get_indexer(mine["session"]))
    vectors = found.embeddings[found.text[mine.index]].astype(float)
    assert pooled[row] == pytest.approx((weight.to_numpy() @ vectors) / (weight.sum() + 1e-6), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("name", ["logistic_price", "trees_text", "tfidf_logistic", "fused", "fused_labels_permuted"])
def test_a_system_never_sees_the_answers_that_it_is_judged_by(inside, name, monkeypatch):
    layer = prepared()
    system = systems.SYSTEMS[name]
    setting = dict((system if system.grid else systems.SYSTEMS["fused"]).grid[-1]) | dict(system.change)
    rows = features.samples(layer)
    fold = walkforward.folds(rows, benchmark_settings(folds=1, fold_sessions=42))[0]
    fold = Fold(fold.learn[-300:], fold.judge)
    setting |= {"stops": [1, 2]} if "stops" in setting else {}
    p = system.learn(layer, setting, fold, 1)
    assert p.shape == (len(setting.get("stops", (0,))), len(fold.judge))
    assert ((p > 0) & (p < 1)).all()

    known = systems.board(layer)
    changed = known.samples.copy()
    changed.loc[changed.index[fold.judge], "label"] ^= True
    monkeypatch.setattr(systems, "board", lambda _: replace(known, samples=changed))
    material = networks.material(layer)
    panel = material.frames["panel"].copy()
    at = panel.index[material.asked[fold.judge]]
    panel.loc[at, "target_ret"] *= -1
    panel.loc[at, "target_label"] = ~panel.loc[at, "target_label"]
    frames = material.frames | {"panel": panel}
    monkeypatch.setattr(networks, "material", lambda *_: replace(material, frames=frames))
    assert (system.learn(layer, setting, fold, 1) == p).all()


def test_the_controls_keep_all_but_what_they_break(inside):
    layer = prepared()
    found = features.read_tweets(layer).rows
    bars = layer.read("panel", ["ticker", "bar_close_utc", "session"])
    dealt = networks.deal(found, bars, seed=3)
    assert (dealt.drop(columns="ticker") == found.drop(columns="ticker")).fillna(True).all(axis=None)
    assert 0.05 < (dealt["ticker"] == found["ticker"]).mean() < 0.5
    together = pd.DataFrame({"session": found["session"], "before": found["ticker"], "after": dealt["ticker"]})
    assert (together.groupby(["session", "before"])["after"].nunique() == 1).all()
    assert (together.groupby(["session", "after"])["before"].nunique() == 1).all()

    material = networks.material(layer)
    rows = features.samples(layer)
    fold = walkforward.final(rows)
    data = networks.build(material, layer.configuration("model=fused"), fold, context=True)
    moved = networks.answers_of_other_days(data, material, fold, seed=3)
    judged = material.asked[fold.judge]
    assert moved.label[judged].isnan().all()
    assert moved.label[data.select("train")].nanmean() == pytest.approx(
        float(data.label[data.select("train")].nanmean()), abs=0.03
    )
    same = (moved.label == data.label)[data.select("train")].float().mean()
    assert same < 0.6


def only(monkeypatch, **grids: int) -> None:
    """Keep these systems, with the first settings of their grids."""
    for name, system in list(systems.SYSTEMS.items()):
        if name not in grids:
            monkeypatch.delitem(systems.SYSTEMS, name)
            continue
        grid = tuple(
            setting | ({"stops": setting["stops"][:2]} if "stops" in setting else {})
            for setting in system.grid[: grids[name]]
        )
        monkeypatch.setitem(systems.SYSTEMS, name, replace(system, grid=grid))


@pytest.fixture
def stage(inside, monkeypatch):
    """The stage's main, its systems cut down, with a configuration of two seeds and one fold."""
    only(
        monkeypatch,
        **dict.fromkeys(("always_up", "momentum_1d", "reversal_1d", "price_only", "text_only", "fused"), 1),
        **dict.fromkeys(("logistic_price", "fused_logistic", "fused_trees", "fused_labels_permuted"), 1),
    )
    cfg = config.load(params=ROOT / "params.yaml")
    cfg.executor = replace(cfg.executor, workers=1)
    cfg.evaluate = replace(cfg.evaluate, bootstrap_samples=50)
    overrides = [*OVERRIDES, "data.stocknet.price_sha256=null"]
    cfg.benchmark = replace(cfg.benchmark, seeds=2, folds=1, overrides=overrides)
    return importlib.import_module("stages.stocknet"), cfg


def test_the_whole_benchmark_finds_what_is_planted_and_repeats(stage, monkeypatch):
    module, cfg = stage
    cfg.benchmark = replace(cfg.benchmark, open_test=False)
    module.main(cfg)
    assert not module.METRICS.exists()
    assert not looks.LOG.exists()

    cfg.benchmark = replace(cfg.benchmark, open_test=True)
    module.main(cfg)
    found = read_json(module.METRICS)
    predictions = tables.read("stocknet")
    for letter in ("A", "B"):
        part = found[letter]
        rows = predictions[predictions["set_a"] | (letter == "B")]
        assert part["n"] == len(rows.drop_duplicates(["ticker", "session"])) > 20
        assert set(part["systems"]) == {*systems.SYSTEMS, systems.ENSEMBLE}
        for name, system in part["systems"].items():
            mine = rows[rows["system"] == name]
            values = [matthews_corrcoef(seed["label"], seed["up"]) for _, seed in mine.groupby("seed")]
            assert system["mcc"] == pytest.approx(np.mean(values), abs=1e-5), name
            assert system["share_up"] == pytest.approx(mine["up"].mean(), abs=1e-5)
            assert system["seeds"] == mine["seed"].nunique() == (2 if system["random"] else 1)
        assert {test["system"] for test in part["paired"]} >= {"fused", "fused_ensemble"}
    b = found["B"]["systems"]
    assert b["reversal_1d"]["mcc"] > 0.5 > 0 > b["momentum_1d"]["mcc"]
    assert b["logistic_price"]["mcc"] > 0.4
    assert b["always_up"]["mcc"] == 0
    assert b["fused_labels_permuted"]["mcc"] < 0.3
    assert found["best_baseline"] == "reversal_1d"
    assert found["test_looks"]["configurations"] == 1

    before = {path: sha256(path) for path in (module.METRICS, tables.schema("stocknet").path)}
    monkeypatch.setattr(runs, "learn", lambda task: pytest.fail(f"{task} was known"))
    module.main(cfg)
    assert {path: sha256(path) for path in before} == before
    assert len(looks.read()) == 2


def test_the_table_of_published_figures_is_whole():
    rows = yaml.safe_load((ROOT / "docs/stocknet_published.yaml").read_text())
    assert len(rows["systems"]) >= 9
    for row in rows["systems"]:
        assert {"name", "set", "accuracy", "mcc", "inputs", "caveat"} <= set(row), row["name"]
        assert ("cite" in row) is not row["caveat"].startswith("recomputed"), row["name"]


def test_committed_counts_are_the_benchmarks():
    path = ROOT / "metrics/stocknet.json"
    if not path.exists():
        pytest.skip("metrics/stocknet.json is absent: `make stocknet`")
    found = json.loads(path.read_text())
    assert (found["A"]["n"], found["A"]["n_up"], found["B"]["n"], found["B"]["n_up"]) == (1008, 579, 3720, 1908)
    assert [found["B"]["splits"][name]["n"] for name in ("train", "dev", "test")] == [20339, 2555, 3720]
    assert [found["A"]["splits"][name]["n"] for name in ("train", "dev", "test")] == [4987, 656, 1008]
    assert len(found["B"]["systems"]) >= 10
    for system in found["B"]["systems"].values():
        assert system["seeds"] >= 10 or not system["random"]


def test_the_readme_says_what_the_committed_result_shows():
    path = ROOT / "metrics/stocknet.json"
    if not path.exists():
        pytest.skip("metrics/stocknet.json is absent: `make stocknet`")
    found = json.loads(path.read_text())
    text = " ".join((ROOT / "README.md").read_text().split())
    for letter in "AB":
        for name, system in found[letter]["systems"].items():
            low, high = system["mcc_ci"]
            assert low <= 0 <= high, f"README: no interval beyond 0; {name} on {letter}"
        assert all(pair["p_holm"] > 0.05 for pair in found[letter]["paired"])
    assert "no system has an interval beyond 0" in text
    assert "with one look at test" in text
    assert found["test_looks"]["configurations"] == 1
    losses = {name: choice["wf_loss"] for name, choice in found["choices"].items() if choice.get("tried", 0) > 1}
    favourite = min(losses, key=losses.get)
    assert favourite == "counts_only"
    assert favourite == max(found["B"]["systems"], key=lambda name: found["B"]["systems"][name]["mcc"])
    best = {letter: max(system["mcc"] for system in found[letter]["systems"].values()) for letter in "AB"}
    published = yaml.safe_load((ROOT / "docs/stocknet_published.yaml").read_text())["systems"]
    claimed = {letter: [row["mcc"] for row in published if row["set"] == letter and row["mcc"]] for letter in "AB"}
    assert best["B"] < min(claimed["B"]), "README: below every figure published for set B"
    assert best["A"] > max(claimed["A"]), "README: above the one published for set A"
    assert len(claimed["A"]) == 1


def test_what_a_run_is_named_by_covers_the_code_that_it_runs():
    from test_structure import reached

    given = {"config", "errors", "executor", "files", "splits", "stage", "tables", "technical", "indicators", "windows"}
    given |= {
        "workspace",
        "sessions",
        "raw",
        "panel",
        "pii",
        "cleaning",
        "statistics",
        "walkforward",
        "layers",
        "sealed",
    }
    for names, module in ((runs._TABULAR, "tabular"), (runs._NETWORK, "networks")):
        files = reached(ROOT / f"fusion_alpha/stocknet/{module}.py")
        ours = {path.stem for path in files if path.parent.name in ("fusion_alpha", "stocknet")} - {"__init__"}
        assert ours - given <= {Path(name).name for name in names}
