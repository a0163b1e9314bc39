"""One evaluation: test predictions, panel and scores -> all measures and the simulated strategies behind them.

Pure: tables come in, numbers go out. Only rows of split `test` count; a model refitted for live use (fold `final`)
is never scored.
"""

from typing import Any

import numpy as np
import pandas as pd

from fusion_alpha import baselines, detection, statistics, tables, trading
from fusion_alpha.config import Config, EvaluateConfig
from fusion_alpha.errors import InputError
from fusion_alpha.tables import BAR_KEY

# Columns of each table that an evaluation reads.
INPUTS: dict[str, list[str]] = {
    "predictions": [
        *BAR_KEY,
        *("decided_utc", "model_id", "fold", "split"),
        *("p_up", "mean_ret", "sd_ret", "severity", "kind"),
    ],
    "panel": [
        *BAR_KEY,
        *("session", "session_open_utc", "open", "close", "volume", "adjustment", "ret"),
        *("fill_utc", "target_ret", "target_label", "split"),
    ],
    "contradiction": [*BAR_KEY, "s", "z_s", "cs", "kind", "severity"],
    "truth": [*BAR_KEY, "kind", "sigma_target", "oracle_mean_ret"],
}


def decisions(predictions: pd.DataFrame, panel: pd.DataFrame, cfg: Config) -> pd.DataFrame:
    """Test rows of the predictions with session, fill_utc and target; one model, one row per ticker and bar.

    Raises InputError when there is no test row, when rows overlap, and when they do not belong to this panel.
    """
    rows = predictions[(predictions["split"] == "test") & (predictions["fold"] != "final")]
    path = tables.schema("predictions").path
    if rows.empty:
        span = [str(day) for day in predictions["decided_utc"].agg(["min", "max"]).dt.date]
        raise InputError(
            f"no test rows; decisions run from {span[0]} to {span[1]}",
            file=path,
            rule=f"predictions whose label is known from {cfg.data.test_start} to before {cfg.data.test_end}",
            remedy="set data.test_start and data.test_end inside the data, or load more data",
        )
    models = sorted(rows["model_id"].unique())
    if len(models) > 1 or rows.duplicated(BAR_KEY).any():
        raise InputError(
            f"test rows of model {', '.join(models)} overlap",
            file=path,
            rule="one model and one prediction per ticker and bar",
            remedy="run the predict stage again",
        )
    due = panel[[*BAR_KEY, "session", "fill_utc", "target_ret", "target_label"]]
    found = rows.merge(due, on=BAR_KEY, how="left", validate="one_to_one", indicator=True)
    if (found["_merge"] != "both").any():
        raise InputError(
            "predicted bars are not in the panel",
            file=path,
            rule="predictions of the data that is there",
            remedy="run `dvc repro`: a run that stopped before predict left the predictions of other data",
        )
    return found.drop(columns=["split", "_merge"])


def evaluate(
    rows: pd.DataFrame,
    panel: pd.DataFrame,
    contradiction: pd.DataFrame,
    truth: pd.DataFrame,
    cfg: Config,
    technical: pd.DataFrame | None = None,
) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    """All measures, nested, and the simulation of each strategy.

    rows: as `decisions` makes them; panel, contradiction: all rows in key order; truth: the laboratory's, or empty,
    and then the measures against it are absent; technical: all its rows in key order, for technical_only.
    """
    weights = baselines.weights(rows, panel, contradiction, cfg, technical)
    metrics: dict[str, Any] = {"simulated": cfg.data.simulated}
    # With the benchmark's target the forecast is close to close, the trade open to open: its strategies say little.
    metrics["forecast_window"] = "traded" if cfg.target.name == "next_open" else cfg.target.name
    metrics |= statistics.classification(rows["p_up"], rows["target_label"], rows["session"], cfg.evaluate)
    metrics |= statistics.information(rows["mean_ret"], rows["target_ret"], rows["decided_utc"])
    if len(truth):
        known = _with_truth(rows, truth)
        metrics["contradiction"] = against_truth(known, panel, contradiction, cfg.evaluate)
        if cfg.target.name == "next_open":  # the oracle foretells this target and no other
            metrics["oracle"] = against_oracle(known)
            weights["oracle"] = trading.decide(
                known.assign(mean_ret=known["oracle_mean_ret"], sd_ret=known["sigma_target"], severity=1.0), cfg
            )
    market = trading.market(panel, cfg)
    results = trading.simulate_all(weights, rows, market, cfg, passive=[baselines.BENCHMARK])
    metrics["market"] = market.gaps | trading.lapsed(rows, market)
    metrics["held_back"] = {name: trading.held_back(result) for name, result in results.items()}
    per_year = trading.bars_per_year(cfg)
    metrics["strategies"] = statistics.strategies(results, baselines.BENCHMARK, per_year, cfg.evaluate)
    return metrics, results


