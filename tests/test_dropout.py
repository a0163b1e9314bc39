"""Dropout masks: the address of every bit, their law, and the same bits from every backend."""

import hashlib

import numpy as np
import pytest
from shim import ShimDevice

from kernels import cuda, dropout
from kernels.dropout import keep_mask, masked
from kernels.philox import Op, philox4x32

ADDRESS = {"seed": 2**63 + 5, "step": 12, "layer": 3}
P = pytest.mark.parametrize("p", [0.0, 0.3, 0.5, 0.9])


def half_bit(unit: int, sample: int, seed: int, step: int, layer: int) -> bool:
    """One bit at p = 1/2, straight from the layout's words."""
    words = philox4x32((unit >> 2, sample >> 5, step, Op.DROPOUT_HALF << 24 | layer), seed)
    return bool((int(words[unit & 3]) >> (sample & 31)) & 1)


def draw(unit: int, sample: int, seed: int, step: int, layer: int) -> int:
    """One 16-bit number, straight from the layout's words."""
    words = philox4x32((unit >> 3, sample, step, Op.DROPOUT_THRESHOLD << 24 | layer), seed)
    return (int(words[(unit >> 1) & 3]) >> (16 * (unit & 1))) & 0xFFFF


@pytest.mark.parametrize("n_units", [0, 1, 31, 257])
@pytest.mark.parametrize("first_unit", [0, 5])
def test_half_mask_takes_the_bits_of_the_layout(n_units, first_unit):
    mask = keep_mask(n_units, 0.5, samples=70, first_unit=first_unit, **ADDRESS)
    assert mask.shape == (70, n_units)
    for sample in (0, 1, 30, 31, 32, 33, 69):
        for unit in range(0, n_units, 7):
            bit = half_bit(unit + first_unit, sample - sample % 2, **ADDRESS)
            assert mask[sample, unit] == (bit if sample % 2 == 0 else not bit)


@pytest.mark.parametrize("p", [0.1, 0.3, 0.9])
def test_threshold_mask_takes_the_numbers_of_the_layout(p):
    mask = keep_mask(61, p, samples=4, first_unit=3, **ADDRESS)
    threshold = round(p * 65536)
    for sample in range(4):
        for unit in range(61):
            number = draw(unit + 3, sample - sample % 2, **ADDRESS)
            assert mask[sample, unit] == ((number if sample % 2 == 0 else 65535 - number) >= threshold)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.75])
def test_share_of_kept_units_and_independence_of_neighbours(p):
    n = 1 << 16
    kept = keep_mask(n, p, seed=1, step=0, layer=0)[0].astype(float)
    others = {
        "unit": np.roll(kept, 1),
        "step": keep_mask(n, p, seed=1, step=1, layer=0)[0],
        "layer": keep_mask(n, p, seed=1, step=0, layer=1)[0],
        "seed": keep_mask(n, p, seed=2, step=0, layer=0)[0],
        "sample": keep_mask(n, p, seed=1, step=0, layer=0, samples=4)[2],
    }
    assert abs(kept.mean() - (1 - p)) < 4 * np.sqrt(p * (1 - p) / n)
    for name, other in others.items():
        assert abs(np.corrcoef(kept, other)[0, 1]) < 4 / np.sqrt(n), name


@pytest.mark.parametrize(
    "wrong",
    [
        {"p": 1.0},
        {"p": -0.1},
        {"p": float("nan")},
        {"seed": -1},
        {"seed": 2**64},
        {"seed": 1.5},
        {"step": -1},
        {"step": 2**32},
        {"step": 1.5},
        {"layer": 2**24},
        {"layer": 1.0},
        {"samples": 0},
        {"samples": 3},
        {"first_unit": 2**34},
        {"first_unit": -1},
        {"first_unit": 1.5},
    ],
)
def test_misuse_of_the_mask_raises(wrong):
    arguments = {"p": 0.5, "seed": 1, "step": 0, "layer": 0} | wrong
    with pytest.raises(ValueError, match=next(iter(wrong)) if "first_unit" not in wrong else "unit"):
        keep_mask(4, **arguments)


def test_antithetic_pair_is_the_complement_at_one_half_and_keeps_its_law_at_any_p():
    halves = keep_mask(100, 0.5, samples=32, **ADDRESS)
    assert (halves[0::2] != halves[1::2]).all()
    quarters = keep_mask(1 << 16, 0.25, samples=2, **ADDRESS)
    assert abs(quarters[1].mean() - 0.75) < 4 * np.sqrt(0.25 * 0.75 / 2**16)


def plain(x, p, samples, first_unit):
    """x times the reference's masks."""
    keep = keep_mask(x.shape[2], p, samples=samples, first_unit=first_unit, **ADDRESS)
    return x * (keep * x.dtype.type(dropout.scale(p)))[:, None, :].astype(x.dtype)


def signals(stacked, samples, rows, units, dtype):
    values = np.random.default_rng(units).normal(size=(samples if stacked else 1, rows, units))
    return values.astype(dtype)


