"""Noise on prices: the way changes, the total and everything else do not; addressed by row; off by default."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fusion_alpha import augmentation
from fusion_alpha.augmentation import perturb_returns
from fusion_alpha.samples import Batch

NAMES = ("gap_1", "ret_1", "ret_5", "ret_20", "range_1", "volatility_20", "z_r")
ROWS, LENGTH, VOLATILITY = 64, 16, 0.02
ADDRESS = {"seed": 3, "step": 7}


def windows(rows: int = ROWS) -> Batch:
    """Rows whose ret_n are those of one path of prices each."""
    rng = np.random.default_rng(1)
    path = np.cumsum(rng.normal(0, VOLATILITY, (rows, LENGTH + 20)), axis=1)
    columns = {name: rng.normal(size=(rows, LENGTH)) for name in NAMES}
    columns |= {f"ret_{n}": np.expm1(path[:, 20:] - path[:, 20 - n : -n]) for n in (1, 5, 20)}
    columns["volatility_20"] = np.full((rows, LENGTH), VOLATILITY)
    columns["volatility_20"][:, :-1] = np.nan  # the row's own session has the unit, not the ones before it
    none = torch.zeros(rows, 0)
    return Batch(
        sessions=torch.from_numpy(np.stack(list(columns.values()), axis=-1).astype(np.float32)),
        session_mask=torch.ones(rows, LENGTH, dtype=torch.bool),
        score=none,
        news=none,
        news_features=none,
        news_lag=none,
        news_mask=none,
        label=none,
        target=none,
    )


def column(batch: Batch, name: str) -> np.ndarray:
    return batch.sessions[..., NAMES.index(name)].numpy().astype(np.float64)


def test_total_stays_and_the_way_moves_by_the_scale():
    before, after = windows(), perturb_returns(windows(), NAMES, 0.5, **ADDRESS)
    log_before, log_after = (np.log1p(column(batch, "ret_1")) for batch in (before, after))
    np.testing.assert_allclose(log_after.sum(axis=1), log_before.sum(axis=1), atol=1e-6)
    moved = (log_after - log_before).std()
    assert moved == pytest.approx(0.5 * VOLATILITY * np.sqrt(1 - 1 / LENGTH), rel=0.1)


@pytest.mark.parametrize("n", [5, 20])
def test_returns_over_several_sessions_follow_the_same_path(n):
    before, after = windows(), perturb_returns(windows(), NAMES, 0.5, **ADDRESS)
    moves = np.log1p(column(after, "ret_1")) - np.log1p(column(before, "ret_1"))
    expected = [moves[:, max(0, i + 1 - n) : i + 1].sum(axis=1) for i in range(LENGTH)]
    longer = np.log1p(column(after, f"ret_{n}")) - np.log1p(column(before, f"ret_{n}"))
    np.testing.assert_allclose(longer, np.stack(expected, axis=1), atol=1e-6)


def test_nothing_else_moves():
    before = windows()
    original = before.sessions.clone()
    after = perturb_returns(before, NAMES, 0.5, **ADDRESS)
    assert torch.equal(before.sessions.nan_to_num(), original.nan_to_num())  # not in place
    for name in ("gap_1", "range_1", "volatility_20", "z_r"):
        np.testing.assert_array_equal(column(after, name), column(before, name))
    assert all(value is getattr(before, name) for name, value in vars(after).items() if name != "sessions")


def test_without_scale_or_returns_the_batch_is_the_same(monkeypatch):
    batch = windows()
    assert perturb_returns(batch, NAMES, 0.25, **ADDRESS) is not batch
    monkeypatch.setattr(augmentation, "bridge_augment", None)
    assert perturb_returns(batch, NAMES, 0.0, **ADDRESS) is batch
    assert perturb_returns(batch, tuple(f"x_{name}" for name in NAMES), 0.5, **ADDRESS) is batch


def test_rows_with_a_masked_session_and_unknown_returns_stay():
    batch = windows()
    batch.session_mask[3, 0] = False
    batch.sessions[4, 6, NAMES.index("ret_1")] = torch.nan
    after = perturb_returns(batch, NAMES, 0.5, **ADDRESS)
    assert torch.equal(after.sessions[3].nan_to_num(), batch.sessions[3].nan_to_num())
    assert torch.equal(after.sessions.isnan(), batch.sessions.isnan())
    assert not torch.equal(after.sessions[4].nan_to_num(), batch.sessions[4].nan_to_num())


def test_noise_is_that_of_the_row_in_the_global_batch():
    whole = windows()
    after = perturb_returns(whole, NAMES, 0.5, first_row=100, **ADDRESS).sessions
    for begin, end in ((0, 10), (10, 11), (11, ROWS)):
        part = replace(whole, sessions=whole.sessions[begin:end], session_mask=whole.session_mask[begin:end])
        moved = perturb_returns(part, NAMES, 0.5, first_row=100 + begin, **ADDRESS).sessions
        assert torch.equal(moved.nan_to_num(), after[begin:end].nan_to_num())
    for other in ({"seed": 4}, {"step": 8}):
        moved = perturb_returns(whole, NAMES, 0.5, first_row=100, **(ADDRESS | other)).sessions
        assert not torch.equal(moved.nan_to_num(), after.nan_to_num())
