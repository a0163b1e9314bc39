"""minute: the one-minute laboratory -> its layers and a small model, for `live_router.py --interval 1m`.

Reads   minute/params.yaml, which conf/ with experiment=minute composes to
Writes  minute/data/ (the layers), minute/models/fusionnet/ and fusionnet_onnx/, minute/metrics/train.json
Holds   the pipeline's own stages, run elsewhere; nothing of the checkout's data/, models/ and metrics/ is touched, and
        no run is recorded: this trains one model and tries nothing.
Run     dvc repro minute/dvc.yaml, or python -m stages.minute
"""

import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

from fusion_alpha import checkpoint, config, onnx_export, onnx_fusionnet, samples, training, workspace
from fusion_alpha.config import Config
from fusion_alpha.files import replace_folder, write_json
from fusion_alpha.samples import Samples
from fusion_alpha.stage import run
from fusion_alpha.train_state import TrainState

FOLDER = Path("minute")
LAYERS = ("ingest", "clean", "process", "technical", "text", "contradiction")
METRICS = FOLDER / "metrics/train.json"

log = logging.getLogger(__name__)


def layers(cfg: Config, target: Path) -> Samples:
    """Run the stages up to the features in a folder of their own, leave their data in `target`; returns the samples."""
    with tempfile.TemporaryDirectory() as folder:
        with workspace.opened(Path(folder) / "minute", cfg, LAYERS) as space:
            space.run(*LAYERS)
            frames = {name: space.read(name, columns) for name, columns in samples.INPUTS.items()}
        made = space.folder / "data"
        replace_folder(target, lambda partial: shutil.copytree(made, partial, dirs_exist_ok=True))
    return samples.build(frames, cfg)


def summary(model_id: str, state: TrainState, data: Samples, dev: dict[str, float]) -> dict[str, Any]:
    return {
        "model_id": model_id,
        "epochs": state.epoch,
        "best_epoch": state.best_epoch,
        "dev": dev,
        "rows": data.counts(),
    }


def main(_: Config) -> None:
    cfg = config.load(params=FOLDER / config.PARAMS)
    data = layers(cfg, FOLDER / "data")
    device = training.set_up(cfg.train)
    state = training.train(data, cfg, device)
    dev = training.evaluate(state.net, data, data.select("dev", labelled=True), cfg.train.beta, device)
    model_id = checkpoint.save(FOLDER / checkpoint.FOLDER, state.net, data, cfg, dev)
    onnx_export.export(FOLDER / checkpoint.FOLDER, state.net, data, FOLDER / onnx_fusionnet.FOLDER)
    write_json(METRICS, summary(model_id, state, data, dev))
    log.info("model %s: %s bars, epoch %d, dev loss %.4f", model_id, cfg.interval, state.best_epoch, dev["loss"])


if __name__ == "__main__":
    run(main)
