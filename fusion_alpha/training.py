"""Train a FusionNet: AdamW on train rows, early stopping on dev rows, the same bits for the same inputs.

With train.precision = bfloat16 the forward pass of training runs under autocast: matrix products in bfloat16, weights,
gradients' sums, losses and everything that is judged in float32. Its exponent range is float32's: no loss scaling.

Loss: BCE of p_up plus beta times the Gaussian negative log likelihood of target_ret over trailing volatility, in nats.
Rows of role test are never touched. Weights come from a generator seeded by train.seed; the order of the batches
and all noise (dropout, sticky masks, bridges on prices) are Philox words addressed by (seed, epoch) and (seed, step),
so nothing depends on how many random numbers were drawn before, nor on how a batch is spread over processes.
"""

import copy
import logging
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fusion_alpha.augmentation import perturb_returns
from fusion_alpha.config import Config, TrainConfig
from fusion_alpha.errors import InputError
from fusion_alpha.files import write_bytes
from fusion_alpha.fusionnet import FusionNet, Noise, Output
from fusion_alpha.ranks import ALONE, Ranks
from fusion_alpha.samples import Batch, Samples
from fusion_alpha.train_state import TrainState
from kernels.philox import Op, normal_counter, philox4x32

log = logging.getLogger(__name__)

EVALUATION_ROWS = 1024
MAX_GRADIENT_NORM = 1.0
THRESHOLD_LR_RATIO = 5.0  # tau moves by sd of the score, weights by hundredths
_SHUFFLE_STREAM = 1


def set_up(train: TrainConfig, local_rank: int = 0) -> torch.device:
    """Threads, deterministic kernels and the device; InputError for CUDA where there is none.

    local_rank: number of this process on its machine, which has the GPU of that number to itself.
    """
    if train.device == "cuda":
        if not torch.cuda.is_available():
            raise InputError(
                "parameter train.device = 'cuda', but torch sees no CUDA device",
                rule="the device that is asked for is there; there is no fallback",
                remedy="use train.device=cpu, or a machine with a GPU and torch's CUDA build",
            )
        if local_rank >= torch.cuda.device_count():
            raise InputError(
                f"process {local_rank + 1} of this machine has no GPU: torch sees {torch.cuda.device_count()}",
                rule="one GPU for each process that trains",
                remedy="use executor.workers for as many processes as GPUs, or train.device=cpu",
            )
        torch.cuda.set_device(local_rank)
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with it
    torch.set_num_threads(train.threads)
    torch.use_deterministic_algorithms(True)
    # a debugging aid that costs a tenth of the time; torch makes it a property of the module, which mypy cannot see
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return torch.device("cuda", local_rank) if train.device == "cuda" else torch.device("cpu")


def train(
    samples: Samples,
    cfg: Config,
    device: torch.device,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    *,
    ranks: Ranks = ALONE,
    resume: Path | None = None,
) -> TrainState:
    """Train until `train.epochs` or until `train.patience` epochs brought no better dev loss.

    resume: file that holds the state after each epoch (`train_state.resume_path`); where it exists, training goes on
    from it, and `on_epoch` sees its epochs first. Returns the state with the best epoch's weights in `net`, on the
    CPU, in evaluation mode. Raises InputError without labelled train or dev rows.
    """
    rows = {role: samples.select(role, labelled=True) for role in ("train", "dev")}
    for role, chosen in rows.items():
        if not len(chosen):
            raise InputError(
                f"no usable row of role {role} has a label",
                rule="rows to learn from and rows to stop on",
                remedy="check data.train_start, dev_start and test_start against start, end and technical.warmup_bars",
            )
    state = start(samples, cfg, device)
    if resume is not None and resume.exists():
        state.load(resume)
        log.info("%d epochs were done by a training that did not end; going on", state.epoch)
    ranks.require_same(state.dump())
    if on_epoch is not None:
        for curve in state.curves:
            on_epoch(curve)
    while state.epoch < cfg.train.epochs and state.epoch - state.best_epoch < cfg.train.patience:
        run_epoch(state, samples, rows["train"], rows["dev"], cfg.train, device, ranks)
        now = state.dump()
        ranks.require_same(now)
        if resume is not None and ranks.first:
            write_bytes(resume, now)
        if on_epoch is not None:
            on_epoch(state.curves[-1])
    state.net.load_state_dict(state.best_weights)
    state.net.cpu().eval()
    return state


def start(samples: Samples, cfg: Config, device: torch.device) -> TrainState:
    """A fresh network with scalers fitted on train rows, and its optimizer."""
    net = FusionNet(
        cfg.model,
        n_features=len(samples.feature_names),
        text_dim=cfg.text.dim,
        tau=(cfg.contradiction.tau_over, cfg.contradiction.tau_under),
        seed=cfg.train.seed,
    )
    fit_scalers(net, samples)
    net.to(device)
    named = dict(net.named_parameters())
    thresholds = [value for name, value in named.items() if name == "thresholds.raw"]
    matrices = [value for name, value in named.items() if value.ndim == 2]
    vectors = [value for name, value in named.items() if value.ndim < 2 and name != "thresholds.raw"]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": cfg.train.weight_decay},
        {"params": vectors},
        {"params": thresholds, "lr": THRESHOLD_LR_RATIO * cfg.train.lr},
    ]
    return TrainState(net, torch.optim.AdamW(groups, lr=cfg.train.lr, weight_decay=0.0))


