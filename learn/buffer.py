"""A replay buffer of columns: every transition's n-step target is worked out once, a batch is five gathers.

d3rlpy's stock buffer walks Python objects for each transition of each batch. This one computes, for all rows at once,
what `d3rlpy.dataset.MultiStepTransitionPicker` would return for each, and is equal to it (a test holds it to that).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lede.learn.library import d3rlpy
from lede.replay.reader import Columns

Float = NDArray[np.float32]
Index = NDArray[np.int64]


@dataclass(frozen=True)
class Targets:
    """The n-step view of N rows. interval 0 marks the last row of a truncated chain: no transition starts there.

    returns (N,) float32: discounted rewards up to the next state. next_row (N,): where to bootstrap, N where terminal.
    terminals (N,) float32. intervals (N,) float32: steps to the next state.
    """

    returns: Float
    next_row: Index
    terminals: Float
    intervals: Float


def n_step_targets(columns: Columns, n_steps: int, gamma: float, through_forced: bool = False) -> Targets:
    """Work out the n-step return and next state of every row (§3.2); see `LearnConfig.through_forced` for the last."""
    rows = np.arange(len(columns.rewards))
    lengths = np.diff(columns.chain_starts)
    truncated = np.repeat(columns.truncated, lengths)
    # The row no return may reach: one past a complete chain; the last of a truncated one, whose successor is unknown.
    limit = np.repeat(columns.chain_starts[1:], lengths) - truncated
    rewards = np.append(columns.rewards.astype(np.float64), 0.0)
    forced = np.append(columns.raw["forced"].astype(bool), False)

    returns = np.zeros(len(rows))
    next_row = rows.copy()

    def advance(moving: NDArray[np.bool_]) -> None:
        returns[moving] += gamma ** (next_row[moving] - rows[moving]) * rewards[next_row[moving]]
        next_row[moving] += 1

    for _ in range(n_steps):
        advance(next_row < limit)
    while through_forced and (stuck := (next_row < limit) & forced[next_row]).any():
        advance(stuck)

    intervals = next_row - rows
    terminal = (next_row == limit) & ~truncated
    next_row[terminal] = len(rows)
    return Targets(
        returns=returns.astype(np.float32),
        next_row=next_row,
        terminals=terminal.astype(np.float32),
        intervals=intervals.astype(np.float32),
    )


class ColumnBuffer(d3rlpy.dataset.ReplayBufferBase):
    """What d3rlpy's `fit` needs of a replay buffer, over the columns of a dataset.

    columns: as the reader returns them. observations: (N, F) float32, what the network is to see (standardised).
    gamma must be the algorithm's. Batches are drawn with replacement from `rng`.
    """

    def __init__(
        self,
        columns: Columns,
        observations: Float,
        n_steps: int,
        gamma: float,
        rng: np.random.Generator,
        through_forced: bool = False,
    ) -> None:
        targets = n_step_targets(columns, n_steps, gamma, through_forced)
        self.gamma = gamma
        self.rows: Index = np.flatnonzero(targets.intervals > 0)
        # Row N, all zeros, stands for "after the end"; actions there are never used.
        self._observations = np.concatenate([observations, np.zeros_like(observations[:1])])
        self._actions = np.append(columns.actions, 0).astype(np.float32)[:, None]
        self._returns = targets.returns[:, None]
        self._next_row = targets.next_row
        self._terminals = targets.terminals[:, None]
        self._intervals = targets.intervals[:, None]
        self._rng = rng

    def sample_transition_batch(self, batch_size: int) -> Any:
        """A `TransitionMiniBatch` of so many transitions, uniformly with replacement."""
        return self.batch(self.rows[self._rng.integers(0, len(self.rows), batch_size)])

    def batch(self, rows: Index) -> Any:
        """The `TransitionMiniBatch` of these rows, each one of `self.rows`."""
        following = self._next_row[rows]
        return d3rlpy.dataset.TransitionMiniBatch(
            observations=self._observations[rows],
            actions=self._actions[rows],
            rewards=self._returns[rows],
            next_observations=self._observations[following],
            next_actions=self._actions[following],
            terminals=self._terminals[rows],
            intervals=self._intervals[rows],
            transitions=(),
        )

    def sample_transition(self) -> Any:
        """The first transition: d3rlpy asks for one to learn the shape of an observation."""
        batch = self.batch(self.rows[:1])
        return d3rlpy.dataset.Transition(
            observation=batch.observations[0],
            action=batch.actions[0],
            reward=batch.rewards[0],
            next_observation=batch.next_observations[0],
            next_action=batch.next_actions[0],
            terminal=float(batch.terminals[0, 0]),
            interval=int(batch.intervals[0, 0]),
            rewards_to_go=batch.rewards[:1],
        )

    @property
    def transition_count(self) -> int:
        """Rows a transition starts from: all but the last of each truncated chain."""
        return len(self.rows)

    def size(self) -> int:
        """As `transition_count`: there are no episode objects."""
        return len(self.rows)

    @property
    def dataset_info(self) -> Any:
        """Shapes and the two discrete actions, as d3rlpy's algorithms ask for them."""

        def signature(array: NDArray[Any]) -> Any:
            return d3rlpy.dataset.Signature(dtype=[array.dtype], shape=[array.shape[1:]])

        return d3rlpy.dataset.DatasetInfo(
            observation_signature=signature(self._observations),
            action_signature=signature(self._actions),
            reward_signature=signature(self._returns),
            action_space=d3rlpy.ActionSpace.DISCRETE,
            action_size=2,
        )

    def _read_only(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError("a column buffer is read-only and samples transitions")

    append: Any = _read_only
    append_episode: Any = _read_only
    clip_episode: Any = _read_only
    sample_trajectory: Any = _read_only
    sample_trajectory_batch: Any = _read_only
    dump: Any = _read_only
    load: Any = _read_only
    from_episode_generator: Any = _read_only
    episodes: Any = property(_read_only)
    buffer: Any = property(_read_only)
    transition_picker: Any = property(_read_only)
    trajectory_slicer: Any = property(_read_only)
