"""The two replay buffers that d3rlpy's `fit` reads: one over logged rows, one over transitions made from sweeps.

d3rlpy's stock buffer walks Python objects for each transition of each batch. These hold tables: a transition is a row
of observations, the row to bootstrap from, and an n-step return that is worked out for all of them at once.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lede.learn.data import scaling
from lede.learn.library import d3rlpy
from lede.policy import Policy
from lede.process import CONTINUE, EXIT
from lede.replay.columns import Columns
from lede.simulate.batched import Engine, Starts

Float = NDArray[np.float32]
Index = NDArray[np.int64]

EXPLORE = 0.1  # chance of the other action where states of sweeps are drawn
ANYWHERE = 0.3  # share of round starts drawn from the whole text, the others from where the policy starts its rounds
ROUNDS = 1000  # laid out at once: some 8,000 transitions


@dataclass(frozen=True)
class Transitions:
    """M transitions over a table of observations whose last row, zeros, stands for "after the end".

    observations: (N + 1, F) standardised. The others are (M,). rows: where they start. returns: discounted rewards up
    to the next state. next_rows: where to bootstrap, N where terminal. intervals: steps to the next state.
    """

    observations: Float
    rows: Index
    actions: NDArray[Any]
    returns: NDArray[Any]
    next_rows: Index
    intervals: NDArray[Any]


class TableBuffer(d3rlpy.dataset.ReplayBufferBase):
    """Read-only transitions, drawn uniformly with replacement, `paired` ones two at a time; `fill` replaces them."""

    def __init__(self, rng: np.random.Generator, paired: bool = False) -> None:
        self._rng, self._paired = rng, paired

    def fill(self, transitions: Transitions) -> None:
        self._table = transitions

    def sample_transition_batch(self, batch_size: int) -> Any:
        """A `TransitionMiniBatch` of so many transitions."""
        count = self.transition_count
        if self._paired:
            first = 2 * self._rng.integers(0, count // 2, batch_size // 2)
            return self.batch(np.concatenate((first, first + 1)))
        return self.batch(self._rng.integers(0, count, batch_size))

    def batch(self, number: Index) -> Any:
        """The `TransitionMiniBatch` of the transitions with these numbers."""
        t = self._table
        following = t.next_rows[number]

        def column(values: NDArray[Any]) -> Float:
            return values.astype(np.float32)[:, None]

        return d3rlpy.dataset.TransitionMiniBatch(
            observations=t.observations[t.rows[number]],
            actions=column(t.actions[number]),
            rewards=column(t.returns[number]),
            next_observations=t.observations[following],
            next_actions=np.zeros((len(number), 1), np.float32),
            terminals=column(following == len(t.observations) - 1),
            intervals=column(t.intervals[number]),
            transitions=(),
        )

    @property
    def transition_count(self) -> int:
        return len(self._table.rows)

    def size(self) -> int:
        return len(self._table.rows)

    @property
    def dataset_info(self) -> Any:
        """Shapes and the two discrete actions, as d3rlpy's algorithms ask for them."""
        kind, shapes = [np.dtype(np.float32)], (self._table.observations.shape[1:], (1,), (1,))
        signatures = [d3rlpy.dataset.Signature(dtype=kind, shape=[shape]) for shape in shapes]
        return d3rlpy.dataset.DatasetInfo(*signatures, action_space=d3rlpy.ActionSpace.DISCRETE, action_size=2)


# The rest of the interface (appending, episodes, trajectories) is what d3rlpy does not ask for once there is a network.
TableBuffer.__abstractmethods__ = frozenset()


def logged_transitions(
    columns: Columns, observations: Float, n_steps: int, gamma: float, greedy: NDArray[np.bool_] | None = None
) -> Transitions:
    """The n-step transitions of logged rows (§3.2); none starts at the last row of a truncated chain.

    Where the logged action was the only possible one, its reward joins the return and the next choice is looked for
    behind it: so the maximum over actions is never taken where one of them can not be. greedy: (N,), whether a network
    would exit; given, a return ends before a logged action that differs from it (Watkins' cut).
    """
    rows = np.arange(len(columns.rewards))
    lengths = np.diff(columns.chain_starts)
    truncated = np.repeat(columns.truncated, lengths)
    # The row no return may reach: one past a complete chain; the last of a truncated one, whose successor is unknown.
    limit = np.repeat(columns.chain_starts[1:], lengths) - truncated
    rewards = np.append(columns.rewards.astype(np.float64), 0.0)
    forced = np.append(columns.raw["forced"].astype(bool), False)
    follows = np.ones(len(forced), bool)
    if greedy is not None:
        follows[:-1] = forced[:-1] | (greedy == (columns.actions == EXIT))
    returns = np.zeros(len(rows))
    next_row = rows.copy()

    def advance(moving: NDArray[np.bool_]) -> None:
        returns[moving] += gamma ** (next_row[moving] - rows[moving]) * rewards[next_row[moving]]
        next_row[moving] += 1

    advance(next_row < limit)
    for _ in range(n_steps - 1):
        advance((next_row < limit) & (next_row > rows) & follows[next_row])
    while (stuck := (next_row < limit) & (next_row > rows) & forced[next_row]).any():
        advance(stuck)
    starting = np.flatnonzero(next_row > rows)
    terminal = (next_row == limit) & ~truncated
    return Transitions(
        observations=np.concatenate([observations, np.zeros_like(observations[:1])]),
        rows=starting,
        actions=columns.actions[starting],
        returns=returns[starting],
        next_rows=np.where(terminal, len(rows), next_row)[starting],
        intervals=(next_row - rows)[starting],
    )


