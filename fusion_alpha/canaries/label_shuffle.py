"""Label shuffle: a model that learned from permuted labels must foretell nothing (SIMULATED, the planted market).

Labels are permuted in blocks of sessions, all tickers together and no block in its place, so that what moves together
stays together and nothing of the features is about the labels beside them. The model learns from the permuted labels
and forecasts the sessions after; the rank correlation of p_up and the permuted return over the tickers of a day, its
mean over the days of a block, and the mean over blocks and trainings against its standard error make z.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fusion_alpha import lab_runs, prediction, recovery, samples, training
from fusion_alpha.canaries import findings, market
from fusion_alpha.canaries.findings import Finding
from fusion_alpha.canaries.tasks import Task
from fusion_alpha.config import Config
from fusion_alpha.workspace import Workspace

LIMIT = 3.3  # size of z; a false alarm in a thousand runs
LABELS = ["target_ret", "target_label"]
_STREAM = 41


def configuration(base: Config) -> Config:
    """Of the first planted market."""
    planted = base.recovery.planted
    return lab_runs.configuration(base, planted, planted.first_seed, recovery.MAIN)


def tasks(layers: Workspace, home: Path) -> list[Task]:
    """One for each training; `layers` has the tables of the market."""
    return [
        Task(
            f"training {number} on permuted labels", home / f"shuffle-{number}.json", partial(retrained, layers, number)
        )
        for number in range(1, layers.cfg.canaries.shuffles + 1)
    ]


def retrained(layers: Workspace, number: int) -> list[float]:
    """Mean daily rank correlation of each block of the tested sessions."""
    frames = {name: layers.read(name, columns) for name, columns in samples.INPUTS.items()}
    return correlations(frames, layers.cfg, number)


def correlations(frames: dict[str, pd.DataFrame], cfg: Config, number: int) -> list[float]:
    """Train on permutation `number` of the labels of these tables, forecast the tested rows, and correlate by block."""
    panel, block = permuted(frames["panel"], cfg, number)
    data = samples.build(frames | {"panel": panel}, cfg)
    device = training.set_up(cfg.train)
    state = training.train(data, cfg, device)
    rows = data.select("test", labelled=True)
    found = prediction.predict(state.net, data, rows, mc_samples=cfg.predict.mc_samples, device=device)
    table = pd.DataFrame({"p_up": found["p_up"], "target_ret": panel["target_ret"].to_numpy()[rows]})
    return _by_block(table, panel["bar_close_utc"].iloc[rows].to_numpy(), block[rows])


def permuted(panel: pd.DataFrame, cfg: Config, number: int) -> tuple[pd.DataFrame, NDArray[np.int64]]:
    """The panel with permuted labels, and the block of each row; -1 for rows that have none left.

    The first sessions that do not fill a block lose their labels, and so does a row for which its block's new place
    has none (a ticker without that bar).
    """
    length = cfg.canaries.shuffle_block_sessions
    known = panel["target_ret"].notna()
    times = np.sort(panel.loc[known, "bar_close_utc"].unique())
    count = len(times) // length
    place = pd.Index(times).get_indexer(panel["bar_close_utc"]) - len(times) % length  # below 0 or null: no block
    inside = (place >= 0) & panel["bar_close_utc"].isin(times).to_numpy()
    block = np.where(inside, place // length, -1)
    source = np.where(inside, deranged(count, cfg.canaries.seed, number)[block] * length + place % length, -1)
    labels = panel.assign(place=place)[inside].set_index(["ticker", "place"])[LABELS]
    moved = labels.reindex(pd.MultiIndex.from_arrays([panel["ticker"], source]))
    columns = {name: pd.Series(moved[name].array, index=panel.index) for name in LABELS}
    columns["target_label"] = columns["target_label"].astype("boolean")
    return panel.assign(**columns), np.where(columns["target_ret"].notna(), block, -1)


def deranged(count: int, seed: int, number: int) -> NDArray[np.int64]:
    """A permutation of `count` items, at least two, that leaves none in its place: the first such one of a series."""
    assert count > 1, f"{count} blocks cannot be permuted"
    attempt = 0
    while True:
        order = market.order(count, seed, _STREAM + attempt, number)
        if (order != np.arange(count)).all():
            return np.asarray(order, np.int64)
        attempt += 1


def judged(answers: dict[str, Any]) -> dict[str, Finding]:
    """label_shuffle: z of the mean, blocks of all trainings being independent."""
    return {"label_shuffle": findings.size_at_most(z_of(answers), LIMIT)}


def z_of(answers: dict[str, Any]) -> float:
    blocks = np.array([value for answer in answers.values() for value in answer])
    return float(blocks.mean() / (blocks.std(ddof=1) / np.sqrt(len(blocks))))


def _by_block(table: pd.DataFrame, day: NDArray[Any], block: NDArray[np.int64]) -> list[float]:
    ranks = table.groupby(day).rank()
    centred = ranks - ranks.groupby(day).transform("mean")
    sums = pd.DataFrame({"xy": centred["p_up"] * centred["target_ret"], "xx": centred["p_up"] ** 2})
    sums = (
        sums.assign(yy=centred["target_ret"] ** 2, block=block)
        .groupby(day)
        .agg({"xy": "sum", "xx": "sum", "yy": "sum", "block": "first"})
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        daily: pd.Series = sums["xy"] / np.sqrt(sums["xx"] * sums["yy"])
    means: pd.Series = daily.groupby(sums["block"]).mean().dropna()
    return [float(mean) for mean in means]
