"""Dropout whose mask is addressed by (seed, step, layer, unit, sample), never drawn from a global state.

    y = x * keep / (1 - p)

`keep_mask` is the NumPy reference of the bits; `dropout` is its torch front. With p = 1/2 a mask is one bit a unit
and one Philox word holds the bits of 32 samples. Every other p compares 16 bits a unit with a threshold, so p is
rounded to a multiple of 2^-16; the scale uses the rounded p and the expectation of y is exactly x.

Samples 2i and 2i + 1 are an antithetic pair: the second takes the complemented words of the first. Each member has
the same law, and the errors that are odd in the mask cancel within the pair.

Training addresses a unit by its position in the global batch (row x width + unit), so that masks do not depend on
how the batch is spread over processes. Inference shares one mask among the rows, so that a row's masks do not
depend on its batch. Sources: Srivastava et al. (2014) for dropout, Gal and Ghahramani (2016) for dropout at
inference as a posterior sample; the layout of the counter is in `kernels.philox`.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray

from kernels.philox import check_seed, dropout_half_counter, dropout_threshold_counter, philox4x32

_LEVELS = 1 << 16


def keep_mask(
    n_units: int, p: float, *, seed: int, step: int, layer: int, samples: int = 1, first_unit: int = 0
) -> NDArray[np.bool_]:
    """Which of the units first_unit .. first_unit + n_units - 1 stay, bool [samples, n_units].

    p: probability of dropping a unit, in [0, 1). samples: 1, or an even number of antithetic pairs. Raises ValueError
    for p, seed, step, layer, samples or a unit outside its range.
    """
    threshold = _threshold(p)
    if n_units < 0 or first_unit < 0:
        raise ValueError(f"n_units = {n_units}, first_unit = {first_unit}: both are at least 0")
    if samples < 1 or (samples > 1 and samples % 2):
        raise ValueError(f"samples = {samples} is neither 1 nor even (antithetic pairs)")
    if not 0 <= step < 1 << 32:
        raise ValueError(f"step = {step} is outside [0, 2^32)")
    check_seed(seed)
    first_samples = np.arange(0, samples, 2)
    if threshold == _LEVELS // 2:
        bits = _half_bits(n_units, first_unit, first_samples, seed, step, layer)
        pairs = [bits, ~bits]
    else:
        draws = _draws(n_units, first_unit, first_samples, seed, step, layer)
        pairs = [draws >= threshold, _LEVELS - 1 - draws >= threshold]
    return np.stack(pairs, axis=1).reshape(2 * len(first_samples), n_units)[:samples]


def dropout(
    x: torch.Tensor,
    p: float,
    *,
    seed: int,
    step: int | torch.Tensor,
    layer: int,
    samples: int = 1,
    stacked: bool = False,
    share_rows: bool = False,
    first_row: int = 0,
) -> torch.Tensor:
    """Dropout of x [..., width] with addressed masks; differentiable in x.

    step: the training step, an integer or an int64 tensor of one element. first_row: position of x's first row in
    the global batch. share_rows: one mask [width] for all rows, as inference needs it. stacked: x is
    [samples, ..., width], each slice with its own sample's mask, as in a second layer. Returns x's shape with
    samples = 1 or stacked, else [samples, *x.shape].

    Raises ValueError for a dtype that is not floating point, a shape without units or with another number of
    slices than samples, and as `keep_mask` does.
    """
    if not x.is_floating_point():
        raise ValueError(f"x has dtype {x.dtype}, not a floating-point type")
    if x.ndim < 1 + stacked or (stacked and len(x) != samples):
        raise ValueError(f"x has shape {tuple(x.shape)}, not [{samples}, ..., width]")
    if isinstance(step, torch.Tensor) and (step.dtype != torch.int64 or step.numel() != 1):
        raise ValueError(f"step is a {step.dtype} tensor of {step.numel()} elements, not one int64")
    rows = tuple(x.shape[stacked:])  # of one sample
    addressed = rows[-1:] if share_rows else rows
    keep = keep_mask(
        math.prod(addressed),
        p,
        seed=seed,
        step=int(step),
        layer=layer,
        samples=samples,
        first_unit=0 if share_rows else first_row * rows[-1],
    )
    shape = (1,) * (len(rows) - len(addressed)) + addressed
    if samples > 1 or stacked:
        shape = (samples, *shape)
    scale = torch.tensor(_LEVELS / (_LEVELS - _threshold(p)), dtype=x.dtype)
    return x * (torch.from_numpy(keep).reshape(shape) * scale).to(x.device)


def _threshold(p: float) -> int:
    """p in units of 2^-16, below 1 even where p rounds to 1."""
    if not 0 <= p < 1:
        raise ValueError(f"p = {p} is outside [0, 1)")
    return min(round(p * _LEVELS), _LEVELS - 1)


def _half_bits(
    n_units: int, first_unit: int, samples: NDArray[np.int64], seed: int, step: int, layer: int
) -> NDArray[np.bool_]:
    """Bits [len(samples), n_units]: word `unit & 3`, bit `sample & 31`."""
    blocks, offset = _blocks(n_units, first_unit, 4)
    holders = np.unique(samples >> 5)  # one call of Philox serves 32 samples
    counter = dropout_half_counter(blocks * 4, (holders * 32)[:, None], step, layer)
    words = np.stack(philox4x32(counter, seed), axis=-1).reshape(len(holders), 4 * len(blocks))
    held = words[:, offset : offset + n_units][np.searchsorted(holders, samples >> 5)]
    return ((held >> (samples & 31).astype(np.uint32)[:, None]) & np.uint32(1)).astype(bool)


def _draws(
    n_units: int, first_unit: int, samples: NDArray[np.int64], seed: int, step: int, layer: int
) -> NDArray[np.int64]:
    """16-bit numbers [len(samples), n_units]: word `(unit >> 1) & 3`, low half for even units, high half for odd."""
    blocks, offset = _blocks(n_units, first_unit, 8)
    counter = dropout_threshold_counter(blocks * 8, samples[:, None], step, layer)
    words = np.stack(philox4x32(counter, seed), axis=-1)  # [samples, blocks, 4]
    halves = np.stack([words & np.uint32(0xFFFF), words >> np.uint32(16)], axis=-1)
    return halves.reshape(len(samples), 8 * len(blocks))[:, offset : offset + n_units].astype(np.int64)


def _blocks(n_units: int, first_unit: int, units_a_block: int) -> tuple[NDArray[np.int64], int]:
    """Numbers of the counters that hold the units, and the first unit's place in the first of them."""
    first, end = first_unit // units_a_block, -(-(first_unit + n_units) // units_a_block)
    return np.arange(first, end), first_unit - first * units_a_block
