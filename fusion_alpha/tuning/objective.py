"""What a trial is scored by: the mean loss on walk-forward blocks of train and dev that its models have not seen.

The latest sessions of train and dev are cut into `tune.folds` blocks. For each block a model learns from what is before
it, stops early on the last sessions of that (as many as a block has) and is scored on the block. Labels are purged and
embargoed between the three parts. Rows of role test are not even in memory.

Every trial is scored with the same weight of the two parts of the loss, the configuration's `train.beta`, whatever
weight it learns with: losses of different weights cannot be compared.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from fusion_alpha import samples, splits, tables, training
from fusion_alpha.config import Config, TuneConfig
from fusion_alpha.errors import InputError
from fusion_alpha.samples import Samples
from fusion_alpha.splits import Rows
from fusion_alpha.tables import BAR_KEY

ROLES = ("train", "dev")  # of rows that a search may look at


@dataclass(frozen=True)
class Block:
    """Rows of the panel: to learn from, to stop on, to score on; in this order of time."""

    train: Rows
    stop: Rows
    score: Rows


@dataclass(frozen=True)
class Development:
    """All that trials see: the tables as they were when dev ended, and the blocks."""

    frames: dict[str, pd.DataFrame]
    blocks: list[Block]

    @classmethod
    def read(cls, cfg: Config) -> "Development":
        """From the pipeline's tables; InputError where one is absent or where the blocks would be empty."""
        return cls.of({name: tables.read(name, columns=columns) for name, columns in samples.INPUTS.items()}, cfg)

    @classmethod
    def of(cls, frames: dict[str, pd.DataFrame], cfg: Config) -> "Development":
        seen = before_test(frames)
        found = blocks(seen["panel"], cfg.tune)
        labelled = samples.build(seen, cfg).select(labelled=True)
        for number, block in enumerate(found, start=1):
            for name, rows in vars(block).items():
                if not np.isin(labelled, rows).any():
                    raise InputError(
                        f"block {number} has no usable row with a label to {name} on",
                        rule="every block of the search has rows to learn from, to stop on and to score on",
                        remedy="fewer tune.folds, a smaller tune.score_share, or more history",
                    )
        return cls(seen, found)


def before_test(frames: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The tables without rows whose label was not known when dev ended, and without their news."""
    panel = frames["panel"]
    end = panel["label_end_utc"][panel["split"].isin(ROLES)].max()
    keep = ((panel["label_end_utc"] <= end) & (panel["split"] != "test")).to_numpy()
    if not keep.any():
        raise InputError(
            "no row has the role train or dev",
            file=tables.schema("panel").path,
            column="split",
            remedy="check data.train_start, dev_start and test_start against start and end",
        )
    cut = {name: frames[name][keep].reset_index(drop=True) for name in ("panel", "technical", "contradiction")}
    news = frames["news_bars"].merge(panel.loc[keep, BAR_KEY], on=BAR_KEY, how="inner")
    text = frames["text"][frames["text"]["text_hash"].isin(news["text_hash"])].reset_index(drop=True)
    return cut | {"news_bars": news, "text": text}


def blocks(panel: pd.DataFrame, tune: TuneConfig) -> list[Block]:
    """The blocks of the search, as positions in the panel; the earliest first."""
    rows = np.flatnonzero(panel["split"].isin(ROLES))
    clock = panel.iloc[rows][splits.CLOCK].reset_index(drop=True)
    n_sessions = clock["decided_utc"].dt.floor("D").nunique()
    sessions = int(tune.score_share * n_sessions) // tune.folds
    if sessions < 1:
        raise InputError(
            f"{n_sessions} sessions of train and dev give blocks of less than one session",
            rule="tune.score_share of the sessions, cut into tune.folds blocks",
            remedy="fewer tune.folds, a larger tune.score_share, or more history",
        )
    past = n_sessions - tune.folds * sessions  # sessions before the first block
    length = min(tune.train_sessions or past, past)
    recent = clock["decided_utc"].dt.floor("D").rank(method="dense") > past - length
    rows, clock = rows[recent], clock[recent].reset_index(drop=True)
    folds = splits.walk_forward(
        clock,
        train_sessions=length,
        test_sessions=sessions,
        expanding=tune.train_sessions is None,
        embargo_sessions=tune.embargo_sessions,
    )
    found = []
    for fold in folds:
        train, stop = splits.hold_out(clock, fold.train, sessions=sessions, embargo_sessions=tune.embargo_sessions)
        found.append(Block(rows[train], rows[stop], rows[fold.test]))
    return found


def score(
    development: Development,
    base: Config,
    cfg: Config,
    device: torch.device,
    on_block: Callable[[list[dict[str, Any]]], None],
    on_epoch: Callable[[], None],
) -> float:
    """Train and score on every block; the mean loss in nats.

    base: the configuration whose `train.beta` weighs the loss; on_block: called with the results so far, may raise to
    end the trial; on_epoch: likewise after every epoch.
    """
    data = samples.build(development.frames, cfg)
    results: list[dict[str, Any]] = []
    for block in development.blocks:
        state = training.train(with_roles(data, block), cfg, device, lambda curve: on_epoch())
        rows = np.intersect1d(block.score, data.select(labelled=True))
        measured = training.evaluate(state.net.to(device), data, rows, base.train.beta, device)
        results.append(measured | {"epochs": state.epoch, "best_epoch": state.best_epoch})
        on_block(results)
    return mean_loss(results)


def mean_loss(results: list[dict[str, Any]]) -> float:
    return float(np.mean([result["loss"] for result in results]))


def with_roles(data: Samples, block: Block) -> Samples:
    """The samples with a block's rows in the roles that training looks for."""
    roles = np.full(len(data.rows), "none", dtype=object)
    roles[block.train], roles[block.stop] = "train", "dev"
    return replace(data, rows=data.rows.assign(split=pd.array(roles, dtype="str")))