def assert_same_bits(a, b):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a.view(np.uint8), b.view(np.uint8))


@P
@pytest.mark.parametrize("units", [0, 1, 31, 257, 2053])
@pytest.mark.parametrize(
    ("samples", "stacked", "first_unit"), [(1, False, 0), (1, True, 3), (2, False, 5), (70, True, 8)]
)
def test_cpu_backend_gives_the_bits_of_the_reference(p, units, samples, stacked, first_unit):
    for dtype in (np.float32, np.float64):
        x = signals(stacked, samples, 3, units, dtype)
        y = masked(x, p, samples=samples, first_unit=first_unit, **ADDRESS)
        assert_same_bits(y, plain(x, p, samples, first_unit))


def test_x_may_be_strided_and_out_is_written_in_place():
    wide = signals(False, 1, 4, 100, np.float32)
    out = np.full((2, 4, 50), np.nan, np.float32)
    y = masked(wide[:, :, ::2], 0.5, samples=2, out=out, **ADDRESS)
    assert y is out
    assert_same_bits(out, plain(np.ascontiguousarray(wide[:, :, ::2]), 0.5, 2, 0))


def test_golden_hashes():
    """What every backend and every later version must give."""
    x = np.ones((1, 2, 1009), np.float32)
    for p, golden in ((0.5, "22733343d3b21fe2"), (0.3, "f961ad070cfad8e7")):
        y = masked(x, p, samples=34, first_unit=6, **ADDRESS)
        assert hashlib.sha256((y > 0).tobytes()).hexdigest()[:16] == golden


@P
@pytest.mark.parametrize(("samples", "stacked", "first_unit"), [(1, False, 0), (34, False, 5), (6, True, 3)])
@pytest.mark.parametrize(("blocks", "threads"), [(1, 1), (3, 32), (2, 256)])
def test_cu_source_gives_the_bits_of_the_cpu(p, samples, stacked, first_unit, blocks, threads):
    for dtype in (np.float32, np.float64):
        x = signals(stacked, samples, 2, 131, dtype)
        device = Launches(blocks, threads)
        out = device.empty((samples, 2, 131), dtype)
        step = device.put(np.array([ADDRESS["step"]], np.int64))
        dropout.on_device(device, device.put(x), out, p, ADDRESS["seed"], step, ADDRESS["layer"], first_unit)
        assert_same_bits(device.get(out), masked(x, p, samples=samples, first_unit=first_unit, **ADDRESS))


class Launches(ShimDevice):
    """The shim with a launch shape of the test's choice."""

    def __init__(self, blocks, threads):
        super().__init__()
        self.shape = blocks, threads

    def launch(self, source, kernel, blocks, threads, *arguments):
        super().launch(source, kernel, *self.shape, *arguments)


@pytest.mark.gpu
@P
def test_gpu_gives_the_bits_of_the_cpu(p):
    try:
        cuda.current()
    except RuntimeError as error:
        pytest.skip(str(error))
    x = signals(False, 34, 3, 1009, np.float32)
    there = masked(x, p, samples=34, first_unit=5, device="cuda", **ADDRESS)
    assert_same_bits(there, masked(x, p, samples=34, first_unit=5, **ADDRESS))


@pytest.mark.parametrize(
    ("x", "more", "rule"),
    [
        (np.ones((1, 2, 3), np.int64), {}, "dtype int64"),
        (np.ones((2, 3), np.float32), {}, r"shape \(2, 3\)"),
        (np.ones((3, 2, 3), np.float32), {"samples": 2}, "shape"),
        (np.ones((1, 2, 3), np.float32), {"p": 1.0}, "p = 1.0"),
        (np.ones((1, 2, 3), np.float32), {"device": "tpu"}, "tpu"),
        (np.ones((1, 2, 3), np.float32), {"step": 1.5}, "step = 1.5 is not an integer"),
        (np.ones((1, 2, 3), np.float32), {"first_unit": 0.5}, "first_unit = 0.5 is not an integer"),
        (np.ones((1, 2, 3), np.float32), {"out": np.empty((1, 2, 4), np.float32)}, "out is"),
        (np.ones((1, 2, 3), np.float32), {"out": np.empty((1, 2, 3), np.float64)}, "out is"),
        (np.ones((1, 2, 3), np.float32), {"out": np.empty((2, 2, 3), np.float32), "device": "cuda"}, "out is"),
    ],
)
def test_misuse_of_masked_raises(x, more, rule):
    with pytest.raises(ValueError, match=rule):
        masked(x, **({"p": 0.5} | ADDRESS | more))


def test_cuda_where_there_is_none_raises():
    try:
        cuda.current()
    except RuntimeError:
        with pytest.raises(RuntimeError, match="cuda"):
            masked(np.ones((1, 2, 3), np.float32), 0.5, device="cuda", **ADDRESS)
    else:
        pytest.skip("there is a CUDA device")
