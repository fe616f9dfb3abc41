"""Intervals over texts."""

import numpy as np
from numpy.typing import ArrayLike

RESAMPLES = 2000


def ratio_interval(above: ArrayLike, below: ArrayLike, groups: ArrayLike | None = None) -> tuple[float, float]:
    """95 % bootstrap interval of Σabove / Σbelow over N texts, resampled in pairs.

    Each is (N,), or (N, K) for the product of K such sums. groups: (N,) the number of each text's group (its module,
    article or conversation), whose texts are alike: what is resampled are groups. None: each text is one.
    """
    sums = np.stack([np.asarray(part, float).reshape(len(np.asarray(part)), -1) for part in (above, below)])
    if groups is not None:
        number = np.unique(np.asarray(groups), return_inverse=True)[1]
        member = number == np.arange(number.max() + 1)[:, None]  # (groups, N)
        sums = member @ sums
    draws = np.random.default_rng(0).integers(sums.shape[1], size=(RESAMPLES, sums.shape[1]))
    drawn_above, drawn_below = (part[draws].sum(1).prod(1) for part in sums)
    low, high = np.quantile(drawn_above / drawn_below, (0.025, 0.975))
    return float(low), float(high)
