"""FusionNet: every variant runs, masked tokens do not count, gate, thresholds and samples are what they say."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fusion_market import configuration, market

from fusion_alpha import fusionnet, samples, training
from fusion_alpha.fusionnet import FEATURE_CLIP, FusionNet, Noise, Scaler, Thresholds
from kernels.sticky import sticky_mask

VARIANTS = ("fused", "attention", "concat", "price_only", "text_only")
ROWS = np.arange(40, 72)


@pytest.fixture(scope="module")
def frames():
    return market()


def network(frames, variant="fused", **model):
    """A network with fitted scalers in evaluation mode, and a batch."""
    cfg = configuration(variant, **model)
    data = samples.build(frames, cfg)
    return training.start(data, cfg, torch.device("cpu")).net.eval(), data.gather(ROWS)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_gives_finite_outputs_in_range(frames, variant):
    net, batch = network(frames, variant)
    for noise in (None, Noise(step=3), Noise(samples=4, share_rows=True)):
        output = net(batch, noise)
        shape = (4, 32) if noise and noise.samples == 4 else (32,)
        for value in vars(output).values():
            assert value.shape == shape
            assert value.isfinite().all()
        assert (output.sd > 0).all()
        assert ((output.severity >= 0) & (output.severity <= 1)).all()
    assert (net(batch).severity == 1).all() == (variant != "fused")  # without a gate it is open


def test_an_untrained_network_says_that_it_knows_nothing(frames):
    net, batch = network(frames)
    output = net(batch)
    assert output.logit.abs().max() < 0.5
    assert ((output.sd > 0.6) & (output.sd < 1.6)).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_masked_tokens_do_not_count(frames, variant):
    net, batch = network(frames, variant)
    junk = replace(
        batch,
        sessions=batch.sessions.masked_fill(~batch.session_mask[..., None], 99.0),
        score=batch.score.masked_fill(~batch.session_mask, 99.0),
        news=batch.news.masked_fill(~batch.news_mask[..., None], 99.0) if variant != "price_only" else batch.news,
    )
    torch.testing.assert_close(net(junk).mean, net(batch).mean, rtol=1e-5, atol=1e-6)


def test_weights_come_from_the_seed_and_leave_the_global_generator_alone(frames):
    cfg = configuration()
    before = torch.get_rng_state()

    def weights(seed):
        return FusionNet(cfg.model, n_features=5, text_dim=8, tau=(0.5, 0.5), seed=seed).state_dict()

    first, again, other = weights(1), weights(1), weights(2)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(value.isfinite().all() for value in first.values())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["state.weight"], other["state.weight"])


def test_monte_carlo_samples_share_everything_before_the_first_dropout(frames, monkeypatch):
    net, batch = network(frames)
    calls = []
    encode = net.encode
    monkeypatch.setattr(net, "encode", lambda batch, noise: calls.append(len(batch.label)) or encode(batch, noise))
    net(batch, Noise(samples=32, share_rows=True))
    assert calls == [32]


def test_samples_are_the_masks_of_the_addresses_whatever_their_number(frames):
    net, batch = network(frames)
    many, few = (net(batch, Noise(samples=n, share_rows=True)) for n in (8, 2))
    torch.testing.assert_close(many.mean[:2], few.mean)
    assert not torch.equal(many.mean[0], many.mean[2])
    without = network(frames, dropout=0.0)[0]
    assert torch.equal(without(batch, Noise(samples=2, share_rows=True)).mean[1], without(batch).mean)


def refuse(*_args, **_kwargs):
    raise AssertionError("called although it is off")


def masked_features(net, batch, noise):
    """True where a session's feature had no way into the state, [B, L, F]."""
    sessions = batch.sessions.nan_to_num().requires_grad_()
    net.encode(replace(batch, sessions=sessions), noise).square().sum().backward()
    return sessions.grad == 0


def test_sticky_masks_are_off_by_default(frames, monkeypatch):
    net, batch = network(frames)
    monkeypatch.setattr(fusionnet, "sticky_dropout", refuse)
    net.train()(batch, Noise(step=1))
    net, _ = network(frames, sticky_p=0.3)
    net.eval()(batch, Noise(step=1))  # inference never masks
    net.train()(batch)  # nor does a pass without noise
    with pytest.raises(AssertionError, match="off"):
        net.train()(batch, Noise(step=1))


