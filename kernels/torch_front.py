"""The operations as PyTorch functions: gradients, fake tensors, `torch.compile`, checkpointing, `vmap`, both devices.

Tensors are shared with the kernels, not copied: NumPy views on a CPU, DLPack views on a GPU, where a kernel runs on
torch's current stream. `step` is an argument and never a counter inside: activation checkpointing runs a forward pass
twice, and a counter would give its second run other masks. Under `torch.compile` and CUDA graphs pass it as a tensor
(an integer becomes a constant of the graph), and call an operation once before its launch is captured: the first call
compiles it.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kernels import bridge as _bridge
from kernels import cuda
from kernels import dropout as _dropout
from kernels import paths as _paths
from kernels import sticky as _sticky
from kernels.philox import check_index

_WHOLE = 1 << 64


def dropout(
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
    """Dropout of x [..., width] with addressed masks (`kernels.dropout`); differentiable in x.

    step: the training step, an integer or an int64 tensor of one element (on a GPU taken modulo 2^32, unchecked: a
    check would wait for the device). first_row: position of x's first row in the global batch. Training addresses a
    unit by its position in the global batch (row x width + unit), so that masks do not depend on how the batch is
    spread over processes. share_rows: one mask [width] for all rows, as inference needs it, so that a row's masks do
    not depend on its batch. stacked: x is [samples, ..., width], each slice with its own sample's mask, as in a second
    layer. Returns x's shape with samples = 1 or stacked, else [samples, *x.shape].

    Under `vmap` every slice gets the masks that it would get alone. Raises ValueError for a dtype that is not floating
    point, a shape without units or with another number of slices than samples, and as `kernels.dropout.keep_mask`.
    """
    if not x.is_floating_point():
        raise ValueError(f"x has dtype {x.dtype}, not a floating-point type")
    if x.ndim < 1 + stacked or (stacked and len(x) != samples):
        raise ValueError(f"x has shape {tuple(x.shape)}, not [{samples}, ..., width]")
    rows = tuple(x.shape[stacked:])  # of one sample
    units = rows[-1] if share_rows else math.prod(rows)
    first_unit = 0 if share_rows else first_row * rows[-1]
    step = _as_step(step, x.device)
    if not torch.compiler.is_compiling():
        _dropout.check(p, _dropout.Address(seed, 0, layer), samples, units, first_unit)
    cube = x.reshape(samples if stacked else 1, math.prod(rows) // units if units else 1, units)
    y = _Dropout.apply(cube, step, p, _signed(seed), layer, samples, first_unit)
    return y.reshape(x.shape if samples == 1 or stacked else (samples, *x.shape))


def sticky_dropout(
    x: Tensor, p: float, rho: float, *, seed: int, step: int | Tensor, layer: int, first_row: int = 0
) -> Tensor:
    """Dropout of x [batch, time, features] whose masks hold over time (`kernels.sticky`); differentiable in x.

    rho: probability of holding from one time to the next. step, layer, first_row: as in `dropout`. Raises ValueError
    for another shape or dtype and as `kernels.sticky.sticky_mask`.
    """
    if not x.is_floating_point() or x.ndim != 3:
        raise ValueError(f"x is {x.dtype} of shape {tuple(x.shape)}, not a floating-point [batch, time, features]")
    step = _as_step(step, x.device)
    if not torch.compiler.is_compiling():
        _sticky.check(tuple(x.shape), p, rho, _dropout.Address(seed, 0, layer), first_row)
    mask = torch.ops.bicep.sticky_mask(step, *x.shape, p, rho, _signed(seed), layer, first_row)
    return x * (mask.to(x.dtype) * _dropout.scale(p))  # the scale as a number: a tensor would be copied to the GPU


def bridge_augment(
    window: Tensor,
    sigma: Tensor,
    *,
    seed: int,
    step: int | Tensor,
    first_row: int = 0,
    increments: _bridge.Increments = "normal",
) -> Tensor:
    """window [B, T] plus a Brownian bridge of sigma [B] a step (`kernels.bridge`); differentiable in window.

    Both float32 on one device; values are checked on a CPU only, a check on a GPU would wait for it. Raises ValueError
    as `kernels.bridge.bridge_augment`, and for a sigma that asks for a gradient, which there is none.
    """
    if window.dtype != torch.float32 or sigma.dtype != torch.float32:
        raise ValueError(f"window is {window.dtype}, sigma {sigma.dtype}: both are float32")
    if sigma.requires_grad:
        raise ValueError("sigma asks for a gradient, but the bridge is differentiable in window only")
    step = _as_step(step, window.device)
    if not torch.compiler.is_compiling():
        _bridge.check(tuple(window.shape), tuple(sigma.shape), seed, 0, first_row, increments)
    return _Bridge.apply(window, sigma, step, _signed(seed), first_row, increments)


def paths(
    n_paths: int, n_steps: int, *, dtype: torch.dtype = torch.float32, device: str = "cpu", **options: Any
) -> Tensor:
    """Walks [n_paths, n_steps + 1] of `kernels.paths`, written into a tensor on its device; options as there.

    A source of numbers like `torch.randn`, without gradient; it is no operator, so call it outside compiled code.
    Raises ValueError as `kernels.paths.paths`, RuntimeError for device="cuda" where there is none.
    """
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype = {dtype} is neither torch.float32 nor torch.float64")
    if str(device).partition(":")[0] not in ("cpu", "cuda"):  # a name that torch does not know is a RuntimeError there
        raise ValueError(f"device = {device!r} is neither 'cpu' nor 'cuda'")
    what = _paths.plan(n_paths, n_steps, dtype=str(dtype).removeprefix("torch."), **options)
    if torch.device(device).type == "cuda":
        cuda.current()  # says what is missing before torch does
    out = torch.empty(what.shape, dtype=dtype, device=device)
    if out.is_cuda:
        with cuda.on_stream_of(out) as there:
            _paths.on_device(there, what, cuda.view(out))
    else:
        _paths.on_cpu(what, out.numpy())
    return out


class _Dropout(torch.autograd.Function):
    """The operator with its gradient, in the form that functorch's transforms (vmap of grad) can take."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, step: Tensor, p: float, seed: int, layer: int, samples: int, first_unit: int) -> Tensor:
        return torch.ops.bicep.dropout(x, step, p, seed, layer, samples, first_unit)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, step, ctx.p, ctx.seed, ctx.layer, ctx.samples, ctx.first_unit = inputs
        ctx.save_for_backward(step)
        ctx.shared = x.shape[0] == 1

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The mask again, from its address; samples of one x add up."""
        (step,) = ctx.saved_tensors
        masked = _Dropout.apply(gradient, step, ctx.p, ctx.seed, ctx.layer, ctx.samples, ctx.first_unit)
        return masked.sum(dim=0, keepdim=True) if ctx.shared else masked, None, None, None, None, None, None


class _Bridge(torch.autograd.Function):
    """The operator; what is added does not depend on window, so its gradient passes through."""

    generate_vmap_rule = True

    @staticmethod
    def forward(window: Tensor, sigma: Tensor, step: Tensor, seed: int, first_row: int, increments: str) -> Tensor:
        return torch.ops.bicep.bridge(window, sigma, step, seed, first_row, increments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return gradient, None, None, None, None, None


def _as_step(step: int | Tensor, device: torch.device) -> Tensor:
    if isinstance(step, Tensor):
        if step.dtype != torch.int64 or step.numel() != 1:
            raise ValueError(f"step is a {step.dtype} tensor of {step.numel()} elements, not one int64")
        return step.reshape(1).to(device)
    return torch.full((1,), check_index("step", step, 32), dtype=torch.int64, device=device)


def _signed(seed: int) -> int:
    """A seed in [0, 2^64) as torch's 64-bit integer."""
    seed = int(seed)  # also of NumPy, whose own unsigned integers cannot be negative
    return seed - _WHOLE if seed >= _WHOLE // 2 else seed


