"""What docs/bicep.md derives and no other file tests; and that every formula there names a test that exists."""

import ast
import importlib
import json
import re
import sys
from functools import cache
from itertools import product
from math import comb, exp, sqrt
from pathlib import Path

import numpy as np
import pytest

from kernels import exact, philox
from kernels.boxmuller import normals32
from kernels.fixed_point import binary_scale
from kernels.paths import log_cosh, paths
from kernels.philox import Op, philox4x32
from kernels.variance import controlled_vol

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))
theory, results = importlib.import_module("theory"), importlib.import_module("results")

CHAPTER = (ROOT / "docs" / "bicep.md").read_text()
REFERENCE = re.compile(r"`(tests/\w+\.py)::(\w+)`")
WORD = 1 << 32


@cache
def functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_test_that_the_book_names_exists():
    for page in (ROOT / "docs").glob("*.md"):
        for file, name in REFERENCE.findall(page.read_text()):
            assert (ROOT / file).exists(), f"{page.name}: {file}"
            assert name in functions(ROOT / file), f"{page.name}: {file}::{name}"


def test_every_formula_of_the_chapter_names_its_test():
    """Between a formula and the next one, or the end of its section, stands a line of tests."""
    blocks = re.split(r"^```\{math\}\n:label: (\S+)$", CHAPTER, flags=re.MULTILINE)
    assert len(blocks) > 40
    for label, text in zip(blocks[1::2], blocks[2::2], strict=True):
        here = re.split(r"^## ", text, maxsplit=1, flags=re.MULTILINE)[0]
        assert re.search(r"^Test: `tests/", here, re.MULTILINE), label


def test_errors_of_the_chapter_are_those_of_the_function(monkeypatch):
    monkeypatch.setattr(theory, "STEPS", (32, 256))  # 1024 takes seconds
    assert [row[1:3] for row in theory.end_errors().rows] == [["0.0700", "2.5e-03"], ["0.0249", "3.3e-04"]]
    assert theory.path_errors().rows[0][1:] == ["0.336", "5.45", "-13.2", "0.91"]


def test_loss_parity_is_shown_where_it_was_measured(monkeypatch, tmp_path):
    monkeypatch.setattr(results, "METRICS", tmp_path)
    for part in (theory.parity(), theory.costs()):
        assert "Not measured yet" in part._repr_html_()
    assert "nobody has measured" in theory.differences()[1]
    interval = {"interval_90": [-0.001, 0.002], "mean_difference": 0.0005, "seeds": 12, "unit": "nats"}
    levels = {
        "L0": {"value": 0, "criterion": 0, "passed": True, "unit": "weights"},
        "L2": {"value": 0.002, "criterion": 0.005, "passed": True, **interval},
        "L3": {"value": None, "criterion": 1e-4, "passed": None, "reason": "no CUDA device", "unit": "relative"},
    }
    (tmp_path / "bicep.json").write_text(json.dumps({"parity": levels, "epoch_time_ratio": 1.02, "device": "cpu X"}))
    (tmp_path / "bicep.svg").write_text("<svg></svg>")
    rows = {row[0][:2]: row for row in theory.parity().rows}
    assert rows["L0"][2:] == [0, 0, "yes"]
    assert rows["L1"][4] == "not measured"
    assert rows["L3"][4] == "no CUDA device"
    assert theory.costs().rows[0][1] == 1.02
    assert "12 seeds" in theory.differences()[1]


# Philox and its addresses


def undone(words, seed):
    """The counter of a block of words: the rounds backwards."""
    inverse0, inverse1 = pow(philox.M0, -1, WORD), pow(philox.M1, -1, WORD)
    c0, c1, c2, c3 = words
    for r in reversed(range(philox.ROUNDS)):
        k0 = (seed + r * philox.W0) % WORD
        k1 = ((seed >> 32) + r * philox.W1) % WORD
        old0, old2 = c3 * inverse0 % WORD, c1 * inverse1 % WORD
        c0, c1, c2, c3 = old0, c0 ^ k0 ^ (philox.M1 * old2 >> 32), old2, c2 ^ k1 ^ (philox.M0 * old0 >> 32)
    return c0, c1, c2, c3


@pytest.mark.parametrize("seed", [0, 1, (1 << 64) - 1, 0x0123456789ABCDEF])
def test_philox_is_a_bijection_for_every_key(seed):
    rng = np.random.default_rng(seed % 1000)
    for counter in [(0, 0, 0, 0), (WORD - 1,) * 4, *rng.integers(0, WORD, (200, 4)).tolist()]:
        words = tuple(int(word) for word in philox4x32(tuple(counter), seed))
        assert undone(words, seed) == tuple(counter)