def test_sticky_masks_change_training_alone(frames):
    plain, batch = network(frames)
    sticky, _ = network(frames, sticky_p=0.3)
    for noise in (None, Noise(step=3), Noise(samples=4, share_rows=True)):
        assert torch.equal(sticky.eval()(batch, noise).mean, plain.eval()(batch, noise).mean)
    assert not torch.equal(sticky.train()(batch, Noise(step=3)).mean, plain.train()(batch, Noise(step=3)).mean)


@pytest.mark.parametrize("fusion", ["fused", "price_only"])
def test_gradients_reach_the_features_that_a_sticky_mask_leaves(frames, fusion):
    net, batch = network(frames, fusion, sticky_p=0.3, sticky_rho=0.9)
    keep = torch.from_numpy(sticky_mask(*batch.sessions.shape, 0.3, 0.9, seed=net.seed, step=3, layer=0, first_row=5))
    free = masked_features(net.eval(), batch, None)  # masked sessions, clipped features
    assert torch.equal(masked_features(net.train(), batch, Noise(step=3, first_row=5)), ~keep | free)


def test_sticky_masks_do_not_depend_on_how_the_batch_is_cut(frames):
    net, batch = network(frames, sticky_p=0.3)
    whole = net.train().encode(batch, Noise(step=3, first_row=100))
    for part in (slice(0, 5), slice(5, 32)):
        cut = replace(batch, **{name: value[part] for name, value in vars(batch).items()})
        state = net.encode(cut, Noise(step=3, first_row=100 + part.start))
        torch.testing.assert_close(state, whole[part])


def test_scaler_uses_known_values_clips_and_centres_constants():
    x = torch.tensor([[1.0, 5.0, torch.nan], [3.0, 5.0, 2.0], [torch.nan, 5.0, 4.0]])
    scaler = Scaler(3)
    scaler.fit(x)
    assert torch.equal(scaler.mean, torch.tensor([2.0, 5.0, 3.0]))
    expected = torch.tensor([[-1.0, 0.0, 0.0], [1.0, 0.0, -1.0], [0.0, 0.0, 1.0]])
    assert torch.equal(scaler(x), expected)
    assert scaler(torch.tensor([1e6, 5.0, -1e6])).tolist() == [FEATURE_CLIP, 0.0, -FEATURE_CLIP]


def thresholds(over, under, persistence=0.5):
    module = Thresholds(over, under)
    with torch.no_grad():
        module.raw.copy_(torch.log(torch.expm1(torch.tensor(module.start))))
        module.fade.copy_(torch.logit(torch.tensor([persistence])))
    return module


def test_thresholds_are_soft_in_training_and_hard_otherwise():
    module, score = thresholds(0.7, 0.4), torch.tensor([0.8, 0.6, 0.0, -0.3, -0.5])[:, None]
    seen = torch.ones(5, 1, dtype=torch.bool)
    hard = module.eval()(score, seen)
    assert hard.tolist() == [[1, 0], [0, 0], [0, 0], [0, 0], [0, 1]]
    soft = module.train()(score, seen)
    assert ((soft > 0) & (soft < 1)).all()
    assert torch.equal((soft > 0.5).float(), hard)


def test_earlier_contradictions_fade_and_masked_sessions_leave_nothing():
    module = thresholds(0.5, 0.5, persistence=0.25).eval()
    score = torch.tensor([[-1.0, 1.0, 1.0, 0.0], [1.0, -1.0, 0.0, 1.0]])
    mask = torch.tensor([[False, True, True, True], [True, True, True, True]])
    torch.testing.assert_close(
        module(score, mask), torch.tensor([[0.25**2 + 0.25, 0.0], [1 + 0.25**3, 0.25**2]]), rtol=1e-6, atol=0
    )


def test_thresholds_get_their_gradient_from_the_loss(frames):
    net, batch = network(frames)
    net.train()
    training.loss(net(batch, Noise(step=1)), batch, beta=0.5)[0].backward()
    assert (net.thresholds.raw.grad.abs() > 0).all()
    assert net.thresholds.fade.grad.abs() > 0
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters())


def test_a_model_without_the_score_has_no_thresholds(frames):
    assert network(frames, "price_only")[0].tau() is None
    assert network(frames, "fused")[0].tau() == pytest.approx((0.75, 0.75))
