"""Intervals over prompts."""

import numpy as np
from numpy.typing import ArrayLike

RESAMPLES = 2000


def ratio_interval(above: ArrayLike, below: ArrayLike) -> tuple[float, float]:
    """95 % bootstrap interval of Σabove / Σbelow over N prompts, resampled in pairs.

    Each is (N,), or (N, K) for the product of K such sums.
    """
    sums_above, sums_below = (np.asarray(part, float).reshape(len(part), -1) for part in (above, below))  # type: ignore
    draws = np.random.default_rng(0).integers(len(sums_above), size=(RESAMPLES, len(sums_above)))
    ratios = sums_above[draws].sum(1).prod(1) / sums_below[draws].sum(1).prod(1)
    low, high = np.quantile(ratios, (0.025, 0.975))
    return float(low), float(high)