def box(*sizes):
    return product(*(range(size) for size in sizes))


def uses():
    """Every use of words with small fields: (op, low 24 bits, c2, c1, the address in c0 and within its block)."""
    small = (3, 3, 3)  # stream or layer, problem or training step, path, sample or unit
    for stream, problem, path in box(*small):
        for step in range(300):
            where = (step >> 5 & 3, step & 31)
            yield philox.walk_counter(step, path, problem, stream), where
        for step in range(40):
            yield philox.normal_counter(step, path, problem, stream), step & 3
            yield philox.normal_counter(step, path, problem, stream, Op.UNIFORMS), step & 3
            yield philox.sticky_counter(step, path, problem, stream), step & 3
        yield philox.normal_counter(0, path, problem, stream, Op.DITHER), 0
    for layer, step in box(3, 3):
        for unit, sample in box(20, 40):
            yield philox.dropout_half_counter(unit, sample, step, layer), (unit & 3, sample & 31)
            yield philox.dropout_threshold_counter(unit, sample, step, layer), unit & 7
    for step, row in box(3, 3):
        for s in range(300):
            yield philox.bridge_counter(s, row, step, bits=True), (s >> 5 & 3, s & 31)
            yield philox.bridge_counter(s, row, step, bits=False), s & 3


def test_no_two_addresses_share_their_bits():
    """All uses side by side: as many pairs of (counter, place within the block) as addresses."""
    seen = [(tuple(int(part) for part in counter), where) for counter, where in uses()]
    assert len(seen) > 20_000
    assert len(set(seen)) == len(seen)


def test_largest_fields_do_not_run_into_each_other():
    """Every field at its largest value, alone: only its own word of the counter changes."""
    top24, top32 = (1 << 24) - 1, WORD - 1
    for make, fields in (
        (philox.walk_counter, ((1 << 39) - 1, top32, top32, top24)),
        (philox.normal_counter, ((1 << 34) - 1, top32, top32, top24)),
        (philox.dropout_half_counter, ((1 << 34) - 1, (1 << 37) - 1, top32, top24)),
        (philox.dropout_threshold_counter, ((1 << 35) - 1, top32, top32, top24)),
        (philox.sticky_counter, ((1 << 34) - 1, top32, top32, top24)),
    ):
        zero = [int(part) for part in make(0, 0, 0, 0)]
        for place, value in enumerate(fields):
            counter = [int(part) for part in make(*(value if place == other else 0 for other in range(4)))]
            changed = [index for index in range(4) if counter[index] != zero[index]]
            assert changed == [place]
            assert counter[3] >> 24 == zero[3] >> 24
            with pytest.raises(ValueError, match="outside"):
                philox4x32(make(*(value + 1 if place == other else 0 for other in range(4))), 0)


# Walks


def features(steps):
    """End, maximum, minimum and drawdown of a stretch; the start counts."""
    walk = np.concatenate([[0], np.cumsum(steps)])
    return walk[-1], walk.max(), walk.min(), (np.maximum.accumulate(walk) - walk).max()


def joined(first, second):
    x, high, low, drawdown = first
    x2, high2, low2, drawdown2 = second
    return x + x2, max(high, x + high2), min(low, x + low2), max(drawdown, drawdown2, high - (x + low2))


def test_popcount_counts_32_steps():
    """The sum of the signs of each word's steps is 2 popcount - 32."""
    walk = np.rint(paths(20, 160, vol=1.0, seed=4, dtype=np.float64)).astype(int)
    words = philox.walk_words(np.arange(20), 160, seed=4)
    np.testing.assert_array_equal(np.diff(walk[:, ::32], axis=1), 2 * np.bitwise_count(words).astype(int) - 32)


def test_stretches_compose():
    rng = np.random.default_rng(0)
    for _ in range(300):
        steps = rng.integers(-9, 10, 24)
        a, b, c = (features(part) for part in np.split(steps, np.sort(rng.integers(0, 25, 2))))
        assert joined(joined(a, b), c) == joined(a, joined(b, c)) == features(steps)


