"""kernels.paths and kernels.boxmuller: exact laws, moments, addressing, the same bits on every backend, refusals."""

import hashlib
import inspect
import re
from itertools import product
from math import comb

import numpy as np
import pytest
from scipy import stats
from shim import ORDERS, ShimDevice, ShimFault

from kernels import cuda
from kernels.boxmuller import REACH, log32, normals32, sincos32
from kernels.paths import byte_table, fixed_point, log_cosh, on_device, paths, paths_reference, plan, send
from kernels.philox import Op, philox4x32
from kernels.variance import controlled_vol

BOTH = pytest.mark.parametrize("increments", ["bits", "normal"])
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])
ADDRESS = {"seed": 2**40 + 7, "stream": 3, "problem": 9}
SIZES = [(0, 5), (1, 1), (31, 31), (257, 33), (64, 128), (67, 257)]  # paths, steps


def lattice(n_paths, n_steps, seed=1, **kwargs):
    """Bit walks with unit steps: exact integers."""
    return np.rint(paths(n_paths, n_steps, vol=1.0, seed=seed, **kwargs)).astype(int)


def uneven(n_steps):
    """Arguments of walks whose steps all differ."""
    return {"vol": np.linspace(0.01, 0.02, n_steps), "drift": np.linspace(-1e-3, 2e-3, n_steps), "x0": 0.5, **ADDRESS}


def assert_same_bits(a, b):
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    assert a.tobytes() == b.tobytes()


class Launches(ShimDevice):
    """The shim with a launch shape of the test's choice."""

    def __init__(self, blocks, threads, **options):
        super().__init__(**options)
        self.shape = blocks, threads

    def launch(self, source, kernel, blocks, threads, *arguments):
        super().launch(source, kernel, *self.shape, *arguments)


def on_shim(device, what):
    out = device.empty(what.shape, what.dtype)
    on_device(device, what, out)
    return device.get(out)


@pytest.mark.parametrize("bridge_to", [None, -0.3], ids=["free", "bridge"])
@pytest.mark.parametrize("antithetic", [False, True], ids=["", "antithetic"])
@DTYPES
@BOTH
def test_cpu_backend_gives_the_bits_of_the_reference(increments, dtype, antithetic, bridge_to):
    for n_paths, n_steps in [*SIZES, (3, 15), (2, 16), (40, 17), (9, 127), (10_007, 40), (5, 9001)]:
        what = {"increments": increments, "dtype": dtype, "antithetic": antithetic, "bridge_to": bridge_to}
        what |= uneven(n_steps)
        assert_same_bits(paths(n_paths, n_steps, **what), paths_reference(plan(n_paths, n_steps, **what)))


@DTYPES
@BOTH
def test_out_is_written_in_place_wherever_it_lies(increments, dtype):
    """Every distance from a line of the cache, and nothing beside it."""
    right = paths(300, 33, increments=increments, dtype=dtype, **uneven(33))
    for offset in range(17):
        room = np.full(right.size + 40, np.nan, dtype)
        out = room[offset : offset + right.size].reshape(right.shape)
        assert paths(300, 33, increments=increments, dtype=dtype, out=out, **uneven(33)) is out
        assert_same_bits(out, right)
        assert np.isnan(room[:offset]).all()
        assert np.isnan(room[offset + right.size :]).all()


def test_a_plan_is_sent_once_for_many_calls():
    device, what = ShimDevice(), plan(40, 33, bridge_to=0.1, increments="normal", **uneven(33))
    there = send(device, what)
    for _ in range(2):
        out = device.empty(what.shape, what.dtype)
        on_device(device, what, out, there)
        assert_same_bits(device.get(out), paths_reference(what))


def test_digits_of_a_step():
    """28 - log2 n of n equal steps, three fewer for normals, as the module says."""
    for n, increments, digits in [(256, "bits", 20), (256, "normal", 17), (10**6, "bits", 8), (10**6, "normal", 5)]:
        assert 2**digits <= plan(1, n, vol=0.01, seed=0, increments=increments).amplitude.min() < 2 ** (digits + 1)


