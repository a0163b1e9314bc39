"""What the predictions of one bar cost, torch beside ONNX Runtime, each on one thread; after `dvc repro`.

    python -m fusion_alpha.prediction_bench [--rows 3 100] [--rounds 200] [--output FILE]

Everybody starts from the same samples and gives p_up of the latest rows of as many tickers; times hold the gathering of
tokens and no loading. The five take turns and swap the order each round, so what disturbs the machine meets all.
Medians over rounds count, of milliseconds on the clock and of CPU: neighbours on the machine lengthen the former alone,
so that the ratio is one of CPU. `load` is the machine's when it began.

torch           the engine of predict.engine=torch: batches of 256 rows, padded, so that a row keeps its bits
torch_unpadded  the network on these rows alone: other last bits in other company
onnx            the engine of predict.engine=onnx, a row at a time, in float32
onnx_int8       the same in int8, whether it passed its gates or not
onnx_together   float32, all rows in one call: other last bits in other company

Writes  a row for each at the end of metrics/prediction_bench.csv (--output none: only the table on the screen)
"""

import argparse
import copy
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.special import expit

from fusion_alpha import checkpoint, config, onnx_export, onnx_fusionnet, samples, tables
from fusion_alpha.config import Config
from fusion_alpha.errors import InputError
from fusion_alpha.fusionnet import Noise
from fusion_alpha.live.model import OnnxEngine, TorchEngine
from fusion_alpha.onnx_models import session
from fusion_alpha.samples import Samples
from fusion_alpha.stage import console
from kernels.bench import log as bench_log

Work = Callable[[], NDArray[np.float64]]
OUTPUT = Path("metrics/prediction_bench.csv")
COLUMNS = [
    *("commit", "date", "device", "versions", "load", "provider", "rows", "mc_samples", "rounds"),
    *("p20_ms", "p50_ms", "p80_ms", "cpu_p50_ms", "torch_over_this", "p_up_difference"),
]
_FILE = onnx_fusionnet.FOLDER / onnx_fusionnet.file_name("float32")


def work(data: Samples, rows: NDArray[np.int64], cfg: Config) -> dict[str, Work]:
    """p_up of the rows by provider."""
    plain, ours = TorchEngine(checkpoint.FOLDER, cfg), OnnxEngine(onnx_fusionnet.FOLDER, cfg)
    net, _ = checkpoint.load(checkpoint.FOLDER, data.feature_names, cfg)
    count, names = cfg.predict.mc_samples, onnx_fusionnet.inputs(net.model)
    drawn = onnx_fusionnet.masks(net.model, net.seed, count)
    whole = session(_FILE.read_bytes())
    in_int8 = copy.copy(ours.net)
    in_int8.runner = onnx_fusionnet.Runner(onnx_export.quantized(onnx.load(_FILE)))

    @torch.no_grad()
    def unpadded() -> NDArray[np.float64]:
        logit = net(data.gather(rows), Noise(samples=count, share_rows=True)).logit
        return torch.sigmoid(logit.double()).mean(dim=0).numpy()

    def together() -> NDArray[np.float64]:
        batch = data.gather(rows)
        tokens = {name: getattr(batch, name).numpy() for name in names}
        logit = whole.run(["logit"], tokens | drawn)[0]
        return np.asarray(expit(logit.astype(np.float64)).mean(axis=0))

    return {
        "torch": lambda: plain.predict(data, rows)["p_up"].to_numpy(),
        "torch_unpadded": unpadded,
        "onnx": lambda: ours.predict(data, rows)["p_up"].to_numpy(),
        "onnx_int8": lambda: in_int8.predict(data, rows, mc_samples=count)["p_up"].to_numpy(),
        "onnx_together": together,
    }


def measure(data: Samples, n_rows: int, rounds: int, cfg: Config) -> list[bench_log.Row]:
    """A row of COLUMNS, the machine's left out, for each provider."""
    usable = data.select()
    latest = pd.Series(usable).groupby(data.rows["ticker"].iloc[usable].to_numpy()).max().to_numpy()
    todo = work(data, np.resize(latest, n_rows), cfg)
    said = {name: one() for name, one in todo.items()}  # warms up
    names, taken = list(todo), {name: np.zeros((2, rounds)) for name in todo}
    for number in range(rounds):
        for name in names:
            started = time.perf_counter(), time.process_time()
            todo[name]()
            taken[name][:, number] = time.perf_counter() - started[0], time.process_time() - started[1]
        names.reverse()
    found = []
    for name, (seconds, cpu) in taken.items():
        sizes = {"provider": name, "rows": n_rows, "mc_samples": cfg.predict.mc_samples, "rounds": rounds}
        times = dict(zip(("p20_ms", "p50_ms", "p80_ms"), 1e3 * np.percentile(seconds, [20, 50, 80]), strict=True))
        times["cpu_p50_ms"] = 1e3 * np.median(cpu)
        times["torch_over_this"] = np.median(taken["torch"][1]) / np.median(cpu)
        off = float(f"{np.abs(said[name] - said['torch']).max():.2g}")
        found.append(sizes | {key: float(f"{value:.4g}") for key, value in times.items()} | {"p_up_difference": off})
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[3, 100])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--output", default=str(OUTPUT))
    chosen = parser.parse_args(arguments)
    try:
        if min(*chosen.rows, chosen.rounds) < 1:
            raise InputError(f"--rows {chosen.rows} --rounds {chosen.rounds}", rule="at least 1 of each")
        cfg = config.load()
        cfg = replace(cfg, train=replace(cfg.train, threads=1, device="cpu"))
        frames = {name: tables.read(name, columns=columns) for name, columns in samples.INPUTS.items()}
        data = samples.build(frames, cfg)
        machine = bench_log.cpu_machine()
        machine = {name: machine[name] for name in ("commit", "date", "device", "versions")}
        machine["versions"] += f"; onnxruntime {onnxruntime.__version__}"
        machine["load"] = round(os.getloadavg()[0], 2)
        found = [machine | row for count in chosen.rows for row in measure(data, count, chosen.rounds, cfg)]
        if chosen.output != "none":
            bench_log.append(found, Path(chosen.output), COLUMNS)
    except (InputError, bench_log.OtherColumns) as error:
        console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        return 2
    sys.stdout.write(pd.DataFrame(found)[COLUMNS[5:]].to_string(index=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
