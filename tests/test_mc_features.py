"""kernels.mc_features: equal to walks written out, independent of chunks, known answers, refusals."""

import math

import numpy as np
import pytest
from scipy import stats

from kernels import mc_features as module
from kernels import paths as written_out
from kernels.mc_features import BINS, NONE_ABOVE, NONE_BELOW, McFeatures, fixed_point, mc_features

SEED = 5


def brute_force(path, n, n_paths, *, low, high, observed):
    """Features of integer walks [n_paths, n + 1], step by step."""
    peak = np.maximum.accumulate(path, axis=1)
    terminal = path[:, -1]
    below, above = terminal[terminal < observed], terminal[terminal > observed]
    return {
        "hits": (path.max(axis=1) >= high).sum(),
        "hits_low": (path.min(axis=1) <= low).sum(),
        "sum_mdd": (peak - path).max(axis=1).sum(),
        "sum_terminal": terminal.sum(),
        "below": len(below),
        "equal": n_paths - len(below) - len(above),
        "next_below": below.max(initial=NONE_BELOW),
        "next_above": above.min(initial=NONE_ABOVE),
    }


def flat(found: McFeatures, problem: int) -> dict[str, int]:
    assert found.rank is not None
    values = {name: getattr(found, name) for name in ("hits", "hits_low", "sum_mdd", "sum_terminal")}
    return {name: int(value[problem]) for name, value in {**values, **found.rank._asdict()}.items()}


def same(first: McFeatures, second: McFeatures) -> None:
    for name, one, other in zip(first._fields, first, second, strict=True):
        if name == "rank" and one is not None:
            for part, also in zip(one, other, strict=True):
                np.testing.assert_array_equal(part, also)
        else:
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("increments", ["bits", "normal", "signflip"])
@pytest.mark.parametrize(
    ("n_paths", "n_steps", "antithetic"), [(1, 1, True), (31, 7, False), (257, 40, True), (32, 131, True)]
)
def test_equals_walks_written_out(increments, n_paths, n_steps, antithetic):
    rng = np.random.default_rng(n_steps)
    vol = rng.uniform(0, 0.02, (3, n_steps)).astype(np.float32)
    drift = np.array([0.0, 1e-3, -2e-3], np.float32)
    observed = np.array([0.0, 0.02, -0.05])
    barrier = np.array([0.01, 0.04, np.inf], np.float32)
    found = mc_features(
        vol, drift, barrier, barrier_low=barrier[::-1], observed=observed, n_paths=n_paths, n_steps=n_steps,
        seed=SEED, stream=3, increments=increments, antithetic=antithetic,
    )  # fmt: skip
    kind = "normal" if increments == "normal" else "bits"
    for problem in range(3):
        x = written_out.paths(
            n_paths, n_steps, vol=vol[problem].astype(np.float64), drift=float(drift[problem]), seed=SEED, stream=3,
            problem=problem, increments=kind, antithetic=antithetic, dtype=np.float64,
        )  # fmt: skip
        unit = 2.0 ** int(found.scale[problem])
        walk = np.rint(x * unit).astype(np.int64)
        np.testing.assert_array_equal(walk / unit, x)  # the walk is a multiple of the unit: the scales agree
        expected = brute_force(
            walk, n_steps, n_paths,
            low=-float(barrier[::-1][problem]) * unit, high=float(barrier[problem]) * unit,
            observed=np.rint(observed[problem] * unit),
        )  # fmt: skip
        assert flat(found, problem) == expected
        sd = np.sqrt((np.rint(vol[problem].astype(np.float64) * unit) ** 2).sum())
        bins = np.clip(np.floor(walk[:, -1] * 32.0 / np.rint(sd)) + 256, 0, BINS - 1).astype(int)
        np.testing.assert_array_equal(found.hist[problem], np.bincount(bins, minlength=BINS))


def test_constant_volatility_is_a_curve_that_does_not_move():
    options = {"n_paths": 64, "n_steps": 50, "seed": SEED}
    vol = np.array([0.01, 0.0], np.float32)
    curve = np.repeat(vol[:, None], 50, axis=1)
    same(mc_features(vol, [0, 0], [0.1, 0.1], **options), mc_features(curve, [0, 0], [0.1, 0.1], **options))


def test_signflip_is_bits_with_the_history_as_volatility():
    vol = np.random.default_rng(0).exponential(0.01, (4, 60))
    options = {"n_paths": 100, "n_steps": 60, "seed": SEED, "observed": np.zeros(4)}
    args = (vol, np.zeros(4), np.full(4, 0.05))
    same(mc_features(*args, increments="signflip", **options), mc_features(*args, increments="bits", **options))