def swept_transitions(
    engine: Engine,
    policy: Policy,
    own: Starts,
    rate: float | NDArray[np.float64],
    n_steps: int,
    gamma: float,
    rng: np.random.Generator,
    rounds: int = ROUNDS,
) -> Transitions:
    """Transitions of rounds laid out from sweeps: both actions of every state drawn, one behind the other.

    own: where the policy starts its rounds. rate: of greedy and of sampled texts (2,), or of all. States are those
    that it reaches with a chance of `EXPLORE` of taking the other action; the n-step return, tokens - rate *
    milliseconds, follows its greedy actions from the second step on, and through states in which only one action is
    possible.
    """
    starts = drawn_starts(engine, own, ANYWHERE, rounds, rng)
    laid_out = engine.rounds(starts)
    count, candidates, longest, width = laid_out.rows.shape
    nodes = candidates * longest
    exits = torch.from_numpy(policy.exits(laid_out.rows.reshape(-1, width).numpy())).reshape(count, candidates, longest)
    other = torch.from_numpy(rng.random(exits.shape, dtype=np.float32) < EXPLORE)
    free = laid_out.possible.all(-1)
    states = laid_out.visited(exits ^ other) & free
    reward = laid_out.tokens - engine.time_is_worth(rate, starts)[:, None, None, None] * laid_out.milliseconds

    def flat(values: Tensor) -> Tensor:
        """(B * C*K + 1, …): by row of the table; its last is the end."""
        return torch.cat((values.reshape(count * nodes, *values.shape[3:]), torch.zeros_like(values[0, 0, :1])))

    end = count * nodes
    following = laid_out.next + nodes * torch.arange(count)[:, None, None, None]
    following = torch.where(laid_out.next == nodes, end, following)
    reward, following = flat(reward), flat(following)
    following[end] = end
    greedy, forced = flat(torch.where(free, exits, laid_out.possible[..., EXIT]).long()), flat(~free)
    state = torch.nonzero(states.flatten())[:, 0]
    row, action = state.repeat_interleave(2), torch.tensor([CONTINUE, EXIT]).repeat(len(state))
    returns, at, steps = reward[row, action], following[row, action], torch.ones(len(row))

    def advance(moving: Tensor) -> None:
        taken, here = greedy[at[moving]], at[moving]
        returns[moving] += gamma ** steps[moving] * reward[here, taken]
        at[moving] = following[here, taken]
        steps[moving] += 1

    for _ in range(n_steps - 1):
        advance(at < end)
    while (stuck := forced[at]).any():
        advance(stuck)
    table = (laid_out.rows.reshape(end, width) - torch.from_numpy(policy.mean)) / torch.from_numpy(policy.scale)
    observations = torch.cat((table, torch.zeros(1, width)))
    numpy = [part.numpy() for part in (observations, row, action, returns, at, steps)]
    return Transitions(*numpy)


def drawn_starts(engine: Engine, own: Starts, anywhere: float, count: int, rng: np.random.Generator) -> Starts:
    """So many round starts: a share from anywhere in the texts, the others of a policy's own."""
    starts = own.at(torch.from_numpy(rng.integers(0, len(own.text), count)))
    far = int(count * anywhere)
    drawn = engine.everywhere.at(torch.from_numpy(rng.integers(0, len(engine.everywhere.text), far)))
    starts.text[:far], starts.position[:far] = drawn.text, drawn.position
    return starts


def sampled_scaling(engine: Engine, rng: np.random.Generator) -> tuple[Float, Float]:
    """Mean and scale (F,) of the features in rounds from anywhere."""
    rows = engine.rounds(drawn_starts(engine, engine.everywhere, 1.0, ROUNDS, rng)).rows
    return scaling(rows.flatten(0, 2).numpy())
