"""Training: the same bits twice, roles kept apart, early stopping, planted answers found, and errors."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fusion_market import configuration, market

from fusion_alpha import augmentation, prediction, samples, tables, training
from fusion_alpha.errors import InputError

pytestmark = pytest.mark.usefixtures("deterministic_torch")

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def frames():
    return market()


def same(first, second) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


def test_same_inputs_give_the_same_bits_and_another_seed_does_not(frames):
    cfg = configuration()
    data = samples.build(frames, cfg)
    first, again = (training.train(data, cfg, CPU) for _ in range(2))
    assert same(first.net.state_dict(), again.net.state_dict())
    assert first.curves == again.curves
    cfg.train.seed = 2
    assert not same(first.net.state_dict(), training.train(data, cfg, CPU).net.state_dict())


def test_bridges_on_prices_are_off_by_default_and_repeat(frames, monkeypatch):
    cfg = configuration()
    data = samples.build(frames, cfg)
    plain = training.train(data, cfg, CPU)
    cfg.train = replace(cfg.train, augment_bridge=0.5)
    moved, again = (training.train(data, cfg, CPU) for _ in range(2))
    assert same(moved.net.state_dict(), again.net.state_dict())
    assert not same(moved.net.state_dict(), plain.net.state_dict())
    batch = data.gather(data.select("dev")[:8])
    moved.net.load_state_dict(plain.net.state_dict())
    assert torch.equal(moved.net(batch).mean, plain.net(batch).mean)
    monkeypatch.setattr(augmentation, "bridge_augment", None)
    cfg.train = replace(cfg.train, augment_bridge=0.0)
    assert same(training.train(data, cfg, CPU).net.state_dict(), plain.net.state_dict())


def test_bfloat16_computes_in_it_and_keeps_weights_and_losses_in_float32(frames, monkeypatch):
    cfg = configuration()
    data = samples.build(frames, cfg)
    full = training.train(data, cfg, CPU)
    seen = []
    heads = torch.nn.Linear.forward

    def forward(layer, x):
        y = heads(layer, x)
        seen.append((layer.training, y.dtype))
        return y

    monkeypatch.setattr(torch.nn.Linear, "forward", forward)
    cfg.train = replace(cfg.train, precision="bfloat16")
    mixed, again = (training.train(data, cfg, CPU) for _ in range(2))
    assert set(seen) == {(True, torch.bfloat16), (False, torch.float32)}
    assert {value.dtype for value in mixed.net.state_dict().values()} == {torch.float32}
    assert same(mixed.net.state_dict(), again.net.state_dict())
    assert not same(mixed.net.state_dict(), full.net.state_dict())
    assert mixed.best_loss == pytest.approx(full.best_loss, rel=0.02)


@pytest.mark.parametrize("variant", ["fused", "attention", "concat", "price_only", "text_only"])
def test_every_ablation_trains(frames, variant):
    cfg = configuration(variant)
    state = training.train(samples.build(frames, cfg), cfg, CPU)
    assert state.epoch == 2
    assert np.isfinite(state.table().to_numpy()).all()
    assert list(state.table()) == ["epoch", *(f"{r}_{n}" for r in ("train", "dev") for n in ("loss", "bce", "nll"))]


def test_test_rows_are_never_touched(frames):
    cfg = configuration()
    poisoned = {name: table.copy() for name, table in frames.items()}
    is_test = (frames["panel"]["split"] == "test").to_numpy()
    rng = np.random.default_rng(1)
    poisoned["panel"].loc[is_test, "target_ret"] = rng.standard_normal(is_test.sum())
    poisoned["panel"].loc[is_test, "target_label"] = True
    poisoned["technical"].loc[is_test, "ret_5"] = 1e3
    poisoned["contradiction"].loc[is_test, "cs"] = 5.0
    plain, other = (training.train(samples.build(tables, cfg), cfg, CPU) for tables in (frames, poisoned))
    assert same(plain.net.state_dict(), other.net.state_dict())


def test_scalers_see_train_rows_only(frames):
    cfg = configuration()
    poisoned = {name: table.copy() for name, table in frames.items()}
    later = (frames["panel"]["split"] != "train").to_numpy()
    poisoned["technical"].loc[later, "ret_5"] = 1e3
    keys = frames["panel"].loc[later, tables.BAR_KEY].assign(later=True)
    of_later = poisoned["news_bars"].merge(keys, on=tables.BAR_KEY, how="left")["later"].notna().to_numpy()
    poisoned["news_bars"].loc[of_later, "is_repost"] = True
    plain, other = (training.start(samples.build(tables, cfg), cfg, CPU).net for tables in (frames, poisoned))
    assert same(plain.state_dict(), other.state_dict())
    usable = samples.build(frames, cfg).select("train")
    expected = frames["technical"]["ret_5"].to_numpy("float32")[usable].mean()
    assert plain.scale_sessions.mean[1].item() == pytest.approx(expected, rel=1e-5)


def test_early_stopping_keeps_the_best_epoch(frames):
    cfg = configuration()
    cfg.train = replace(cfg.train, epochs=40, patience=3, lr=0.02)
    data = samples.build(frames, cfg)
    state = training.train(data, cfg, CPU)
    losses = state.table()["dev_loss"]
    assert state.epoch == state.best_epoch + 3 < 40
    assert losses.idxmin() + 1 == state.best_epoch
    dev = training.evaluate(state.net, data, data.select("dev", labelled=True), cfg.train.beta, CPU)
    assert dev["loss"] == losses.min()


def test_the_loss_is_that_of_its_formula(frames):
    cfg = configuration()
    data = samples.build(frames, cfg)
    batch = data.gather(data.select("train", labelled=True)[:50])
    output = training.start(data, cfg, CPU).net.eval()(batch)
    total, bce, nll = training.loss(output, batch, beta=0.25)
    p, y = torch.sigmoid(output.logit), batch.label
    assert bce.item() == pytest.approx(-(y * p.log() + (1 - y) * (1 - p).log()).mean().item(), rel=1e-5)
    density = torch.distributions.Normal(output.mean, output.sd).log_prob(batch.target)
    assert nll.item() == pytest.approx(-density.mean().item(), rel=1e-5)
    assert total.item() == pytest.approx(bce.item() + 0.25 * nll.item(), rel=1e-6)


def test_order_of_batches_is_a_permutation_of_its_own_for_each_epoch():
    first, second = training.permutation(1000, 7, 1), training.permutation(1000, 7, 2)
    assert sorted(first) == list(range(1000))
    assert (first != second).any()
    assert (first == training.permutation(1000, 7, 1)).all()
    assert abs(np.corrcoef(first, np.arange(1000))[0, 1]) < 4 / np.sqrt(1000)


def test_fusion_learns_a_disagreement_that_neither_side_can_see():
    frames = market(6, 500, rule="agreement")
    ic = {}
    for variant in ("fused", "text_only", "price_only"):
        cfg = configuration(variant)
        cfg.train = replace(cfg.train, epochs=10)
        data = samples.build(frames, cfg)
        net = training.train(data, cfg, CPU).net
        rows = data.select("test", labelled=True)
        said = prediction.predict(net, data, rows, mc_samples=8, device=CPU)
        ic[variant] = training.rank_correlation(said["mean_ret"].to_numpy(), data.target.numpy()[rows])
    chance = 4 / np.sqrt(len(rows))
    assert ic["fused"] > 0.4
    assert abs(ic["text_only"]) < chance
    assert abs(ic["price_only"]) < chance


def test_attention_learns_it_from_the_tokens_alone():
    cfg = configuration("attention", use_contradiction=False)
    cfg.train = replace(cfg.train, epochs=20, patience=20)
    data = samples.build(market(6, 500, rule="agreement", delta=2.0), cfg)
    state = training.train(data, cfg, CPU)
    dev = training.evaluate(state.net, data, data.select("dev", labelled=True), 0.5, CPU)
    assert dev["ic"] > 0.4


def test_training_recovers_planted_thresholds():
    cfg = configuration()
    cfg.train = replace(cfg.train, epochs=12, patience=12)
    found = {}
    for planted in (0.5, 1.1):
        data = samples.build(market(12, 500, delta=2.0, tau=planted), cfg)
        found[planted] = training.train(data, cfg, CPU).net.tau()
        assert found[planted] == pytest.approx((planted, planted), abs=0.25)  # both start at 0.75
    assert min(found[1.1]) - max(found[0.5]) > 0.3


@pytest.mark.parametrize("role", ["train", "dev"])
def test_no_row_to_learn_from_or_to_stop_on(frames, role):
    cfg = configuration()
    panel = frames["panel"].assign(split=frames["panel"]["split"].replace(role, "none"))
    with pytest.raises(InputError, match=f"no usable row of role {role}"):
        training.train(samples.build(frames | {"panel": panel}, cfg), cfg, CPU)


def test_a_loss_that_is_not_finite_stops(frames):
    cfg = configuration()
    cfg.train = replace(cfg.train, lr=1e30)
    with pytest.raises(InputError, match=r"(?s)not finite in epoch.*train\.lr"):
        training.train(samples.build(frames, cfg), cfg, CPU)


def test_cuda_that_is_not_there_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"(?s)train\.device = 'cuda'.*train\.device=cpu"):
        training.set_up(replace(configuration().train, device="cuda"))
