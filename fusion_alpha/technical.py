"""Technical features of each bar: causal, free of scale, and independent of where a history starts.

Two steps: the indicators of each ticker by itself (fusion_alpha/indicators.py), spread over processes, then for each
bar the comparison of its tickers. A cross-section holds the tickers that have the feature at that bar: a ticker that
joins later, or is in its warm-up, changes nothing before. Sectors come from a file that does not change with time.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fusion_alpha import executor, tables
from fusion_alpha.config import ExecutorConfig, TechnicalConfig
from fusion_alpha.errors import InputError
from fusion_alpha.indicators import WHITELIST

Floats = NDArray[np.float64]
INPUTS = ["open", "high", "low", "close", "volume", "adjustment"]
_SECTORS = "a CSV of columns ticker and sector, each ticker once"
_REMEDY = "correct technical.sectors, or the file; only its first line means no sectors"
_LEAST = 2  # tickers in a cross-section: one alone is no market


@dataclass(frozen=True)
class CrossSection:
    """A feature of bar and group (all tickers, or those of a sector) from the indicator `of` of its tickers.

    how: mean, sd and share_up (of positive ones) are the same for the group; less_mean is the ticker's own value less
    the mean, in which it counts itself.
    """

    name: str
    family: str
    of: str
    how: str


CROSS_SECTIONS = (
    *(CrossSection(f"market_ret_{n}", "market", f"ret_{n}", "mean") for n in (1, 5, 20)),
    CrossSection("market_breadth_1", "market", "ret_1", "share_up"),
    CrossSection("market_dispersion_1", "market", "ret_1", "sd"),
    CrossSection("market_volatility_20", "market", "volatility_20", "mean"),
    *(
        CrossSection(f"{of}_vs_{group}", group, of, "less_mean")
        for group in ("market", "sector")
        for of in ("ret_1", "ret_5", "ret_20", "ret_60", "gap_1", "volatility_20", "volume_ratio_20")
    ),
)
# Of each feature, in the order of the table's columns.
FAMILIES = {item.name: item.family for item in WHITELIST} | {item.name: item.family for item in CROSS_SECTIONS}
WARMUPS = {item.name: item.warmup for item in WHITELIST}
WARMUPS |= {item.name: WARMUPS[item.of] for item in CROSS_SECTIONS}


def build(
    panel: pd.DataFrame,
    settings: TechnicalConfig,
    spread: ExecutorConfig = executor.HERE,
    sectors: dict[str, str] | None = None,
) -> pd.DataFrame:
    """The technical table (schemas/technical.yaml), one row for each row of the panel, which is in key order.

    sectors: of tickers; one without has no sector features. A feature is null in the first `warmup_bars` rows of a
    ticker, and in its own warm-up where that is longer, and where its window has no spread or no trade.
    """
    tickers = [bars for _, bars in panel.groupby("ticker", sort=False)[INPUTS]]
    of_ticker = partial(features, warmup_bars=settings.warmup_bars)
    found = list(executor.in_order(of_ticker, tickers, spread, label="indicators"))
    columns = pd.concat(found) if found else of_ticker(panel[INPUTS])
    sector = panel["ticker"].map(sectors or {})
    return pd.concat([panel[tables.BAR_KEY], columns, cross_sections(columns, panel["bar_close_utc"], sector)], axis=1)


def features(bars: pd.DataFrame, warmup_bars: int) -> pd.DataFrame:
    """Indicators of one ticker's bars (the columns INPUTS, in order of time); rows and index as given."""
    adjusted = bars.assign(volume=bars["volume"] / bars["adjustment"])
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        columns = {item.name: item.compute(adjusted) for item in WHITELIST}
    number = np.arange(len(bars))
    return pd.DataFrame(
        {
            item.name: columns[item.name].where(
                np.isfinite(columns[item.name]) & (number >= max(item.warmup, warmup_bars))
            )
            for item in WHITELIST
        },
        index=bars.index,
    )


def cross_sections(columns: pd.DataFrame, bar: pd.Series, sector: pd.Series) -> pd.DataFrame:
    """The features of CROSS_SECTIONS, rows as in `columns`; null where the ticker itself has no such indicator.

    columns: indicators; bar: time of each row's bar; sector: of each row's ticker, null without one.
    """
    time, name = pd.factorize(bar)[0], pd.factorize(sector)[0]  # -1 for null
    groups = {"market": time, "sector": np.where(name < 0, -1, time * (name.max(initial=0) + 1) + name)}
    return pd.DataFrame(
        {
            item.name: _within(columns[item.of].to_numpy(np.float64), groups[item.family], item.how)
            for item in CROSS_SECTIONS
        },
        index=columns.index,
    )


def _within(values: Floats, group: NDArray[np.intp], how: str) -> Floats:
    """CrossSection's `how` of the known values of each row's group; -1 is no group."""
    known = ~np.isnan(values) & (group >= 0)
    members, value = group[known], values[known]
    count = np.bincount(members)

    def mean(weights: Floats) -> Floats:
        return (np.bincount(members, weights) / count)[members]

    with np.errstate(invalid="ignore"):  # groups without members
        found = mean((value > 0).astype(np.float64)) if how == "share_up" else mean(value)
        if how == "sd":
            found = np.sqrt(mean((value - found) ** 2))
    if how == "less_mean":
        found = value - found
    result = np.full(len(values), np.nan)
    result[known] = np.where(count[members] >= _LEAST, found, np.nan)
    return result


def read_sectors(path: Path) -> dict[str, str]:
    """Sector of each ticker from a CSV of columns ticker and sector.

    Raises InputError for a file that is absent or not such a CSV, and for a ticker that occurs twice.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise InputError(f"not readable ({error})", file=path, rule=_SECTORS, remedy=_REMEDY) from None
    if list(table) != ["ticker", "sector"]:
        raise InputError(f"columns {', '.join(map(str, table))}", file=path, rule=_SECTORS, remedy=_REMEDY)
    wrong = table["ticker"].duplicated() | (table == "").any(axis=1)
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        ticker, sector = table.iloc[row]
        raise InputError(
            f"ticker {ticker!r}, sector {sector!r}", file=path, line=row + 2, rule=_SECTORS, remedy=_REMEDY
        )
    return dict(zip(table["ticker"], table["sector"], strict=True))