@pytest.mark.parametrize("vol", [1e-4, 0.05, 0.8])
def test_drift_correction_is_exact_on_the_lattice(vol):
    """E exp(x_n) = 1 with -log cosh, and exp(-n vol^4 / 12) or so with -vol^2 / 2."""
    n = 40
    law = exact.lattice_terminal(n)

    def mean(drift):
        return (law.probability * np.exp(vol * law.value + n * drift)).sum()

    assert mean(-float(log_cosh(vol))) == pytest.approx(1.0, rel=1e-12)
    if vol <= 0.05:
        assert np.log(mean(-(vol**2) / 2)) == pytest.approx(-n * vol**4 / 12, rel=0.01, abs=1e-14)


def test_expansion_of_the_drift_correction():
    v = np.array([0.01, 0.05, 0.1])
    series = v**2 / 2 - v**4 / 12 + v**6 / 45
    rest = log_cosh(v) - series
    assert (np.abs(rest) <= 17 * v**8 / 2520 + 1e-18).all()
    assert rest[2] == pytest.approx(-17 * 0.1**8 / 2520, rel=0.01)


def test_fixed_point_stays_in_32_bits_at_the_worst():
    """All steps up, each rounded up: below 2^30, so that a difference of two positions fits too."""
    rng = np.random.default_rng(1)
    for n in (1, 2, 257, 100_000):
        for total in (1.0, 2.0 - 2**-40, 3.7e-9, 5e6):
            vol = rng.dirichlet(np.ones(n)) * total
            scale = int(binary_scale(vol.sum()))
            farthest = np.rint(np.ldexp(vol, scale)).sum()
            assert 2**28 - n <= farthest <= 2**29 + n / 2
            assert np.abs(np.rint(np.ldexp(vol, scale)) - np.ldexp(vol, scale)).max() <= 0.5


def test_integer_totals_do_not_depend_on_the_order():
    rng = np.random.default_rng(2)
    steps = rng.normal(0, 1, 10_000).astype(np.float32)
    integers = np.rint(steps * 2**16).astype(np.int32)
    orders = [rng.permutation(len(steps)) for _ in range(20)]
    assert len({int(np.add.reduce(integers[order])) for order in orders}) == 1
    assert len({float(np.cumsum(steps[order], dtype=np.float32)[-1]) for order in orders}) > 1


@pytest.mark.parametrize("increments", ["bits", "normal"])
def test_covariance_of_a_pinned_walk(increments):
    """T_j (T_n - T_k) / T_n at j <= k, whatever the volatility does and wherever the walk must arrive."""
    vol, n_paths = np.array([0.5, 2.0, 1.0, 0.1, 3.0, 1.0]), 40_000
    walk = paths(n_paths, 6, vol=vol, bridge_to=1.5, seed=11, increments=increments, dtype=np.float64)
    np.testing.assert_allclose(walk[:, -1], 1.5, atol=1e-6)
    clock = np.concatenate([[0.0], np.cumsum(vol**2)])
    centred = walk - 1.5 * clock / clock[-1]
    for j, k in [(1, 1), (1, 4), (2, 3), (3, 5), (5, 5)]:
        product = centred[:, j] * centred[:, k]
        expected = clock[j] * (clock[-1] - clock[k]) / clock[-1]
        assert abs(product.mean() - expected) / (product.std() / np.sqrt(n_paths)) < 4


# Normals


def test_box_muller_is_within_its_error_bound():
    """Against float64 at the same words: the uniform is off by at most 2^-24, the normal by 2.5e-7 of its radius."""
    rng = np.random.default_rng(3)
    edges = np.arange(4096, dtype=np.uint32)
    radius = np.concatenate([edges, ~edges, rng.integers(0, WORD, 300_000, dtype=np.uint32)])
    angle = rng.integers(0, WORD, len(radius), dtype=np.uint32)
    rounded = (radius.astype(np.float32) * np.float32(2.0**-32) + np.float32(2.0**-33)).astype(np.float64)
    assert np.abs(rounded - (radius + 0.5) * 2.0**-32).max() <= 2.0**-24
    r, turn = np.sqrt(-2 * np.log(rounded)), angle * (2 * np.pi / WORD)
    for found, expected in zip(normals32(radius, angle), (r * np.cos(turn), r * np.sin(turn)), strict=True):
        assert (np.abs(found - expected) <= 2.5e-7 * r).all()


# Antithetic pairs


def test_error_bars_are_taken_over_pairs():
    """|x_n| is even: a pair counts it twice, and bars over single paths would be too short by sqrt 2."""
    n, n_paths = 64, 20_000
    end = np.abs(paths(n_paths, n, vol=1.0, seed=7, antithetic=True, dtype=np.float64)[:, -1])
    law = exact.lattice_terminal(n)
    mean = (law.probability * np.abs(law.value)).sum()
    pairs = end.reshape(-1, 2).mean(axis=1)
    over_pairs = pairs.std(ddof=1) / np.sqrt(len(pairs))
    assert over_pairs / (end.std(ddof=1) / np.sqrt(n_paths)) == pytest.approx(np.sqrt(2), rel=1e-3)
    assert abs(pairs.mean() - mean) / over_pairs < 4