_library = torch.library.Library("bicep", "DEF")
_library.define(
    "dropout(Tensor x, Tensor step, float p, int seed, int layer, int samples, SymInt first_unit) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)
_library.define(
    "sticky_mask(Tensor step, SymInt batch, SymInt time, SymInt features, float p, float rho, int seed, int layer, "
    "SymInt first_row) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)
_library.define(
    "bridge(Tensor window, Tensor sigma, Tensor step, int seed, SymInt first_row, str increments) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)


def _dropout_kernel(x: Tensor, step: Tensor, p: float, seed: int, layer: int, samples: int, first_unit: int) -> Tensor:
    """x [1 or samples, rows, units] -> [samples, rows, units]."""
    out = x.new_empty((samples, *x.shape[1:]))
    if not out.numel():
        return out
    if x.dtype not in (torch.float32, torch.float64):  # the kernels' types; halves are rounded once, as torch does
        wide = torch.ops.bicep.dropout(x.float(), step, p, seed, layer, samples, first_unit)
        return out.copy_(wide)
    x = x.contiguous()
    seed %= _WHOLE
    if x.is_cuda:
        with cuda.on_stream_of(x) as device:
            _dropout.on_device(device, cuda.view(x), cuda.view(out), p, seed, cuda.view(step), layer, first_unit)
    else:
        address = _dropout.Address(seed, int(step), layer)
        _dropout.check(p, address, samples, x.shape[2], first_unit)
        _dropout.on_cpu(x.numpy(), out.numpy(), p, address, first_unit)
    return out


def _dropout_shape(x: Tensor, step: Tensor, p: float, seed: int, layer: int, samples: int, first_unit: int) -> Tensor:
    return x.new_empty((samples, *x.shape[1:]))


def _dropout_vmap(info: Any, dims: tuple[int | None, ...], x: Tensor, step: Tensor, *rest: Any) -> tuple[Tensor, int]:
    """Slices are further rows of the same masks; a batch of steps has masks of its own each."""
    if dims[1] is not None:
        steps = step.movedim(dims[1], 0)
        slices = x.movedim(dims[0], 0) if dims[0] is not None else x.expand(len(steps), *x.shape)
        parts = [torch.ops.bicep.dropout(*pair, *rest) for pair in zip(slices, steps, strict=True)]
        return torch.stack(parts), 0
    slices = x.movedim(dims[0] or 0, 1)  # [samples, batch, rows, units]
    y = torch.ops.bicep.dropout(slices.reshape(len(slices), -1, slices.shape[-1]), step, *rest)
    return y.reshape(len(y), *slices.shape[1:]), 1


def _sticky_kernel(
    step: Tensor, batch: int, time: int, features: int, p: float, rho: float, seed: int, layer: int, first_row: int
) -> Tensor:
    out = step.new_empty((batch, time, features), dtype=torch.bool)
    if not out.numel():
        return out
    seed %= _WHOLE
    if step.is_cuda:
        with cuda.on_stream_of(step) as device:
            bits = cuda.view(out.view(torch.uint8))
            _sticky.on_device(device, bits, p, rho, seed, cuda.view(step), layer, first_row)
    else:
        address = _dropout.Address(seed, int(step), layer)
        _sticky.check(tuple(out.shape), p, rho, address, first_row)
        _sticky.on_cpu(out.numpy(), p, rho, address, first_row)
    return out


def _sticky_shape(
    step: Tensor, batch: int, time: int, features: int, p: float, rho: float, seed: int, layer: int, first_row: int
) -> Tensor:
    return step.new_empty((batch, time, features), dtype=torch.bool)


def _bridge_kernel(
    window: Tensor, sigma: Tensor, step: Tensor, seed: int, first_row: int, increments: _bridge.Increments
) -> Tensor:
    window, sigma = window.contiguous(), sigma.contiguous()
    out = torch.empty_like(window)
    if not out.numel():
        return out
    seed %= _WHOLE
    if window.is_cuda:
        with cuda.on_stream_of(window) as device:
            views = (cuda.view(window), cuda.view(sigma), cuda.view(out))
            _bridge.on_device(device, *views, seed, cuda.view(step), first_row, increments)
    else:
        values, sd = window.numpy(), sigma.numpy()
        _bridge.check(values.shape, sd.shape, seed, int(step), first_row, increments)
        _bridge.check_values(values, sd)
        _bridge.on_cpu(values, sd, out.numpy(), seed, int(step), first_row, increments)
    return out


def _bridge_shape(window: Tensor, sigma: Tensor, step: Tensor, seed: int, first_row: int, increments: str) -> Tensor:
    return torch.empty_like(window, memory_format=torch.contiguous_format)


def _one_by_one(operator: Any) -> Any:
    """vmap as single calls: every slice of a batch begins at the same first row, so rows cannot be joined."""

    def rule(info: Any, dims: tuple[int | None, ...], *inputs: Any) -> tuple[Tensor, int]:
        slices = [
            [value if dim is None else value.select(dim, k) for value, dim in zip(inputs, dims, strict=True)]
            for k in range(info.batch_size)
        ]
        return torch.stack([operator(*values) for values in slices]), 0

    return rule


_OPERATORS: dict[str, tuple[Callable[..., Any], ...]] = {
    "dropout": (_dropout_kernel, _dropout_shape, _dropout_vmap),
    "sticky_mask": (_sticky_kernel, _sticky_shape, _one_by_one(torch.ops.bicep.sticky_mask)),
    "bridge": (_bridge_kernel, _bridge_shape, _one_by_one(torch.ops.bicep.bridge)),
}
for _name, (_kernel, _shape, _vmap) in _OPERATORS.items():
    for _device in ("CPU", "CUDA"):
        _library.impl(_name, _kernel, _device)
    torch.library.register_fake(f"bicep::{_name}", _shape, lib=_library)
    torch.library.register_vmap(f"bicep::{_name}", _vmap, lib=_library)
