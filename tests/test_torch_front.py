"""The torch front: gradients, fake tensors, compile, checkpointing, vmap, and the masks of the kernels."""

import shutil

import numpy as np
import pytest
import torch
from torch.utils.checkpoint import checkpoint

from kernels import dropout as dropout_kernel
from kernels.bridge import bridge_augment as bridge_of_arrays
from kernels.dropout import keep_mask
from kernels.paths import paths as paths_of_arrays
from kernels.sticky import sticky_mask
from kernels.torch_front import bridge_augment, dropout, paths, sticky_dropout

ADDRESS = {"seed": 2**63 + 5, "step": 12, "layer": 3}
BIG_ROW = (2**34 - 12) // 3
STEP = torch.tensor([12])


def noise(*shape, **options):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), **options)


def test_antithetic_pair_has_the_exact_mean():
    x = torch.ones(100, dtype=torch.float64)
    pair_mean = dropout(x, 0.5, samples=32, share_rows=True, **ADDRESS).mean(dim=0)
    assert torch.equal(pair_mean, x)  # linear in the mask, so a pair's error cancels exactly


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
    big = {"seed": 2**64 - 1, "step": 2**32 - 1, "layer": 2**24 - 1}
    keep = torch.from_numpy(keep_mask(3, 0.5, first_unit=3 * BIG_ROW, **big))
    assert torch.equal(dropout(torch.ones(1, 3), 0.5, first_row=BIG_ROW, **big)[0] > 0, keep[0])


@pytest.mark.parametrize(
    ("x", "step", "stacked"),
    [
        (torch.ones(3, dtype=torch.int64), 0, False),
        (torch.tensor(1.0), 0, False),
        (torch.ones(3), torch.tensor(1.0), False),
        (torch.ones(3), 1.5, False),
        (torch.ones(3, 4), 0, True),
    ],
)
def test_misuse_of_the_front_raises(x, step, stacked):
    with pytest.raises(ValueError, match=r"dtype|shape|int64|integer"):
        dropout(x, 0.5, seed=1, step=step, layer=0, samples=2, stacked=stacked)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype):
    x = noise(4, 50).to(dtype)
    assert torch.equal(dropout(x, 0.3, **ADDRESS), dropout(x.float(), 0.3, **ADDRESS).to(dtype))


def test_non_contiguous_input_equals_its_copy():
    x = noise(33, 5).T
    assert torch.equal(dropout(x, 0.5, **ADDRESS), dropout(x.contiguous(), 0.5, **ADDRESS))


@pytest.mark.parametrize(("samples", "stacked"), [(1, False), (4, False), (4, True)])
def test_gradients_to_second_order(samples, stacked):
    x = noise(*((samples,) if stacked else ()), 3, 5, dtype=torch.float64).requires_grad_()

    def front(value):
        return dropout(value, 0.5, samples=samples, stacked=stacked, **ADDRESS)

    assert torch.autograd.gradcheck(front, x)
    assert torch.autograd.gradgradcheck(front, x)


def test_the_operator_keeps_torchs_contract():
    for shape, samples in (((1, 3, 7), 4), ((4, 3, 7), 4), ((1, 3, 7), 1)):
        torch.library.opcheck(torch.ops.bicep.dropout.default, (noise(*shape), STEP, 0.5, 7, 3, samples, 0))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiles_into_one_graph(backend):
    if backend == "inductor" and shutil.which("g++") is None:
        pytest.skip("g++ is missing: inductor compiles C++")

    def layer(x, step):
        return dropout(torch.tanh(x), 0.5, seed=5, step=step, layer=1).square().sum()

    compiled = torch.compile(layer, backend=backend, fullgraph=True)
    for step in (STEP, STEP + 1):
        grads = []
        for function in (layer, compiled):
            x = noise(6, 40).requires_grad_()
            function(x, step).backward()
            grads.append(x.grad)
        torch.testing.assert_close(*grads)
        assert torch.equal(grads[0] == 0, grads[1] == 0)


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing_repeats_the_masks(reentrant):
    def layer(x, step):
        return dropout(torch.tanh(x), 0.5, seed=5, step=step, layer=1)

    grads = []
    for run in (layer, lambda x, step: checkpoint(layer, x, step, use_reentrant=reentrant)):
        x = noise(6, 40).requires_grad_()
        outputs = [run(x, STEP + k) for k in range(3)]  # later passes must not disturb earlier ones
        sum(value.square().sum() for value in outputs).backward()
        grads.append(x.grad)
    assert torch.equal(*grads)


@pytest.mark.parametrize("samples", [1, 4])
def test_vmap_equals_single_calls(samples):
    x = noise(5, 3, 7)

    def front(value):
        return dropout(value, 0.5, samples=samples, **ADDRESS)

    assert torch.equal(torch.vmap(front)(x), torch.stack([front(value) for value in x]))
    assert torch.equal(torch.vmap(front, in_dims=1)(x), torch.stack([front(value) for value in x.unbind(1)]))
    grads = torch.vmap(torch.func.grad(lambda value: front(value).square().sum()))(x)
    assert torch.equal(grads, torch.stack([torch.func.grad(lambda v: front(v).square().sum())(value) for value in x]))


def test_vmap_over_steps_has_masks_of_its_own_each():
    x, steps = noise(3, 7), torch.arange(4)[:, None]

    def front(step):
        return dropout(x, 0.5, seed=1, step=step, layer=0)

    assert torch.equal(torch.vmap(front)(steps), torch.stack([front(step) for step in steps]))


