"""Verdicts, null and planted markets, selection, label shuffle: each passes what is right and trips on a fault."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from canary_market import small
from test_recovery import DAYS, TICKERS, market

from fusion_alpha import lab_runs, recovery, samples, workspace
from fusion_alpha.canaries import findings, label_shuffle, selection, simulated
from fusion_alpha.recovery import Criterion

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("finding", "criterion", "passed", "used"),
    [
        (findings.at_most(1e-7, 1e-6), "<= 1e-06", True, 0.1),
        (findings.at_most(0, 0), "<= 0", True, 0.0),
        (findings.at_most(1, 0), "<= 0", False, 1.5),
        (findings.at_least(0.9, 0.85), ">= 0.85", True, 0.85 / 0.9),
        (findings.at_least(-0.1, 0.85), ">= 0.85", False, 1.5),
        (findings.above(0.0, 0.0), "> 0", False, 1.5),
        (findings.size_at_most(-4.0, 3.48), "abs <= 3.48", False, 4 / 3.48),
        (findings.within(0.4, 0.5, 0.136), "0.5 +- 0.136", True, 0.1 / 0.136),
        (findings.within(0.9, 0.5, 0.136), "0.5 +- 0.136", False, 1.5),
        (findings.at_most(float("nan"), 1.0), "<= 1", False, 1.5),
        (findings.at_most(None, 1.0), "<= 1", False, 1.5),
    ],
)
def test_a_finding_stands_beside_its_criterion(finding, criterion, passed, used):
    assert (finding.criterion, finding.passed) == (criterion, passed)
    assert finding.used == pytest.approx(used)
    assert set(finding.as_metric()) == {"value", "criterion", "passed"}


def test_criteria_of_recovery_keep_their_verdicts():
    for one in (
        Criterion(0.9, 0.85, "at least"),
        Criterion(0.0, 0.0, "above"),
        Criterion(-4.0, 3.5, "size at most"),
        Criterion(None, 0.85, "at least"),
        Criterion(1.0, None, "at least"),
    ):
        assert findings.of_criterion(one).passed is one.passed


def test_one_canary_or_one_mutant_is_enough_to_fail():
    good, bad = findings.at_most(0, 1), findings.at_most(2, 1)
    assert findings.passed({"a": good}, {"m": {"caught_by": ["a"]}})
    assert not findings.passed({"a": good, "b": bad}, {"m": {"caught_by": ["a"]}})
    assert not findings.passed({"a": good}, {"m": {"caught_by": []}})


def forecasts(seeds: int, **more: float) -> dict[int, pd.DataFrame]:
    return {seed: market(seed, **more) for seed in range(seeds)}


def test_null_markets_pass_and_one_that_knows_the_future_trips():
    cfg = small()
    quiet = forecasts(4, drift=0.0)
    found = simulated.judged({"null": quiet}, cfg)
    assert list(found) == ["null_market_sharpe_gross_t", "null_market_excess_hits_z"]
    assert all(one.passed for one in found.values())
    leaked = {
        seed: rows.assign(p_up=0.5 + rows["target_ret"], gross_ret=rows["gross_ret"].abs() + 0.001)
        for seed, rows in quiet.items()
    }
    assert not any(one.passed for one in simulated.judged({"null": leaked}, cfg).values())


@pytest.mark.parametrize("kind", ["planted", "reversed"])
def test_what_was_planted_is_asked_for_with_its_interval(kind):
    cfg = small()
    found = simulated.judged({kind: forecasts(4, noise=0.2)}, cfg)
    assert all(one.passed for one in found.values())
    share = found[f"{kind}_market_ic_share"]
    assert share.low < share.value < share.high
    blind = forecasts(4, noise=30.0)
    for rows in blind.values():
        rows["kind_score"] = "none"
    missed = simulated.judged({kind: blind}, cfg)
    assert not any(missed[f"{kind}_market_{name}"].passed for name in ("ic_share", "sharpe_gross_share", "flags_f1"))
    backwards = {seed: rows.assign(gross_ret=-rows["gross_ret"]) for seed, rows in forecasts(4, noise=0.2).items()}
    assert not simulated.judged({kind: backwards}, cfg)[f"{kind}_market_lowest_sharpe_gross"].passed


def test_the_forecasts_of_recovery_are_those_of_the_canaries(monkeypatch, tmp_path):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    cfg = small()
    ours = simulated.markets(cfg)
    assert list(ours) == ["planted", "reversed", "null"]
    for kind, settings in zip(
        ours, (cfg.recovery.planted, cfg.recovery.reversed, cfg.recovery.null_market), strict=True
    ):
        for one, other in zip(ours[kind], lab_runs.markets(cfg, kind, settings), strict=True):
            assert one.variants["fused"][1] == other.variants["fused"][1]


def test_sizes_of_the_default_are_those_that_limits_are_calibrated_for():
    from fusion_alpha import config

    cfg = config.load()
    null, planted, own = cfg.recovery.null_market, cfg.recovery.planted, cfg.canaries
    assert (null.seeds, null.test_sessions, cfg.recovery.n_tickers) == (20, 504, 10)
    assert planted.seeds == cfg.recovery.reversed.seeds == 10
    assert cfg.recovery.learn_sessions + planted.test_sessions == 756
    assert (own.trials, own.configurations, own.blocks, own.shuffles) == (50, 20, 10, 20)
    found = recovery.null_criteria(
        {
            "seeds": {str(n): {"fused": {"sharpe_gross": n}} for n in range(20)},
            "systems": {"fused": {"excess_hits_z": 0.0}},
        }
    )
    assert found["sharpe_gross_t"].criterion == pytest.approx(3.48, abs=0.03)
    assert found["excess_hits_z"].criterion == pytest.approx(3.02, abs=0.01)
    twenty = {str(n): {"pbo": 0.5, "dsr": 0.9} for n in range(20)}
    assert [one.criterion for one in selection.judged(twenty).values()] == ["0.5 +- 0.136", "<= 4"]


def test_books_without_skill_decide_as_the_strategy_does_and_know_nothing():
    cfg = small("canaries.trials=30", "canaries.configurations=10")
    rows = market(3).assign(decided_utc=lambda table: table["bar_close_utc"], sd_ret=0.01, severity=1.0)
    books = selection.books(rows, 3, cfg)
    assert books.shape == (len(DAYS), 30)
    assert not books.T.duplicated().any()
    assert abs(np.corrcoef(books.T)[np.triu_indices(30, 1)].mean()) < 0.05
    pd.testing.assert_frame_equal(books, selection.books(rows, 3, cfg))
    assert not books.equals(selection.books(rows, 4, cfg))
    assert len(rows) == len(DAYS) * len(TICKERS)


def noise(seed: int, skill: float = 0.0) -> pd.DataFrame:
    table = pd.DataFrame(np.random.default_rng(seed).normal(size=(250, 20)) * 0.01)
    table[0] += skill * 0.01
    return table


def test_selection_passes_noise_and_trips_on_skill_and_on_ratios_that_nobody_deflated(monkeypatch):
    cfg = small("canaries.trials=20", "canaries.configurations=20")
    quiet = {str(seed): selection.measured(noise(seed), cfg) for seed in range(8)}
    assert all(one.passed for one in selection.judged(quiet).values())
    skilled = {str(seed): selection.measured(noise(seed, 0.6), cfg) for seed in range(8)}
    assert not any(one.passed for one in selection.judged(skilled).values())
    deflate = selection.deflated_sharpe
    monkeypatch.setattr(selection, "deflated_sharpe", lambda best, ratios, n, per_year: deflate(best, [], 1, per_year))
    alone = {str(seed): selection.measured(noise(seed), cfg) for seed in range(8)}
    assert not selection.judged(alone)["dsr_null"].passed


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """(frames, cfg) of a small planted market."""
    threads = torch.get_num_threads()
    folder = tmp_path_factory.mktemp("planted")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setenv("DVC_ROOT", str(folder))
        base = small("recovery.learn_sessions=190", "recovery.dev_sessions=25", "recovery.planted.test_sessions=90")
        cfg = label_shuffle.configuration(base)
        with workspace.opened(folder / "market", cfg, lab_runs.LAYERS) as layers:
            layers.run(*lab_runs.LAYERS, quiet=True)
            yield {name: layers.read(name, columns) for name, columns in samples.INPUTS.items()}, cfg
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


def test_labels_move_in_blocks_of_sessions_all_tickers_together_and_none_stays(planted):
    frames, cfg = planted
    panel = frames["panel"]
    moved, block = label_shuffle.permuted(panel, cfg, 1)
    assert moved.drop(columns=label_shuffle.LABELS).equals(panel.drop(columns=label_shuffle.LABELS))
    kept = moved[block >= 0].assign(block=block[block >= 0])
    assert kept.groupby(["ticker", "block"]).size().eq(21).all()
    assert moved.loc[block < 0, "target_ret"].isna().all()
    old = {value: (ticker, day) for ticker, day, value in panel[["ticker", "bar_close_utc", "target_ret"]].to_numpy()}
    sources = [old[value] for value in kept["target_ret"]]
    assert [ticker for ticker, _ in sources] == kept["ticker"].tolist()
    pairs = pd.DataFrame({"day": kept["bar_close_utc"], "source": [day for _, day in sources]})
    assert pairs.drop_duplicates().shape[0] == pairs["day"].nunique() == pairs["source"].nunique()
    assert (pairs["day"] != pairs["source"]).all()
    assert (kept["target_label"] == (kept["target_ret"] > 0)).all()
    other, _ = label_shuffle.permuted(panel, cfg, 2)
    assert not other["target_ret"].equals(moved["target_ret"])


@pytest.mark.parametrize("count", [2, 3, 35])
def test_no_block_stays_in_its_place(count):
    for number in range(20):
        order = label_shuffle.deranged(count, 29, number)
        assert sorted(order) == list(range(count))
        assert (order != np.arange(count)).all()


def test_permuted_labels_teach_nothing_and_a_label_among_the_features_trips(planted, monkeypatch):
    frames, cfg = planted
    answers = {str(number): label_shuffle.correlations(frames, cfg, number) for number in (1, 2, 3)}
    assert all(len(blocks) in (5, 6) for blocks in answers.values())
    assert label_shuffle.judged(answers)["label_shuffle"].passed
    build = samples.build

    def leaking(tables, settings):
        technical = tables["technical"].assign(ret_1=tables["panel"]["target_ret"].fillna(0.0).clip(-0.9, 0.9))
        return build(tables | {"technical": technical}, settings)

    monkeypatch.setattr(samples, "build", leaking)
    eager = small("train.epochs=12", "train.patience=12", "model.dropout=0.0", "train.lr=0.01")
    cfg.train, cfg.model = eager.train, eager.model
    leaked = {str(number): label_shuffle.correlations(frames, cfg, number) for number in (1, 2, 3)}
    assert label_shuffle.z_of(leaked) > label_shuffle.LIMIT
    assert not label_shuffle.judged(leaked)["label_shuffle"].passed
