"""kernels.mc_features: the same bits from every backend, known answers, independence, memory, refusals."""

import hashlib
import math
import resource
import sys
import tracemalloc

import numpy as np
import pytest
from scipy import stats
from shim import ORDERS, ShimDevice, ShimFault

from kernels import cuda, exact
from kernels import mc_features as module
from kernels import paths as written_out
from kernels.mc_features import (
    BINS,
    NONE_ABOVE,
    NONE_BELOW,
    McFeatures,
    Plan,
    fixed_point,
    mc_features,
    mc_features_reference,
    on_cpu,
    plan,
)

SEED = 5
INFINITE = np.array([np.inf] * 3, np.float32)
KINDS = ("curve", "constant", "normal")  # of volatility and increments
ASKED = {
    "all": {},
    "drawdown": {"barrier": INFINITE, "barrier_low": None, "hist": False, "observed": None},
    "one barrier": {"barrier_low": None, "drawdown": False},
    "low barrier": {"barrier": INFINITE, "drawdown": False, "hist": False},
    "two barriers": {"drawdown": False, "observed": None},
    "terminal": {"barrier": INFINITE, "barrier_low": None, "drawdown": False},
}
EVERYTHING = pytest.mark.parametrize(
    ("kind", "asked"),
    [
        *((kind, asked) for kind in ("curve", "constant") for asked in ASKED),
        ("normal", "all"),
        ("normal", "one barrier"),
    ],
)
SIZES = [(0, 5), (1, 1), (31, 31), (257, 130), (1009, 8)]


def plan_of(kind: str, asked: str, n_paths: int, n_steps: int, **options) -> Plan:
    """Three problems, two of which share their noise; constant volatility is without drift, as a lattice is."""
    size = np.array([0.01, 0.02, 0.0], np.float32)
    vol = size if kind == "constant" else size[:, None] * np.linspace(0.3, 1.7, n_steps, dtype=np.float32)
    arguments = {
        "vol": vol,
        "drift": [0.0] * 3 if kind == "constant" else [1e-3, -2e-3, 0.0],
        "barrier": np.float32(math.sqrt(n_steps)) * np.array([0.01, 0.04, np.inf], np.float32),
        "barrier_low": np.float32(math.sqrt(n_steps)) * np.array([np.inf, 0.02, 0.01], np.float32),
        "observed": [0.003, -0.02, 0.0],
        "problem_ids": [4, 4, 9],
        "increments": "normal" if kind == "normal" else "bits",
    }
    numbers = {"n_paths": n_paths, "n_steps": n_steps, "seed": SEED, "stream": 3}
    return plan(**arguments | numbers | ASKED[asked] | options)


def on_shim(what: Plan, blocks: int = 3, threads: int = 64, **options) -> McFeatures:
    device = ShimDevice(**options)
    there = module.send(device, what)
    module.walk(device, what, there, blocks=blocks, threads=threads)
    return module.receive(device, what, there)


def parts(found: McFeatures) -> dict[str, np.ndarray]:
    arrays = found._asdict() | ({} if found.rank is None else found.rank._asdict())
    return {name: array for name, array in arrays.items() if isinstance(array, np.ndarray)}


def same(first: McFeatures, second: McFeatures) -> bool:
    one, other = parts(first), parts(second)
    return one.keys() == other.keys() and all(
        np.array_equal(one[name], other[name]) and one[name].dtype == other[name].dtype for name in one
    )


def brute_force(path, n_paths, *, low, high, observed):
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