def test_variance_of_a_pair():
    """All 2^8 sign vectors: var of a pair's mean is var (1 + rho) / 2, and its odd part is gone."""
    signs = np.array(list(product([-1, 1], repeat=8)))
    value = np.exp(0.3 * signs @ np.arange(8) / 8)
    other = value[::-1]  # of the complemented signs
    rho = np.corrcoef(value, other)[0, 1]
    pair = (value + other) / 2
    assert pair.var() == pytest.approx(value.var() * (1 + rho) / 2, rel=1e-12)
    np.testing.assert_allclose(pair, np.cosh(0.3 * signs @ np.arange(8) / 8), rtol=1e-12)


# Wild bootstrap


def test_wild_bootstrap_keeps_sizes_and_moments():
    """Over all sign vectors: no mean, the history's variance, its kurtosis, and the same size at each step."""
    sizes = np.array([0.5, 0.1, 2.0, 0.3, 0.3, 1.1, 0.0, 0.7])
    signs = np.array(list(product([-1, 1], repeat=8)))
    end = signs @ sizes
    assert end.mean() == pytest.approx(0.0, abs=1e-14)
    assert end.var() == pytest.approx((sizes**2).sum(), rel=1e-12)
    excess = (end**4).mean() / end.var() ** 2 - 3
    assert excess == pytest.approx(-2 * (sizes**4).sum() / (sizes**2).sum() ** 2, rel=1e-12)
    walk = paths(50, 8, vol=sizes, seed=1, dtype=np.float64)
    np.testing.assert_allclose(np.abs(np.diff(walk, axis=1)), np.tile(sizes, (50, 1)), atol=1e-7)


def test_wild_bootstrap_is_exact_under_symmetry():
    """Where signs are fair given the sizes, the rank of what happened is uniform; sizes may do as they like."""
    sizes = np.sqrt([2.0, 3.0, 5.0, 7.0, 11.0, 13.0, 17.0, 19.0])  # no two sign vectors end at one place
    ends = np.sort(np.array(list(product([-1, 1], repeat=8))) @ sizes)
    assert len(np.unique(ends.round(9))) == 256
    rank = [(ends <= sizes @ signs + 1e-9).mean() for signs in product([-1, 1], repeat=8)]
    np.testing.assert_allclose(np.sort(rank), np.arange(1, 257) / 256)


# Monte-Carlo dropout


def test_spread_of_antithetic_samples():
    """Mean of the samples' variance over all pairs of masks: var (1 - (1 + rho) / S), here S = 2 and 4."""
    masks = np.array(list(product([0.0, 2.0], repeat=4)))  # kept units count twice at p = 1/2
    output = np.tanh(masks @ np.array([0.9, -0.4, 0.3, 0.6]) + 0.2)
    variance, rho = output.var(), np.corrcoef(output, output[::-1])[0, 1]
    two = np.stack([output, output[::-1]]).var(axis=0).mean()
    assert two == pytest.approx(variance * (1 - (1 + rho) / 2), rel=1e-12)
    four = np.mean([np.var([output[i], output[~i], output[j], output[~j]]) for i, j in box(16, 16)])
    assert four == pytest.approx(variance * (1 - (1 + rho) / 4), rel=1e-12)


# Variance control


@pytest.mark.parametrize(("feedback", "decay"), [(1.0, 0.0), (0.5, 0.02), (0.0, 0.3)])
def test_variance_of_a_controlled_walk(feedback, decay):
    vol = controlled_vol(0.02, 50, feedback, decay)
    steps = 50 if decay == 0 else (1 - exp(-2 * decay * 50)) / (1 - exp(-2 * decay))
    assert (vol**2).sum() == pytest.approx((0.02 * (0.5 + 0.5 * feedback)) ** 2 * steps, rel=1e-12)


# The lattice in numbers that the text uses


def test_middle_of_the_lattice():
    """Half the middle probability is 1 / sqrt(2 pi n) to leading order: the error of the undithered end."""
    n = 1000
    assert comb(n, n // 2) / 2**n / 2 == pytest.approx(1 / sqrt(2 * np.pi * n), rel=1e-3)
