"""What FusionNet costs: time of an epoch and of Monte-Carlo inference, operations, and the device's own rate.

Both sides of a comparison take turns, an epoch in pieces, and swap the first turn each time, so that what disturbs the
machine meets both; medians over rounds count. The baseline is torch's dropout as everybody uses it, without a seed of
its own. Operations are those of matrix products, counted by torch on one training step; attention is counted as the
products that it consists of, not as a fused kernel that repeats some of them.
"""

import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fusion_alpha import training
from fusion_alpha.config import Config
from fusion_alpha.fusionnet import Noise
from fusion_alpha.parity import variant
from fusion_alpha.samples import Samples

OnRound = Callable[[], object]
Work = Callable[[], object]
MC_SAMPLES = 32
_PIECE_BATCHES = 5  # a third of a second on a CPU; a turn ends with the loss of one dev row, which costs little then
_MATRIX = {"cpu": 2048, "cuda": 8192}  # side of the square that measures the device's rate


def unseeded(x: Tensor, p: float, **address: object) -> Tensor:
    """torch's dropout from the global generator, as `nn.Dropout` draws it."""
    return functional.dropout(x, p)


def epoch_seconds(samples: Samples, cfg: Config, device: torch.device, on_round: OnRound) -> pd.DataFrame:
    """Seconds of training epochs without evaluation: columns bicep, torch; one row a round."""
    cfg = variant(cfg, mask="bicep")
    states = {name: training.start(samples, cfg, device) for name in ("bicep", "torch")}
    states["torch"].net.dropout = unseeded
    rows = samples.select("train", labelled=True)
    rows = rows[training.permutation(len(rows), cfg.train.seed, 0)]
    size = _PIECE_BATCHES * cfg.train.batch_size
    pieces = [rows[begin : begin + size] for begin in range(0, len(rows), size)]

    def work(name: str) -> list[Work]:
        state = states[name]
        return [partial(training.run_epoch, state, samples, part, rows[:1], cfg.train, device) for part in pieces]

    return _by_turns({name: work(name) for name in states}, cfg.parity.rounds, device, on_round)


@torch.no_grad()
def monte_carlo_seconds(samples: Samples, cfg: Config, device: torch.device, on_round: OnRound) -> pd.DataFrame:
    """Seconds of MC_SAMPLES samples of one batch: columns bicep (one pass), torch (a pass a sample)."""
    cfg = variant(cfg, mask="bicep")
    ours, plain = (training.start(samples, cfg, device).net.eval() for _ in range(2))
    plain.dropout = unseeded
    batch = samples.gather(np.resize(samples.select("dev"), cfg.train.batch_size)).to(device)

    def passes() -> None:
        for _ in range(MC_SAMPLES):
            plain(batch, Noise())

    one_pass = partial(ours, batch, Noise(samples=MC_SAMPLES, share_rows=True))
    return _by_turns({"bicep": [one_pass], "torch": [passes]}, cfg.parity.rounds, device, on_round)


def flops_per_row(samples: Samples, cfg: Config, device: torch.device) -> float:
    """Floating-point operations of a row's matrix products, forward and backward; a product and a sum are two."""
    net = training.start(samples, cfg, device).net.train()
    batch = samples.gather(np.resize(samples.select("train", labelled=True), cfg.train.batch_size)).to(device)
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):
        training.loss(net(batch, Noise(step=1)), batch, cfg.train.beta)[0].backward()
    return float(counter.get_total_flops()) / len(batch.label)


def matmul_flops(device: torch.device, rounds: int) -> float:
    """Operations a second of a large square float32 matrix product, as torch is set up now; the median round."""
    side = _MATRIX[device.type]
    square = torch.linspace(-1, 1, side * side, device=device).reshape(side, side)
    times = _by_turns({"matmul": [lambda: square @ square]}, rounds, device, lambda: None)
    return float(2 * side**3 / times["matmul"].median())


def device_name(device: torch.device) -> str:
    """`cpu` or `cuda` and the model of the processor."""
    if device.type == "cuda":
        return f"cuda {torch.cuda.get_device_name(device)}"
    described = Path("/proc/cpuinfo")
    lines = described.read_text().splitlines() if described.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"cpu {names[0] if names else platform.processor()}"


def _by_turns(work: dict[str, list[Work]], rounds: int, device: torch.device, on_round: OnRound) -> pd.DataFrame:
    """Seconds of all pieces of each work, one row a round; a first round warms up and does not count."""
    names, table = list(work), []
    for _ in range(rounds + 1):
        seconds = dict.fromkeys(work, 0.0)
        for piece in range(len(work[names[0]])):
            for name in names:
                seconds[name] += _seconds(work[name][piece], device)
            names.reverse()
        table.append(seconds)
        on_round()
    return pd.DataFrame(table[1:])


def _seconds(work: Work, device: torch.device) -> float:
    _wait(device)
    started = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
