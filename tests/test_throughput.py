"""Times and operations: shapes of the answers, and operations counted by hand."""

from dataclasses import replace

import pytest
import torch
from fusion_market import configuration, market

from fusion_alpha import samples, throughput

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def frames():
    return market()


def small(variant="fused", **model):
    cfg = configuration(variant, **model)
    return replace(cfg, parity=replace(cfg.parity, rounds=2))


@pytest.mark.parametrize("measure", [throughput.epoch_seconds, throughput.monte_carlo_seconds])
def test_both_sides_are_timed_in_every_round_but_the_first(frames, measure):
    cfg = small()
    rounds = []
    seconds = measure(samples.build(frames, cfg), cfg, CPU, lambda: rounds.append(1))
    assert list(seconds) == ["bicep", "torch"]
    assert len(seconds) == 2
    assert len(rounds) == 3  # the first one warms up
    assert (seconds > 0).all(axis=None)


def test_the_baseline_is_the_module_that_everybody_uses():
    x = torch.linspace(-1, 1, 700).reshape(7, 100)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        ours = throughput.unseeded(x, 0.4, seed=1, step=2, layer=0)
        torch.manual_seed(1)
        assert torch.equal(ours, torch.nn.Dropout(0.4)(x))


def test_operations_are_those_of_the_matrix_products(frames):
    cfg = small("price_only")
    data = samples.build(frames, cfg)
    length, width, features = cfg.model.sessions, cfg.model.width, len(data.feature_names)
    inputs = 2 * length * features * width  # sessions -> tokens; the tokens' own gradient is not needed
    dense = 2 * length * (width * 2 * width) * 2  # up and down again
    pool = 2 * length * width
    state, heads = 2 * (2 * width) * width, 2 * width * 3
    expected = 2 * inputs + 3 * (dense + pool + state + heads)  # backward: one product for weights, one for inputs
    assert throughput.flops_per_row(data, cfg, CPU) == expected


def test_attention_is_counted(frames):
    """Both attentions of `fused`: their projections and their two products, forward once and backward twice."""
    cfg, without = small("attention"), small("concat")
    data = samples.build(frames, cfg)
    width = cfg.model.width
    sessions, news = cfg.model.sessions, 1 + cfg.model.news_tokens
    tokens = sessions + news
    projections = 2 * 4 * width * width * tokens  # query and output of one side, key and value of the other
    products = 2 * 2 * 2 * sessions * news * width  # two attentions, each scores and values
    extra = throughput.flops_per_row(data, cfg, CPU) - throughput.flops_per_row(data, without, CPU)
    assert extra == 3 * (projections + products)


def test_the_device_s_rate_and_name(monkeypatch):
    monkeypatch.setitem(throughput._MATRIX, "cpu", 256)
    assert throughput.matmul_flops(CPU, rounds=3) > 1e8
    assert throughput.device_name(CPU).startswith("cpu ")
