"""Rewards as pure functions of logged columns, so that one dataset serves every reward.

All arguments are arrays of N rows, in the order of the transitions table; all results are float32 (N,).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lede.replay.schema import EXIT, MAX_DRAFTS, WALK
from lede.simulate.costs import Costs

CONTINUE_PENALTY = -0.01
REJECTED = -2.0

Array = NDArray[Any]


def paper_reward(action: Array, accepted: Array, layer: Array, layers: int) -> NDArray[np.float32]:
    """The paper's reward, §3.1.3: 1 + (L-l)/L for an accepted exit, -2 + (L-l)/L for a rejected one, else -0.01."""
    saved = (layers - layer.astype(np.float64)) / layers
    exit_reward = np.where(accepted, 1.0, REJECTED) + saved
    return np.where(action == EXIT, exit_reward, CONTINUE_PENALTY).astype(np.float32)


def time_reward(
    action: Array,
    accepted: Array,
    phase: Array,
    layer: Array,
    draft_index: Array,
    last: Array,
    costs: Costs,
    rate: float,
) -> NDArray[np.float32]:
    """Tokens committed minus `rate` (tokens a millisecond) times the milliseconds of what the action makes run.

    `last` marks the last row of each round; every other row is followed by the next one of its round, whose layer is
    where a walk that continues goes. Over a round the rewards sum to (tokens committed) - rate * (time of the round),
    but for the time it takes to reach the first candidate, which no decision can change.
    """
    last = np.asarray(last, bool)
    exits = np.asarray(action) == EXIT
    tokens = np.where(exits | (np.asarray(phase) != WALK), np.asarray(accepted, np.float64), 0.0) + last
    depth = layer.astype(np.int64)

    walked = (np.roll(depth, -1) - depth) * costs.first() + costs.head[0] + costs.features + costs.decision
    draft = np.array([costs.draft(exit_layer) for exit_layer in range(costs.layers + 1)])[depth]
    finish = np.array(
        [[costs.finish(e, d) for d in range(1, MAX_DRAFTS + 1)] for e in range(costs.layers + 1)],
    )[depth, draft_index.astype(np.int64) - 1]
    milliseconds = np.select([last, exits], [finish, draft], walked)
    return (tokens - rate * milliseconds).astype(np.float32)
