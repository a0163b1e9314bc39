"""Dropout masks: the address of every bit, their law, independence of batch and process, and misuse."""

import numpy as np
import pytest
import torch

from kernels.dropout import dropout, keep_mask
from kernels.philox import Op, philox4x32

ADDRESS = {"seed": 2**63 + 5, "step": 12, "layer": 3}


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


def test_antithetic_pair_is_the_complement_at_one_half_and_keeps_the_mean_at_any_p():
    halves = keep_mask(100, 0.5, samples=32, **ADDRESS)
    assert (halves[0::2] != halves[1::2]).all()
    x = torch.ones(100, dtype=torch.float64)
    pair_mean = dropout(x, 0.5, samples=32, share_rows=True, **ADDRESS).mean(dim=0)
    assert torch.equal(pair_mean, x)  # linear in the mask, so a pair's error cancels exactly
    thirds = keep_mask(1 << 16, 0.25, samples=2, **ADDRESS)
    assert abs(thirds[1].mean() - 0.75) < 4 * np.sqrt(0.25 * 0.75 / 2**16)


def test_mask_does_not_depend_on_how_the_batch_is_cut():
    x = torch.randn(10, 7, generator=torch.Generator().manual_seed(0))
    whole = dropout(x, 0.5, **ADDRESS)
    parts = [dropout(x[:4], 0.5, **ADDRESS), dropout(x[4:], 0.5, first_row=4, **ADDRESS)]
    assert torch.equal(torch.cat(parts), whole)


def test_shared_mask_does_not_depend_on_the_batch_and_samples_do_not_depend_on_their_number():
    x = torch.randn(10, 7, generator=torch.Generator().manual_seed(0))
    many = dropout(x, 0.5, samples=8, share_rows=True, **ADDRESS)
    assert many.shape == (8, 10, 7)
    assert torch.equal(dropout(x[3:4], 0.5, samples=2, share_rows=True, **ADDRESS), many[:2, 3:4])


def test_a_second_layer_gives_each_slice_its_own_sample():
    x = torch.randn(10, 7, generator=torch.Generator().manual_seed(0))
    for share in (True, False):
        fresh = dropout(x, 0.5, samples=8, share_rows=share, **ADDRESS)
        slices = x.expand(8, 10, 7)
        assert torch.equal(dropout(slices, 0.5, samples=8, stacked=True, share_rows=share, **ADDRESS), fresh)


def test_value_and_gradient_are_those_of_the_plain_formula():
    x = torch.randn(5, 33, generator=torch.Generator().manual_seed(0), requires_grad=True)
    keep = torch.from_numpy(keep_mask(165, 0.3, **ADDRESS)).reshape(5, 33)
    scale = 65536 / (65536 - round(0.3 * 65536))
    y = dropout(x, 0.3, **ADDRESS)
    torch.testing.assert_close(y, x * keep * scale)
    y.sum().backward()
    torch.testing.assert_close(x.grad, keep * torch.tensor(scale))


def test_no_dropout_at_p_zero_is_the_identity():
    x = torch.randn(3, 5)
    assert torch.equal(dropout(x, 0.0, **ADDRESS), x)


def test_step_may_be_a_tensor_and_large_addresses_work():
    x = torch.ones(2, 3)
    as_tensor = dropout(x, 0.5, seed=1, step=torch.tensor([7]), layer=2)
    assert torch.equal(as_tensor, dropout(x, 0.5, seed=1, step=7, layer=2))
    keep_mask(4, 0.5, seed=2**64 - 1, step=2**32 - 1, layer=2**24 - 1, first_unit=2**34 - 8)


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
        {"layer": 2**24},
        {"samples": 0},
        {"samples": 3},
        {"first_unit": 2**34},
        {"first_unit": -1},
    ],
)
def test_misuse_of_the_mask_raises(wrong):
    arguments = {"p": 0.5, "seed": 1, "step": 0, "layer": 0} | wrong
    with pytest.raises(ValueError, match=next(iter(wrong)) if "first_unit" not in wrong else "unit"):
        keep_mask(4, **arguments)


@pytest.mark.parametrize(
    ("x", "step", "stacked"),
    [
        (torch.ones(3, dtype=torch.int64), 0, False),
        (torch.tensor(1.0), 0, False),
        (torch.ones(3), torch.tensor(1.0), False),
        (torch.ones(3, 4), 0, True),
    ],
)
def test_misuse_of_the_front_raises(x, step, stacked):
    with pytest.raises(ValueError, match=r"dtype|shape|int64"):
        dropout(x, 0.5, seed=1, step=step, layer=0, samples=2, stacked=stacked)