def fit_scalers(net: FusionNet, samples: Samples) -> None:
    """Moments over usable train rows and over the news of train rows, at their age when they first count."""
    chosen = torch.from_numpy(samples.select("train"))
    if net.model.use_technical:
        net.scale_sessions.fit(samples.sessions[chosen])
    if net.model.use_text and samples.news_start[-1] > 0:
        is_train = torch.zeros(len(samples.usable), dtype=torch.bool)
        is_train[chosen] = True
        items = is_train[samples.news_row]
        row = samples.news_row[items]
        age = (samples.cutoff_hours[row] - samples.news_hours[items]).clamp(min=0).log1p().float()
        if len(row):
            net.scale_news.fit(torch.cat([age[:, None], samples.news_features[items]], dim=1))


def run_epoch(
    state: TrainState,
    samples: Samples,
    train_rows: NDArray[np.int64],
    dev_rows: NDArray[np.int64],
    train: TrainConfig,
    device: torch.device,
    ranks: Ranks = ALONE,
) -> None:
    """One pass over the train rows, then the dev loss; keeps the weights when that is the best so far."""
    state.epoch += 1
    order = train_rows[permutation(len(train_rows), train.seed, state.epoch)]
    parameters = [value for group in state.optimizer.param_groups for value in group["params"]]
    state.net.train()
    sums = np.zeros(3)
    for begin in range(0, len(order), train.batch_size):
        state.step += 1
        whole = order[begin : begin + train.batch_size]
        share = ranks.share(len(whole))
        own = whole[share]
        noise = Noise(step=state.step, first_row=share.start)
        batch = perturb_returns(
            samples.gather(own if len(own) else whole[:1]),  # a row of weight 0: every rank has every gradient
            samples.feature_names,
            train.augment_bridge,
            seed=train.seed,
            step=noise.step,
            first_row=noise.first_row,
        ).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=train.precision == "bfloat16"):
            output = state.net(batch, noise)
        losses = loss(output, batch, train.beta)
        state.optimizer.zero_grad(set_to_none=True)
        (losses[0] * (len(own) / len(whole))).backward()
        ranks.add_up([value.grad for value in parameters if value.grad is not None])
        torch.nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM)
        state.optimizer.step()
        sums += np.array([value.item() for value in losses]) * len(own)
    ranks.add_up([torch.from_numpy(sums)])
    if not np.isfinite(sums).all():
        raise InputError(
            f"the training loss is not finite in epoch {state.epoch}",
            rule="training converges",
            remedy="lower train.lr, or look for extreme values in the features",
        )
    dev = evaluate(state.net, samples, dev_rows, train.beta, device)
    names = ("loss", "bce", "nll")
    curve = {"epoch": float(state.epoch)}
    curve |= {f"train_{name}": float(value / len(order)) for name, value in zip(names, sums, strict=True)}
    curve |= {f"dev_{name}": dev[name] for name in names}
    state.curves.append(curve)
    if dev["loss"] < state.best_loss:
        state.best_epoch, state.best_loss = state.epoch, dev["loss"]
        state.best_weights = copy.deepcopy(state.net.state_dict())


def loss(output: Output, batch: Batch, beta: float) -> tuple[Tensor, Tensor, Tensor]:
    """Means over the batch: bce + beta nll, bce, nll; in nats and in float32, whatever the network computed in."""
    logit, mean, sd = output.logit.float(), output.mean.float(), output.sd.float()
    bce = functional.binary_cross_entropy_with_logits(logit, batch.label)
    z = (batch.target - mean) / sd
    nll = (0.5 * z.square() + sd.log()).mean() + 0.5 * math.log(2 * math.pi)
    return bce + beta * nll, bce, nll


@torch.no_grad()
def evaluate(
    net: FusionNet, samples: Samples, rows: NDArray[np.int64], beta: float, device: torch.device
) -> dict[str, float]:
    """Losses and skill on labelled rows, without dropout and with hard thresholds.

    accuracy: share of rows on the right side of p_up = 1/2. ic: Spearman correlation of the mean head with the target.
    severity_corr: Spearman correlation of the gate with |target|. Correlations are 0 where one side does not vary.
    """
    net.eval()
    sums = np.zeros(3)
    means, severities, hits = [], [], 0.0
    for begin in range(0, len(rows), EVALUATION_ROWS):
        batch = samples.gather(rows[begin : begin + EVALUATION_ROWS]).to(device)
        output = net(batch)
        sums += np.array([value.item() for value in loss(output, batch, beta)]) * len(batch.label)
        hits += ((output.logit > 0).float() == batch.label).sum().item()
        means.append(output.mean.cpu().numpy())
        severities.append(output.severity.cpu().numpy())
    target = samples.target.numpy()[rows]
    total, bce, nll = (sums / len(rows)).tolist()
    return {
        "loss": total,
        "bce": bce,
        "nll": nll,
        "accuracy": hits / len(rows),
        "ic": rank_correlation(np.concatenate(means), target),
        "severity_corr": rank_correlation(np.concatenate(severities), np.abs(target)),
    }


def rank_correlation(x: NDArray[np.floating], y: NDArray[np.floating]) -> float:
    """Spearman's correlation; 0 where one side does not vary."""
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(pd.Series(x).rank().corr(pd.Series(y).rank()))


def permutation(n: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """An order of n items, by the ranks of 64 bits addressed by (seed, epoch, item)."""
    counter = normal_counter(np.arange(n) * 4, 0, epoch, _SHUFFLE_STREAM, op=Op.UNIFORMS)
    high, low, _, _ = philox4x32(counter, seed)
    return np.argsort(high.astype(np.uint64) << np.uint64(32) | low, kind="stable")
