"""Train many variants at once: networks of one shape in one stack, over one copy of the rows.

Variants in a stack may differ in reward, rate to beat, gamma, steps, learning rate, seed and number of updates; those
of one seed see the same batches, start from the same weights and draw the same noise. A variant whose loss grows
without bound is dropped from the scoring; the others do not notice.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lede.learn.buffer import n_step_targets
from lede.learn.config import LearnConfig
from lede.learn.errors import LearnError
from lede.learn.judge import Diverged, Judge
from lede.learn.stacked import Batch, Stack
from lede.replay.reader import Columns

STACKED = ("dqn", "double_dqn")  # the rest of d3rlpy's train one after another


def stack_key(config: LearnConfig) -> Hashable:
    """What variants must have in common to be trained in one stack; None if they cannot be."""
    if config.algorithm not in STACKED:
        return None
    return (
        config.algorithm, config.horizon, config.features, config.candidates, config.bypass, config.validation,
        config.hidden, config.batch_size, config.sigma0, config.target_interval,
    )  # fmt: skip


@dataclass
class _Member:
    """One network of the stack. due: (updates, whether its training round ends there), in order."""

    judge: Judge
    k: int
    due: list[tuple[int, bool]] = field(default_factory=list)
    loss: float = 0.0  # summed since the last score
    since: int = 0
    trouble: Diverged | None = None

    def begin(self, updates: int, before: int) -> None:
        """A training round of so many updates begins."""
        every = self.judge.config.score_every
        ends = [*range(every, updates + 1, every)]
        ends += [updates] if updates % every else []
        self.due = [(before + end, end == updates) for end in ends]


def train_together(judges: Sequence[Judge], progress: Callable[[int, int], None]) -> list[Diverged | None]:
    """Train the variants of these judges, all of one `stack_key`; returns what went wrong with each, if anything.

    progress: (updates done, updates of the longest).
    """
    order = sorted(range(len(judges)), key=lambda i: judges[i].config.learning_rate)  # Adam's groups are neighbours
    members = [_Member(judges[i], k) for k, i in enumerate(order)]
    configs = [member.judge.config for member in members]
    first = configs[0]
    rows = Rows(members[0].judge.observations, members[0].judge.data.train.actions, configs)
    rounds = [iter(member.judge.rounds()) for member in members]
    for member, left in zip(members, rounds, strict=True):
        member.begin(next(left), 0)
        rows.learn_from(member.k, member.judge.begin(), member.judge.rate)
    stack = Stack(
        rows.observations.shape[1],
        first.hidden,
        [config.seed for config in configs],
        [config.learning_rate for config in configs],
        first.sigma0,
        double=first.algorithm == "double_dqn",
    )
    total, done = max(member.judge.total for member in members), 0
    while due := [member.due[0][0] for member in members if member.due]:
        until = min(due)
        losses = torch.zeros(len(members))
        for batch in rows.batches(until - done):
            losses += stack.update(batch)
            if done % first.target_interval == 0:  # d3rlpy copies after the first update, too
                stack.copy_target()
            done += 1
        for member, left in zip(members, rounds, strict=True):
            if not member.due:
                continue
            member.loss += float(losses[member.k])
            if member.due[0][0] == done:
                _, ends = member.due.pop(0)
                _score(member, stack, done)
                if ends and member.trouble is None:
                    member.judge.end()
                    if updates := next(left, 0):
                        member.begin(updates, done)
                        rows.learn_from(member.k, member.judge.begin(), member.judge.rate)
        progress(done, total)
    trouble: list[Diverged | None] = [None] * len(judges)
    for member, i in zip(members, order, strict=True):
        trouble[i] = member.trouble
    return trouble


def _score(member: _Member, stack: Stack, done: int) -> None:
    try:
        member.judge.score(done, member.loss / (done - member.since), stack.weights(member.k))
    except Diverged as error:
        member.trouble, member.due = error, []
    member.loss, member.since = 0.0, done


class Rows:
    """The training rows of a stack, and each member's n-step view of them; members that agree on it share one.

    observations: (N, F), standardised. actions: (N,). configs: of the K members.
    """

    def __init__(
        self, observations: NDArray[np.float32], actions: NDArray[np.uint8], configs: Sequence[LearnConfig]
    ) -> None:
        # Row N, all zeros, stands for "after the end".
        self.observations = torch.from_numpy(np.append(observations, observations[:1] * 0, axis=0))
        self.actions = torch.from_numpy(actions.astype(np.int64))
        self.configs = configs
        self.batch_size = configs[0].batch_size
        seeds = sorted({config.seed for config in configs})
        self.of_seed = torch.tensor([seeds.index(config.seed) for config in configs])
        self.rngs = [np.random.default_rng(seed) for seed in seeds]
        self.views: dict[Hashable, tuple[Tensor, Tensor, Tensor]] = {}  # returns, next rows, discounts; (N,) each
        self.keys: list[Hashable] = [None] * len(configs)

    def learn_from(self, k: int, columns: Columns, rate: float | None) -> None:
        """A training round of member k: these columns' rewards, at this rate, in the view of its configuration."""
        config = self.configs[k]
        key = (config.reward, rate, config.n_steps, config.gamma, config.through_forced)
        if key not in self.views:
            targets = n_step_targets(columns, config.n_steps, config.gamma, config.through_forced)
            self.starts = torch.from_numpy(np.flatnonzero(targets.intervals > 0))  # the same in every view
            if not len(self.starts):
                raise LearnError("the training episodes hold no complete transition; collect more episodes")
            discounts = (config.gamma**targets.intervals * (1 - targets.terminals)).astype(np.float32)
            returns, following = torch.from_numpy(targets.returns), torch.from_numpy(targets.next_row)
            self.views[key] = returns, following, torch.from_numpy(discounts)
        self.keys[k] = key

    def batches(self, count: int) -> Iterator[Batch]:
        """So many batches, drawn uniformly with replacement; members of one seed see the same rows."""
        self.views = {key: view for key, view in self.views.items() if key in self.keys}
        places = {key: number * len(self.actions) for number, key in enumerate(self.views)}
        offsets = torch.tensor([places[key] for key in self.keys])[:, None]
        returns, next_rows, discounts = (torch.cat(parts) for parts in zip(*self.views.values(), strict=True))
        drawn = np.stack([rng.integers(0, len(self.starts), (count, self.batch_size)) for rng in self.rngs], axis=1)
        for rows in self.starts[torch.from_numpy(drawn)]:
            of_member = rows[self.of_seed]  # (K, B)
            at = of_member + offsets
            yield Batch(
                observations=self.observations[rows][self.of_seed],
                actions=self.actions[of_member],
                returns=returns[at],
                next_observations=self.observations[next_rows[at]],
                discounts=discounts[at],
            )