def test_arguments_need_not_be_contiguous():
    vol = np.linspace(0.01, 0.02, 66)
    strided = paths(5, 33, vol=vol[::2], drift=vol[::-2], seed=1)
    assert_same_bits(strided, paths(5, 33, vol=vol[::2].copy(), drift=vol[::-2].copy(), seed=1))
    assert_same_bits(paths(5, 33, vol=vol[::2].tolist(), seed=1), paths(5, 33, vol=vol[::2], seed=1))


@pytest.mark.parametrize(("blocks", "threads"), [(1, 32), (2, 112), (3, 256)])
@BOTH
def test_cu_source_gives_the_bits_of_the_cpu(increments, blocks, threads):
    device = Launches(blocks, threads)
    for (n_paths, n_steps), antithetic, bridge_to in product(SIZES, [False, True], [None, -0.3]):
        dtype = np.float64 if n_steps == 33 else np.float32
        what = {"increments": increments, "antithetic": antithetic, "bridge_to": bridge_to, "dtype": dtype}
        what |= uneven(n_steps)
        assert_same_bits(on_shim(device, plan(n_paths, n_steps, **what)), paths(n_paths, n_steps, **what))


def fault(was, becomes, count=-1, **what):
    """Whether a changed source gives other bits, or what the shim calls a fault, in some order of the threads."""
    job = plan(67, 70, bridge_to=1e-9, antithetic=True, **uneven(70) | what)
    right = paths_reference(job)
    for order in ORDERS:
        device = Launches(1, 64, order=order, edit=lambda text: text.replace(was, becomes, count))
        try:
            if on_shim(device, job).tobytes() != right.tobytes():
                return True
        except ShimFault:
            return True
    return False


BARRIER = "            __syncwarp();\n"
FILLED, WRITTEN = BARRIER + "            const int rows", BARRIER + "        }\n    }"


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        (FILLED, FILLED.removeprefix(BARRIER)),  # the tile is read before all lanes have filled it
        (WRITTEN, WRITTEN.removeprefix(BARRIER)),  # the tile is filled again before it is read
        ("width = job.n_steps + 1", "width = job.n_steps"),
        ("k0 + j < job.n_steps", "k0 + j + 4 < job.n_steps"),
        ("(1 << 29)", "0"),
        ("path - partner", "path"),
        ("pinned ? end : ", ""),
        ("int off = -job.distance", "int off = 0"),
        ("group += stride", "group += 2 * stride"),
    ],
)
@BOTH
def test_planted_faults_in_the_cu_source_are_found(increments, was, becomes):
    assert fault(was, becomes, increments=increments)


@pytest.mark.gpu
@DTYPES
@BOTH
def test_gpu_gives_the_bits_of_the_cpu(increments, dtype):
    for (n_paths, n_steps), antithetic, bridge_to in product([*SIZES, (10_007, 40)], [False, True], [None, -0.3]):
        what = {"increments": increments, "antithetic": antithetic, "bridge_to": bridge_to, "dtype": dtype}
        what |= uneven(n_steps)
        assert_same_bits(paths(n_paths, n_steps, device="cuda", **what), paths(n_paths, n_steps, **what))


def test_signflip_is_bits_with_a_size_for_each_step():
    moves = np.abs(np.random.default_rng(2).normal(0, 0.01, 50))
    x = paths(20, 50, vol=moves, seed=3, increments="signflip", dtype=np.float64)
    assert_same_bits(x, paths(20, 50, vol=moves, seed=3, dtype=np.float64))
    np.testing.assert_allclose(np.abs(np.diff(x, axis=1)), np.tile(moves, (20, 1)), atol=1e-8)


