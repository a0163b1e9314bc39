"""kernels.paths and kernels.boxmuller: exact laws of the lattice walk, moments, addressing, refusals."""

import hashlib
from math import comb

import numpy as np
import pytest
from scipy import stats

from kernels.boxmuller import REACH, log32, normals32, sincos32
from kernels.paths import byte_table, fixed_point, log_cosh, paths
from kernels.philox import Op, philox4x32

BOTH = pytest.mark.parametrize("increments", ["bits", "normal"])


def lattice(n_paths, n_steps, seed=1, **kwargs):
    """Bit walks with unit steps: exact integers."""
    return np.rint(paths(n_paths, n_steps, vol=1.0, seed=seed, **kwargs)).astype(int)


@pytest.mark.parametrize("n_paths", [0, 1, 31, 257, 10_007])
@BOTH
def test_any_size_gives_the_same_paths(n_paths, increments):
    x = paths(n_paths, 40, vol=0.01, drift=0.001, x0=2.0, seed=3, increments=increments)
    assert x.shape == (n_paths, 41)
    assert x.dtype == np.float32
    assert (x[:, 0] == 2.0).all()
    more = paths(n_paths + 1, 40, vol=0.01, drift=0.001, x0=2.0, seed=3, increments=increments)
    assert (more[:n_paths] == x).all()


