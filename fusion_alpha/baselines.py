"""Rules that a model must beat, as target weights for the same orders, limits and costs as the model's own.

A rule gives a direction in {-1, 0, +1} for each row, from data public at its decided_utc; `under_limits` turns
directions into weights with the trailing volatility in place of a prediction's. technical_only is a model of its own,
linear and without news, and decides as the model does. Buying and holding is the exception: it is the benchmark,
equally weighted and without limits.
"""

import numpy as np
import pandas as pd

from fusion_alpha.config import Config
from fusion_alpha.decision import Floats, decide, under_limits
from fusion_alpha.errors import InputError
from fusion_alpha.tables import BAR_KEY
from kernels import philox

BENCHMARK = "buy_and_hold"

_PENALTIES = (1e1, 1e2, 1e3, 1e4, 1e5)
_CLIP = 5.0  # standard deviations; an indicator's outliers would own a linear fit


def weights(
    decisions: pd.DataFrame,
    panel: pd.DataFrame,
    contradiction: pd.DataFrame,
    cfg: Config,
    technical: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Weights [row of `decisions`, strategy] of the model and of all baselines.

    decisions: predictions to trade, with fill_utc. panel, contradiction, technical: all rows in key order, history
    included; without the technical features there is no technical_only.
    """
    rows = panel.merge(contradiction, on=BAR_KEY, how="left", validate="one_to_one")
    returns = rows.groupby("ticker")["ret"]
    sd = returns.transform(lambda ret: ret.rolling(cfg.evaluate.volatility_bars).std())
    past = np.log1p(rows["ret"]).groupby(rows["ticker"])
    directions = pd.DataFrame(
        {
            "momentum": np.sign(past.transform(lambda ret: ret.rolling(cfg.evaluate.momentum_bars).sum())),
            "reversal": -np.sign(rows["ret"]),
            "sentiment_only": np.sign(rows["z_s"]),
            "contradiction_rule": rows["kind"].map(learned_directions(rows)),
        }
    )
    at = pd.MultiIndex.from_frame(rows[BAR_KEY]).get_indexer(pd.MultiIndex.from_frame(decisions[BAR_KEY]))
    directions, known_sd = directions.iloc[at].set_index(decisions.index), sd.to_numpy()[at]
    table = {
        "model": decide(decisions, cfg),
        BENCHMARK: buy_and_hold(decisions),
        **{name: _sized(directions[name], known_sd, decisions, cfg) for name in directions},
    }
    if technical is not None:
        learned = technical_returns(technical, rows, sd)[at]
        usable = np.isfinite(learned) & (known_sd > 0)
        mean, deviation = np.where(usable, learned, 0.0), np.where(usable, known_sd, 1.0)
        table["technical_only"] = decide(decisions.assign(mean_ret=mean, sd_ret=deviation, severity=1.0), cfg)
    table["shuffled"] = decide(shuffled(decisions, cfg.evaluate.seed), cfg)
    return pd.DataFrame(table)


def technical_returns(technical: pd.DataFrame, rows: pd.DataFrame, sd: pd.Series) -> Floats:
    """Expected target_ret of every row by a ridge regression of target_ret / sd on the technical features.

    technical, rows (the panel's): the same bars in the same order; sd: trailing volatility. Scales and coefficients
    come from training rows, the penalty is the one with the least squared error on dev rows. A feature that is null
    counts as its mean. NaN where sd is; 0 everywhere without training or dev rows.
    """
    from sklearn.linear_model import Ridge

    if not technical[BAR_KEY].equals(rows[BAR_KEY]):
        raise InputError("technical features and panel have other bars", remedy="run the technical stage again")
    score = (rows["target_ret"] / sd).where(sd > 0)
    known = score.notna()
    train, dev = ((known & (rows["split"] == role)).to_numpy() for role in ("train", "dev"))
    if not (train.any() and dev.any()):
        return np.zeros(len(rows))
    table = technical.drop(columns=BAR_KEY)
    centre, spread = table[train].mean(), table[train].std(ddof=0)
    scaled = (table - centre) / spread.where(spread > 0)
    features = scaled.clip(-_CLIP, _CLIP).fillna(0.0).to_numpy(np.float64)
    y = score.to_numpy(np.float64)
    models = [Ridge(alpha=penalty).fit(features[train], y[train]) for penalty in _PENALTIES]
    errors = [np.square(y[dev] - model.predict(features[dev])).mean() for model in models]
    return np.asarray(models[int(np.argmin(errors))].predict(features) * sd.to_numpy())


def buy_and_hold(decisions: pd.DataFrame) -> pd.Series:
    """1/N in each ticker of the first decision time, never touched again (null = leave alone)."""
    first = decisions["decided_utc"] == decisions["decided_utc"].min()
    return pd.Series(np.where(first, 1.0 / first.sum(), np.nan), decisions.index)


def learned_directions(rows: pd.DataFrame) -> dict[str, float]:
    """Sign of what followed each kind of contradiction in training rows, beyond the mean of all of them.

    The rule is not told whether overhype reverts or goes on: it learns it, and a reversed market reverses it.
    """
    train = rows[(rows["split"] == "train") & rows["target_ret"].notna()]
    excess = train.groupby("kind")["target_ret"].mean() - train["target_ret"].mean()
    return {kind: float(np.sign(excess.get(kind, 0.0))) for kind in ("overhype", "underhype")}


def shuffled(decisions: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The same expected returns dealt out to other rows: what trading as much, knowing nothing, earns.

    The permutation is addressed by the seed alone. It mixes rows of all times, so it is a control, not a strategy.
    """
    blocks = np.arange(0, len(decisions), 4)
    keys = philox.uniforms(philox.normal_counter(blocks, 0, op=philox.Op.UNIFORMS), seed).reshape(-1)
    order = np.argsort(keys[: len(decisions)], kind="stable")
    return decisions.assign(mean_ret=decisions["mean_ret"].to_numpy()[order])


def _sized(direction: pd.Series, sd: Floats, decisions: pd.DataFrame, cfg: Config) -> pd.Series:
    """Equal notional in every direction that is known, under the limits; rows without a volatility stay flat."""
    wanted = direction.astype("float64").fillna(0.0).where(np.isfinite(sd) & (sd > 0), 0.0)
    return under_limits(wanted, np.nan_to_num(sd, nan=0.0), decisions["decided_utc"], cfg)