def test_variance_control_is_that_of_controlled_vol():
    what = {"seed": 1, "drift": 0.001, "increments": "normal"}
    x = paths(9, 40, vol=0.02, feedback=0.3, decay=0.05, **what)
    assert_same_bits(x, paths(9, 40, vol=controlled_vol(0.02, 40, 0.3, 0.05), **what))
    assert_same_bits(paths(9, 40, vol=0.02, feedback=0.0, **what), paths(9, 40, vol=0.01, **what))


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

    def digest(**kwargs):
        x = paths(33, 257, vol=0.0125, drift=-1e-4, x0=0.5, **ADDRESS, **kwargs)
        return hashlib.sha256(x.astype(x.dtype.newbyteorder("<")).tobytes()).hexdigest()[:16]

    assert digest() == "efdd6c495b3a452d"
    assert digest(increments="normal") == "78a600cc01de70c3"
    controlled = {"feedback": 0.25, "decay": 0.01, "antithetic": True, "dtype": np.float64}
    assert digest(bridge_to=-0.125, **controlled) == "4ed96df723e77699"
    assert digest(bridge_to=-0.125, increments="normal", **controlled) == "ce51ae14e1afcf28"


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
        {"problem": -1},
        {"problem": 1.5},
        {"stream": 0.5},
        {"stream": -1},
        {"increments": "cauchy"},
        {"increments": "signflip"},
        {"increments": "signflip", "vol": np.full((4, 8), 0.1)},
        {"dtype": np.int32},
        {"dtype": np.float16},
        {"device": "tpu"},
        {"feedback": 1.5},
        {"feedback": np.nan},
        {"decay": -0.1},
        {"bridge_to": np.nan},
        {"bridge_to": 1e39},
        {"bridge_to": 0.5, "vol": 0.0},
        {"x0": 1e39},
        {"out": np.zeros((4, 8), np.float32)},
        {"out": np.zeros((4, 9), np.float64)},
        {"out": np.zeros((9, 4), np.float32).T},
        {"out": np.zeros((4, 18), np.float32)[:, ::2]},
        {"out": np.broadcast_to(np.float32(0), (4, 9))},
    ],
    ids=str,
)
def test_refuses(change):
    with pytest.raises(ValueError, match=re.escape(next(iter(change)))):
        paths(**({"n_paths": 4, "n_steps": 8, "vol": 0.1, "seed": 0} | change))


def test_cuda_asked_for_and_absent():
    if cuda_is_there():
        pytest.skip("there is a CUDA device")
    with pytest.raises(RuntimeError, match="cuda"):
        paths(1, 1, vol=0.1, seed=0, device="cuda")


def cuda_is_there():
    try:
        cuda.current()
    except RuntimeError:
        return False
    return True


def test_plan_takes_what_paths_takes():
    of_paths, of_plan = (inspect.signature(function).parameters for function in (paths, plan))
    assert list(of_plan) == [name for name in of_paths if name not in ("out", "device")]
    assert all(of_plan[name].default == of_paths[name].default for name in of_plan)


# bridges


@pytest.mark.parametrize("x0", [0.0, 0.7])
@BOTH
def test_bridge_starts_and_ends_exactly(increments, x0):
    for end in (0.0, 1 / 3, -12.5):
        x = paths(50, 37, vol=0.1, drift=0.01, x0=x0, bridge_to=end, seed=2, increments=increments)
        assert (x[:, 0] == np.float32(x0)).all()
        assert (x[:, -1] == np.float32(end)).all()
        assert (x[:, 1:-1].std(axis=0) > 0).all()


@BOTH
def test_bridge_is_the_walk_without_its_share_of_the_end(increments):
    arguments = uneven(60) | {"increments": increments, "dtype": np.float64}
    walk, bridge = paths(40, 60, **arguments), paths(40, 60, bridge_to=0.8, **arguments)
    share = np.concatenate([[0.0], np.cumsum(arguments["vol"] ** 2)])
    expected = walk - share / share[-1] * (walk[:, -1:] - 0.8)
    np.testing.assert_allclose(bridge, expected, atol=1e-6)


