"""Noise on the prices of training rows: a Brownian bridge on the path of closes in each row's window.

Closes move by the bridge, opens with the close before them, and the first and the last price of the window stay: what
changes is the way, not the total. The features that are returns over n sessions (`ret_n`) follow from that path, so
they still agree with each other and the window's log returns still add up to the same sum; gaps stay what they were.
Other features (averages, ranges, the contradiction score) keep the values of the real path.
"""

import re
from dataclasses import replace

import torch
from torch import Tensor

from fusion_alpha.samples import VOLATILITY, Batch
from kernels.bridge import bridge_augment

_RETURN = re.compile(r"ret_([1-9]\d*)")


def perturb_returns(
    batch: Batch, names: tuple[str, ...], scale: float, *, seed: int, step: int, first_row: int = 0
) -> Batch:
    """The batch, on the CPU, with perturbed `ret_n` among the session features `names`.

    scale: standard deviation of the bridge's steps, in units of the row's trailing volatility; 0 changes nothing. The
    noise is addressed by (seed, step, row of the global batch, session); first_row: position of the first row there.
    Rows with a masked session in their window stay as they are.
    """
    returns = {index: int(found[1]) for index, name in enumerate(names) if (found := _RETURN.fullmatch(name))}
    if scale == 0 or not returns:
        return batch
    rows, length, _ = batch.sessions.shape
    volatility = batch.sessions[:, -1, names.index(VOLATILITY)]
    sigma = torch.where(batch.session_mask.all(dim=1), scale * volatility, 0.0)
    noise = torch.zeros(rows, length + 1)  # of the log price before the first session and after each of them
    bridge_augment(noise.numpy(), sigma.numpy(), seed=seed, step=step, first_row=first_row, out=noise.numpy())
    sessions = batch.sessions.clone()
    for index, n in returns.items():
        sessions[..., index] = _moved(sessions[..., index], noise, n)
    return replace(batch, sessions=sessions)


def _moved(simple: Tensor, noise: Tensor, n: int) -> Tensor:
    """Simple returns over n sessions [B, L] after noise [B, L + 1] on the log price; none before the window."""
    length = simple.shape[1]
    earlier = noise[:, (torch.arange(1, length + 1) - n).clamp(min=0)]
    return simple + (1 + simple) * torch.expm1(noise[:, 1:] - earlier)
