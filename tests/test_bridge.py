"""Bridges: pinned ends, their covariance, the address of every step, and the same bits from every backend."""

import hashlib

import numpy as np
import pytest
from shim import ShimDevice

from kernels import bridge, cuda
from kernels.boxmuller import normals32
from kernels.bridge import bridge_augment, bridge_reference
from kernels.philox import Op, philox4x32

ADDRESS = {"seed": 2**63 + 5, "step": 12}
BOTH = pytest.mark.parametrize("increments", ["normal", "bits"])
SHAPES = [(0, 5), (1, 2), (3, 3), (31, 17), (257, 6), (65, 130), (2, 1009), (3, 257)]


def series(batch, points):
    """Windows and sigmas; among them a window of zeros of either sign, whose sigma is 0."""
    rng = np.random.default_rng(points)
    window, sigma = rng.normal(size=(batch, points)).astype(np.float32), rng.random(batch, np.float32)
    if batch > 2:
        window[2], sigma[2] = np.where(np.arange(points) % 2, -0.0, 0.0), 0.0
    return window, sigma


def on_shim(device, window, sigma, increments, first_row=0):
    out, step = device.empty(window.shape, np.float32), device.put(np.array([ADDRESS["step"]], np.int64))
    arguments = (device.put(window), device.put(sigma), out, ADDRESS["seed"], step, first_row, increments)
    bridge.on_device(device, *arguments)
    return device.get(out)


def assert_same_bits(a, b):
    assert a.dtype == b.dtype == np.float32
    np.testing.assert_array_equal(a.view(np.uint32), b.view(np.uint32))


class Launches(ShimDevice):
    """The shim with a launch shape of the test's choice."""

    def __init__(self, blocks, threads, **options):
        super().__init__(**options)
        self.shape = blocks, threads

    def launch(self, source, kernel, blocks, threads, *arguments):
        super().launch(source, kernel, *self.shape, *arguments)


def steps_of_layout(row, n, increments):
    """The n steps of one row's walk, straight from the layout's words."""
    bits = increments == "bits"
    steps = []
    for i in range(n):
        words = philox4x32((i >> 7 if bits else i >> 2, row, 12, Op.BRIDGE << 24 | bits), ADDRESS["seed"])
        if bits:
            steps.append(2.0 * ((int(words[(i >> 5) & 3]) >> (i & 31)) & 1) - 1)
        else:
            pair = normals32(*(np.array([word], np.uint32) for word in words[i & 2 : (i & 2) + 2]))
            steps.append(float(pair[i & 1][0]))
    return np.array(steps)


@BOTH
@pytest.mark.parametrize("points", [2, 6, 150])
def test_noise_is_the_bridge_of_the_layouts_steps(increments, points):
    n, sigma = points - 1, np.ones(2, np.float32)
    noise = bridge_augment(np.zeros((2, points), np.float32), sigma, first_row=7, increments=increments, **ADDRESS)
    for row in range(2):
        walk = np.concatenate([[0.0], np.cumsum(steps_of_layout(7 + row, n, increments))])
        expected = walk - np.arange(points) / n * walk[-1]
        np.testing.assert_allclose(noise[row], expected, atol=1e-4)


@BOTH
@pytest.mark.parametrize("shape", SHAPES)
def test_cpu_backend_gives_the_bits_of_the_reference(shape, increments):
    window, sigma = series(*shape)
    out = bridge_augment(window, sigma, first_row=3, increments=increments, **ADDRESS)
    assert_same_bits(out, bridge_reference(window, sigma, first_row=3, increments=increments, **ADDRESS))


@BOTH
@pytest.mark.parametrize(("blocks", "threads"), [(1, 1), (3, 32), (2, 256)])
def test_cu_source_gives_the_bits_of_the_cpu(increments, blocks, threads):
    for shape in SHAPES:
        window, sigma = series(*shape)
        there = on_shim(Launches(blocks, threads), window, sigma, increments, first_row=3)
        assert_same_bits(there, bridge_augment(window, sigma, first_row=3, increments=increments, **ADDRESS))


