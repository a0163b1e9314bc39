"""Sticky masks: the address of every decision, the law of the chain, and the same bits from every backend."""

import hashlib

import numpy as np
import pytest
from shim import ShimDevice

from kernels import cuda, sticky
from kernels.dropout import LEVELS
from kernels.philox import Op, philox4x32
from kernels.sticky import sticky_mask, sticky_mask_reference

ADDRESS = {"seed": 2**63 + 5, "step": 12, "layer": 3}
CHAINS = pytest.mark.parametrize(("p", "rho"), [(0.0, 0.5), (0.2, 0.9), (0.5, 0.0), (0.9, 1.0)])
SHAPES = [(0, 3, 2), (3, 0, 2), (3, 2, 0), (1, 1, 1), (31, 5, 31), (2, 257, 3), (2, 3, 1009), (5, 16, 33)]


def on_shim(device, shape, p, rho, first_row=0):
    out, step = device.empty(shape, np.uint8), device.put(np.array([ADDRESS["step"]], np.int64))
    sticky.on_device(device, out, p, rho, ADDRESS["seed"], step, ADDRESS["layer"], first_row)
    return device.get(out).view(np.bool_)


class Launches(ShimDevice):
    """The shim with a launch shape of the test's choice."""

    def __init__(self, blocks, threads, **options):
        super().__init__(**options)
        self.shape = blocks, threads

    def launch(self, source, kernel, blocks, threads, *arguments):
        super().launch(source, kernel, *self.shape, *arguments)


@CHAINS
def test_decisions_are_those_of_the_layout(p, rho):
    batch, time, features, first_row = 2, 11, 3, 7
    mask = sticky_mask(batch, time, features, p, rho, first_row=first_row, **ADDRESS)
    drop, hold = min(round(p * 65536), 65535), round(rho * 65536)
    for row in range(batch):
        for feature in range(features):
            unit = (first_row + row) * features + feature
            keep = None
            for t in range(time):
                word = int(philox4x32((t >> 2, unit, 12, Op.STICKY_MASK << 24 | 3), ADDRESS["seed"])[t & 3])
                if keep is None or word & 0xFFFF >= hold:
                    keep = word >> 16 >= drop
                assert mask[row, t, feature] == keep


@CHAINS
@pytest.mark.parametrize("shape", SHAPES)
def test_cpu_backend_gives_the_bits_of_the_reference(shape, p, rho):
    mask = sticky_mask(*shape, p, rho, first_row=3, **ADDRESS)
    assert mask.shape == shape
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask, sticky_mask_reference(*shape, p, rho, first_row=3, **ADDRESS))


@CHAINS
@pytest.mark.parametrize(("blocks", "threads"), [(1, 1), (3, 32), (2, 256)])
def test_cu_source_gives_the_bits_of_the_cpu(p, rho, blocks, threads):
    for shape in SHAPES:
        there = on_shim(Launches(blocks, threads), shape, p, rho, first_row=3)
        np.testing.assert_array_equal(there, sticky_mask(*shape, p, rho, first_row=3, **ADDRESS))


@pytest.mark.parametrize(("was", "becomes"), [("t == 0 || ", ""), (">= drop", "> drop"), ("t >> 2", "t >> 1")])
def test_planted_faults_in_the_cu_source_are_found(was, becomes):
    faulty = ShimDevice(edit=lambda text: text.replace(was, becomes))
    rare = 1 / LEVELS if "drop" in was else 0.2  # at this p, one fresh bit in 65,536 has the number drop itself
    shape = (400, 16, 33) if "drop" in was else (31, 5, 31)
    assert (on_shim(faulty, shape, rare, 0.5) != sticky_mask(*shape, rare, 0.5, **ADDRESS)).any()


@pytest.mark.gpu
@CHAINS
def test_gpu_gives_the_bits_of_the_cpu(p, rho):
    for shape in SHAPES:
        there = sticky_mask(*shape, p, rho, first_row=3, device="cuda", **ADDRESS)
        np.testing.assert_array_equal(there, sticky_mask(*shape, p, rho, first_row=3, **ADDRESS))


def test_golden_hash():
    """What every backend and every later version must give."""
    mask = sticky_mask(5, 18, 33, 0.3, 0.75, first_row=11, **ADDRESS)
    assert hashlib.sha256(mask.tobytes()).hexdigest()[:16] == "5527d5d5c8df86a8"


