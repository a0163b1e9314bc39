"""Does FusionNet learn the same with BICEP's dropout as with torch's? Four levels, from bits to statistics.

    L0   the same masks, multiplied by plain torch: equal weights, bit for bit, after a number of Adam steps
    L1   no masks: p = 0 in training and evaluation mode are plain torch, bit for bit
    L2   other masks of the same law: equivalent dev loss over paired seeds, by two one-sided t-tests
    L3   the same training on CPU and GPU: equal training loss of every step, within float32's rounding

A level is a mapping with `value`, `criterion` and `passed` (value <= criterion), and what a reader needs beside them.
L0 takes its masks from `kernels.dropout.keep_mask`, the reference of the bits: it covers the backend, the scale, the
address of every step and layer, and the gradient. L2 compares losses of checkpoints, as `training.train` gives them.
"""

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.special import stdtr, stdtrit
from torch import Tensor, nn

from fusion_alpha import training
from fusion_alpha.config import Config
from fusion_alpha.fusionnet import Noise, Output
from fusion_alpha.samples import Samples
from fusion_alpha.statistics import rounded
from fusion_alpha.training import TrainState
from kernels.dropout import keep_mask

Dropout = Callable[..., Tensor]  # arguments as `kernels.torch_front.dropout`
Level = dict[str, Any]

RELATIVE_TOLERANCE = 1e-4  # of L3
SIGNIFICANCE = 0.05  # of each one-sided test; the interval then covers 1 - 2 x 0.05 = 90%
_LEVELS = 1 << 16  # of a probability in `kernels.dropout`


def masks_from_reference(
    x: Tensor, p: float, *, seed: int, step: int | Tensor, layer: int, first_row: int = 0, **others: object
) -> Tensor:
    """BICEP's masks in training, as plain torch: x * mask * scale."""
    width = x.shape[-1]
    keep = keep_mask(x.numel(), p, seed=seed, step=int(step), layer=layer, first_unit=first_row * width)
    scale = _LEVELS / (_LEVELS - round(p * _LEVELS))
    return x * torch.from_numpy(keep).reshape(x.shape).to(x) * scale


def identical_masks(
    samples: Samples, cfg: Config, device: torch.device, baseline: Dropout = masks_from_reference
) -> Level:
    """L0: weights of which the bits differ between BICEP and the same masks in plain torch."""
    cfg = variant(cfg, mask="bicep")
    ours = take_steps(samples, cfg, device).net.state_dict()
    plain = take_steps(samples, cfg, device, baseline).net.state_dict()
    return _exact(differing(ours, plain), "weights whose bits differ", of=_size(ours), steps=cfg.parity.steps)


def nothing_dropped(samples: Samples, cfg: Config, device: torch.device) -> Level:
    """L1: weights (p = 0) and outputs of dev rows (evaluation mode) of which the bits differ from plain torch's."""
    without = variant(cfg, dropout=0.0)
    ours, plain = (
        take_steps(samples, variant(without, mask=mask), device).net.state_dict() for mask in ("bicep", "torch")
    )
    net = take_steps(samples, variant(cfg, mask="bicep"), device).net.eval()
    batch = samples.gather(samples.select("dev")[: training.EVALUATION_ROWS]).to(device)
    module = nn.Dropout(cfg.model.dropout).eval()
    with torch.no_grad():
        ours |= _named(net(batch))
        net.dropout = lambda x, p, **_: module(x)
        plain |= _named(net(batch, Noise()))
    what = "weights at p = 0 and outputs in evaluation mode whose bits differ"
    return _exact(differing(ours, plain), what, of=_size(ours), steps=cfg.parity.steps)


def equivalent_losses(bicep: ArrayLike, torch_: ArrayLike, margin: float) -> Level:
    """L2: end of the 90% interval of the mean paired difference that is farther from 0, against the margin; in nats."""
    ours, plain = np.asarray(bicep, np.float64), np.asarray(torch_, np.float64)
    differences = ours - plain
    test = equivalence(differences, margin)
    bound = max(abs(test.low), abs(test.high))
    return {
        "value": rounded(bound),
        "criterion": margin,
        "passed": test.p < SIGNIFICANCE,
        "unit": "nats, the farther end of the 90% interval of dev BCE with BICEP minus with torch",
        "mean_difference": rounded(test.mean),
        "interval_90": [rounded(test.low), rounded(test.high)],
        "p": rounded(test.p),
        "seeds": len(differences),
        "sd_difference": rounded(float(differences.std(ddof=1))),
        "mean_bce": {"bicep": rounded(float(ours.mean())), "torch": rounded(float(plain.mean()))},
    }