@pytest.mark.parametrize("increments", ["bits", "normal"])
@pytest.mark.parametrize("ids", [np.zeros(70, np.int64), np.repeat([3, 1], 35), None])
def test_chunks_change_nothing(monkeypatch, increments, ids):
    rng = np.random.default_rng(1)
    vol = rng.uniform(0, 0.02, (70, 21))
    args = (vol, rng.normal(0, 1e-3, 70), np.full(70, 0.03))
    options = {"n_paths": 99, "n_steps": 21, "seed": SEED, "problem_ids": ids, "increments": increments}
    options["observed"] = rng.normal(0, 0.05, 70)
    whole = mc_features(*args, **options)
    for name, size in {"_PATHS": 16, "_PROBLEMS": 13, "_BLOCK": 65}.items():
        monkeypatch.setattr(module, name, size)
    same(whole, mc_features(*args, **options))
    if ids is not None:
        order = rng.permutation(70)
        shuffled = mc_features(
            *(part[order] for part in args),
            **options | {"problem_ids": ids[order], "observed": options["observed"][order]},
        )
        np.testing.assert_array_equal(shuffled.sum_mdd, whole.sum_mdd[order])


def test_problems_seeds_and_streams_differ_and_equal_ids_share():
    vol = np.tile(np.random.default_rng(3).exponential(0.01, 40), (3, 1))  # no lattice: totals hardly coincide
    args = (vol, np.zeros(3), np.full(3, 0.1))
    totals = [
        mc_features(*args, n_paths=51, n_steps=40, seed=seed, stream=stream, problem_ids=ids).sum_mdd
        for seed, stream, ids in [(1, 0, None), (2, 0, None), (1, 1, None), (1, 0, [0, 0, 7])]
    ]
    assert len(set(np.concatenate(totals[:3]).tolist())) == 9
    assert totals[3][0] == totals[3][1] == totals[0][0]
    assert totals[3][2] != totals[0][2]


