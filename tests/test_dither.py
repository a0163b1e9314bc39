"""kernels.dither: what the dither does to the law of the end, addressing, refusals, and the exact errors."""

import hashlib

import numpy as np
import pytest
from scipy import special, stats

from kernels import exact
from kernels.dither import bit_walk_error, dithered
from kernels.paths import paths
from kernels.philox import Op, philox4x32

VOL, N = 0.01, 32
ADDRESS = {"seed": 2**40 + 3, "stream": 5, "problem": 9}


def ends(n_paths, **kwargs):
    return paths(n_paths, N, vol=VOL, dtype=np.float64, **ADDRESS | kwargs)[:, -1]


def test_dither_is_a_uniform_of_its_own_address():
    x = ends(50)
    found = dithered(x, vol=VOL, n_steps=N, **ADDRESS)
    for path in (0, 1, 49):
        word = int(philox4x32((0, path, 9, int(Op.DITHER) << 24 | 5), ADDRESS["seed"])[0])
        cell = VOL * (2 * (word + 0.5) * 2.0**-32 - 1)
        assert found[path] == pytest.approx((x[path] + cell) * np.sqrt(N / (N + 1 / 3)), rel=1e-14)
    np.testing.assert_array_equal(found[20:], dithered(x[20:], vol=VOL, n_steps=N, first_path=20, **ADDRESS))


@pytest.mark.parametrize("size", [0, 1, 31, 257, 10_007])
def test_any_size_and_layout(size):
    x = ends(size)
    wide = np.stack([x, x], axis=1)
    found = dithered(wide[:, 0], vol=VOL, n_steps=N, **ADDRESS)
    assert found.shape == (size,)
    np.testing.assert_array_equal(found, dithered(x, vol=VOL, n_steps=N, **ADDRESS))


def test_dithered_ends_pass_for_normal_where_the_lattice_does_not():
    """20,000 ends are enough to see the lattice's KS distance of 0.07, and far too few to see 0.0025."""
    n_paths = 20_000
    x, sd = ends(n_paths), VOL * np.sqrt(N)
    y = dithered(x, vol=VOL, n_steps=N, **ADDRESS)
    raw, smooth = (stats.kstest(part / sd, "norm").statistic * np.sqrt(n_paths) for part in (x, y))
    assert raw > 8
    assert smooth < 1.95  # 0.1% of samples of the normal law itself are beyond it
    assert abs(y.mean()) / (sd / np.sqrt(n_paths)) < 4
    assert abs(y.var() / sd**2 - 1) < 4 * np.sqrt(2 / n_paths)


def test_antithetic_pairs_stay_symmetric_about_the_mean():
    x = ends(40, drift=0.001, antithetic=True)
    y = dithered(x, vol=VOL, n_steps=N, mean=0.001 * N, antithetic=True, **ADDRESS)
    np.testing.assert_allclose(y[::2] + y[1::2], 2 * 0.001 * N, rtol=1e-6)  # the drift is rounded to fixed point
    np.testing.assert_array_equal(y[::2], dithered(x, vol=VOL, n_steps=N, mean=0.001 * N, **ADDRESS)[::2])


def test_golden_dither():
    y = dithered(np.arange(-32, 33, 2) * 2.0**-7, vol=2.0**-7, n_steps=32, seed=7)
    assert hashlib.sha256(y.astype("<f8").tobytes()).hexdigest()[:16] == "83c75214cba025c2"


@pytest.mark.parametrize(("n", "raw", "smooth"), [(32, 0.070, 2.5e-3), (256, 0.0249, 3.3e-4), (1024, 0.0125, 8.2e-5)])
def test_errors_of_the_end(monkeypatch, n, raw, smooth):
    monkeypatch.setattr(exact, "monitored_barrier_probability", lambda n, barrier: np.zeros(len(barrier)))  # slow
    found = bit_walk_error(n)
    assert found.ks == pytest.approx(raw, rel=0.01)
    assert found.ks_dithered == pytest.approx(smooth, rel=0.02)
    law = exact.lattice_terminal(n)
    fourth = (law.probability * (law.value / np.sqrt(n)) ** 4).sum()
    assert found.excess_kurtosis == pytest.approx(fourth - 3, rel=1e-9)


@pytest.mark.parametrize("n", [8, 33])
def test_dithered_error_is_that_on_a_fine_grid(n):
    law, s = exact.lattice_terminal(n), np.sqrt(n + 1 / 3)
    y = np.linspace(-n - 1, n + 1, 400_001)
    edges = np.append(law.value - 1.0, n + 1.0)
    distribution = np.interp(y, edges, np.concatenate([[0.0], np.cumsum(law.probability)]))
    worst = np.abs(distribution - special.ndtr(y / s)).max()
    found = bit_walk_error(n).ks_dithered
    assert worst <= found < worst * (1 + 1e-6)


