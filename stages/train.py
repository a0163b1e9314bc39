"""train: features -> a FusionNet checkpoint. Learns from train rows, stops on dev rows, never reads test rows.

Reads   data/processed/panel.parquet, news_bars.parquet, data/features/technical.parquet, text.parquet,
        contradiction.parquet
Writes  models/fusionnet/ (weights, config, model card), metrics/train.json, metrics/curves.csv; a run in MLflow
Holds   equal inputs, threads and ranks give equal bytes; a killed run leaves the former checkpoint or none, never half
        a one, and the next run of the same training goes on after its last whole epoch.
Run     python -m stages.train [train.epochs=3 model.dropout=0.3 ...]
        python -m stages.train executor=ddp executor.workers=2     or, to use torchrun's own options,
        torchrun --nproc-per-node 2 -m stages.train executor=ddp
"""

import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fusion_alpha import checkpoint, ranks, samples, tables, tracking, train_state, training
from fusion_alpha.config import Config
from fusion_alpha.files import write_json, write_text
from fusion_alpha.ranks import Ranks
from fusion_alpha.samples import Samples
from fusion_alpha.stage import console, run
from fusion_alpha.train_state import TrainState

METRICS, CURVES = Path("metrics/train.json"), Path("metrics/curves.csv")

log = logging.getLogger(__name__)


def summary(state: TrainState, data: Samples, dev: dict[str, float]) -> dict[str, Any]:
    """Epochs, losses of the best epoch, learned thresholds, and rows by role."""
    best = state.curves[state.best_epoch - 1]
    tau = state.net.tau()
    counts = data.counts()
    return {
        "epochs": state.epoch,
        "best_epoch": state.best_epoch,
        "parameters": sum(value.numel() for value in state.net.parameters()),
        "train": {name: best[f"train_{name}"] for name in ("loss", "bce", "nll")},
        "dev": dev,
        "thresholds": None if tau is None else {"tau_over": tau[0], "tau_under": tau[1]},
        "persistence": None if tau is None else state.net.thresholds.persistence().item(),
        "rows": counts,
        "dropped_rows": len(data.rows) - len(data.select()),
        "unknown_features": int(data.sessions[data.select()].isnan().sum()),
        "news": int(data.news_start[-1]),
    }


def main(cfg: Config) -> None:
    if cfg.executor.ranks > 1 and not ranks.launched():
        ranks.launch("stages.train", sys.argv[1:], cfg.executor.ranks)
    device = training.set_up(cfg.train, ranks.local_rank())
    with ranks.joined(cfg) as group:
        if group.size != cfg.executor.ranks:  # torchrun's own --nproc-per-node
            cfg.executor = replace(cfg.executor, workers=group.size, ranks=group.size)
        work(cfg, group, device)


def work(cfg: Config, group: Ranks, device: torch.device) -> None:
    """The part of one process; the first one also writes and records."""
    frames = {name: tables.read(name, columns=columns) for name, columns in samples.INPUTS.items()}
    data = samples.build(frames, cfg)
    del frames
    resume = train_state.resume_path(cfg, [tables.schema(name).path for name in samples.INPUTS])
    if not group.first:
        training.train(data, cfg, device, ranks=group, resume=resume)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with tracking.training_run(cfg) as record, Progress(*columns, console=console) as progress:
        task = progress.add_task("train", total=cfg.train.epochs)

        def show(curve: dict[str, float]) -> None:
            losses = f"train {curve['train_loss']:.4f}, dev {curve['dev_loss']:.4f}"
            progress.update(task, advance=1, description=f"loss {losses}")

        state = training.train(data, cfg, device, show, ranks=group, resume=resume)
        dev_rows = data.select("dev", labelled=True)
        dev = training.evaluate(state.net, data, dev_rows, cfg.train.beta, device)
        metrics = summary(state, data, dev)
        model_id = checkpoint.save(checkpoint.FOLDER, state.net, data, cfg, dev)
        write_json(METRICS, metrics)
        write_text(CURVES, state.table().to_csv(index=False))
        record.log_curves(state.table())
        record.finish(
            model_id=model_id, metrics={f"dev/{name}": value for name, value in dev.items()}, artifacts=[CURVES]
        )
    resume.unlink(missing_ok=True)
    log.info(
        "model %s: %d parameters, epoch %d of %d, dev loss %.4f; %d of %d rows are before the end of a warm-up",
        model_id,
        metrics["parameters"],
        state.best_epoch,
        state.epoch,
        dev["loss"],
        metrics["dropped_rows"],
        len(data.rows),
    )


if __name__ == "__main__":
    run(main)