def test_antithetic_pairs_cancel():
    found = mc_features(
        np.full((2, 33), 0.01), [0, 0], [1, 1], n_paths=500, n_steps=33, seed=SEED, increments="signflip"
    )
    np.testing.assert_array_equal(found.sum_terminal, 0)
    np.testing.assert_array_equal(found.hist[:, BINS // 2 + 1 :].sum(axis=1), 250)


def test_reflection_on_the_lattice():
    """P(max >= m) = P(S >= m) + P(S > m) for the symmetric walk on the integers."""
    n, n_paths, m = 256, 40_000, 20
    found = mc_features([1.0], [0.0], [m], n_paths=n_paths, n_steps=n, seed=SEED, antithetic=False)
    ups = stats.binom(n, 0.5)  # S = 2 ups - n
    exact = ups.sf((n + m) / 2 - 1) + ups.sf((n + m) / 2)
    z = (found.hits[0] / n_paths - exact) / math.sqrt(exact * (1 - exact) / n_paths)
    assert abs(z) < 4


def expected_drawdown(n: int) -> float:
    """E[max drawdown] of the symmetric walk, exactly: Markov chain of (drawdown now, largest so far)."""
    law = np.zeros((n + 2, n + 2))
    law[0, 0] = 1.0
    for _ in range(n):
        moved = np.zeros_like(law)
        moved[:-1] += 0.5 * law[1:]  # a step up shortens the drawdown,
        moved[0] += 0.5 * law[0]  # or makes a new maximum
        deeper = 0.5 * law[:-1]
        moved[1:] += deeper
        now = np.arange(1, n + 2)
        beyond = moved[now, now - 1].copy()  # the largest so far follows
        moved[now, now - 1] = 0.0
        moved[now, now] += beyond
        law = moved
    return float((law.sum(axis=0) * np.arange(n + 2)).sum())


def test_expected_drawdown_on_the_lattice():
    exact = expected_drawdown(256)
    assert exact == pytest.approx(19.076, abs=5e-4)
    problems, n_paths = 100, 400
    found = mc_features(
        np.ones(problems), np.zeros(problems), np.full(problems, 1.0), n_paths=n_paths, n_steps=256, seed=SEED
    )
    means = np.ldexp(found.sum_mdd / n_paths, -found.scale)
    z = (means.mean() - exact) / (means.std(ddof=1) / math.sqrt(problems))
    assert abs(z) < 4


def test_terminal_law_of_the_bit_walk():
    n, n_paths = 64, 20_000
    found = mc_features([1.0], [0.0], [1.0], n_paths=n_paths, n_steps=n, seed=SEED, antithetic=False)
    ups = np.arange(n + 1)
    expected = np.zeros(BINS)
    np.add.at(expected, (4 * (2 * ups - n) + BINS // 2).clip(0, BINS - 1), n_paths * stats.binom(n, 0.5).pmf(ups))
    assert found.hist[0][expected == 0].sum() == 0
    often = expected >= 5
    chi_square = ((found.hist[0][often] - expected[often]) ** 2 / expected[often]).sum()
    assert stats.chi2(often.sum() - 1).sf(chi_square) > 1e-4


def test_terminal_law_of_the_normal_walk():
    n_paths, n_steps = 20_000, 25
    found = mc_features(
        [0.01], [0.01], [1.0], n_paths=n_paths, n_steps=n_steps, seed=SEED, increments="normal", antithetic=False
    )
    edges = np.linspace(-8, 8, BINS + 1) - math.sqrt(n_steps)  # the drift moves the terminal value by 5 sd
    expected = n_paths * np.diff(stats.norm.cdf(edges))
    often = expected >= 5
    chi_square = ((found.hist[0][often] - expected[often]) ** 2 / expected[often]).sum()
    assert stats.chi2(often.sum() - 1).sf(chi_square) > 1e-4
    assert found.hist[0].sum() == n_paths


def test_fixed_point_is_that_of_the_written_walks():
    rng = np.random.default_rng(2)
    vol, drift = rng.exponential(10.0 ** rng.uniform(-6, 3, (50, 1)), (50, 9)), rng.normal(0, 0.01, 50)
    for increments in ("bits", "normal"):
        a, m, scale = fixed_point(vol, drift, increments)
        for row in range(50):
            expected = written_out.fixed_point(vol[row], np.full(9, drift[row]), increments)
            np.testing.assert_array_equal(a[row], expected[0])
            assert (m[row], scale[row]) == (expected[1][0], expected[2])
    assert fixed_point(np.full((1, 8), 0.25), np.zeros(1), "bits")[2] == 28  # a power of two is reached exactly


def test_no_paths_no_problems_no_volatility():
    empty = mc_features(np.ones(2), np.zeros(2), np.ones(2), n_paths=0, n_steps=3, seed=0, observed=np.zeros(2))
    assert flat(empty, 0) == dict.fromkeys(flat(empty, 0), 0) | {"next_below": NONE_BELOW, "next_above": NONE_ABOVE}
    assert mc_features(np.ones((0, 3)), [], [], n_paths=4, n_steps=3, seed=0).hist.shape == (0, BINS)
    still = mc_features(np.zeros(1), np.zeros(1), np.ones(1), n_paths=6, n_steps=3, seed=0, observed=np.zeros(1))
    assert flat(still, 0) == flat(empty, 0) | {"equal": 6}
    assert still.hist[0, BINS // 2] == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_steps": 0}, "n_steps"),
        ({"n_paths": -1}, "n_paths"),
        ({"n_paths": (1 << 32) + 1}, "n_paths"),
        ({"vol": [0.1, np.nan]}, "vol"),
        ({"vol": [0.1, -0.1]}, "vol"),
        ({"vol": np.ones((2, 5))}, "vol"),
        ({"vol": 0.1}, "vol"),
        ({"vol": [0.1, 0.1], "increments": "signflip"}, "vol"),
        ({"drift": [0.0, np.inf]}, "drift"),
        ({"drift": [0.0]}, "drift"),
        ({"barrier": [0.0, 1.0]}, "barrier"),
        ({"barrier": [np.nan, 1.0]}, "barrier"),
        ({"barrier_low": [-1.0, 1.0]}, "barrier_low"),
        ({"observed": [0.0, np.nan]}, "observed"),
        ({"problem_ids": [0, -1]}, "problem_ids"),
        ({"problem_ids": [0, 1 << 32]}, "problem_ids"),
        ({"problem_ids": [0.0, 1.0]}, "problem_ids"),
        ({"problem_ids": [0]}, "problem_ids"),
        ({"seed": 1 << 64}, "seed"),
        ({"seed": -1}, "seed"),
        ({"stream": 1 << 24}, "stream"),
        ({"increments": "coins"}, "increments"),
        ({"device": "tpu"}, "device"),
    ],
)  # fmt: skip
def test_misuse_is_refused(change, message):
    arguments = {"vol": [0.1, 0.1], "drift": [0.0, 0.0], "barrier": [1.0, 1.0], "n_paths": 4, "n_steps": 4, "seed": 1}
    mc_features(**arguments)
    with pytest.raises(ValueError, match=message):
        mc_features(**arguments | change)


def test_cuda_is_never_replaced_in_silence():
    with pytest.raises(RuntimeError, match="CUDA"):
        mc_features([0.1], [0.0], [1.0], n_paths=4, n_steps=4, seed=1, device="cuda")