@pytest.mark.parametrize("n", [1, 2, 9, 32])
def test_barrier_on_the_lattice_is_twice_the_tail_of_the_dithered_end(n):
    law, barrier = exact.lattice_terminal(n), np.arange(1, n + 1)
    above = np.clip(0.5 * (law.value + 1 - barrier[:, None]), 0.0, 1.0)  # share of a cell beyond the barrier
    tail = (above * law.probability).sum(axis=1)
    np.testing.assert_allclose(exact.lattice_barrier_probability(n, barrier), 2 * tail, rtol=1e-13)


def test_leading_errors():
    """n times the errors of the dithered end and of a barrier, against the formulas of docs/bicep.md."""
    n = 10_000
    law, s = exact.lattice_terminal(n), np.sqrt(n + 1 / 3)
    after = np.cumsum(law.probability)
    near = np.abs(law.value) < 4 * s
    for shift, distribution, cubic in ((0, after - law.probability / 2, -5.0), (1, after, 1.0)):
        y = (law.value + shift) / s
        leading = (y**3 + cubic * y) * stats.norm.pdf(y) / 12
        np.testing.assert_allclose((n * (distribution - special.ndtr(y)))[near], leading[near], atol=2e-3)
    barrier = np.arange(1, 400)
    y = barrier / np.sqrt(n)
    odd = barrier % 2 == 1  # n is even: these barriers lie between two ends of the walk
    leading = (np.where(odd, 1.0, 7.0) * y - y**3) * stats.norm.pdf(y) / 6
    error = exact.lattice_barrier_probability(n, barrier) - exact.barrier_probability(barrier, 0.0, 1.0, n)
    np.testing.assert_allclose(n * error, leading, atol=2e-3)


def test_constant_of_the_dithered_error(monkeypatch):
    monkeypatch.setattr(exact, "monitored_barrier_probability", lambda n, barrier: np.zeros(len(barrier)))  # slow
    y = np.sqrt(4 - np.sqrt(11))
    assert 1000 * bit_walk_error(1000).ks_dithered == pytest.approx((5 * y - y**3) * stats.norm.pdf(y) / 12, rel=2e-3)
    assert np.sqrt(1000) * bit_walk_error(1000).ks == pytest.approx(1 / np.sqrt(2 * np.pi), rel=1e-3)


def test_expected_drawdown_lacks_one_step():
    coarse, fine = bit_walk_error(32), bit_walk_error(128)
    assert coarse.drawdown / fine.drawdown == pytest.approx(2, rel=0.05)
    assert coarse.drawdown_corrected / fine.drawdown_corrected == pytest.approx(4, rel=0.1)
    assert fine.drawdown < -0.05
    assert abs(fine.drawdown_corrected) < 0.003


def test_orders_of_the_errors():
    """Four times the steps: half the error of order 1 / sqrt n, a quarter of that of order 1 / n."""
    coarse, fine = bit_walk_error(32), bit_walk_error(128)
    assert coarse.ks / fine.ks == pytest.approx(2, rel=0.03)
    assert coarse.ks_dithered / fine.ks_dithered == pytest.approx(4, rel=0.05)
    assert coarse.barrier_bits / fine.barrier_bits == pytest.approx(4, rel=0.2)
    assert coarse.barrier_normal / fine.barrier_normal == pytest.approx(2, rel=0.1)


def test_barriers_of_the_bit_walk_are_nearer_than_those_of_normal_steps():
    found = bit_walk_error(32)
    assert found.barrier_normal == pytest.approx(0.0545, abs=1e-4)
    assert found.barrier_bits == pytest.approx(0.0034, abs=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        {"terminal": np.zeros((2, 2))},
        {"terminal": [0.0, np.nan]},
        {"vol": -0.1},
        {"vol": np.inf},
        {"mean": np.nan},
        {"n_steps": 0},
        {"seed": 1 << 64},
        {"stream": 1 << 24},
        {"problem": -1},
        {"first_path": -1},
    ],
    ids=str,
)
def test_misuse_is_refused(change):
    arguments = {"terminal": np.zeros(3), "vol": 0.1, "n_steps": 4, "seed": 1} | change
    with pytest.raises(ValueError, match=r"."):
        dithered(arguments.pop("terminal"), **arguments)


def test_an_error_needs_a_step():
    with pytest.raises(ValueError, match="n_steps"):
        bit_walk_error(0)