@BOTH
@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        ("noise == 0.0f ? value : ", ""),
        ("        total = 0;\n", ""),
        ("= points - 1", "= points - 2"),
    ],
)
def test_planted_faults_in_the_cu_source_are_found(increments, was, becomes):
    window, sigma = series(31, 17)
    there = on_shim(ShimDevice(edit=lambda text: text.replace(was, becomes)), window, sigma, increments)
    right = bridge_augment(window, sigma, increments=increments, **ADDRESS)
    assert (there.view(np.uint32) != right.view(np.uint32)).any()


@pytest.mark.gpu
@BOTH
def test_gpu_gives_the_bits_of_the_cpu(increments):
    for shape in SHAPES:
        window, sigma = series(*shape)
        there = bridge_augment(window, sigma, first_row=3, increments=increments, device="cuda", **ADDRESS)
        assert_same_bits(there, bridge_augment(window, sigma, first_row=3, increments=increments, **ADDRESS))


@pytest.mark.parametrize(("increments", "golden"), [("normal", "b017d1903376f7df"), ("bits", "7cf2fbc40f6dca6e")])
def test_golden_hashes(increments, golden):
    """What every backend and every later version must give."""
    window = np.arange(7 * 200, dtype=np.float32).reshape(7, 200) / 64
    sigma = np.arange(7, dtype=np.float32) / 4
    out = bridge_augment(window, sigma, first_row=11, increments=increments, **ADDRESS)
    assert hashlib.sha256(out.tobytes()).hexdigest()[:16] == golden


@BOTH
def test_covariance_is_that_of_a_brownian_bridge(increments):
    """sigma^2 s (n - t) / n for s <= t; the sample's own error by Isserlis' theorem, an upper bound for bits."""
    batch, n, sigma = 1 << 16, 12, 0.5
    noise = bridge_augment(
        np.zeros((batch, n + 1), np.float32), np.full(batch, sigma, np.float32), seed=1, step=0, increments=increments
    ).astype(np.float64)
    assert (noise[:, [0, n]] == 0).all()
    time = np.arange(n + 1)
    low, high = np.minimum.outer(time, time), np.maximum.outer(time, time)
    expected = sigma**2 * low * (n - high) / n
    variance = np.diag(expected)
    error = np.sqrt((np.outer(variance, variance) + expected**2) / batch)
    assert (np.abs(noise.T @ noise / batch - expected)[1:n, 1:n] < 4 * error[1:n, 1:n]).all()
    assert (np.abs(noise.mean(axis=0)) <= 4 * np.sqrt(variance / batch)).all()


@BOTH
def test_ends_and_rows_without_sigma_keep_their_bits(increments):
    window, sigma = series(31, 17)
    window[3], window[4] = 1e30, -0.0
    out = bridge_augment(window, sigma, increments=increments, **ADDRESS)
    assert_same_bits(out[:, [0, -1]], window[:, [0, -1]])
    assert_same_bits(out[2], window[2])
    assert_same_bits(bridge_augment(window, np.zeros_like(sigma), increments=increments, **ADDRESS), window)
    assert (out[sigma > 0, 8] != window[sigma > 0, 8]).sum() > 15


def test_noise_is_proportional_to_sigma():
    zeros, sigma = np.zeros((5, 9), np.float32), np.float32([0.25, 0.5, 1.0, 2.0, 1e-30])
    unit = bridge_augment(zeros, np.ones(5, np.float32), **ADDRESS)
    assert_same_bits(bridge_augment(zeros, sigma, **ADDRESS)[:4], (unit * sigma[:, None])[:4])
    np.testing.assert_allclose(bridge_augment(zeros, sigma, **ADDRESS)[4], unit[4] * 1e-30, rtol=1e-6)


