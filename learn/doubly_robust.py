"""How fast a policy would be, told from logged decisions alone, with a model of what follows and an interval.

Fitted Q evaluation (d3rlpy's `DiscreteFQE`) learns on the training rows what following the policy is worth from each
decision on. On the held-out rounds that prediction is corrected by what really happened, weighted by importance as far
as the policy agrees with the log (doubly robust, weighted per decision: Thomas and Brunskill 2016, arXiv 1604.00923).
Right if either the prediction or the weights are, and less noisy than the weights alone. What it cannot mend: rounds
start where the log's started, and after a better policy they start elsewhere (docs/learning.md has the comparison with
exact replay).
"""

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lede.learn.buffer import ColumnBuffer
from lede.learn.library import d3rlpy, quiet
from lede.learn.network import FusedAdamFactory, NoisyBodyFactory, NoisyQFunctionFactory
from lede.learn.offpolicy import Reweighted
from lede.learn.rate import first_step, tokens_and_time
from lede.learn.split import scaling
from lede.replay.reader import Columns
from lede.serve.policy import Policy
from lede.simulate.costs import Costs

UPDATES = 3000
CONFIDENCE = 1.96  # standard errors in a 95 % interval

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """rate: tokens a millisecond; low, high: a 95 % interval over episodes, NaN of a single one. predicted: without the
    correction.

    weighted: by importance weights alone. effective: rounds of the policy's own that would tell as much as the weights.
    """

    rate: float
    low: float
    high: float
    predicted: float
    weighted: float
    effective: float


def doubly_robust(
    policy: Policy, train: Columns, held: Columns, costs: Costs, updates: int = UPDATES, seed: int = 0
) -> Estimate:
    """Estimate a policy's rate on complete held-out rounds; both are columns of the `round` horizon, as it sees them.

    At a rate λ near the policy's own, its rate is λ + E[tokens - λ·ms] / E[ms], so one reward is evaluated; λ is what
    the weights alone say, and what is off in E[ms] hardly matters.
    """
    exits = policy.exits(held.observations)
    behaviour = Reweighted(held, exits)
    tokens, milliseconds = tokens_and_time(held, costs)
    milliseconds = milliseconds + first_step(held, costs)
    spent = behaviour.mean(milliseconds)
    if not np.isfinite(spent):  # the policy agrees with no whole round: all there is, is the log's own time
        spent, rate = _per_round(held, milliseconds), _per_round(held, tokens) / _per_round(held, milliseconds)
    else:
        rate = behaviour.mean(tokens) / spent
    follows = _evaluated(policy, _priced(train, costs, rate), updates, seed)

    rows = np.arange(len(exits))
    actions = np.where(held.raw["forced"], held.actions, exits).astype(int)
    q = follows(held.observations)
    value = np.append(q[rows, actions], 0.0)
    last = np.zeros(len(rows), bool)
    last[held.chain_starts[1:] - 1] = True
    rewards = tokens - rate * milliseconds
    surprise = rewards + np.where(last, 0.0, value[1:]) - q[rows, held.actions]
    starts, chains = held.chain_starts[:-1], len(held.truncated)
    # What each round adds to the estimate: the prediction at its start, and the weighted surprises on its way.
    influence = value[starts] + chains * np.add.reduceat(behaviour.shares * surprise, starts)
    gain = influence.mean()
    of_episode = np.unique(held.episodes[starts], return_inverse=True)[1]
    sums = np.bincount(of_episode, influence - gain)
    few = len(sums) / (len(sums) - 1) if len(sums) > 1 else np.nan
    error = np.sqrt(few * (sums**2).sum()) / chains / spent
    estimate = rate + gain / spent
    return Estimate(
        rate=float(estimate),
        low=float(estimate - CONFIDENCE * error),
        high=float(estimate + CONFIDENCE * error),
        predicted=float(rate + value[starts].mean() / spent),
        weighted=float(rate),
        effective=behaviour.effective,
    )


def _per_round(columns: Columns, values: Float) -> float:
    return float(values.sum() / len(columns.truncated))


def _priced(train: Columns, costs: Costs, rate: float) -> Columns:
    tokens, milliseconds = tokens_and_time(train, costs)
    rewards = tokens - rate * (milliseconds + first_step(train, costs))
    return replace(train, rewards=rewards.astype(np.float32))


def _evaluated(policy: Policy, train: Columns, updates: int, seed: int) -> Any:
    """Fitted Q evaluation of the policy: a function of rows (N, F) to values of both actions (N, 2)."""
    mean, scale = scaling(train.observations)
    # One step, looking through forced decisions: at each real one the policy's own action is what follows.
    buffer = ColumnBuffer(
        train, (train.observations - mean) / scale, 1, 1.0, np.random.default_rng(seed), through_forced=True
    )
    config = d3rlpy.ope.FQEConfig(
        learning_rate=1e-3,
        optim_factory=FusedAdamFactory(),
        encoder_factory=NoisyBodyFactory(widths=[64, 64], sigma0=0.0),
        q_func_factory=NoisyQFunctionFactory(sigma0=0.0),
        batch_size=256,
        gamma=1.0,
        target_update_interval=100,
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]), quiet():
            torch.default_generator.manual_seed(seed)
            evaluation = d3rlpy.ope.DiscreteFQE(algo=_as_algorithm(policy, mean, scale), config=config)
            evaluation.fit(
                buffer,
                n_steps=updates,
                n_steps_per_epoch=updates,
                logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
                show_progress=False,
            )
    finally:
        torch.set_num_threads(threads)
    network = evaluation.impl.modules.q_funcs[0].eval()

    def values(rows: NDArray[np.float32]) -> Float:
        with torch.no_grad():
            found = network(torch.from_numpy(((rows - mean) / scale).astype(np.float32))).q_value
        return np.asarray(found.numpy(), np.float64)

    return values


def _as_algorithm(policy: Policy, mean: NDArray[np.float32], scale: NDArray[np.float32]) -> Any:
    """What `DiscreteFQE` asks of the algorithm it evaluates: the best action of rows standardised by mean and scale."""
    first, bias = policy.weights[0]
    folded = first * (scale / policy.scale)
    shifted = bias + first @ ((mean - policy.mean) / policy.scale)
    layers: list[nn.Module] = []
    for weight, offset in ((folded, shifted), *policy.weights[1:]):
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.weight.data, layer.bias.data = torch.from_numpy(weight.astype(np.float32)), torch.from_numpy(
            offset.astype(np.float32)
        )  # fmt: skip
        layers += [layer, nn.ReLU()]
    network = nn.Sequential(*layers[:-1])

    def predict_best_action(x: Tensor) -> Tensor:
        with torch.no_grad():
            return network(x).argmax(dim=1)

    return SimpleNamespace(impl=SimpleNamespace(predict_best_action=predict_best_action))
