"""The power of two by which walks are scaled to integers, so that neither order nor machine changes a bit of a sum."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

HEADROOM_BITS = 29  # |x| 2^s stays below 2^29, and below 2^30 after rounding: no int32 overflow, drawdown included


def binary_scale(bound: ArrayLike) -> NDArray[np.int64]:
    """s = floor(29 - log2(bound)) of each bound on |x|, exactly, from its exponent; 0 where the bound is 0."""
    mantissa, exponent = np.frexp(np.asarray(bound, np.float64))
    return np.where(mantissa > 0, HEADROOM_BITS - exponent.astype(np.int64) + (mantissa == 0.5), 0)
