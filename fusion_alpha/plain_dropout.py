"""torch's own dropout behind the interface of `kernels.dropout`: the baseline that BICEP is compared with.

The masks are torch's, drawn by `torch.nn.functional.dropout` from the default generator of x's device. That generator
is seeded for each call by a Philox word addressed by (seed, step, layer, sample, first row) and put back afterwards, so
that trainings repeat and nothing else notices. Unlike addressed masks they are a sequence: they depend on the shape
of x and the kind of device, and processes that share a batch draw other masks than one process.
"""

import torch
from torch import Tensor
from torch.nn import functional

from kernels.philox import Op, normal_counter, philox4x32

_SEED_STREAM = 1 << 16  # plus the layer; below it are the streams of the other uniforms


def plain_dropout(
    x: Tensor,
    p: float,
    *,
    seed: int,
    step: int | Tensor,
    layer: int,
    samples: int = 1,
    stacked: bool = False,
    share_rows: bool = False,
    first_row: int = 0,
) -> Tensor:
    """Arguments, shapes and meaning as in `kernels.torch_front.dropout`; each sample is a call of its own, no pairs."""
    slices = []
    for sample in range(samples):
        part = x[sample] if stacked else x
        counter = normal_counter(4 * sample, first_row, int(step), _SEED_STREAM + layer, op=Op.UNIFORMS)
        high, low, _, _ = philox4x32(counter, seed)
        shaped = part.new_ones(part.shape[-1]) if share_rows else part
        dropped = _seeded(shaped, p, int(high) << 32 | int(low))
        slices.append(part * dropped if share_rows else dropped)
    return torch.stack(slices) if samples > 1 or stacked else slices[0]


def _seeded(x: Tensor, p: float, seed: int) -> Tensor:
    generator = torch.default_generator if x.device.type == "cpu" else torch.cuda.default_generators[x.device.index]
    before = generator.get_state()
    generator.manual_seed(seed)
    try:
        return functional.dropout(x, p)
    finally:
        generator.set_state(before)
