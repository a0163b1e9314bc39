"""Means, sums and extremes over the last bars of a series.

What has a window is added up afresh for each row: a running sum would keep a residue of values that left it, and would
make bits depend on where history starts. A row whose window holds an unknown value is unknown; so are the first n - 1.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def earlier(values: pd.Series, back: int) -> NDArray[np.float64]:
    """The values `back` rows earlier, NaN where there is no such row."""
    array = np.full(len(values), np.nan)
    array[back:] = values.to_numpy(np.float64)[: len(values) - back] if back < len(values) else np.nan
    return array


def total(values: pd.Series, n: int) -> pd.Series:
    """Sum of the last n values of each row."""
    result = earlier(values, 0)
    for back in range(1, n):
        result += earlier(values, back)
    return pd.Series(result, values.index)


def mean(values: pd.Series, n: int) -> pd.Series:
    return total(values, n) / n


def highest(values: pd.Series, n: int) -> pd.Series:
    result = earlier(values, 0)
    for back in range(1, n):
        np.maximum(result, earlier(values, back), out=result)
    return pd.Series(result, values.index)


def lowest(values: pd.Series, n: int) -> pd.Series:
    return -highest(-values, n)


def deviation(values: pd.Series, n: int, power: int) -> pd.Series:
    """Sum of |value - mean|^power over the last n values of each row, `mean` being theirs."""
    centre = mean(values, n).to_numpy()
    result = np.zeros(len(values))
    for back in range(n):
        result += np.abs(earlier(values, back) - centre) ** power
    return pd.Series(result, values.index)


def bars_since_highest(values: pd.Series, n: int) -> pd.Series:
    """Rows since the highest of the last n values, the earliest of equals."""
    result, highest_yet = np.zeros(len(values)), earlier(values, 0)
    for back in range(1, n):
        older = earlier(values, back)
        result[older >= highest_yet] = back
        highest_yet = np.maximum(highest_yet, older)
    return pd.Series(np.where(np.isnan(highest_yet), np.nan, result), values.index)


def wilder_mean(values: pd.Series, n: int) -> pd.Series:
    """Weights fall by the factor 1 - 1 / n a row; it starts at the first known value."""
    return values.ewm(alpha=1 / n, adjust=False).mean()
