"""Paired trainings: what a pair shares, how many there are, and that finished ones are not trained again."""

from dataclasses import replace

import pytest
import torch
from fusion_market import configuration, market

from fusion_alpha import executor, paired, parity, samples, tables, training

pytestmark = pytest.mark.usefixtures("torch_as_it_was")


def small(**settings):
    cfg = configuration()
    defaults = {"min_seeds": 2, "max_seeds": 2, "margin_nats": 0.005}
    return replace(cfg, parity=replace(cfg.parity, **defaults | settings), executor=executor.HERE)


def invented(losses):
    """A training that takes no time: losses[mask](seed) is its dev BCE."""
    return lambda data, cfg: {"bce": losses[cfg.model.mask](cfg.train.seed)}


def test_trainings_are_kept_and_not_done_twice(tmp_path, monkeypatch):
    cfg = small()
    data = samples.build(market(), cfg)
    table = paired.losses(data, cfg, tmp_path)
    assert list(table) == ["seed", "bicep", "torch"]
    assert table["seed"].tolist() == [1, 2]
    assert (table["bicep"] != table["torch"]).all()
    first = training.train(data, parity.variant(cfg, seed=2, mask="torch"), torch.device("cpu"))
    best = first.curves[first.best_epoch - 1]
    assert table["torch"][1] == best["dev_bce"]  # of the checkpoint

    (tmp_path / "2-torch.json").unlink()
    trained = []
    train = training.train
    monkeypatch.setattr(
        training, "train", lambda data, cfg, device: trained.append(cfg.model.mask) or train(data, cfg, device)
    )
    assert paired.losses(data, cfg, tmp_path).equals(table)
    assert trained == ["torch"]


@pytest.mark.slow  # importing torch in each process takes seconds
def test_two_processes_give_the_numbers_of_one(tmp_path):
    cfg = replace(small(), executor=replace(executor.HERE, workers=2))
    data = samples.build(market(), cfg)
    together = paired.losses(data, cfg, tmp_path / "two")
    alone = paired.losses(data, small(), tmp_path / "one")
    assert together.equals(alone)


@pytest.mark.parametrize(("spread", "expected"), [(0.0001, 4), (0.0045, 12), (0.1, 20)])
def test_pairs_are_added_until_the_interval_is_narrower_than_the_margin(tmp_path, monkeypatch, spread, expected):
    # +-spread by turns: 2 x 1.796 x 0.0047 / sqrt(12) = 0.00487 at 12 pairs, 0.00513 at 11
    losses = {"bicep": lambda seed: 0.69 + spread * (-1) ** seed, "torch": lambda seed: 0.69}
    monkeypatch.setattr(paired, "train", invented(losses))
    table = paired.losses(None, small(min_seeds=4, max_seeds=20), tmp_path)
    test = parity.equivalence(table["bicep"] - table["torch"], 0.005)
    assert len(table) == expected
    assert (test.high - test.low < 0.005) == (expected < 20)
    if 4 < expected < 20:
        shorter = parity.equivalence((table["bicep"] - table["torch"])[:-1], 0.005)
        assert shorter.high - shorter.low >= 0.005


def test_a_damaged_file_names_itself_and_the_remedy(tmp_path):
    for name in ("1-bicep", "1-torch", "2-bicep", "2-torch"):
        (tmp_path / f"{name}.json").write_text("{")
    with pytest.raises(Exception, match="remove"):
        paired.losses(None, small(), tmp_path)


def test_the_key_covers_data_and_parameters_but_neither_seed_nor_mask(tmp_path, monkeypatch):
    cfg = small()
    same = parity.variant(small(max_seeds=9), seed=5, mask="torch", name="torch_dropout")
    monkeypatch.chdir(tmp_path)
    for name in samples.INPUTS:
        path = tables.schema(name).path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    key = paired.cache_key(cfg)
    assert paired.cache_key(same) == key
    others = [parity.variant(cfg, dropout=0.4), replace(cfg, train=replace(cfg.train, lr=0.5))]
    keys = {paired.cache_key(other) for other in others}
    path.write_text("other data")
    keys.add(paired.cache_key(cfg))
    monkeypatch.setattr(torch, "__version__", "0")
    keys.add(paired.cache_key(cfg))
    assert len(keys | {key}) == 5
