"""predict: features and a checkpoint -> predictions of every usable row, labelled or not.

Reads   data/processed/panel.parquet, news_bars.parquet, data/features/technical.parquet, text.parquet,
        contradiction.parquet, models/fusionnet/, with predict.engine=onnx models/fusionnet_onnx/
Writes  data/predictions/predictions.parquet, metrics/predict.json
Holds   a row's prediction uses nothing newer than its decided_utc and does not depend on the other rows.
Run     python -m stages.predict [predict.mc_samples=64 predict.engine=onnx]
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fusion_alpha import checkpoint, onnx_fusionnet, prediction, samples, tables, training
from fusion_alpha.config import Config
from fusion_alpha.files import write_json
from fusion_alpha.samples import Samples
from fusion_alpha.stage import console, run

METRICS = Path("metrics/predict.json")
FOLD = "holdout"  # the one split of the panel; cross-validation writes its own folds

log = logging.getLogger(__name__)


def summary(predictions: pd.DataFrame, n_rows: int) -> dict[str, Any]:
    """Counts of rows and kinds, and means by role."""
    by_role = {
        str(role): {
            "rows": len(rows),
            "p_up": float(rows["p_up"].mean()),
            "sd_ret": float(rows["sd_ret"].mean()),
            "severity": float(rows["severity"].mean()),
        }
        for role, rows in predictions.groupby("split")
    }
    return {
        "rows": len(predictions),
        "rows_without_prediction": n_rows - len(predictions),
        "kinds": {str(kind): int(count) for kind, count in predictions["kind"].value_counts().items()},
        "split": by_role,
    }


def engine(cfg: Config, data: Samples) -> tuple[Callable[..., pd.DataFrame], str]:
    """What predicts rows of `data`, as `prediction.predict` without its network, and the checkpoint's id."""
    if cfg.predict.engine == "onnx":
        training.set_up(replace(cfg.train, device="cpu"))
        exported = onnx_fusionnet.OnnxFusionNet(onnx_fusionnet.FOLDER, cfg.predict.precision, data.feature_names, cfg)
        exported.require_exported_from(checkpoint.FOLDER)
        return exported.predict, exported.model_id
    device = training.set_up(cfg.train)
    net, model_id = checkpoint.load(checkpoint.FOLDER, data.feature_names, cfg)
    return partial(prediction.predict, net, device=device), model_id


def main(cfg: Config) -> None:
    frames = {name: tables.read(name, columns=columns) for name, columns in samples.INPUTS.items()}
    data = samples.build(frames, cfg)
    del frames
    predict, model_id = engine(cfg, data)
    rows = data.select()
    columns = (TextColumn("predict"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("predict", total=len(rows))
        done = partial(progress.advance, task)
        predictions = predict(data, rows, mc_samples=cfg.predict.mc_samples, on_batch=done)
    keys = data.rows.iloc[rows].drop(columns="label_end_utc").reset_index(drop=True)
    predictions = pd.concat([keys, predictions], axis=1).assign(model_id=model_id, fold=FOLD)
    tables.write("predictions", predictions)
    metrics = summary(predictions, len(data.rows))
    write_json(METRICS, metrics)
    log.info("model %s: %d of %d rows predicted, kinds %s", model_id, len(rows), len(data.rows), metrics["kinds"])


if __name__ == "__main__":
    run(main)
