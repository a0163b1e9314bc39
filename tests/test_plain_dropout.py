"""torch's dropout behind BICEP's interface: torch's own masks, repeated by address, nothing else disturbed."""

import pytest
import torch
from fusion_market import configuration, market
from torch.nn import functional

from fusion_alpha import prediction, samples, training
from fusion_alpha.fusionnet import Noise
from fusion_alpha.plain_dropout import plain_dropout

CPU = torch.device("cpu")
ADDRESS = {"seed": 7, "step": 3, "layer": 0}


@pytest.fixture(scope="module")
def frames():
    return market()


def ones(*shape):
    return torch.ones(shape, requires_grad=True)


def test_masks_are_those_of_torch_s_own_dropout(monkeypatch):
    seeds = []
    draw = functional.dropout
    monkeypatch.setattr(functional, "dropout", lambda x, p: seeds.append(torch.initial_seed()) or draw(x, p))
    x = torch.linspace(-1, 1, 999).reshape(27, 37)
    got = plain_dropout(x, 0.3, **ADDRESS)
    monkeypatch.undo()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds[0])
        assert torch.equal(got, torch.nn.Dropout(0.3)(x))


def test_masks_repeat_by_address_and_differ_between_addresses():
    x = ones(64, 48)
    first = plain_dropout(x, 0.5, **ADDRESS)
    torch.rand(5)  # what others draw in between does not matter
    assert torch.equal(plain_dropout(x, 0.5, **ADDRESS), first)
    for other in ({"seed": 8}, {"step": 4}, {"layer": 1}, {"first_row": 64}):
        assert not torch.equal(plain_dropout(x, 0.5, **ADDRESS | other), first), other


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    plain_dropout(ones(9), 0.5, **ADDRESS, samples=4)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_share_that_stays_the_scale_and_the_gradient(p):
    x = ones(200, 500)
    y = plain_dropout(x, p, **ADDRESS)
    y.sum().backward()
    assert y.unique().tolist() == [0.0, pytest.approx(1 / (1 - p))]
    assert torch.equal(x.grad, y.detach())
    z = ((y != 0).double().mean() - (1 - p)) / (p * (1 - p) / y.numel()) ** 0.5
    assert abs(z) < 4


def test_no_dropout_is_the_identity():
    x = ones(5, 6)
    assert torch.equal(plain_dropout(x, 0.0, **ADDRESS), x)


def test_shapes_of_samples_and_shared_rows():
    x = ones(5, 48)
    many = plain_dropout(x, 0.5, **ADDRESS, samples=4, share_rows=True)
    assert many.shape == (4, 5, 48)
    assert (many == many[:, :1]).all()  # one mask for all rows
    assert not torch.equal(many[0], many[1])
    assert torch.equal(plain_dropout(x, 0.5, **ADDRESS, samples=2, share_rows=True), many[:2])
    stacked = plain_dropout(many, 0.5, **ADDRESS | {"layer": 1}, samples=4, stacked=True, share_rows=True)
    assert stacked.shape == many.shape


def test_monte_carlo_inference_of_a_network_with_torch_s_masks(frames):
    cfg = configuration(mask="torch")
    data = samples.build(frames, cfg)
    net = training.start(data, cfg, CPU).net
    rows = data.select("dev")
    predicted = prediction.predict(net, data, rows, mc_samples=32, device=CPU)
    assert (predicted["sd_ret"] > 0).all()
    again = prediction.predict(net, data, rows[3:9], mc_samples=32, device=CPU)
    assert again.equals(predicted.iloc[3:9].reset_index(drop=True))  # a row does not depend on its batch
    batch = data.gather(rows)
    assert net(batch, Noise(samples=32, share_rows=True)).mean.std(dim=0).min() > 0


def test_training_with_torch_s_masks_repeats_and_is_another_training(frames):
    cfg, other = configuration(mask="torch"), configuration()
    data = samples.build(frames, cfg)
    first, again, bicep = (training.train(data, c, CPU).curves for c in (cfg, cfg, other))
    assert first == again
    assert first != bicep
