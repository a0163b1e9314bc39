"""fusion_alpha.nulls: the law is uniform under the null, keeps heteroskedasticity, and knows earlier bars only."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import synthetic_bars
from scipy import stats
from scipy.special import ndtr

from fusion_alpha import config, nulls
from fusion_alpha.config import ContradictionConfig, ExecutorConfig

N = 60  # null_sessions


@pytest.fixture(scope="module")
def cfg() -> ContradictionConfig:
    return replace(config.load().contradiction, n_paths=1024)


@pytest.fixture(scope="module")
def bars() -> pd.DataFrame:
    return synthetic_bars.panel(("AAA", "BBB"), 150)


def rows_of(segments: np.ndarray, ret: np.ndarray, high: np.ndarray | None = None) -> nulls.Rows:
    """Rows whose history is segments [rows, N, 2]: histories laid out one behind the other."""
    high = np.maximum(ret, 0.0) if high is None else high
    first = N * np.arange(len(ret))
    return nulls.Rows(ret, high, np.minimum(ret, 0.0), np.abs(segments).reshape(-1, 2).astype(np.float32), first)


def signs(shape: tuple[int, ...]) -> np.ndarray:
    return 2.0 * np.random.default_rng(6).integers(0, 2, shape) - 1.0


def test_uniform_under_the_null(cfg):
    """Heteroskedastic histories, and a return drawn from each one's sign-flip law by other random numbers."""
    rng = np.random.default_rng(5)
    calm, gust = rng.uniform(0.003, 0.03, (1500, 1, 1)), np.exp(rng.normal(0, 0.7, (1500, N, 2)))
    segments = calm * gust * [0.5, 1.0]
    ret = (signs(segments.shape) * segments).sum(axis=(1, 2)) / np.sqrt(N)
    z_r = nulls.of_rows(rows_of(segments, ret), cfg).z_r
    assert stats.kstest(ndtr(z_r), "uniform").pvalue > 0.01
    assert stats.kstest(z_r, "norm").pvalue > 0.01


def test_constant_volatility_agrees_with_the_closed_form(cfg):
    sizes = np.tile([0.006, 0.008], (9, N, 1))  # sd of a bar: 0.01
    ret = 0.01 * np.linspace(-2.5, 2.5, 9)
    rows = rows_of(sizes, ret, np.linspace(0.002, 0.025, 9))
    walk = nulls.of_rows(rows, replace(cfg, n_paths=16_384))
    line = nulls.of_rows(rows, replace(cfg, null_model="gaussian"))
    np.testing.assert_allclose(line.z_r, ret / 0.01, rtol=1e-6)
    np.testing.assert_allclose(walk.z_r, line.z_r, atol=0.1)
    np.testing.assert_allclose(walk.p_touch_high, line.p_touch_high, atol=0.07)  # 120 steps see less than a continuum
    assert ((walk.drawdown / line.drawdown > 0.92) & (walk.drawdown < line.drawdown)).all()


def test_one_large_move_makes_a_law_of_two_humps(cfg):
    """A history with one move that carries 0.9 of the variance: small returns are rare, the Gaussian says common."""
    segments = np.full((1, N, 2), np.sqrt(0.1 / (2 * N - 1)))
    segments[0, 30, 0] = np.sqrt(0.9)
    sd = 1 / np.sqrt(N)
    small = np.repeat(segments, 2, axis=0), sd * np.array([-0.3, 0.3])
    walk = np.diff(ndtr(nulls.of_rows(rows_of(*small), cfg).z_r))
    line = np.diff(ndtr(nulls.of_rows(rows_of(*small), replace(cfg, null_model="gaussian")).z_r))
    assert line[0] == pytest.approx(0.236, abs=0.001)
    # the two humps stand at +-0.949 sd with 0.316 sd each
    assert walk[0] == pytest.approx(stats.norm.cdf(1.249 / 0.3162) - stats.norm.cdf(0.649 / 0.3162), abs=0.02)


def test_volatile_histories_make_wide_laws(cfg):
    ret = np.full(2, 0.02)
    segments = np.stack([np.full((N, 2), 0.004), np.full((N, 2), 0.016)])
    found = nulls.of_rows(rows_of(segments, ret), cfg)
    np.testing.assert_allclose(found.z_r, 0.02 / np.array([0.004, 0.016]) / np.sqrt(2), atol=0.15)
    assert found.drawdown[1] / found.drawdown[0] == pytest.approx(4, rel=1e-6)


@pytest.mark.parametrize("shape", ["many", "few"])
def test_monotone_finite_and_distinct_in_the_tails(cfg, shape):
    segments = np.random.default_rng(7).exponential(0.01, (1, N, 2))
    if shape == "few":
        segments[:, 3:] = 0.0  # six moves: 64 values and many ties
    some = np.concatenate([[-3.0, -0.2, 0.2, 3.0], segments[0, 0] / np.sqrt(N)])
    ret = np.sort(np.concatenate([np.linspace(-0.11, 0.11, 1201), some]))
    z_r = nulls.of_rows(rows_of(np.repeat(segments, len(ret), axis=0), ret), cfg).z_r
    assert np.isfinite(z_r).all()
    assert (np.diff(z_r) >= 0).all()
    assert (z_r[[0, -1]] == [-6, 6]).all()
    unclipped = z_r[np.abs(z_r) < 6]
    assert unclipped.max() > 5  # far beyond every path
    tail = unclipped[unclipped > 3.3]
    assert len(np.unique(tail)) == len(tail) > 3
    if shape == "many":
        assert len(np.unique(unclipped)) == len(unclipped)


