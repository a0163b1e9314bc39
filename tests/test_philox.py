"""kernels.philox: known answers, layouts, independence of everything that the counter names, refusals."""

import numpy as np
import pytest

from kernels import philox
from kernels.philox import Op, philox4x32, walk_words

ALL_ONES = 0xFFFFFFFF
PI = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)


@pytest.mark.parametrize(
    ("counter", "seed", "words"),
    [
        ((0, 0, 0, 0), 0, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((ALL_ONES,) * 4, (1 << 64) - 1, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (PI, 0xA4093822 | 0x299F31D0 << 32, "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_known_answers(counter, seed, words):
    assert " ".join(f"{int(word):08x}" for word in philox4x32(counter, seed)) == words


@pytest.mark.parametrize("n", [0, 1, 31, 257, 100_003])
def test_any_size_equals_one_counter_at_a_time(n):
    path = np.arange(n)
    words = np.stack(philox4x32((3, path, 5, 7), seed=11))
    assert words.dtype == np.uint32
    assert words.shape == (4, n)
    for i in {0, n // 2, n - 1} & set(range(n)):
        np.testing.assert_array_equal(words[:, i], np.stack(philox4x32((3, i, 5, 7), seed=11)))


def test_broadcasting_and_strided_input():
    path, problem = np.arange(600)[::2, None], np.arange(0, 300, 3)[None, :]
    words = philox4x32((1, path, problem, 2), seed=5)
    assert words[0].shape == (300, 100)
    np.testing.assert_array_equal(words[2][17, 31], philox4x32((1, 34, 93, 2), seed=5)[2])
    full = philox4x32((np.ones((300, 100), np.int64), *np.broadcast_arrays(path, problem), 2), seed=5)
    np.testing.assert_array_equal(words[3], full[3])


@pytest.mark.parametrize("n_steps", [0, 1, 31, 32, 128, 257, 1009])
def test_walk_words_follow_the_layout(n_steps):
    words = walk_words(np.arange(3), n_steps, seed=9, problem=4, stream=2)
    assert words.shape == (3, -(-n_steps // 32))
    for step in {0, 31, 200, n_steps - 1} & set(range(n_steps)):
        block = philox4x32((step >> 7, 2, 4, int(Op.WALK_BITS) << 24 | 2), seed=9)
        assert words[2, step >> 5] == block[(step >> 5) & 3]


def test_counters_of_the_other_uses():
    assert philox.normal_counter(7, 1, 2, 3)[0] == 1
    assert philox.normal_counter(7, 1, 2, 3)[3] == int(Op.NORMALS) << 24 | 3
    c0, c1, c2, c3 = philox.dropout_half_counter(unit=9, sample=64, step=5, layer=6)
    assert (int(c0), int(c1), c2, int(c3)) == (2, 2, 5, int(Op.DROPOUT_HALF) << 24 | 6)
    c0, c1, c2, c3 = philox.dropout_threshold_counter(unit=9, sample=64, step=5, layer=6)
    assert (int(c0), c1, c2, int(c3)) == (1, 64, 5, int(Op.DROPOUT_THRESHOLD) << 24 | 6)
    assert len({int(op) for op in Op}) == len(Op)


def _z_of_bits(words):
    """z of the number of ones among all bits."""
    n = words.size * 32
    return (np.bitwise_count(words).sum() - n / 2) / np.sqrt(n / 4)


def _base(seed=21, path=0, problem=0, stream=0, step=0, op=Op.WALK_BITS):
    steps = step + np.arange(0, 128 * 2000, 128)
    counter = (steps >> 7, path, problem, int(op) << 24 | stream)
    return np.stack(philox4x32(counter, seed))


NEIGHBOURS = {
    "seed + 1": {"seed": 22},
    "seed + 2^32": {"seed": 21 + (1 << 32)},
    "path": {"path": 1},
    "path, top bit": {"path": 1 << 31},
    "problem": {"problem": 1},
    "stream": {"stream": 1},
    "op": {"op": Op.NORMALS},
    "step block": {"step": 128},
}


@pytest.mark.parametrize("change", NEIGHBOURS.values(), ids=NEIGHBOURS.keys())
def test_neighbours_are_independent(change):
    """Agreement of bits with those of a neighbouring address is a fair coin, word by word and crossed."""
    base, other = _base(), _base(**change)
    assert abs(_z_of_bits(base)) < 4
    assert abs(_z_of_bits(other)) < 4
    for shift in range(4):
        assert abs(_z_of_bits(base ^ np.roll(other, shift, axis=0))) < 4


def test_words_of_one_block_and_bits_of_one_word_are_independent():
    base = _base()
    for i in range(4):
        for j in range(i):
            assert abs(_z_of_bits(base[i] ^ base[j])) < 4
    bits = (base.reshape(-1, 1) >> np.arange(32, dtype=np.uint32)) & 1
    correlation = np.corrcoef(bits.T.astype(float))
    z = correlation[np.triu_indices(32, 1)] * np.sqrt(len(bits))
    assert np.abs(z).max() < 4.5  # the largest of 496
    assert abs((z**2).sum() - 496) / np.sqrt(2 * 496) < 4


def test_bytes_are_uniform():
    counts = np.bincount(_base().view(np.uint8).reshape(-1), minlength=256)
    expected = counts.sum() / 256
    chi2 = ((counts - expected) ** 2 / expected).sum()
    assert abs(chi2 - 255) / np.sqrt(2 * 255) < 4


def test_uniforms_and_normals():
    counter = philox.normal_counter(np.arange(0, 400_000, 4), 0, op=Op.UNIFORMS)
    u = philox.uniforms(counter, seed=2).reshape(-1)
    assert 0 < u.min() < u.max() < 1
    n = u.size
    assert abs((u.mean() - 0.5) * np.sqrt(12 * n)) < 4
    z = philox.normals(philox.normal_counter(np.arange(0, 400_000, 4), 0), seed=2)
    assert z.shape == (100_000, 4)
    assert abs(z.mean()) * np.sqrt(n) < 4
    assert abs((z**2).mean() - 1) * np.sqrt(n / 2) < 4
    assert abs((z**4).mean() - 3) * np.sqrt(n / 96) < 4
    off_diagonal = np.corrcoef(z.T)[np.triu_indices(4, 1)] * np.sqrt(len(z))
    assert np.abs(off_diagonal).max() < 4
    assert philox.to_uniform(np.array([0, ALL_ONES], np.uint32)).tolist() == [2.0**-33, 1 - 2.0**-33]


@pytest.mark.parametrize("seed", [-1, 1 << 64, 1.5, True, None])
def test_refuses_a_seed_outside_64_bits(seed):
    with pytest.raises(ValueError, match="seed"):
        philox4x32((0, 0, 0, 0), seed)


@pytest.mark.parametrize(
    "call",
    [
        lambda: philox4x32((0, 1 << 32, 0, 0), 0),
        lambda: philox4x32((0, np.array([0, -1]), 0, 0), 0),
        lambda: philox4x32((0, 0.5, 0, 0), 0),
        lambda: philox.walk_counter(1 << 39, 0),
        lambda: philox.walk_counter(0, 0, stream=1 << 24),
        lambda: philox.walk_counter(0, 0, stream=-1),
        lambda: philox.normal_counter(-4, 0),
        lambda: philox.dropout_half_counter(0, 1 << 37, 0, 0),
        lambda: philox.dropout_threshold_counter(1 << 35, 0, 0, 0),
        lambda: walk_words(0, -1, seed=0),
    ],
)
def test_refuses_counter_overflow(call):
    with pytest.raises(ValueError, match=r"outside|negative|integer"):
        call()
