"""The paper's reward, a pure function of logged columns."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lede.process import EXIT

CONTINUE_PENALTY = -0.01
REJECTED = -2.0

Array = NDArray[Any]


def paper_reward(action: Array, accepted: Array, layer: Array, layers: int) -> NDArray[np.float32]:
    """The paper's reward, §3.1.3: 1 + (L-l)/L for an accepted exit, -2 + (L-l)/L for a rejected one, else -0.01."""
    saved = (layers - layer.astype(np.float64)) / layers
    exit_reward = np.where(accepted, 1.0, REJECTED) + saved
    return np.where(action == EXIT, exit_reward, CONTINUE_PENALTY).astype(np.float32)