def test_first_rows_have_no_null(cfg, bars):
    found = nulls.features(bars, cfg)
    number = bars.groupby("ticker").cumcount().to_numpy()
    for column in found:
        np.testing.assert_array_equal(np.isnan(column), number <= N)
    short = bars[number < 20].reset_index(drop=True)
    assert all(np.isnan(column).all() for column in nulls.features(short, cfg))


@pytest.mark.parametrize("model", ["signflip", "gaussian"])
def test_a_price_that_never_moved_has_no_null(cfg, bars, model):
    still = bars.copy()
    for name in ("open", "high", "low"):
        still.loc[:80, name] = still["close"].iloc[0]
    still.loc[:80, "close"] = still["close"].iloc[0]
    found = nulls.features(still, replace(cfg, null_model=model))
    assert np.isnan(found.z_r[61:82]).all()
    assert np.isfinite(found.z_r[82:150]).all()  # bar 81 moved; it is in the history of bar 82


@pytest.mark.parametrize("model", ["signflip", "gaussian"])
def test_touching_probabilities(cfg, bars, model):
    found = nulls.features(bars, replace(cfg, null_model=model))
    before = bars.groupby("ticker")["close"].shift().to_numpy()
    known = ~np.isnan(found.z_r)
    gap_down = known & (bars["high"].to_numpy() <= before)
    gap_up = known & (bars["low"].to_numpy() >= before)
    assert gap_down.sum() > 3
    assert gap_up.sum() > 3
    assert (found.p_touch_high[gap_down] == 1).all()
    assert (found.p_touch_low[gap_up] == 1).all()
    inside = known & ~gap_down & ~gap_up
    assert ((found.p_touch_high[inside] > 0) & (found.p_touch_high[inside] < 1)).mean() > 0.95
    # a path that ends beyond the high has touched it: P(touch) >= P(end at or above the close)
    assert (found.p_touch_high[known] <= 1).all()
    far = bars.assign(high=bars["high"] * 1.05)
    assert (nulls.features(far, replace(cfg, null_model=model)).p_touch_high[known] <= found.p_touch_high[known]).all()


def test_history_alone_sets_the_law(cfg, bars):
    """The law of bar t has no part of t: with the same return, other highs, opens or later bars change no z_r."""
    found = nulls.features(bars, cfg)
    other = bars.copy()
    other.loc[100, "open"] *= 0.5
    other.loc[100, "low"] *= 0.4
    again = nulls.features(other, cfg)
    np.testing.assert_array_equal(again.z_r[:101], found.z_r[:101])
    assert (again.z_r[101:150] != found.z_r[101:150]).all()
    np.testing.assert_array_equal(again.z_r[150:], found.z_r[150:])


def test_rows_share_random_numbers_whatever_else_is_in_the_panel(cfg, bars):
    found = nulls.features(bars, cfg)
    alone = nulls.features(bars[bars["ticker"] == "BBB"].reset_index(drop=True), cfg)
    for column, whole in zip(alone, found, strict=True):
        np.testing.assert_array_equal(column, whole[150:])


def test_workers_and_chunks_change_nothing(cfg, bars, monkeypatch):
    found = nulls.features(bars, cfg)
    monkeypatch.setattr(nulls, "_CHUNK", 17)
    for workers in (1, 2):
        spread = ExecutorConfig("pool", workers, ranks=1)
        for column, whole in zip(nulls.features(bars, cfg, spread), found, strict=True):
            np.testing.assert_array_equal(column, whole)


def test_segments_of_daily_and_minute_bars():
    daily = nulls.log_moves(synthetic_bars.panel(("AAA",), 5))
    np.testing.assert_allclose(daily["overnight"] + daily["intraday"], daily["ret"], atol=1e-15)
    assert (np.abs(daily["overnight"][1:]) > 1e-5).all()
    minutes = synthetic_bars.panel(("AAA",), 400, minutes=1)
    moves = nulls.log_moves(minutes)
    inside = np.arange(1, 390)
    assert (moves["overnight"][inside] == 0).all()
    np.testing.assert_array_equal(moves["intraday"][inside], moves["ret"][inside])
    assert moves["overnight"][390] == np.log(minutes["open"][390] / minutes["close"][389])


def test_minute_bars_have_a_null(cfg):
    found = nulls.features(synthetic_bars.panel(("AAA",), 100, minutes=1), cfg)
    assert np.isfinite(found.z_r[61:]).all()


def test_signflip_runs_the_kernel_and_gaussian_does_not(cfg, bars, monkeypatch):
    calls = []

    def spy(*args, **options):
        calls.append(options)
        return kernel(*args, **options)

    kernel = nulls.mc_features
    monkeypatch.setattr(nulls, "mc_features", spy)
    nulls.features(bars, replace(cfg, null_model="gaussian"))
    assert not calls
    nulls.features(bars, cfg)
    assert len(calls) == 1
    assert calls[0]["increments"] == "signflip"
    assert not np.any(calls[0]["problem_ids"])
    assert calls[0]["seed"] == cfg.seed
