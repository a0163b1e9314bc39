"""The StockNet benchmark's protocol [Xu and Cohen 2018]: which ticker-days it asks about, with which answer.

    movement    adj_close[d] / adj_close[d-1] - 1, at the six decimals of the archive
    dropped     -0.005 <= movement < 0.0055: no answer, no sample
    label       down where movement <= 1e-7, else up
    lag         the five calendar days before d; a sample needs a price from before the day d-4
    set B       every sample: train 20,339, dev 2,555, test 3,720
    set A       the paper's: every trading day of [d-4, d] has tweets of its own (4,987 / 656 / 1,008). Tweets of day
                x belong to the first trading day after x. Day means the archive's file name, which is up to a day
                ahead of UTC in 7% of the tweets, so the reader counts it (`lag_is_covered`) and passes it on as set_a

The answer for target day d is asked on the row of the session before it (`row_session`).

[Xu and Cohen 2018] Stock Movement Prediction from Tweets and Historical Prices, ACL 2018.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

DROP_FROM, DROP_BELOW = -0.005, 0.0055
UP_ABOVE = 1e-7
LAG_DAYS = 5
EDGES = {"train": "2014-01-01", "dev": "2015-08-01", "test": "2015-10-01", "none": "2016-01-01"}  # by target day


def label(movement: pd.Series) -> pd.Series:
    """Up (True), down (False), or null in the dropped band and where the movement is null."""
    dropped = movement.isna() | ((movement >= DROP_FROM) & (movement < DROP_BELOW))
    return (movement > UP_ABOVE).astype("boolean").mask(dropped)


def samples(movements: pd.DataFrame) -> pd.DataFrame:
    """The benchmark's samples from its interim table (schemas/benchmark.yaml).

    Returns ticker, session (target day d), row_session (the session before it), movement, label, split
    (train, dev, test) and set_a, one row a sample in key order.
    """
    table = movements.sort_values(["ticker", "session"], ignore_index=True)
    by_ticker = table.groupby("ticker")["session"]
    table["row_session"] = by_ticker.shift()
    table["label"] = label(table["movement"])
    table["split"] = split(table["session"])
    lag_start = table["session"] - pd.Timedelta(days=LAG_DAYS - 1)
    asked = table["label"].notna() & (table["split"] != "none") & (by_ticker.transform("min") < lag_start)
    columns = ["ticker", "session", "row_session", "movement", "label", "split", "set_a"]
    return table.loc[asked, columns].reset_index(drop=True)


def split(target_day: pd.Series) -> pd.Series:
    """train, dev or test by the target day, none outside all three."""
    edges = np.array(list(EDGES.values()), "datetime64[us]")
    number = np.searchsorted(edges, target_day.to_numpy().astype("datetime64[us]"), side="right")
    return pd.Series(np.array(["none", *EDGES], dtype=object)[number], index=target_day.index, dtype="str")


def counts(movements: pd.DataFrame) -> dict[str, dict[str, dict[str, int]]]:
    """Samples and ups of sets A and B by split, for the metrics."""
    asked = samples(movements)
    return {
        name: {
            str(part): {"samples": len(rows), "up": int(rows["label"].sum())}
            for part, rows in asked[chosen].groupby("split")
        }
        for name, chosen in (("set_a", asked["set_a"].astype(bool)), ("set_b", asked["label"].notna()))
    }


def lag_is_covered(sessions: NDArray[np.datetime64], tweet_days: NDArray[np.datetime64]) -> NDArray[np.bool_]:
    """For each session d of one ticker: has every trading day of [d-4, d] tweets of its own?

    `sessions` ascending; both are days, shapes (n,) and (m,). Only tweets of the days d-5 .. d-1 count, and each
    belongs to the first session after its day.
    """
    days = sessions.astype("datetime64[D]").astype(np.int64)
    tweets = tweet_days.astype("datetime64[D]").astype(np.int64)
    row = np.arange(len(days))
    covered = np.zeros(len(days), np.int64)  # bit k: the k-th session before d has tweets
    for lag in range(1, LAG_DAYS + 1):
        slot = row - np.searchsorted(days, days - lag, side="right")
        covered |= np.where(np.isin(days - lag, tweets), 1 << slot, 0)
    slots = row - np.searchsorted(days, days - (LAG_DAYS - 1)) + 1
    return covered == (1 << slots) - 1
