"""train_bicep: does FusionNet learn the same with BICEP's dropout as with torch's, and at what cost?

Four comparisons on the same data, named L0 to L3: equal masks give equal weights, bit for bit; without masks both are
plain torch; other masks give an equivalent dev loss over paired seeds; CPU and GPU agree. Then times: an epoch of
training, Monte-Carlo inference with 32 samples, and FusionNet's operations a second beside a large matrix product's.

Reads   data/processed/panel.parquet, news_bars.parquet, data/features/technical.parquet, text.parquet,
        contradiction.parquet
Writes  metrics/bicep.json, metrics/bicep_seeds.csv, metrics/bicep_times.csv, metrics/bicep.svg; a run in MLflow's
        experiment `bicep`; finished trainings in .cache/bicep, from which an interrupted run goes on
Holds   weights and batches of a pair are equal, the masks alone differ; timings are taken while nothing else of ours
        runs; a level that cannot be measured here is null with its reason, never passed.
Exits   with 1 where a level does not hold, after everything is written.
Run     dvc repro kernels/dvc.yaml, or python -m stages.train_bicep [parity.max_seeds=20 executor.workers=4 ...]
"""

import logging
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fusion_alpha import figures, paired, parity, samples, stage, tables, throughput, tracking, training
from fusion_alpha.config import Config
from fusion_alpha.files import write_json, write_text
from fusion_alpha.parity import Level
from fusion_alpha.samples import Samples
from fusion_alpha.statistics import rounded

METRICS, FIGURE = Path("metrics/bicep.json"), Path("metrics/bicep.svg")
SEEDS, TIMES = Path("metrics/bicep_seeds.csv"), Path("metrics/bicep_times.csv")
EXPERIMENT = "bicep"

log = logging.getLogger(__name__)


def compare_exactly(data: Samples, cfg: Config, device: torch.device, progress: Progress) -> dict[str, Level]:
    """L0, L1 and L3."""
    levels = {}
    task = progress.add_task("L0, L1, L3: step by step", total=3)
    for name, measure in (
        ("L0", lambda: parity.identical_masks(data, cfg, device)),
        ("L1", lambda: parity.nothing_dropped(data, cfg, device)),
        ("L3", lambda: parity.equal_devices(data, cfg)),
    ):
        levels[name] = measure()
        progress.advance(task)
    training.set_up(cfg.train)  # L3 may have been on the other device
    return levels


def measure_times(data: Samples, cfg: Config, device: torch.device, progress: Progress) -> pd.DataFrame:
    """Seconds of every round: epoch_bicep_s, epoch_torch_s, mc_bicep_s, mc_torch_s."""
    parts = []
    for name, label, measure in (
        ("epoch", "epoch time", throughput.epoch_seconds),
        ("mc", f"inference, {throughput.MC_SAMPLES} samples", throughput.monte_carlo_seconds),
    ):
        task = progress.add_task(label, total=cfg.parity.rounds + 1)
        seconds = measure(data, cfg, device, partial(progress.advance, task))
        parts.append(seconds.add_prefix(f"{name}_").add_suffix("_s"))
    return pd.concat(parts, axis=1)


def compare_losses(data: Samples, cfg: Config) -> pd.DataFrame:
    """Dev BCE of every pair, in nats: seed, bicep, torch, difference."""
    table = paired.losses(data, cfg, stage.root() / ".cache" / "bicep" / paired.cache_key(cfg))
    return table.assign(difference=table["bicep"] - table["torch"])


def cost(data: Samples, cfg: Config, device: torch.device, times: pd.DataFrame) -> dict[str, Any]:
    """Ratios and rates; a ratio is the median over the rounds, beside it the 20th and 80th percentile."""
    ratio = times["epoch_bicep_s"] / times["epoch_torch_s"]
    speedup = times["mc_torch_s"] / times["mc_bicep_s"]
    flops_per_row = throughput.flops_per_row(data, cfg, device)
    n_flops = flops_per_row * len(data.select("train", labelled=True))
    rate = n_flops / float(times["epoch_bicep_s"].median())
    peak = throughput.matmul_flops(device, cfg.parity.rounds)
    return {
        "epoch_time_ratio": rounded(float(ratio.median())),
        "epoch_time_ratio_p20_p80": [rounded(float(level)) for level in ratio.quantile([0.2, 0.8])],
        "epoch_s": {name: rounded(float(times[f"epoch_{name}_s"].median())) for name in ("bicep", "torch")},
        "mc_speedup_s32": rounded(float(speedup.median())),
        "mc_speedup_s32_p20_p80": [rounded(float(level)) for level in speedup.quantile([0.2, 0.8])],
        "flops_per_row": flops_per_row,
        "tflops": rounded(rate / 1e12),
        "matmul_tflops": rounded(peak / 1e12),
        "tflops_share": rounded(rate / peak),
    }


def report(levels: dict[str, Level]) -> list[str]:
    """Log every level; returns the names of those that do not hold."""
    for name, level in levels.items():
        if level["passed"] is None:
            log.info("%s %s", name, level["reason"])
            continue
        severity, verdict = (logging.INFO, "holds") if level["passed"] else (logging.ERROR, "DOES NOT HOLD")
        log.log(
            severity, "%s %s: %s, at most %s (%s)", name, verdict, level["value"], level["criterion"], level["unit"]
        )
    return [name for name, level in levels.items() if level["passed"] is False]


def main(cfg: Config) -> None:
    device = training.set_up(cfg.train)
    data = samples.build({name: tables.read(name, columns=columns) for name, columns in samples.INPUTS.items()}, cfg)
    columns = (TextColumn("{task.description:<26}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with tracking.training_run(cfg, EXPERIMENT) as record:
        with Progress(*columns, console=stage.console) as progress:
            levels = compare_exactly(data, cfg, device, progress)
            times = measure_times(data, cfg, device, progress)
        metrics = cost(data, cfg, device, times)
        seeds = compare_losses(data, cfg)
        levels["L2"] = parity.equivalent_losses(seeds["bicep"], seeds["torch"], cfg.parity.margin_nats)
        metrics |= {"parity": levels, "device": throughput.device_name(device), "threads": cfg.train.threads}
        metrics |= {
            "rounds": cfg.parity.rounds,
            "model": cfg.model.name,
            "train_rows": data.counts()["train"]["labelled"],
        }
        metrics |= {"simulated": cfg.data.simulated, "torch": torch.__version__}
        write_json(METRICS, metrics)
        write_text(SEEDS, seeds.to_csv(index=False))
        write_text(TIMES, times.rename_axis("round").to_csv())
        figures.save(FIGURE, figures.parity(seeds, levels["L2"], times, cfg.data.simulated))
        failed = report(dict(sorted(levels.items())))
        tags = {"mlflow.runName": f"parity-{cfg.model.name}", "verdict": "failed" if failed else "passed"}
        record.record(metrics, tags | {"device": metrics["device"]}, [METRICS, SEEDS, TIMES, FIGURE])
    log.info(
        "epoch %.3g times torch's, inference %.3g times faster, %.3g TFLOPS",
        *(metrics[name] for name in ("epoch_time_ratio", "mc_speedup_s32", "tflops")),
    )
    if failed:
        log.error("parity does not hold: %s", ", ".join(failed))
        sys.exit(1)


if __name__ == "__main__":
    stage.run(main)