def simulate(weights: pd.DataFrame, rows: pd.DataFrame, panel: pd.DataFrame, cfg: Config) -> dict[str, pd.DataFrame]:
    """Every column of `weights` (rows as in `rows`) traded on the same market."""
    return trading.simulate_all(weights, rows, trading.market(panel, cfg), cfg, passive=[baselines.BENCHMARK])


def _with_truth(rows: pd.DataFrame, truth: pd.DataFrame) -> pd.DataFrame:
    joined = rows.merge(truth.rename(columns={"kind": "kind_true"}), on=BAR_KEY, how="left", validate="one_to_one")
    if joined["kind_true"].isna().any():
        raise InputError(
            "test rows are absent from the truth", file=tables.schema("truth").path, remedy="run ingest again"
        )
    return joined.set_index(rows.index)


def against_truth(
    rows: pd.DataFrame, panel: pd.DataFrame, contradiction: pd.DataFrame, settings: EvaluateConfig
) -> dict[str, Any]:
    """Flags of test rows (kind learned, kind_true planted) beside the planted kinds; see fusion_alpha/detection.py.

    score: the contradiction table's kind and score; learned: the checkpoint's thresholds; naive: any disagreement
    in sign of the bar's sentiment and return; unscaled: its flags, and the geometric mean of the two as its score.
    """
    joined = rows[[*BAR_KEY, "session", "kind", "kind_true"]].rename(columns={"kind": "kind_learned"})
    joined = joined.merge(contradiction.rename(columns={"kind": "kind_score"}), on=BAR_KEY)
    joined = joined.merge(panel[[*BAR_KEY, "ret"]], on=BAR_KEY)
    truth = joined["kind_true"]
    counts = {"n": len(joined), "n_true": int(truth.isin(detection.KINDS).sum())}
    found = detection.compare(flag_rules(joined), truth, joined["session"], settings, reference="naive")
    return {"simulated": True, **counts, **found}


def flag_rules(rows: pd.DataFrame) -> dict[str, detection.Rule]:
    """The rules of `against_truth`. rows: kind_score, cs and s of the contradiction table, kind_learned, ret."""
    product = rows["s"] * rows["ret"]
    sign = np.sign(rows["s"]).where(product < 0, 0.0)
    naive = sign.map({1.0: "overhype", -1.0: "underhype", 0.0: "none"})
    return {
        "score": detection.Rule(rows["kind_score"], rows["cs"]),
        "learned": detection.Rule(rows["kind_learned"]),
        "naive": detection.Rule(naive, sign),
        "unscaled": detection.Rule(naive, (sign * np.sqrt(product.abs())).fillna(0.0)),
    }


def against_oracle(rows: pd.DataFrame) -> dict[str, Any]:
    """Information coefficient of mean_ret, of the oracle's mean, and their ratio.

    The oracle is the conditional mean of target_ret, which no other function of what is known correlates with more.
    """
    target = rows["target_ret"]
    known = target.notna()
    ours, best = (statistics.pearson(rows.loc[known, name], target[known]) for name in ("mean_ret", "oracle_mean_ret"))
    return {
        "simulated": True,
        "ic_model": statistics.rounded(ours),
        "ic_oracle": statistics.rounded(best),
        "ic_ratio": statistics.rounded(ours / best) if best > 0 else None,
    }