def test_fake_tensors_have_the_real_shape():
    with torch._subclasses.FakeTensorMode():
        y = dropout(torch.empty(3, 5), 0.5, samples=4, seed=1, step=torch.tensor([2]), layer=0)
    assert y.shape == (4, 3, 5)


def sticky(x, step=12):
    return sticky_dropout(x, 0.3, 0.8, seed=ADDRESS["seed"], step=step, layer=3, first_row=2)


def bridge(window, sigma, step=12):
    return bridge_augment(window, sigma, seed=ADDRESS["seed"], step=step, first_row=2)


@pytest.mark.parametrize("seed", [np.int64(5), np.uint64(2**63 + 5)])
def test_seed_may_be_numpys(seed):
    x = torch.ones(3, 4)
    assert torch.equal(dropout(x, 0.3, seed=seed, step=1, layer=0), dropout(x, 0.3, seed=int(seed), step=1, layer=0))


def test_sticky_dropout_is_the_mask_times_its_scale():
    x = noise(3, 9, 5).requires_grad_()
    keep = torch.from_numpy(sticky_mask(3, 9, 5, 0.3, 0.8, first_row=2, **ADDRESS))
    y = sticky(x)
    assert torch.equal(y, x * (keep * torch.tensor(dropout_kernel.scale(0.3))))
    y.sum().backward()
    assert torch.equal(x.grad > 0, keep)


def test_bridge_is_the_kernels_and_lets_the_gradient_pass():
    window, sigma = noise(4, 20), torch.full((4,), 0.1)
    leaf = window.clone().requires_grad_()
    y = bridge(leaf, sigma)
    expected = bridge_of_arrays(window.numpy(), sigma.numpy(), seed=ADDRESS["seed"], step=12, first_row=2)
    assert torch.equal(y, torch.from_numpy(expected))
    (3 * y).sum().backward()
    assert torch.equal(leaf.grad, torch.full((4, 20), 3.0))


def test_series_operators_keep_torchs_contract():
    torch.library.opcheck(torch.ops.bicep.sticky_mask.default, (STEP, 3, 9, 5, 0.3, 0.8, 7, 3, 0))
    arguments = (noise(4, 20), torch.full((4,), 0.1), STEP, 7, 0, "normal")
    torch.library.opcheck(torch.ops.bicep.bridge.default, arguments)


def test_series_operators_compile_into_one_graph():
    def layer(x, sigma, step):
        return (sticky(x, step).sum(-1) + bridge(x[..., 0], sigma, step)).square().sum()

    x, sigma = noise(3, 9, 5), torch.full((3,), 0.1)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    for step in (STEP, STEP + 1):
        torch.testing.assert_close(compiled(x, sigma, step), layer(x, sigma, step))


def test_series_operators_under_vmap_equal_single_calls():
    x, windows, sigma = noise(2, 3, 9, 5), noise(2, 4, 20), torch.full((4,), 0.1)
    assert torch.equal(torch.vmap(sticky)(x), torch.stack([sticky(value) for value in x]))
    batched = torch.vmap(bridge, in_dims=(0, None))(windows, sigma)
    assert torch.equal(batched, torch.stack([bridge(value, sigma) for value in windows]))


@pytest.mark.parametrize(
    ("call", "rule"),
    [
        (lambda: sticky_dropout(torch.ones(3, 4), 0.5, 0.5, seed=1, step=0, layer=0), "shape"),
        (lambda: sticky_dropout(torch.ones(1, 3, 4), 1.0, 0.5, seed=1, step=0, layer=0), "p = 1.0"),
        (lambda: bridge(torch.ones(3, 4, dtype=torch.float64), torch.ones(3)), "float32"),
        (lambda: bridge(torch.ones(3, 4), torch.ones(3, requires_grad=True)), "gradient"),
        (lambda: bridge(torch.ones(3, 4), torch.tensor([1.0, float("nan"), 1.0])), "finite"),
        (lambda: bridge(torch.ones(3, 4), torch.ones(3), torch.tensor([-1])), "step = -1"),
    ],
)
def test_misuse_of_the_series_operators_raises(call, rule):
    with pytest.raises(ValueError, match=rule):
        call()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_paths_are_the_kernels(dtype):
    options = {"vol": 0.1, "drift": 0.01, "seed": 5, "increments": "normal", "bridge_to": 1.0}
    walks = paths(33, 20, dtype=dtype, **options)
    assert walks.dtype == dtype
    expected = paths_of_arrays(33, 20, dtype=str(dtype).removeprefix("torch."), **options)
    assert torch.equal(walks, torch.from_numpy(expected))


def test_misuse_of_paths_raises():
    with pytest.raises(ValueError, match="float16"):
        paths(3, 4, vol=0.1, seed=1, dtype=torch.float16)
    for device in ("meta", "tpu"):
        with pytest.raises(ValueError, match=device):
            paths(3, 4, vol=0.1, seed=1, device=device)
    with pytest.raises(ValueError, match="vol"):
        paths(3, 4, vol=float("nan"), seed=1)
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="cuda"):
            paths(3, 4, vol=0.1, seed=1, device="cuda")


@pytest.mark.gpu
def test_gpu_runs_on_torchs_stream_and_gives_the_bits_of_the_cpu():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    x = noise(64, 1009)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        there = dropout(x.cuda(), 0.5, seed=5, step=STEP.cuda(), layer=1)
    stream.synchronize()
    assert torch.equal(there.cpu(), dropout(x, 0.5, seed=5, step=STEP, layer=1))
