"""Copies of the whole market with other raw data for the pipeline's own stages, and how their tables differ."""

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fusion_alpha import tables, workspace
from fusion_alpha.canaries.market import STAGES, Cut
from fusion_alpha.tables import BAR_KEY
from fusion_alpha.text import text_hashes
from fusion_alpha.workspace import Workspace

FEATURES = ("clean", "process", "technical", "text", "contradiction")
WRITTEN = {
    "clean": ("prices", "news"),
    "process": ("panel", "news_bars"),
    "technical": ("technical",),
    "text": ("text",),
    "contradiction": ("contradiction",),
}
FORECASTS = ["p_up", "p_up_sd", "mean_ret", "sd_ret", "severity"]
ROWS = "(rows)"  # counted like a column: rows that one side alone has


@contextlib.contextmanager
def copied(whole: Workspace, name: str, *, model: bool = False) -> Iterator[Workspace]:
    """A workspace beside the whole one with a copy of its raw data, and of its model if asked for; gone at the end."""
    folder = whole.folder.with_name(f"{whole.folder.name}-{name}")
    if folder.exists():  # of a run that was killed
        shutil.rmtree(folder)
    with workspace.opened(folder, whole.cfg, STAGES) as copy:
        for part in ("data/raw", *(["models/fusionnet"] if model else [])):
            shutil.copytree(whole.folder / part, folder / part)
        yield copy
    shutil.rmtree(folder)
    folder.with_name(f"{folder.name}.lock").unlink(missing_ok=True)


def differences(whole: Workspace, part: Workspace, stages: Sequence[str], cut: Cut, last: str) -> dict[str, Any]:
    """How the tables of the stages differ in what is known at the cut, bit by bit, whatever is called target_ left out.

    last: last session that is over at the cut. Returns cells (compared), different and columns, the latter's counts by
    `table.column`. Raises AssertionError where a table has nothing to compare.
    """
    cells = 0
    columns: dict[str, int] = {}
    names = [name for stage in stages for name in WRITTEN[stage]]
    known_texts = _known_texts(whole, cut) if "text" in names else set()
    for name in names:
        before, after = (_known(name, side.read(name), cut, last, known_texts) for side in (whole, part))
        assert len(before), f"{name}: no row is known at {cut.name}"
        count, found = compare(before, after, tables.schema(name).key)
        cells += count
        columns |= {f"{name}.{column}": number for column, number in found.items()}
    return {"cells": cells, "different": sum(columns.values()), "columns": columns}


def compare(before: pd.DataFrame, after: pd.DataFrame, key: list[str]) -> tuple[int, dict[str, int]]:
    """Number of cells of `before`, and how many differ by column; rows that one side alone has count under ROWS."""
    before, after = (frame.set_index(key) for frame in (before, after))
    common = before.index.intersection(after.index)
    lost = len(before) + len(after) - 2 * len(common)
    found = {ROWS: lost} if lost else {}
    before, after = before.loc[common], after.loc[common]
    for name in before:
        if not str(name).startswith("target_"):
            number = int(unequal(before[name], after[name]).sum())
            found |= {str(name): number} if number else {}
    return before.size, found


def unequal(a: pd.Series, b: pd.Series) -> NDArray[np.bool_]:
    """Which values differ in any bit; nulls equal nulls."""
    if isinstance(a.dtype, pd.ArrowDtype):  # vectors
        return np.asarray((_bits(tables.vectors(a)) != _bits(tables.vectors(b))).any(axis=1))
    null = (a.isna() | b.isna()).to_numpy()
    both = (a.isna() & b.isna()).to_numpy()
    if pd.api.types.is_float_dtype(a.dtype):
        different = _bits(a.to_numpy()) != _bits(b.to_numpy())
    else:
        different = np.asarray(a.astype(object).array != b.astype(object).array)
    return np.where(null, ~both, different)


def forecast_difference(before: pd.DataFrame, after: pd.DataFrame) -> float:
    """Largest difference of FORECASTS in rows of both; 1 where one side alone has a row."""
    merged = before.merge(after, on=BAR_KEY, how="outer", suffixes=("", "_after"), validate="one_to_one")
    parts = [(merged[name] - merged[f"{name}_after"]).abs().fillna(1.0).max() for name in FORECASTS]
    return float(max(parts, default=0.0))


def known_bars(frame: pd.DataFrame, last: str) -> pd.DataFrame:
    """Rows of sessions that are over, by the day in their own time of close."""
    return frame[frame["bar_close_utc"].dt.strftime("%Y-%m-%d") <= last]


def _known(name: str, frame: pd.DataFrame, cut: Cut, last: str, texts: set[str]) -> pd.DataFrame:
    if name == "news":
        return frame[frame["published_utc"] < cut.utc]
    if name == "text":
        return frame[frame["text_hash"].isin(texts)]
    return known_bars(frame, last)


def _known_texts(whole: Workspace, cut: Cut) -> set[str]:
    news = whole.read("news", ["ticker", "news_id", "published_utc", "text"])
    return set(text_hashes(news.loc[news["published_utc"] < cut.utc, "text"].drop_duplicates()))


def _bits(values: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}")