# ---- the same bits


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
    for problem in range(3):
        what = written_out.plan(
            n_paths, n_steps, vol=vol[problem].astype(np.float64), drift=float(drift[problem]), seed=SEED, stream=3,
            problem=problem, increments=increments, antithetic=antithetic, dtype=np.float64,
        )  # fmt: skip
        x = written_out.paths_reference(what)
        unit = 2.0 ** int(found.scale[problem])
        walk = np.rint(x * unit).astype(np.int64)
        np.testing.assert_array_equal(walk / unit, x)  # the walk is a multiple of the unit: the scales agree
        expected = brute_force(
            walk, n_paths,
            low=-float(barrier[::-1][problem]) * unit, high=float(barrier[problem]) * unit,
            observed=np.rint(observed[problem] * unit),
        )  # fmt: skip
        assert {name: parts(found)[name][problem] for name in expected} == expected
        sd = np.sqrt((np.rint(vol[problem].astype(np.float64) * unit) ** 2).sum())
        bins = np.clip(np.floor(walk[:, -1] * 32.0 / np.rint(sd)) + 256, 0, BINS - 1).astype(int)
        np.testing.assert_array_equal(found.hist[problem], np.bincount(bins, minlength=BINS))


@EVERYTHING
def test_cpu_backend_gives_the_bits_of_the_reference(kind, asked):
    for n_paths, n_steps in SIZES:
        for antithetic in (True, False):
            what = plan_of(kind, asked, n_paths, n_steps, antithetic=antithetic)
            assert same(on_cpu(what), mc_features_reference(what)), (n_paths, n_steps, antithetic)


@EVERYTHING
def test_cu_source_gives_the_bits_of_the_cpu(kind, asked):
    for (n_paths, n_steps), (blocks, threads) in zip(SIZES[:4], [(1, 32), (2, 256), (5, 64), (3, 32)], strict=True):
        for antithetic in (True, False):
            what = plan_of(kind, asked, n_paths, n_steps, antithetic=antithetic)
            assert same(on_shim(what, blocks, threads), on_cpu(what)), (n_paths, n_steps, antithetic)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", ORDERS)
def test_order_of_the_gpus_threads_changes_nothing(kind, order):
    what = plan_of(kind, "one barrier", 257, 130)
    assert same(on_shim(what, order=order), on_cpu(what))


@pytest.mark.parametrize(
    ("kind", "was", "becomes"),
    [
        ("curve", "__syncthreads();  // every thread is done with the steps before", ""),
        ("curve", "k < TILE && begin + k < n; k += 8", "k < TILE && begin + k + 8 < n; k += 8"),
        ("constant", "__syncthreads();  // bins, and what the caller prepared in shared memory", ""),
        ("constant", "__syncthreads();  // no thread counts the next problem before", ""),
        ("normal", "k < TILE && begin + k < n; k += 4", "k < TILE && begin + k + 4 < n; k += 4"),
    ],
)  # fmt: skip
def test_planted_faults_in_the_cu_source_are_found(kind, was, becomes):
    """In one of the orders of the threads at least."""
    kernel = {"curve": "walk_bits", "constant": "walk_lattice", "normal": "walk_normals"}[kind]

    def edit(text):
        head, *kernels = text.replace(was, becomes).split('extern "C" __global__')
        assert text.count(was)
        return head + 'extern "C" __global__' + next(body for body in kernels if kernel in body)

    what = plan_of(kind, "one barrier", 257, 129)

    def found(order):
        try:
            return not same(on_shim(what, blocks=1, order=order, edit=edit), on_cpu(what))
        except ShimFault:
            return True

    assert any(found(order) for order in ORDERS)


@pytest.mark.gpu
@EVERYTHING
def test_gpu_gives_the_bits_of_the_cpu(kind, asked):
    for n_paths, n_steps in [*SIZES, (100_003, 256)]:
        what = plan_of(kind, asked, n_paths, n_steps)
        assert same(module.on_device(cuda.current(), what), on_cpu(what)), (n_paths, n_steps)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("threads", [1, 3])