@pytest.mark.parametrize("n_steps", [1, 7, 31, 32, 33, 128, 129, 1009])
def test_bits_are_those_of_the_layout(n_steps):
    walk = np.diff(lattice(3, n_steps, seed=5, stream=6, problem=7), axis=1)
    for step in {0, n_steps // 2, n_steps - 1}:
        words = philox4x32((step >> 7, 2, 7, int(Op.WALK_BITS) << 24 | 6), seed=5)
        assert walk[2, step] == 2 * ((int(words[(step >> 5) & 3]) >> (step & 31)) & 1) - 1


def test_fixed_point_sum_equals_a_float64_sum():
    rng = np.random.default_rng(0)
    vol, drift = rng.uniform(0, 0.02, 300), rng.normal(0, 1e-3, 300)
    signs = np.diff(lattice(50, 300, seed=4), axis=1)
    exact = np.cumsum(signs * vol + drift, axis=1)
    x = paths(50, 300, vol=vol, drift=drift, seed=4, dtype=np.float64)
    bound = vol.sum() + np.abs(drift).sum()
    assert np.abs(x[:, 1:] - exact).max() <= 300 * bound * 2.0**-28
    amplitude, shift, scale = fixed_point(vol, drift, "bits")
    assert 2**27 < amplitude.sum() + np.abs(shift).sum() < 2**30
    assert scale == int(np.floor(29 - np.log2(bound)))
    assert (x[:, 1:] * 2.0**scale == np.rint(x[:, 1:] * 2.0**scale)).all()


def test_antithetic_pairs():
    bits = lattice(7, 50, antithetic=True)
    assert (bits[1::2] == -bits[:-1:2]).all()
    assert (bits[::2] == lattice(7, 50)[::2]).all()
    x = paths(6, 50, vol=0.1, x0=1.0, seed=1, increments="normal", antithetic=True, dtype=np.float64)
    np.testing.assert_array_equal(x[1::2] - 1, 1 - x[::2])


def test_golden_walks():
    """Frozen results: a change of layout, of arithmetic or of a polynomial shows here."""

    def digest(increments):
        x = paths(33, 257, vol=0.0125, drift=-1e-4, x0=0.5, seed=2**40 + 7, stream=3, problem=9, increments=increments)
        return hashlib.sha256(x.astype("<f4").tobytes()).hexdigest()[:16]

    assert (digest("bits"), digest("normal")) == ("efdd6c495b3a452d", "78a600cc01de70c3")


def test_terminal_law_is_binomial():
    n, n_paths = 16, 40_000
    ups = (lattice(n_paths, n)[:, -1] + n) // 2
    expected = np.array([comb(n, k) for k in range(n + 1)]) / 2**n * n_paths
    observed = np.bincount(ups, minlength=n + 1)
    chi2 = ((observed - expected) ** 2 / expected).sum()
    assert abs(chi2 - n) / np.sqrt(2 * n) < 4


def test_reflection_principle():
    """P(max >= m) = P(S >= m) + P(S > m), exact on the lattice."""
    n, m, n_paths = 64, 9, 40_000
    hit = (lattice(n_paths, n, seed=2).max(axis=1) >= m).mean()
    ends = stats.binom(n, 0.5)
    at_least, above = ends.sf((n + m - 1) // 2), ends.sf((n + m) // 2)
    p = at_least + above
    assert abs(hit - p) / np.sqrt(p * (1 - p) / n_paths) < 4


def exact_mean_drawdown(n):
    """E of the largest fall of a lattice walk in n steps: for each d, P(the walk below its maximum never falls d)."""
    total = 0.0
    for d in range(1, n + 1):
        alive = np.zeros(d)  # alive[k]: now k below the maximum, and never d below it
        alive[0] = 1.0
        for _ in range(n):
            step = np.zeros(d)
            step[1:] += 0.5 * alive[:-1]
            step[:-1] += 0.5 * alive[1:]
            step[0] += 0.5 * alive[0]  # a new maximum
            alive = step
        total += 1.0 - alive.sum()
    return total


def test_mean_drawdown():
    assert exact_mean_drawdown(2) == 1.0
    assert exact_mean_drawdown(256) == pytest.approx(19.076, abs=1e-3)
    walk = lattice(40_000, 64, seed=8)
    drawdown = (np.maximum.accumulate(walk, axis=1) - walk).max(axis=1)
    z = (drawdown.mean() - exact_mean_drawdown(64)) / (drawdown.std() / np.sqrt(len(walk)))
    assert abs(z) < 4


@BOTH
def test_increments_are_white_with_the_right_variance(increments):
    steps = np.diff(paths(2_000, 200, vol=0.02, drift=0.005, seed=6, increments=increments, dtype=np.float64), axis=1)
    e = (steps - 0.005) / 0.02
    n = e.size
    assert abs(e.mean()) * np.sqrt(n) < 4
    assert abs((e[:, 1:] * e[:, :-1]).mean()) * np.sqrt(n) < 4
    assert abs((e[1:] * e[:-1]).mean()) * np.sqrt(n) < 4
    quadratic_variation = (e**2).mean()
    assert abs(quadratic_variation - 1) <= (1e-6 if increments == "bits" else 4 * np.sqrt(2 / n))


@BOTH
def test_martingale_with_the_right_drift_correction(increments):
    vol, n, n_paths = 0.1, 64, 40_000
    drift = -log_cosh(vol) if increments == "bits" else -(vol**2) / 2
    price = np.exp(paths(n_paths, n, vol=vol, drift=drift, seed=9, increments=increments, dtype=np.float64)[:, -1])
    assert abs(price.mean() - 1) / (price.std() / np.sqrt(n_paths)) < 4


def test_log_cosh():
    x = np.array([0.0, 1e-8, 0.01, 1.0, -3.0])
    assert log_cosh(x)[1] == pytest.approx(5e-17, rel=1e-9)
    np.testing.assert_allclose(log_cosh(x)[2:], np.log(np.cosh(x[2:])), rtol=1e-9)


def test_byte_table_against_the_walks_themselves():
    table = byte_table()
    walk = lattice(4_000, 8, seed=3)
    byte = ((np.diff(walk, axis=1) > 0) << np.arange(8)).sum(axis=1)
    assert len(np.unique(byte)) == 256
    np.testing.assert_array_equal(table.net[byte], walk[:, -1])
    np.testing.assert_array_equal(table.high[byte], walk.max(axis=1))
    np.testing.assert_array_equal(table.low[byte], walk.min(axis=1))
    np.testing.assert_array_equal(table.drawdown[byte], (np.maximum.accumulate(walk, axis=1) - walk).max(axis=1))
    assert {part.dtype for part in table} == {np.dtype(np.int8)}


def edge_and_random_words(n):
    edges = [0, 1, 2, 1 << 24, (1 << 24) + 1, 1 << 29, (1 << 29) - 1, 1 << 30, 3 << 29, 1 << 31, 7 << 29, (1 << 32) - 1]
    return np.concatenate([edges, np.random.default_rng(1).integers(0, 1 << 32, n)]).astype(np.uint32)


def test_polynomials_against_the_library():
    words = edge_and_random_words(100_000)
    angle = words * (2 * np.pi / 2**32)
    sine, cosine = sincos32(words)
    assert np.abs(sine - np.sin(angle)).max() < 2e-7
    assert np.abs(cosine - np.cos(angle)).max() < 2e-7
    u = words.astype(np.float32) * np.float32(2.0**-32) + np.float32(2.0**-33)
    exact = np.log(u.astype(np.float64))
    assert (np.abs(log32(u) - exact) <= 2e-7 * np.abs(exact)).all()
    assert (log32(u) <= 0).all()


def test_normals32_are_normal():
    words = edge_and_random_words(0), edge_and_random_words(0)[::-1]
    extreme = np.abs(np.concatenate(normals32(*words)))
    assert np.isfinite(extreme).all()
    assert extreme.max() < REACH
    z = np.diff(paths(500, 400, vol=1.0, seed=12, increments="normal", dtype=np.float64), axis=1).reshape(-1)
    assert stats.kstest(z, "norm").pvalue > 1e-4
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((z**power).mean() - mean) * np.sqrt(z.size / variance) < 4


@pytest.mark.parametrize(
    "change",
    [
        {"n_steps": 0},
        {"n_steps": -1},
        {"n_paths": -1},
        {"n_paths": (1 << 32) + 1},
        {"vol": -0.1},
        {"vol": np.nan},
        {"vol": np.inf},
        {"vol": [0.1, 0.2]},
        {"vol": 1e40},
        {"drift": np.nan},
        {"x0": np.inf},
        {"seed": -1},
        {"seed": 1 << 64},
        {"stream": 1 << 24},
        {"problem": 1 << 32},
        {"increments": "cauchy"},
        {"dtype": np.int32},
    ],
    ids=str,
)
def test_refuses(change):
    with pytest.raises(ValueError, match=r"."):
        paths(**({"n_paths": 4, "n_steps": 8, "vol": 0.1, "seed": 0} | change))


def test_zero_volatility_is_the_drift_alone():
    np.testing.assert_array_equal(paths(2, 4, vol=0.0, drift=0.25, seed=0), [[0, 0.25, 0.5, 0.75, 1.0]] * 2)
    np.testing.assert_array_equal(paths(2, 4, vol=0.0, x0=1.5, seed=0), np.full((2, 5), 1.5))
