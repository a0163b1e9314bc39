"""Systems on one row of numbers, or of words, a sample: rules, logistic regression, boosted trees, tf-idf.

Every function takes (board, setting, fold, seed) and returns P(up) [stops, judged samples]: one row for each place at
which learning may stop, and one row where there is no such thing. Nothing but the samples of fold.learn is learned
from, scalers, components and vocabularies included. scikit-learn is imported inside functions, as it takes a second.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fusion_alpha.stocknet.features import Board
from fusion_alpha.stocknet.walkforward import Fold

Floats = NDArray[np.float64]
Setting = Mapping[str, Any]

TREES = (10, 30, 60, 120)  # at which boosting may stop
_LEARNING_RATE = 0.03
_LEAVES = 6
_LEAF_SAMPLES = 300  # at least: stocks of a day move together, so that fewer would be a handful of days
_Z_MOST = 4.0  # standardised values beyond count as this


def constant(board: Board, setting: Setting, fold: Fold, seed: int) -> Floats:
    """setting: up, true or false."""
    return np.full((1, len(fold.judge)), float(setting["up"]))


def last_move(board: Board, setting: Setting, fold: Fold, seed: int) -> Floats:
    """The last session's movement goes on, or turns. setting: sign, 1 or -1."""
    last = board.prices["own"]["ret_1"].to_numpy(np.float64)[fold.judge]
    return (setting["sign"] * last > 0).astype(np.float64)[None]


def logistic(board: Board, setting: Setting, fold: Fold, seed: int) -> Floats:
    """Logistic regression with an L2 penalty. setting: parts (see `matrix`), c (inverse of the penalty)."""
    from sklearn.linear_model import LogisticRegression

    learn, judge = (part.to_numpy(np.float64) for part in _split(matrix(board, setting["parts"]), fold))
    mean, sd = np.nanmean(learn, axis=0), np.nanstd(learn, axis=0)
    learn, judge = (np.nan_to_num((x - mean) / np.maximum(sd, 1e-12)).clip(-_Z_MOST, _Z_MOST) for x in (learn, judge))
    model = LogisticRegression(C=setting["c"], max_iter=1000).fit(learn, board.label[fold.learn])
    return model.predict_proba(judge)[:, 1][None]


def trees(board: Board, setting: Setting, fold: Fold, seed: int) -> Floats:
    """Boosted trees on random halves of the features. setting: parts (see `matrix`), components, stops."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    table = matrix(board, setting["parts"])
    if setting.get("components"):
        table = pd.concat([table, *components(board, fold, setting["components"])], axis=1)
    learn, judge = (part.to_numpy(np.float32) for part in _split(table, fold))
    model = HistGradientBoostingClassifier(
        learning_rate=_LEARNING_RATE,
        max_iter=max(setting["stops"]),
        max_leaf_nodes=_LEAVES,
        min_samples_leaf=min(_LEAF_SAMPLES, max(1, len(learn) // 10)),
        l2_regularization=10.0,
        max_features=0.5,
        early_stopping=False,
        random_state=seed,
    ).fit(learn, board.label[fold.learn])
    staged = list(model.staged_predict_proba(judge))
    return np.stack([staged[min(stop, len(staged)) - 1][:, 1] for stop in setting["stops"]])


def words(board: Board, setting: Setting, fold: Fold, seed: int) -> Floats:
    """Logistic regression on tf-idf of words and pairs of words of the lag's tweets. setting: c.

    Without tweets it says the share of ups among such samples of fold.learn.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    has = np.array([bool(text) for text in board.documents])
    learn, judge = fold.learn[has[fold.learn]], fold.judge[has[fold.judge]]
    silent = fold.learn[~has[fold.learn]]
    p = np.full(len(fold.judge), board.label[silent].mean() if len(silent) else 0.5)
    if len(judge):
        vectors = TfidfVectorizer(min_df=min(10, max(1, len(learn) // 20)), ngram_range=(1, 2), sublinear_tf=True)
        seen = vectors.fit_transform([board.documents[row] for row in learn])
        model = LogisticRegression(C=setting["c"], max_iter=1000).fit(seen, board.label[learn])
        asked = vectors.transform([board.documents[row] for row in judge])
        p[has[fold.judge]] = model.predict_proba(asked)[:, 1]
    return p[None]


def matrix(board: Board, parts: Sequence[str]) -> pd.DataFrame:
    """Columns of the named parts, side by side: own, relative, market, calendar, counts, sentiment."""
    tables = board.prices | {"counts": board.counts, "sentiment": board.sentiment}
    return pd.concat([tables[part].add_prefix(f"{part}_") for part in parts], axis=1)


def components(board: Board, fold: Fold, number: int) -> list[pd.DataFrame]:
    """First principal components of the pooled embeddings of five bars, and half as many of the tweets after the close.

    Fitted on the samples of fold.learn that have tweets; 0 without.
    """
    from sklearn.decomposition import PCA

    found = []
    for name, pooled, size in (("five", board.pooled, number), ("late", board.pooled_late, number // 2)):
        has = np.asarray(pooled.any(axis=1))
        learn = pooled[fold.learn[has[fold.learn]]]
        values = np.zeros((len(pooled), size), np.float32)
        if len(learn) > size:
            values[has] = PCA(size, svd_solver="covariance_eigh").fit(learn).transform(pooled[has])
        found.append(pd.DataFrame(values, board.samples.index).add_prefix(f"component_{name}_"))
    return found


def _split(table: pd.DataFrame, fold: Fold) -> tuple[pd.DataFrame, pd.DataFrame]:
    return table.iloc[fold.learn], table.iloc[fold.judge]