def test_blocks_and_threads_change_nothing(monkeypatch, kind, threads):
    rng = np.random.default_rng(1)
    vol = rng.uniform(0, 0.02, 70 if kind == "constant" else (70, 21))
    options = {
        "n_paths": 99, "n_steps": 21, "seed": SEED, "problem_ids": np.repeat([3, 1], 35),
        "increments": "normal" if kind == "normal" else "bits", "observed": rng.normal(0, 0.05, 70),
        "drawdown": kind == "curve",
    }  # fmt: skip
    whole = mc_features(vol, np.zeros(70), np.full(70, 0.03), **options)
    for name, size in {"_LANES": 16, "_PROBLEMS": 13, "_LATTICE_PROBLEMS": 13}.items():
        monkeypatch.setattr(module, name, size)
    assert same(whole, mc_features(vol, np.zeros(70), np.full(70, 0.03), threads=threads, **options))
    monkeypatch.setattr(module, "_TABLE", 50)  # two problems a tile
    assert same(whole, mc_features(vol, np.zeros(70), np.full(70, 0.03), threads=threads, **options))


def test_order_of_the_problems_changes_nothing():
    rng = np.random.default_rng(1)
    vol, ids, order = rng.uniform(0, 0.02, (7, 21)), np.array([3, 3, 1, 1, 1, 8, 8]), rng.permutation(7)
    options = {"n_paths": 99, "n_steps": 21, "seed": SEED, "barrier": np.full(7, 0.03), "drift": np.zeros(7)}
    whole = parts(mc_features(vol, problem_ids=ids, **options))
    shuffled = parts(mc_features(vol[order], problem_ids=ids[order], **options))
    for name in whole:
        np.testing.assert_array_equal(whole[name][order], shuffled[name])


def test_input_that_is_not_contiguous():
    vol = np.random.default_rng(4).uniform(0, 0.02, (6, 40)).astype(np.float32)
    options = {"n_paths": 33, "n_steps": 20, "seed": SEED}
    drift, barrier = np.linspace(-1e-3, 1e-3, 6)[::2], np.linspace(0.01, 0.05, 6)[::-2]
    strided = mc_features(vol[::2, ::2], drift, barrier, **options)
    assert same(strided, mc_features(vol[::2, ::2].copy(), drift.copy(), barrier.copy(), **options))
    assert same(strided, mc_features(np.asfortranarray(vol[::2, ::2]), drift, barrier, **options))


def test_constant_volatility_is_a_curve_that_does_not_move():
    vol = np.array([0.01, 0.0], np.float32)
    curve = np.repeat(vol[:, None], 50, axis=1)
    for options in ({}, {"drawdown": False}, {"drawdown": False, "barrier": [np.inf] * 2, "drift": [1e-3, 1e-4]}):
        options = {"drift": [0, 0], "barrier": [0.1, 0.1], "n_paths": 64, "n_steps": 50, "seed": SEED} | options
        assert same(mc_features(vol, **options), mc_features(curve, **options))


def test_signflip_is_bits_with_the_history_as_volatility():
    vol = np.random.default_rng(0).exponential(0.01, (4, 60))
    options = {"n_paths": 100, "n_steps": 60, "seed": SEED, "observed": np.zeros(4)}
    args = (vol, np.zeros(4), np.full(4, 0.05))
    assert same(mc_features(*args, increments="signflip", **options), mc_features(*args, increments="bits", **options))


def test_what_is_not_asked_is_none_and_leaves_the_rest_as_it_is():
    everything = parts(on_cpu(plan_of("curve", "all", 99, 21)))
    for asked in ASKED:
        less = on_cpu(plan_of("curve", asked, 99, 21))
        options = ASKED[asked]
        assert (less.sum_mdd is None) == (options.get("drawdown") is False)
        assert (less.hist is None) == (options.get("hist") is False)
        assert (less.rank is None) == ("observed" in options)
        for name, array in parts(less).items():
            left_out = {"hits": "barrier", "hits_low": "barrier_low"}.get(name) in options
            np.testing.assert_array_equal(array, 0 if left_out else everything[name])


def test_golden_hash():
    """What every backend and every later version must give."""
    total = hashlib.sha256()
    for kind in KINDS:
        for antithetic in (True, False):
            for name, array in sorted(parts(on_cpu(plan_of(kind, "all", 513, 200, antithetic=antithetic))).items()):
                total.update(name.encode() + array.tobytes())
    assert total.hexdigest()[:16] == "ad7588752709e742"


# ---- known answers


