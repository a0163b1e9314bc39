"""export: a checkpoint -> ONNX models of it, float32 and int8, each with its parity to torch.

Reads   data/processed/panel.parquet, news_bars.parquet, data/features/technical.parquet, text.parquet,
        contradiction.parquet, models/fusionnet/
Writes  models/fusionnet_onnx/ (models, golden rows, manifest), metrics/export.json
Holds   a model that is further from torch than its limits is not written; equal checkpoints and library versions give
        equal bytes.
Run     python -m stages.export
"""

import logging
from dataclasses import replace
from pathlib import Path

from fusion_alpha import checkpoint, onnx_export, onnx_fusionnet, samples, tables, training
from fusion_alpha.config import Config
from fusion_alpha.files import write_json
from fusion_alpha.stage import run

METRICS = Path("metrics/export.json")

log = logging.getLogger(__name__)


def main(cfg: Config) -> None:
    training.set_up(replace(cfg.train, device="cpu"))
    frames = {name: tables.read(name, columns=columns) for name, columns in samples.INPUTS.items()}
    data = samples.build(frames, cfg)
    del frames
    net, model_id = checkpoint.load(checkpoint.FOLDER, data.feature_names, cfg)
    measured = onnx_export.export(checkpoint.FOLDER, net, data, onnx_fusionnet.FOLDER)
    write_json(METRICS, measured)
    for precision, parity in measured.items():
        outcome = f"not shipped: {parity['refused']}" if parity["refused"] else "shipped"
        log.info("model %s in %s: %.2f%% of rows agree, %s", model_id, precision, 100 * parity["agreement"], outcome)


if __name__ == "__main__":
    run(main)
