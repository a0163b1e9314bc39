"""Variance control: how wide the steps of a walk are, by two numbers.

    sigma_t = sigma_t0 (1/2 + f / 2) exp(-lambda t),   t = 0, 1, ..: steps from the start

f in [0, 1] is the feedback: 1 leaves the volatility as it is, 0 halves it, and the factor is one straight line between,
f = 1/2 included. lambda >= 0 is the decay a step: 0 is none, and the first step is never damped.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray


def controlled_vol(vol: ArrayLike, n_steps: int, feedback: float = 1.0, decay: float = 0.0) -> NDArray[np.float64]:
    """Volatility of each step under variance control, float64 [n_steps].

    vol: before the control, scalar or [n_steps], in any unit; the result has the same. Raises ValueError for another
    shape, feedback outside [0, 1], a decay that is negative or not finite.
    """
    if not 0 <= feedback <= 1:
        raise ValueError(f"feedback = {feedback} is outside [0, 1]")
    if not 0 <= decay < math.inf:
        raise ValueError(f"decay = {decay} is negative or not finite")
    base = np.asarray(vol, np.float64)
    if base.shape not in ((), (n_steps,)):
        raise ValueError(f"vol has shape {base.shape}, neither () nor ({n_steps},)")
    # powers by multiplication: np.exp differs in the last bit between processors
    damping = np.full(n_steps, math.exp(-decay))
    damping[:1] = 1.0
    return base * (0.5 + 0.5 * feedback) * np.multiply.accumulate(damping)
