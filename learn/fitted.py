"""An upper bound to compare with: ascend the exact value of whole rounds, with full information from sweeps.

For a policy that exits with a probability at each decision, a round's expected tokens - rate * milliseconds is a
differentiable sum over its tree of decisions (`simulate.batched`), and the network is fitted by ascending it: no
sampled actions, no bootstrapped targets, no importance weights. The rate is that of the policy so far, and most rounds
start where that policy starts them. The two outputs are not values: their difference is the log-odds of exiting.
"""

import math
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from lede.learn.buffers import ANYWHERE, drawn_starts, sampled_scaling
from lede.learn.data import Data, Snapshot
from lede.learn.network import mean_weights

LOOKS_FIRST = 1.0  # log-odds of exiting before training: drafts must be long enough for their ends to be seen


def learn_fitted(data: Data) -> Iterator[Snapshot]:
    """Fit to the training texts; yields the policy so far every `score_every` steps."""
    config, engine = data.config, data.engine("train")
    rng = np.random.default_rng(config.seed)
    own = engine.everywhere
    width, total = len(data.features), config.updates_for(data.rows)
    mean, scale = sampled_scaling(engine, rng)
    network = _network(width, config.hidden)
    optimiser = torch.optim.Adam(network.parameters(), config.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, total)
    rate, rates = engine.plain_rate, np.full(2, engine.plain_rate)
    for step in range(total + 1):
        if step % config.score_every == 0 or step == total:
            policy = data.policy(mean_weights(part for part in network if isinstance(part, nn.Linear)), mean, scale)
            if data.advance():
                del engine, own  # not beside the next
                engine = data.engine("train")
            rollout = engine.play(policy.exits)
            own, rate = rollout.starts, max(rollout.rate, engine.plain_rate)
            rates = np.maximum(engine.rates(rollout), engine.plain_rate)
            yield Snapshot(step, total, math.nan, policy, rate)
        if step == total:
            return
        starts = drawn_starts(engine, own, ANYWHERE, config.batch_size, rng)
        rounds, worth = engine.rounds(starts), engine.time_is_worth(rates, starts)
        outputs = network((rounds.rows - torch.from_numpy(mean)) / torch.from_numpy(scale))
        chance = torch.sigmoid(outputs[..., 1] - outputs[..., 0]).double()
        gains = (rounds.tokens - worth[:, None, None, None] * rounds.milliseconds)[..., None]
        begin = rounds.begin[:, :1] - worth[:, None] * rounds.begin[:, 1:]
        optimiser.zero_grad()
        (-rounds.expected(chance, gains, begin).mean()).backward()
        optimiser.step()
        schedule.step()


def _network(inputs: int, hidden: tuple[int, ...]) -> nn.Sequential:
    """A ReLU network of two outputs, continue and exit."""
    parts: list[nn.Module] = []
    for before, after in pairwise((inputs, *hidden)):
        parts += [nn.Linear(before, after), nn.ReLU()]
    last = nn.Linear(hidden[-1], 2)
    with torch.no_grad():
        last.bias[:] = torch.tensor([-LOOKS_FIRST / 2, LOOKS_FIRST / 2])
    return nn.Sequential(*parts, last)
