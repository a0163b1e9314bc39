"""Predictions of a checkpoint with Monte-Carlo dropout: what the model says of a row and how sure it is.

Inference masks are addressed by the unit alone and every batch has the same shape, so a row's prediction depends on its
own tokens and on nothing else that is predicted.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from fusion_alpha import contradiction
from fusion_alpha.fusionnet import FusionNet, Noise, Output
from fusion_alpha.samples import Samples

BATCH_ROWS = 256  # every batch, the last one padded: matrix products round differently for other shapes


@torch.no_grad()
def predict(
    net: FusionNet,
    samples: Samples,
    rows: NDArray[np.int64],
    *,
    mc_samples: int,
    device: torch.device,
    on_batch: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """p_up, p_up_sd, mean_ret, sd_ret, severity and kind of the given rows, in their order.

    p_up and severity are means over the samples, p_up_sd is the deviation of p_up over them; sd_ret^2 is the mean
    variance plus the variance of the means.
    """
    net = net.to(device).eval()
    noise = Noise(samples=mc_samples, share_rows=True)
    parts = []
    for begin in range(0, len(rows), BATCH_ROWS):
        chosen = rows[begin : begin + BATCH_ROWS]
        padded = np.concatenate([chosen, np.repeat(chosen[-1:], BATCH_ROWS - len(chosen))])
        output = net(samples.gather(padded).to(device), noise)
        parts.append(_moments(output)[:, : len(chosen)])
        if on_batch is not None:
            on_batch(len(chosen))
    return table(np.concatenate([*parts, np.zeros((5, 0))], axis=1), samples, rows, net.tau())


def table(
    moments: NDArray[np.float64], samples: Samples, rows: NDArray[np.int64], tau: tuple[float, float] | None
) -> pd.DataFrame:
    """Predictions of the rows from `_moments` [5, rows], mean and sd in units of the volatility."""
    p_up, p_up_sd, mean, sd, severity = moments
    volatility = samples.volatility[rows]
    return pd.DataFrame(
        {
            "p_up": p_up,
            "p_up_sd": p_up_sd,
            "mean_ret": mean * volatility,
            "sd_ret": sd * volatility,
            "severity": severity,
            "kind": kinds(samples.score.numpy()[rows], tau),
        }
    )


def _moments(output: Output) -> NDArray[np.float64]:
    """Rows p_up, p_up_sd, mean, sd, severity over the samples [S, B] -> [5, B]."""
    mean, sd = output.mean.double(), output.sd.double()
    variance = sd.square().mean(dim=0) + mean.var(dim=0, correction=0)
    p_up = torch.sigmoid(output.logit.double())
    means = [p_up.mean(dim=0), p_up.std(dim=0, correction=0)]
    moments = [*means, mean.mean(dim=0), variance.sqrt(), output.severity.double().mean(dim=0)]
    return torch.stack(moments).cpu().numpy()


def kinds(score: NDArray[np.float32], tau: tuple[float, float] | None) -> NDArray[np.object_]:
    """`contradiction.kind` at the learned thresholds; none where the model has none."""
    return np.full(len(score), "none", object) if tau is None else contradiction.kind(score, *tau)
