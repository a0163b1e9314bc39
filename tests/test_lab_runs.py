"""Simulated markets: their configuration, the real stages on a small one, its forecasts, and that a series resumes."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from fusion_alpha import config, executor, lab_runs, trading, training
from fusion_alpha.config import Config
from fusion_alpha.errors import InputError
from fusion_alpha.files import sha256
from fusion_alpha.tables import BAR_KEY

SMALL = [
    "text=stub",
    "recovery.n_tickers=3",
    "recovery.learn_sessions=100",
    "recovery.dev_sessions=15",
    "recovery.planted.seeds=2",
    "recovery.planted.first_seed=5",
    "recovery.planted.test_sessions=20",
    "recovery.planted.variants=[fused,text_only]",
    "contradiction.null_model=gaussian",
    "train.epochs=1",
    "predict.mc_samples=2",
]


def small(*more: str) -> Config:
    return config.load([*SMALL, *more])


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """(markets, finished) of two small planted markets below a folder of their own."""
    threads = torch.get_num_threads()
    folder = tmp_path_factory.mktemp("recovery")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(Path(__file__).parents[1])
        patch.setenv("DVC_ROOT", str(folder))
        cfg = small()
        markets = lab_runs.markets(cfg, "planted", cfg.recovery.planted)
        lab_runs.run(markets, executor.HERE)
        yield markets
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


def test_sessions_are_learned_from_stopped_on_and_tested_in_this_order():
    cfg = small("recovery.learn_sessions=504", "recovery.dev_sessions=84", "recovery.planted.test_sessions=252")
    market = lab_runs.configuration(cfg, cfg.recovery.planted, 9, "fused")
    assert (market.data.lab.seed, market.data.lab.n_tickers, market.data.lab.delta) == (9, 3, 0.3)
    assert (market.data.train_start, market.data.lab.first_session) == ("2015-01-02", "2015-01-02")
    assert (market.data.dev_start, market.data.test_start) == ("2016-09-01", "2017-01-03")
    assert market.data.lab.last_session == "2018-01-02"


def test_data_and_target_are_the_laboratorys_whatever_the_pipeline_has():
    cfg = small("interval=5m", "tickers=[TSLA]", "start='2016-01-04'", "data=yahoo", "train.lr=0.001")
    market = lab_runs.configuration(cfg, cfg.recovery.planted, 9, "fused")
    assert (market.data.source, market.interval, market.tickers, market.start) == ("lab", "1d", [], None)
    assert (market.train.lr, market.executor) == (0.001, executor.HERE)


def test_the_pipelines_own_model_keeps_its_settings_the_others_are_those_of_conf():
    cfg = small("model.dropout=0.3")
    assert lab_runs.configuration(cfg, cfg.recovery.planted, 9, "fused").model == cfg.model
    other = lab_runs.configuration(cfg, cfg.recovery.planted, 9, "price_only").model
    assert other == config.load(["model=price_only"]).model


def test_more_sessions_than_the_calendar_has_are_refused():
    cfg = small("recovery.learn_sessions=5000")
    with pytest.raises(InputError, match="ask for 5020 sessions"):
        lab_runs.markets(cfg, "planted", cfg.recovery.planted)


def test_a_variant_that_conf_does_not_have_is_refused():
    cfg = small("recovery.planted.variants=[fused,psychic]")
    with pytest.raises(InputError, match="psychic"):
        lab_runs.markets(cfg, "planted", cfg.recovery.planted)


def test_every_variant_answers_all_rows_of_the_tested_sessions(series):
    for market in series:
        for name in market.variants:
            rows = market.read(name)
            labelled = rows[rows["target_ret"].notna()]
            assert labelled.groupby("session").size().eq(3).all()
            assert labelled["session"].nunique() == 20
            assert labelled[["gross_ret", "oracle_gross_ret", "p_up", "sd_ret"]].notna().all(axis=None)
            assert labelled["kind_true"].isin(["none", "overhype", "underhype"]).all()
            assert rows[BAR_KEY].equals(rows[BAR_KEY].sort_values(BAR_KEY))


def test_markets_of_other_seeds_are_others_and_variants_differ(series):
    first, second = (market.read("fused") for market in series)
    assert not np.allclose(first["target_ret"].dropna(), second["target_ret"].dropna())
    text = series[0].read("text_only")
    assert text["target_ret"].equals(first["target_ret"])
    assert text["oracle_gross_ret"].equals(first["oracle_gross_ret"])
    assert not np.allclose(text["mean_ret"], first["mean_ret"])


def test_a_book_earns_its_weights_times_what_came_true_and_pays_nothing(series):
    rows = series[0].read("fused").query("target_ret.notna()")
    cfg = small("strategy.commission_bps=0", "strategy.half_spread_bps=0", "strategy.slippage_bps=0")
    cfg = config.changed(cfg, ["strategy.borrow_bps=0"])
    earned = (trading.decide(rows, cfg) * rows["target_ret"]).groupby(rows["session"]).sum()
    pd.testing.assert_series_equal(
        earned, rows.groupby("session")["gross_ret"].first(), check_names=False, rtol=0, atol=1e-12
    )
    assert earned.abs().max() > 0


def test_what_is_done_is_not_done_again_and_the_workspace_is_gone(series, monkeypatch):
    assert not any(market.folder.exists() for market in series)
    monkeypatch.setattr(training, "train", None)
    lab_runs.run(series, executor.HERE)


def test_a_missing_answer_alone_is_made_again_to_the_same_bytes(series, monkeypatch):
    _, lost = series[1].variants["text_only"]
    before = sha256(lost)
    lost.unlink()
    trained = []
    train = training.train
    monkeypatch.setattr(training, "train", lambda data, cfg, device: trained.append(cfg) or train(data, cfg, device))
    lab_runs.run(series, executor.HERE)
    assert [cfg.model.name for cfg in trained] == ["text_only"]
    assert sha256(lost) == before


def test_an_interrupted_market_keeps_its_layers_and_its_first_answer(series, monkeypatch):
    market = series[0]
    before = {name: sha256(path) for name, (_, path) in market.variants.items()}
    for _, path in market.variants.values():
        path.unlink()
    train = training.train

    def killed_in_the_second(data, cfg, device):
        if cfg.model.name == "text_only":
            raise KeyboardInterrupt
        return train(data, cfg, device)

    with monkeypatch.context() as patch:
        patch.setattr(training, "train", killed_in_the_second)
        with pytest.raises(KeyboardInterrupt):
            lab_runs.run([market], executor.HERE)
    assert market.missing() == ["text_only"]
    assert (market.folder / ".done/contradiction").exists()
    lab_runs.run([market], executor.HERE)
    assert {name: sha256(path) for name, (_, path) in market.variants.items()} == before


def test_answers_are_kept_by_what_they_depend_on(series, monkeypatch):
    files = {path for market in series for _, path in market.variants.values()}
    monkeypatch.setenv("DVC_ROOT", str(series[0].folder.parents[2]))
    same, other, costs = (
        {
            path
            for market in lab_runs.markets(cfg, "planted", cfg.recovery.planted)
            for _, path in market.variants.values()
        }
        for cfg in (small("evaluate.seed=9"), small("train.lr=0.5"), small("strategy.max_weight=0.1"))
    )
    assert same == files
    assert not other & files
    assert not costs & files
