"""What trading costs, all in bps: commission, half spread, slippage and borrow per name, and the impact of size.

    side cost   commission + half spread + slippage, of traded value, each time
    borrow      per year, of short value, spread evenly over the bars of a year
    impact      impact_bps sqrt(traded value / trailing dollar volume), of traded value

The square root is the shape that measured impact has across markets; the coefficient is the cost in bps of trading as
much as a day's trailing volume at once. Sources: Almgren, Thum, Hauptmann, Li (2005), "Direct estimation of equity
market impact", Risk 18 (7); Toth et al. (2011), Physical Review X 1, 021006.

Rates of the strategy hold for every ticker that strategy.costs does not name.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fusion_alpha import sessions
from fusion_alpha.config import Config
from fusion_alpha.errors import InputError

Floats = NDArray[np.float64]

BPS = 1e-4
RATES = ["commission_bps", "half_spread_bps", "slippage_bps", "borrow_bps"]

_FORM = f"a CSV of ticker and any of {', '.join(RATES)}; numbers of at least 0, an empty cell for the strategy's own"
_REMEDY = "correct strategy.costs, or the file; only its first line means the same costs for all"


@dataclass(frozen=True)
class Rates:
    """Costs of n rows or tickers, as shares."""

    side: Floats  # [n], of traded value
    borrow: Floats  # [n], of short value, for one bar


def rates(tickers: pd.Series | pd.Index, cfg: Config) -> Rates:
    """The costs of each ticker, in the order given. Raises InputError for a bad file of costs, see `read`."""
    table = pd.DataFrame(columns=RATES) if cfg.strategy.costs is None else read(Path(cfg.strategy.costs))
    own = table.reindex(tickers) if len(table) else pd.DataFrame(np.nan, range(len(tickers)), RATES)
    bps = {name: own[name].fillna(getattr(cfg.strategy, name)).to_numpy(np.float64) for name in RATES}
    side = bps["commission_bps"] + bps["half_spread_bps"] + bps["slippage_bps"]
    return Rates(side * BPS, bps["borrow_bps"] * BPS / bars_per_year(cfg))


def read(path: Path) -> pd.DataFrame:
    """Costs that differ from the strategy's: index ticker, columns RATES, null where they do not differ.

    Raises InputError for a file that is absent or not such a CSV, and for a ticker that occurs twice.
    """
    try:
        return _read(path, path.stat().st_mtime_ns)
    except (OSError, ValueError) as error:
        raise InputError(f"not readable ({error})", file=path, rule=_FORM, remedy=_REMEDY) from None


@cache
def _read(path: Path, changed_ns: int) -> pd.DataFrame:
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    if "ticker" not in table or set(table) - {"ticker", *RATES}:
        raise InputError(f"columns {', '.join(map(str, table))}", file=path, rule=_FORM, remedy=_REMEDY)
    tickers = table.pop("ticker")
    numbers = table.apply(pd.to_numeric, errors="coerce").astype("float64")
    wrong = ((table != "") & ~(np.isfinite(numbers) & (numbers >= 0))).any(axis=1) | tickers.duplicated()
    wrong |= tickers == ""
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        shown = ",".join([tickers.iloc[row], *table.iloc[row]])
        raise InputError(repr(shown), file=path, line=row + 2, rule=_FORM, remedy=_REMEDY)
    return numbers.set_index(tickers).reindex(columns=RATES)


@cache
def _bars_per_year(exchange: str, minutes: int | None) -> float:
    table = sessions.sessions(exchange, "2010-01-01", "2019-12-31")
    if minutes is None:
        return float(round(len(table) / 10))
    length = (table["session_close_utc"] - table["session_open_utc"]).dt.total_seconds() / 60
    return float(round(np.ceil(length / minutes).sum() / 10))


def bars_per_year(cfg: Config) -> float:
    """Bars of cfg.interval in a year of the exchange: the mean of its calendar over 2010 to 2019 (XNYS 1d: 252)."""
    return _bars_per_year(cfg.data.exchange, cfg.bar_minutes)