@pytest.mark.parametrize(("p", "rho"), [(0.1, 0.5), (0.2, 0.9), (0.5, 0.99), (0.75, 0.0)])
def test_share_of_drops_and_autocorrelation(p, rho):
    """Units are independent, so the number that stay at two times is binomial with P = q^2 + p q rho^lag."""
    n, p, rho = 1 << 16, round(p * LEVELS) / LEVELS, round(rho * LEVELS) / LEVELS
    keep = sticky_mask(n // 64, 40, 64, p, rho, seed=1, step=0, layer=0).transpose(1, 0, 2).reshape(40, n)
    q = 1 - p
    for t in (0, 1, 7, 39):
        assert abs(keep[t].sum() - n * q) < 4 * np.sqrt(n * p * q)
    for start, lag in ((0, 1), (2, 1), (3, 1), (5, 2), (1, 5), (8, 31), (0, 39)):
        both = q**2 + p * q * rho**lag
        stayed = (keep[start] & keep[start + lag]).sum()
        assert abs(stayed - n * both) < 4 * np.sqrt(n * both * (1 - both)), (start, lag)


def test_without_stickiness_every_time_is_fresh_and_with_all_of_it_the_first_time_stays():
    fresh = sticky_mask(50, 9, 20, 0.3, 0.0, **ADDRESS)
    held = sticky_mask(50, 9, 20, 0.3, 1.0, **ADDRESS)
    assert (held == fresh[:, :1]).all()
    changes = (fresh[:, 1:] != fresh[:, :-1]).mean()
    assert abs(changes - 2 * 0.3 * 0.7) < 4 * np.sqrt(0.42 * 0.58 / fresh[:, 1:].size)


def test_units_steps_layers_and_seeds_are_independent():
    def mask(**address):
        return sticky_mask(256, 2, 128, 0.3, 0.5, **({"seed": 1, "step": 0, "layer": 0} | address))[:, 0]

    kept = mask().astype(float)
    others = {
        "unit": np.roll(kept, 1, axis=1),
        "row": np.roll(kept, 1, axis=0),
        "step": mask(step=1),
        "layer": mask(layer=1),
        "seed": mask(seed=2),
    }
    for name, other in others.items():
        assert abs(np.corrcoef(kept.ravel(), other.ravel())[0, 1]) < 4 / np.sqrt(kept.size), name


def test_mask_does_not_depend_on_how_the_batch_is_cut():
    whole = sticky_mask(10, 6, 7, 0.3, 0.8, first_row=100, **ADDRESS)
    parts = [sticky_mask(n, 6, 7, 0.3, 0.8, first_row=row, **ADDRESS) for row, n in ((100, 3), (103, 1), (104, 6))]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_mask_of_a_time_does_not_depend_on_the_window():
    long = sticky_mask(3, 21, 4, 0.3, 0.8, **ADDRESS)
    np.testing.assert_array_equal(sticky_mask(3, 6, 4, 0.3, 0.8, **ADDRESS), long[:, :6])


def test_out_is_written_in_place():
    out = np.zeros((4, 5, 6), np.bool_)
    assert sticky_mask(4, 5, 6, 0.3, 0.8, out=out, **ADDRESS) is out
    np.testing.assert_array_equal(out, sticky_mask_reference(4, 5, 6, 0.3, 0.8, **ADDRESS))


def test_the_largest_address_works():
    last = {"seed": 2**64 - 1, "step": 2**32 - 1, "layer": 2**24 - 1, "first_row": 2**32 // 8 - 2}
    mask = sticky_mask(2, 3, 8, 0.5, 0.5, **last)
    np.testing.assert_array_equal(mask, sticky_mask_reference(2, 3, 8, 0.5, 0.5, **last))


@pytest.mark.parametrize(
    "wrong",
    [
        {"p": 1.0},
        {"p": -0.1},
        {"p": float("nan")},
        {"rho": 1.1},
        {"rho": -0.1},
        {"rho": float("nan")},
        {"seed": -1},
        {"seed": 2**64},
        {"seed": 1.5},
        {"step": -1},
        {"step": 2**32},
        {"step": 1.5},
        {"layer": -1},
        {"layer": 2**24},
        {"batch": -1},
        {"time": -1},
        {"features": -1},
        {"time": 2**34 + 1, "features": 0},
        {"first_row": -1},
        {"first_row": 2**32 // 3},
        {"first_row": 0.5},
        {"device": "tpu"},
        {"out": np.empty((2, 4, 4), np.bool_)},
        {"out": np.empty((2, 4, 3), np.uint8)},
        {"out": np.empty((4, 2, 3), np.bool_).swapaxes(0, 1)},
    ],
)
def test_misuse_raises(wrong):
    arguments = {"batch": 2, "time": 4, "features": 3, "p": 0.5, "rho": 0.5, "seed": 1, "step": 0, "layer": 0}
    with pytest.raises(ValueError, match=next(iter(wrong))):
        sticky_mask(**(arguments | wrong))


def test_cuda_where_there_is_none_raises():
    try:
        cuda.current()
    except RuntimeError:
        with pytest.raises(RuntimeError, match="cuda"):
            sticky_mask(2, 3, 4, 0.5, 0.5, device="cuda", **ADDRESS)
    else:
        pytest.skip("a CUDA device is there")