@BOTH
def test_the_longest_window_has_pinned_ends_and_steps_of_the_right_size(increments):
    points = bridge.MAX_POINTS
    noise = bridge_augment(np.zeros((1, points), np.float32), np.ones(1, np.float32), increments=increments, **ADDRESS)
    assert noise[0, 0] == noise[0, -1] == 0
    steps = np.diff(noise[0].astype(np.float64))
    assert abs(steps.std() - 1) < 4 / np.sqrt(2 * points) + 1e-3


@BOTH
def test_rows_steps_seeds_and_kinds_are_independent(increments):
    def noise(seed=1, step=0, increments=increments):
        zeros, ones = np.zeros((4096, 9), np.float32), np.ones(4096, np.float32)
        return bridge_augment(zeros, ones, seed=seed, step=step, increments=increments)[:, 4].astype(float)

    one = noise()
    kind = noise(increments="bits" if increments == "normal" else "normal")
    for other in (np.roll(one, 1), noise(step=1), noise(seed=2), kind):
        assert abs(np.corrcoef(one, other)[0, 1]) < 4 / np.sqrt(len(one))


@BOTH
def test_noise_does_not_depend_on_how_the_batch_is_cut(increments):
    window, sigma = series(10, 20)
    whole = bridge_augment(window, sigma, first_row=100, increments=increments, **ADDRESS)
    for begin, end in ((0, 3), (3, 4), (4, 10)):
        part = bridge_augment(
            window[begin:end], sigma[begin:end], first_row=100 + begin, increments=increments, **ADDRESS
        )
        assert_same_bits(part, whole[begin:end])


@BOTH
def test_windows_may_be_strided_and_out_may_be_the_window(increments):
    window, sigma = series(31, 34)
    expected = bridge_reference(window[:, ::2].copy(), sigma, increments=increments, **ADDRESS)
    assert_same_bits(bridge_augment(window[:, ::2], sigma, increments=increments, **ADDRESS), expected)
    spread = np.repeat(sigma, 2)[::2]
    assert_same_bits(bridge_augment(window[:, ::2], spread, increments=increments, **ADDRESS), expected)
    there = window[:, ::2].copy()
    assert bridge_augment(there, sigma, increments=increments, out=there, **ADDRESS) is there
    assert_same_bits(there, expected)


WINDOW, SIGMA = np.zeros((2, 5), np.float32), np.ones(2, np.float32)


@pytest.mark.parametrize(
    "wrong",
    [
        {"window": WINDOW.astype(np.float64)},
        {"window": WINDOW[0]},
        {"window": WINDOW[:, :1]},
        {"window": WINDOW[:, :0]},
        {"window": np.zeros((0, bridge.MAX_POINTS + 1), np.float32), "sigma": SIGMA[:0]},
        {"window": WINDOW + np.float32(np.nan)},
        {"window": WINDOW + np.float32(np.inf)},
        {"sigma": SIGMA.astype(np.float64)},
        {"sigma": SIGMA[:1]},
        {"sigma": SIGMA[:, None]},
        {"sigma": np.float32([1.0, np.nan])},
        {"sigma": np.float32([1.0, np.inf])},
        {"sigma": np.float32([1.0, -0.1])},
        {"seed": -1},
        {"seed": 2**64},
        {"step": -1},
        {"step": 2**32},
        {"step": 1.5},
        {"first_row": -1},
        {"first_row": 2**32 - 1},
        {"first_row": 0.5},
        {"increments": "uniform"},
        {"device": "tpu"},
        {"out": np.empty((2, 4), np.float32)},
        {"out": np.empty((2, 5), np.float64)},
        {"out": np.empty((2, 10), np.float32)[:, ::2]},
    ],
)
def test_misuse_raises(wrong):
    arguments = {"window": WINDOW, "sigma": SIGMA, "seed": 1, "step": 0}
    with pytest.raises(ValueError, match=next(iter(wrong))):
        bridge_augment(**(arguments | wrong))


def test_cuda_where_there_is_none_raises():
    try:
        cuda.current()
    except RuntimeError:
        with pytest.raises(RuntimeError, match="cuda"):
            bridge_augment(WINDOW, SIGMA, device="cuda", **ADDRESS)
    else:
        pytest.skip("a CUDA device is there")
