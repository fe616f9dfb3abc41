"""What follows from logged columns: the paper's reward, and the next state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lede.process import EXIT
from lede.replay.schema import STATE, last_rows

CONTINUE_PENALTY = -0.01
REJECTED = -2.0

Array = NDArray[Any]


def paper_reward(action: Array, accepted: Array, layer: Array, layers: int) -> NDArray[np.float32]:
    """The paper's reward, §3.1.3: 1 + (L-l)/L for an accepted exit, -2 + (L-l)/L for a rejected one, else -0.01."""
    saved = (layers - layer.astype(np.float64)) / layers
    exit_reward = np.where(accepted, 1.0, REJECTED) + saved
    return np.where(action == EXIT, exit_reward, CONTINUE_PENALTY).astype(np.float32)


def derive(rows: Mapping[str, np.ndarray], layers: int) -> dict[str, np.ndarray]:
    """The columns in `schema.DERIVED`, from rows in order: the paper's reward, and the state of a round's next row."""
    missing = [name for name in ("episode", "round", "layer", "action", "accepted", *STATE) if name not in rows]
    if missing:
        raise ValueError(f"transitions lack {', '.join(missing)}")
    last = last_rows(rows["episode"], rows["round"])
    derived: dict[str, np.ndarray] = {"reward": paper_reward(rows["action"], rows["accepted"], rows["layer"], layers)}
    for name in STATE:
        derived[f"next_{name}"] = np.where(last, np.float32(0), np.roll(rows[name].astype(np.float32), -1))
    return derived