def standard_errors(estimate: float, expected: float, variance: float, count: int) -> float:
    return abs(estimate - expected) / math.sqrt(variance / count)


@pytest.mark.parametrize("drawdown", [True, False])
def test_reflection_on_the_lattice(drawdown):
    """P(max >= m) = P(S >= m) + P(S > m) for the symmetric walk on the integers, step by step and by bytes."""
    n, n_paths, m = 256, 40_000, np.array([1, 20, 43])
    found = mc_features(
        [1.0] * 3, [0.0] * 3, m, barrier_low=m, n_paths=n_paths, n_steps=n, seed=SEED, antithetic=False,
        drawdown=drawdown,
    )  # fmt: skip
    for hits in (found.hits, found.hits_low):
        expected = exact.lattice_barrier_probability(n, m)
        for share, p in zip(hits / n_paths, expected, strict=True):
            assert standard_errors(share, p, p * (1 - p), n_paths) < 4


def expected_drawdown(n: int) -> float:
    """E[max drawdown] of the symmetric walk, exactly: Markov chain of (drawdown now, largest so far)."""
    law = np.zeros((n + 2, n + 2))
    law[0, 0] = 1.0
    for _ in range(n):
        moved = np.zeros_like(law)
        moved[:-1] += 0.5 * law[1:]  # a step up shortens the drawdown,
        moved[0] += 0.5 * law[0]  # or makes a new maximum
        moved[1:] += 0.5 * law[:-1]
        now = np.arange(1, n + 2)
        beyond = moved[now, now - 1].copy()  # the largest so far follows
        moved[now, now - 1] = 0.0
        moved[now, now] += beyond
        law = moved
    return float((law.sum(axis=0) * np.arange(n + 2)).sum())


def test_expected_drawdown_on_the_lattice():
    expected = expected_drawdown(256)
    assert expected == pytest.approx(19.076, abs=5e-4)
    problems, n_paths = 100, 2000
    found = mc_features(
        np.ones(problems), np.zeros(problems), np.full(problems, 1.0), n_paths=n_paths, n_steps=256, seed=SEED
    )
    means = np.ldexp(found.sum_mdd / n_paths, -found.scale)
    assert standard_errors(means.mean(), expected, means.var(ddof=1), problems) < 4


