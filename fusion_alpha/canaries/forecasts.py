"""Forecasts of a workspace's rows by a model that is kept, and by one that its own past has trained."""

import numpy as np
import pandas as pd

from fusion_alpha import prediction, samples, splits, training
from fusion_alpha.canaries import layers
from fusion_alpha.tables import BAR_KEY
from fusion_alpha.tuning.objective import Block, with_roles
from fusion_alpha.workspace import Workspace


def live_difference(whole: Workspace, part: Workspace, last: str, *, only_last: bool = False) -> float:
    """Largest difference of what the stage predict wrote for sessions up to `last`, or for that one alone."""
    columns = [*BAR_KEY, *layers.FORECASTS]
    before, after = (layers.known_bars(side.read("predictions")[columns], last) for side in (whole, part))
    if only_last:
        before, after = (side[side["bar_close_utc"].dt.strftime("%Y-%m-%d") == last] for side in (before, after))
    return layers.forecast_difference(before, after)


def walk_forward(space: Workspace, last: str) -> pd.DataFrame:
    """Forecasts of the fold that tests session `last`, up to that session, by a model of what is before the fold."""
    cfg = space.cfg
    frames = {name: space.read(name, columns) for name, columns in samples.INPUTS.items()}
    block = _block(frames["panel"], last, cfg.canaries.learn_sessions, cfg.canaries.fold_sessions)
    data = samples.build(frames, cfg)
    device = training.set_up(cfg.train)
    state = training.train(with_roles(data, block), cfg, device)
    rows = np.intersect1d(block.score, data.select())
    found = prediction.predict(state.net, data, rows, mc_samples=cfg.predict.mc_samples, device=device)
    return layers.known_bars(pd.concat([data.rows.iloc[rows][BAR_KEY].reset_index(drop=True), found], axis=1), last)


def _block(panel: pd.DataFrame, last: str, learn: int, length: int) -> Block:
    clock = panel[splits.CLOCK]
    newest = np.flatnonzero(panel["bar_close_utc"].dt.strftime("%Y-%m-%d") == last)
    for fold in splits.walk_forward(clock, train_sessions=learn, test_sessions=length):
        if np.isin(newest, fold.test).any():
            train, stop = splits.hold_out(clock, fold.train, sessions=length)
            return Block(train, stop, fold.test)
    raise AssertionError(f"no fold tests {last}")
