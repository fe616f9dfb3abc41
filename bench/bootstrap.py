"""Intervals over prompts."""

import numpy as np
from numpy.typing import ArrayLike

RESAMPLES = 2000


def ratio_interval(above: ArrayLike, below: ArrayLike) -> tuple[float, float]:
    """95 % bootstrap interval of Σabove / Σbelow, (N,) each, resampled in pairs."""
    pairs = np.stack([np.asarray(above, float), np.asarray(below, float)], 1)
    draws = np.random.default_rng(0).integers(len(pairs), size=(RESAMPLES, len(pairs)))
    sums = pairs[draws].sum(1)
    low, high = np.quantile(sums[:, 0] / sums[:, 1], (0.025, 0.975))
    return float(low), float(high)