@pytest.mark.parametrize("drawdown", [True, False])
def test_terminal_law_of_the_bit_walk(drawdown):
    n, n_paths = 64, 20_000
    found = mc_features(
        [1.0], [0.0], [np.inf], n_paths=n_paths, n_steps=n, seed=SEED, antithetic=False, drawdown=drawdown
    )
    law = exact.lattice_terminal(n)
    expected = np.zeros(BINS)
    np.add.at(expected, (4 * law.value + BINS // 2).clip(0, BINS - 1), n_paths * law.probability)
    assert found.hist[0][expected == 0].sum() == 0
    often = expected >= 5
    chi_square = ((found.hist[0][often] - expected[often]) ** 2 / expected[often]).sum()
    assert stats.chi2(often.sum() - 1).sf(chi_square) > 1e-4


def test_terminal_law_of_the_normal_walk():
    n_paths, n_steps = 20_000, 25
    found = mc_features(
        [0.01], [0.01], [1.0], n_paths=n_paths, n_steps=n_steps, seed=SEED, increments="normal", antithetic=False,
        drawdown=False,
    )  # fmt: skip
    edges = np.linspace(-8, 8, BINS + 1) - math.sqrt(n_steps)  # the drift moves the terminal value by 5 sd
    expected = n_paths * np.diff(stats.norm.cdf(edges))
    often = expected >= 5
    chi_square = ((found.hist[0][often] - expected[often]) ** 2 / expected[often]).sum()
    assert stats.chi2(often.sum() - 1).sf(chi_square) > 1e-4
    assert found.hist[0].sum() == n_paths


def test_drifted_barrier_watched_at_the_steps():
    """Against the law of the normal walk at its steps, and against continuous time with many steps of a bit walk."""
    n, n_paths, mu, sigma = 25, 40_000, np.array([4e-3, -3e-3, 0.0]), 0.02
    barrier = sigma * math.sqrt(n) * np.array([1.5, 0.6, 1.0])
    options = {"n_paths": n_paths, "seed": SEED, "antithetic": False, "drawdown": False, "hist": False}
    found = mc_features(np.full(3, sigma), mu, barrier, n_steps=n, increments="normal", **options)
    for row in range(3):
        p = float(exact.monitored_barrier_probability(n, np.float64(np.float32(barrier[row])), mu[row], sigma))
        assert standard_errors(found.hits[row] / n_paths, p, p * (1 - p), n_paths) < 4
    fine = 64  # steps for each of those; a barrier on the lattice is not overshot
    small = sigma / math.sqrt(fine)
    found = mc_features(np.full(3, small), mu / fine, np.ceil(barrier / small) * small, n_steps=n * fine, **options)
    p = exact.barrier_probability(np.ceil(barrier / small) * small, mu, sigma, n)
    np.testing.assert_allclose(found.hits / n_paths, p, atol=0.015)


def test_drawdown_with_drift():
    """E[max drawdown] of Brownian motion, which a walk of many small steps comes near from below."""
    n, sigma, n_paths = 1024, 0.01, 20_000
    mu = sigma / math.sqrt(n) * np.array([2.0, 0.0, -1.0])
    found = mc_features(np.full(3, sigma), mu, np.full(3, np.inf), n_paths=n_paths, n_steps=n, seed=SEED, hist=False)
    ratio = np.ldexp(found.sum_mdd / n_paths, -found.scale) / exact.expected_max_drawdown(mu, sigma, n)
    assert ((ratio > 0.95) & (ratio < 1.01)).all(), ratio


def test_black_scholes_price():
    """Spot P(S_T > K) with the stock as unit of account, less the discounted strike's: each is one rank."""
    spot, strike, rate, sigma, n, n_paths = 100.0, 105.0, 2e-4, 0.01, 64, 100_000
    drift = np.array([rate + sigma**2 / 2, rate - sigma**2 / 2])
    level = np.full(2, math.log(strike / spot))
    found = mc_features(
        np.full(2, sigma), drift, [np.inf] * 2, observed=level, n_paths=n_paths, n_steps=n, seed=SEED,
        increments="normal", antithetic=False, drawdown=False, hist=False,
    )  # fmt: skip
    above = 1 - found.rank.below / n_paths
    weight = np.array([spot, strike * math.exp(-rate * n)])
    price = weight @ (above * [1, -1])
    variance = weight**2 @ (above * (1 - above))
    assert standard_errors(price, float(exact.black_scholes_call(spot, strike, sigma, n, rate)), variance, n_paths) < 4


# ---- independence


def test_words_paths_and_problems_are_independent():
    """A total of N signs has variance N only if no two of them agree more often than not."""
    problems, n_paths, n_steps = 2000, 64, 256
    found = mc_features(
        np.ones(problems), np.zeros(problems), np.full(problems, np.inf), n_paths=n_paths, n_steps=n_steps, seed=SEED,
        antithetic=False, drawdown=False, hist=False,
    )  # fmt: skip
    z = np.ldexp(found.sum_terminal.astype(np.float64), -found.scale) / math.sqrt(n_paths * n_steps)
    assert abs(z.mean()) * math.sqrt(problems) < 4
    assert abs((z**2).mean() - 1) * math.sqrt(problems / 2) < 4
    for lag in (1, 2, 32):
        assert abs((z[lag:] * z[:-lag]).mean()) * math.sqrt(problems - lag) < 4


@pytest.mark.parametrize("kind", ["bits", "normal"])
def test_seeds_and_streams_are_independent(kind):
    problems = 400

    def totals(**address):
        options = {"n_paths": 32, "n_steps": 64, "antithetic": False, "drawdown": False, "hist": False}
        vol = np.ones((problems, 64))
        found = mc_features(
            vol, np.zeros(problems), np.full(problems, np.inf), increments=kind, **options, **address
        )  # fmt: skip
        return np.ldexp(found.sum_terminal.astype(np.float64), -found.scale) / math.sqrt(32 * 64)

    base = totals(seed=1)
    for other in ({"seed": 2}, {"seed": 1 + (1 << 32)}, {"seed": 1, "stream": 1}):
        assert abs((base * totals(**other)).mean()) * math.sqrt(problems) < 4


def test_equal_ids_share_their_noise():
    vol = np.tile(np.random.default_rng(3).exponential(0.01, 40), (3, 1))  # no lattice: totals hardly coincide
    totals = [
        mc_features(
            vol, np.zeros(3), np.full(3, 0.1), n_paths=51, n_steps=40, seed=seed, stream=stream, problem_ids=ids
        ).sum_mdd
        for seed, stream, ids in [(1, 0, None), (2, 0, None), (1, 1, None), (1, 0, [0, 0, 7])]
    ]
    assert len(set(np.concatenate(totals[:3]).tolist())) == 9
    assert totals[3][0] == totals[3][1] == totals[0][0]
    assert totals[3][2] != totals[0][2]


@pytest.mark.parametrize("kind", KINDS)
def test_antithetic_pairs_cancel(kind):
    what = plan_of(kind, "all", 500, 33, drift=[0.0] * 3, problem_ids=[0, 1, 2])
    found = on_cpu(what)
    np.testing.assert_array_equal(found.sum_terminal, 0)
    upper, lower = found.hist[:, BINS // 2 :].sum(axis=1), found.hist[:, : BINS // 2].sum(axis=1)
    np.testing.assert_array_equal(upper[:2] - lower[:2], [0, 0])


# ---- memory, edges, refusals


@pytest.mark.parametrize("kind", KINDS)
def test_memory_does_not_grow_with_the_paths(kind):
    """By what NumPy holds and by the most that the process ever held; 2e5 walks of 256 steps are 200 MB in float32."""
    small, large = (plan_of(kind, "one barrier", n_paths, 256) for n_paths in (4096, 200_000))
    on_cpu(small)
    peaks = []
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for what in (small, large):
        tracemalloc.start()
        on_cpu(what)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 50_000
    kibibyte = 1024 if sys.platform == "darwin" else 1  # in units of ru_maxrss
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < resident + 8192 * kibibyte


@pytest.mark.parametrize("increments", ["bits", "normal"])
def test_memory_does_not_grow_with_the_steps_of_a_constant_volatility(increments):
    peaks = []
    for n_steps in (1 << 10, 1 << 20):
        what = plan([0.01], [1e-4], [0.1], n_paths=2, n_steps=n_steps, seed=1, increments=increments, hist=False)
        on_cpu(what)
        tracemalloc.start()
        on_cpu(what)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 50_000


@pytest.mark.parametrize("n_steps", [1, 7, 8, 9, 15, 16, 17, 129])
@pytest.mark.parametrize("increments", ["bits", "normal"])
def test_constant_volatility_is_the_same_as_that_of_each_step(n_steps, increments):
    options = {"n_paths": 257, "n_steps": n_steps, "seed": 3, "increments": increments, "barrier_low": [0.02]}
    constant = mc_features([0.01], [1e-3], [0.02], **options)
    stepwise = mc_features(np.full((1, n_steps), 0.01), [1e-3], [0.02], **options)
    for one, other in zip(constant, stepwise, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("wrong", [[0.01 + 0j], [True], ["0.01"]])
def test_numbers_that_are_not_real_are_refused(wrong):
    with pytest.raises(ValueError, match="dtype"):
        mc_features(wrong, [0.0], [0.1], n_paths=2, n_steps=4, seed=1)


def test_fixed_point_is_that_of_the_written_walks():
    rng = np.random.default_rng(2)
    vol, drift = rng.exponential(10.0 ** rng.uniform(-6, 3, (50, 1)), (50, 9)), rng.normal(0, 0.01, 50)
    for increments in ("bits", "normal"):
        a, m, scale = fixed_point(vol, drift, increments == "normal", 9)
        for row in range(50):
            expected = written_out.fixed_point(vol[row], np.full(9, drift[row]), increments)
            np.testing.assert_array_equal(a[row], expected[0])
            assert (m[row], scale[row]) == (expected[1][0], expected[2])
    assert fixed_point(np.full((1, 8), 0.25), np.zeros(1), False, 8)[2] == 28  # a power of two is reached exactly
    constant = rng.uniform(0, 1, (50, 1)).astype(np.float32).astype(np.float64)
    for one, other in zip(
        fixed_point(constant, drift, False, 1001),
        fixed_point(np.repeat(constant, 1001, axis=1), drift, False, 1001),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other[:, :1] if other.ndim == 2 else other)


def test_no_paths_no_problems_no_volatility():
    empty = mc_features(np.ones(2), np.zeros(2), np.ones(2), n_paths=0, n_steps=3, seed=0, observed=np.zeros(2))
    nothing = {name: array for name, array in parts(empty).items() if name != "scale"}
    for name, array in nothing.items():
        np.testing.assert_array_equal(array, {"next_below": NONE_BELOW, "next_above": NONE_ABOVE}.get(name, 0))
    assert mc_features(np.ones((0, 3)), [], [], n_paths=4, n_steps=3, seed=0).hist.shape == (0, BINS)
    assert on_shim(plan(np.ones((0, 3)), [], [], n_paths=4, n_steps=3, seed=0)).hist.shape == (0, BINS)
    still = mc_features(np.zeros(1), np.zeros(1), np.ones(1), n_paths=6, n_steps=3, seed=0, observed=np.zeros(1))
    assert still.rank.equal == 6
    assert still.hist[0, BINS // 2] == 6
    assert not any((still.hits[0], still.hits_low[0], still.sum_mdd[0], still.sum_terminal[0], still.rank.below[0]))


def test_the_ends_of_the_types():
    """The largest walk that the fixed point allows, beside a barrier that is next to nothing."""
    for kind in ("bits", "normal"):
        options = {"n_paths": 32, "n_steps": 3, "seed": 2**64 - 1, "stream": 2**24 - 1, "increments": kind}
        options["barrier_low"] = [3e38, 1e-45]
        what = plan(
            [3e38, 1e-45], [0.0, 0.0], [1e-45, 3e38], problem_ids=[2**32 - 1, 0], observed=[1e308, -1e308], **options
        )
        found = on_cpu(what)
        assert same(found, mc_features_reference(what))
        assert same(found, on_shim(what))
        np.testing.assert_array_equal(found.rank.below, [32, 0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_steps": 0}, "n_steps"),
        ({"n_steps": 1 << 31}, "n_steps"),
        ({"n_paths": -1}, "n_paths"),
        ({"n_paths": (1 << 32) + 1}, "n_paths"),
        ({"vol": [0.1, np.nan]}, "vol"),
        ({"vol": [0.1, -0.1]}, "vol"),
        ({"vol": [0.1, 1e39]}, "vol"),
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
        ({"seed": 1.0}, "seed"),
        ({"stream": 1 << 24}, "stream"),
        ({"stream": 0.5}, "stream"),
        ({"increments": "coins"}, "increments"),
        ({"threads": 0}, "threads"),
        ({"device": "tpu"}, "device"),
    ],
)  # fmt: skip
def test_misuse_is_refused(change, message):
    arguments = {"vol": [0.1, 0.1], "drift": [0.0, 0.0], "barrier": [1.0, 1.0], "n_paths": 4, "n_steps": 4, "seed": 1}
    mc_features(**arguments)
    with pytest.raises(ValueError, match=message):
        mc_features(**arguments | change)


def test_cuda_is_never_replaced_in_silence(monkeypatch):
    def absent():
        raise RuntimeError("device='cuda', but there is no CUDA device")

    monkeypatch.setattr(cuda, "current", absent)
    with pytest.raises(RuntimeError, match="CUDA"):
        mc_features([0.1], [0.0], [1.0], n_paths=4, n_steps=4, seed=1, device="cuda")
