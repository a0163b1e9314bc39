"""Parity of dropout: the exact levels hold and catch planted faults; the equivalence test is the textbook's."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fusion_market import configuration, market
from scipy import stats

from fusion_alpha import parity, samples
from fusion_alpha.fusionnet import DROPOUTS

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def frames():
    return market()


def small(variant="fused", steps=50, **model):
    cfg = configuration(variant, **model)
    return replace(cfg, parity=replace(cfg.parity, steps=steps))


@pytest.mark.parametrize("p", [0.5, 0.3])
def test_equal_masks_give_equal_weights_bit_for_bit(frames, p):
    cfg = small(dropout=p)
    level = parity.identical_masks(samples.build(frames, cfg), cfg, CPU)
    assert (level["value"], level["criterion"], level["passed"]) == (0, 0, True)
    assert level["steps"] == 50
    assert level["of"] > 1000


def wrong_scale(x, p, **address):
    return parity.masks_from_reference(x, p, **address) * (1 + 2**-20)


def late_masks(x, p, *, step, **address):
    return parity.masks_from_reference(x, p, step=step + 1, **address)


def same_masks_in_both_layers(x, p, *, layer, **address):
    return parity.masks_from_reference(x, p, layer=0, **address)


def gradient_without_mask(x, p, **address):
    return x + (parity.masks_from_reference(x, p, **address) - x).detach()


@pytest.mark.parametrize("fault", [wrong_scale, late_masks, same_masks_in_both_layers, gradient_without_mask])
def test_a_planted_difference_fails_the_exact_comparison(frames, fault):
    cfg = small(steps=2)
    level = parity.identical_masks(samples.build(frames, cfg), cfg, CPU, fault)
    assert not level["passed"]
    assert level["value"] > 100


def test_without_masks_both_are_plain_torch(frames):
    cfg = small()
    level = parity.nothing_dropped(samples.build(frames, cfg), cfg, CPU)
    assert (level["value"], level["criterion"], level["passed"]) == (0, 0, True)


def test_dropout_that_is_not_off_at_zero_is_found(frames, monkeypatch):
    bicep = DROPOUTS["bicep"]
    monkeypatch.setitem(DROPOUTS, "bicep", lambda x, p, **address: bicep(x, p, **address) * (1 + 2**-20))
    cfg = small(steps=2)
    assert not parity.nothing_dropped(samples.build(frames, cfg), cfg, CPU)["passed"]


def test_steps_are_counted_and_each_has_its_loss(frames):
    cfg = small(steps=7)
    state = parity.take_steps(samples.build(frames, cfg), cfg, CPU)
    assert state.step == 7
    assert state.table()["train_loss"].nunique() == 7


def test_equivalence_against_numbers_worked_by_hand():
    # mean 1.5e-3; sd 1.29099e-3, its error over 4 pairs 6.45497e-4; Student's 95% point at 3 degrees is 2.353363
    test = parity.equivalence([0.001, 0.003, 0.002, 0.0], margin=0.005)
    assert test.mean == pytest.approx(0.0015)
    assert test.low == pytest.approx(0.0015 - 2.353363 * 6.45497e-4, abs=1e-8)
    assert test.high == pytest.approx(0.0015 + 2.353363 * 6.45497e-4, abs=1e-8)
    assert test.p == pytest.approx(stats.t.cdf((0.0015 - 0.005) / 6.45497e-4, 3), rel=1e-4)


@pytest.mark.parametrize("shift", [-0.004, 0.0, 0.002, 0.02])
def test_equivalence_is_the_larger_of_two_one_sided_t_tests(shift):
    values = np.random.default_rng(3).normal(shift, 0.003, 12)
    for margin in (0.001, 0.003, 0.005, 0.03):
        test = parity.equivalence(values, margin)
        above = stats.ttest_1samp(values, -margin, alternative="greater").pvalue
        below = stats.ttest_1samp(values, margin, alternative="less").pvalue
        assert test.p == pytest.approx(max(above, below))
        assert (test.p < 0.05) == (-margin < test.low and test.high < margin)
        mirrored = parity.equivalence(-values, margin)
        assert (mirrored.low, mirrored.high, mirrored.p) == pytest.approx((-test.high, -test.low, test.p))


def test_equal_differences_are_decided_by_their_size():
    assert parity.equivalence([0.001] * 5, margin=0.005).p == 0
    assert parity.equivalence([0.006] * 5, margin=0.005).p == 1
    assert parity.equivalence([0.0, 0.0], margin=0.005).p == 0


@pytest.mark.parametrize("wrong", [[], [0.1], [[0.1, 0.2]]])
def test_equivalence_needs_a_list_of_pairs(wrong):
    with pytest.raises(ValueError, match="n >= 2"):
        parity.equivalence(wrong, margin=0.005)


def test_the_level_of_losses_passes_exactly_where_its_value_is_below_the_margin():
    torch_ = np.array([0.690, 0.688, 0.692, 0.689])
    near = parity.equivalent_losses(torch_ + np.array([1e-4, -1e-4, 2e-4, 0]), torch_, 0.005)
    assert near["passed"]
    assert near["value"] < near["criterion"] == 0.005
    assert near["mean_difference"] == pytest.approx(5e-5)
    assert near["seeds"] == 4
    far = parity.equivalent_losses(torch_ + np.array([6e-3, 7e-3, 6e-3, 7e-3]), torch_, 0.005)
    assert not far["passed"]
    assert far["value"] > 0.005
    assert far["mean_difference"] > 0  # BICEP is the worse


def test_without_a_gpu_the_devices_are_not_compared(frames, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cfg = small()
    level = parity.equal_devices(samples.build(frames, cfg), cfg)
    assert level["value"] is None
    assert level["passed"] is None
    assert "CUDA" in level["reason"]


@pytest.mark.gpu
def test_cpu_and_gpu_train_alike(frames):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    cfg = small()
    level = parity.equal_devices(samples.build(frames, cfg), cfg)
    assert level["passed"], level