def test_drift_in_proportion_to_the_variance_leaves_a_bridge_as_it_is():
    vol = np.linspace(0.05, 0.1, 30)
    what = {"vol": vol, "bridge_to": 0.2, "seed": 5, "dtype": np.float64}
    np.testing.assert_allclose(paths(20, 30, drift=vol**2, **what), paths(20, 30, **what), atol=1e-6)


@pytest.mark.parametrize("vol", [np.ones(48), np.linspace(0.5, 2.0, 48)], ids=["even", "uneven"])
@BOTH
def test_bridge_covariance(increments, vol):
    """S_s (S_n - S_t) / S_n for s <= t; s (n - t) / n where the volatility is constant."""
    n, n_paths = 48, 20_000
    x = paths(n_paths, n, vol=vol, bridge_to=0.0, seed=4, increments=increments, dtype=np.float64)
    variance = np.concatenate([[0.0], np.cumsum(vol**2)])
    for s, t in [(1, 1), (1, 47), (12, 12), (12, 36), (24, 24), (20, 28), (47, 47)]:
        products = x[:, s] * x[:, t]
        expected = variance[s] * (variance[n] - variance[t]) / variance[n]
        assert abs(products.mean() - expected) / (products.std() / np.sqrt(n_paths)) < 4, (s, t)
    assert abs(x[:, 1:-1].mean(axis=0) * np.sqrt(n_paths) / x[:, 1:-1].std(axis=0)).max() < 4


def test_bridge_whose_last_steps_do_not_move():
    x = paths(5, 6, vol=[0.1, 0.1, 0.1, 0.1, 0.0, 0.0], bridge_to=0.25, seed=1, dtype=np.float64)
    np.testing.assert_allclose(x[:, 4:], 0.25, atol=1e-8)


# independence


def ends(n_paths=20_000, n_steps=64, **kwargs):
    x = paths(n_paths, n_steps, vol=1.0, **{"seed": 21} | kwargs)[:, -1].astype(np.float64)
    return x / np.sqrt(n_steps)


NEIGHBOURS = {
    "seed": {"seed": 22},
    "seed, high word": {"seed": 21 + (1 << 32)},
    "stream": {"stream": 1},
    "problem": {"problem": 1},
}


@pytest.mark.parametrize("change", NEIGHBOURS.values(), ids=NEIGHBOURS.keys())
@BOTH
def test_walks_of_neighbouring_addresses_are_independent(increments, change):
    a, b = ends(increments=increments), ends(increments=increments, **change)
    for power in (1, 2):
        correlation = np.corrcoef(a**power, b**power)[0, 1]
        assert abs(correlation) * np.sqrt(len(a)) < 4


@BOTH
def test_neighbouring_paths_words_and_blocks_are_independent(increments):
    x = paths(4_000, 512, vol=1.0, seed=8, increments=increments, dtype=np.float64)
    words = np.diff(x[:, ::32], axis=1) / np.sqrt(32)  # [paths, words]: what 32 steps add up to
    for a, b in [
        (words[:-1], words[1:]),  # paths
        (words[:, :-1], words[:, 1:]),  # words
        (words[:, :-4], words[:, 4:]),  # the same word of the next block
        (words[:-1, 1:], words[1:, :-1]),
    ]:
        for power in (1, 2):
            correlation = np.corrcoef((a**power).ravel(), (b**power).ravel())[0, 1]
            assert abs(correlation) * np.sqrt(a.size) < 4


def test_zero_volatility_is_the_drift_alone():
    np.testing.assert_array_equal(paths(2, 4, vol=0.0, drift=0.25, seed=0), [[0, 0.25, 0.5, 0.75, 1.0]] * 2)
    np.testing.assert_array_equal(paths(2, 4, vol=0.0, x0=1.5, seed=0), np.full((2, 5), 1.5))