def equal_devices(samples: Samples, cfg: Config) -> Level:
    """L3: largest relative difference of a step's training loss, CPU against GPU; `passed` is None without a GPU."""
    level: Level = {"value": None, "criterion": RELATIVE_TOLERANCE, "passed": None, "steps": cfg.parity.steps}
    level["unit"] = "largest relative difference of the training loss of a step, TF32 off"
    if not torch.cuda.is_available():
        return level | {"reason": "not measured: torch sees no CUDA device"}
    cfg = variant(cfg, mask="bicep")
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")  # no TF32
    on_cpu, on_gpu = (_step_losses(samples, cfg, device) for device in ("cpu", "cuda"))
    torch.set_float32_matmul_precision(precision)
    value = float((np.abs(on_gpu - on_cpu) / np.abs(on_cpu)).max())
    return level | {"value": rounded(value), "passed": value <= RELATIVE_TOLERANCE}


@dataclass(frozen=True)
class Equivalence:
    """Mean of the differences, its 90% interval, and the p-value of "the mean is at least a margin away from 0"."""

    mean: float
    low: float
    high: float
    p: float


def equivalence(differences: ArrayLike, margin: float) -> Equivalence:
    """Two one-sided paired t-tests of |mean| >= margin; equivalent at 5% exactly where the interval is inside +-margin.

    differences: [n], n >= 2, else ValueError. Source: Schuirmann (1987), "A comparison of the two one-sided tests
    procedure and the power approach", Journal of Pharmacokinetics and Biopharmaceutics 15.
    """
    values = np.asarray(differences, np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"differences have shape {values.shape}, not [n] with n >= 2")
    freedom = len(values) - 1
    mean = float(values.mean())
    error = max(float(values.std(ddof=1)) / math.sqrt(len(values)), sys.float_info.min)  # equal differences have none
    reach = float(stdtrit(freedom, 1 - SIGNIFICANCE)) * error
    p = float(stdtr(freedom, (abs(mean) - margin) / error))  # of the test on the nearer side, the larger of the two
    return Equivalence(mean, mean - reach, mean + reach, p)


def take_steps(samples: Samples, cfg: Config, device: torch.device, dropout: Dropout | None = None) -> TrainState:
    """`parity.steps` optimizer steps from the start, each an epoch of one batch: `curves` has the loss of every step.

    dropout: instead of the configuration's.
    """
    state = training.start(samples, cfg, device)
    if dropout is not None:
        state.net.dropout = dropout
    rows, dev = (samples.select(role, labelled=True) for role in ("train", "dev"))
    rows = rows[training.permutation(len(rows), cfg.train.seed, 0)]
    for step in range(cfg.parity.steps):
        first = step * cfg.train.batch_size
        batch = rows.take(range(first, first + cfg.train.batch_size), mode="wrap")
        training.run_epoch(state, samples, batch, dev[:1], cfg.train, device)
    return state


def variant(cfg: Config, *, seed: int | None = None, **model: object) -> Config:
    """The configuration with another seed of training or other parameters of the model."""
    train = cfg.train if seed is None else replace(cfg.train, seed=seed)
    return replace(cfg, train=train, model=replace(cfg.model, **model))  # type: ignore[arg-type]


def differing(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> int:
    """Numbers of which the bits differ, of two sets of float32 tensors of the same names and shapes."""
    return sum(int((_bits(value) != _bits(second[name])).sum()) for name, value in first.items())


def _bits(value: Tensor) -> Tensor:
    return value.detach().cpu().contiguous().view(torch.int32)


def _exact(value: int, unit: str, **more: object) -> Level:
    return {"value": value, "criterion": 0, "passed": value == 0, "unit": unit, **more}


def _size(tensors: Mapping[str, Tensor]) -> int:
    return sum(value.numel() for value in tensors.values())


def _named(output: Output) -> dict[str, Tensor]:
    return {f"output.{name}": value for name, value in vars(output).items()}


def _step_losses(samples: Samples, cfg: Config, name: str) -> Any:
    device = training.set_up(replace(cfg.train, device=name))
    return take_steps(samples, cfg, device).table()["train_loss"].to_numpy()
