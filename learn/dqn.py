"""The learner: d3rlpy's n-step (double) DQN, trained by d3rlpy's own fitter, purely offline.

The time reward needs the rate to beat, which is what the best policy achieves and so not known in advance. As in
Dinkelbach's method it starts at the best fixed rule's, without sweeps at plain decoding's, and is raised to what the
policy achieves on the training texts, never lowered.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from lede.learn.buffers import TableBuffer, logged_transitions, sampled_scaling, swept_transitions
from lede.learn.data import Data, Snapshot, scaling
from lede.learn.errors import LearnError
from lede.learn.library import d3rlpy
from lede.learn.network import FusedAdamFactory, NoisyNetworkFactory, SquaredErrorFactory, Weights, mean_weights
from lede.learn.rewards import plain_rate
from lede.policy import Policy
from lede.simulate.oracle import static_rates

REFILL = 100  # updates between two fillings of the buffer from sweeps, and between two steps of the weights' average
DIVERGED = 1e4  # a loss that no reward in use comes near


def learn_dqn(data: Data) -> Iterator[Snapshot]:
    """Train on the training side's sweeps or log; yields a policy of averaged weights every so many updates."""
    config = data.config
    experience = _Sweeps(data) if config.source == "sweeps" else _Log(data)
    total = config.updates_for(data.rows)
    algorithm = make_algorithm(data, total)
    algorithm.create_impl((len(data.features),), 2)
    q_func = algorithm.impl.q_function[0]
    average = mean_weights(q_func.layers)
    experience.refresh(average)
    if not experience.buffer.transition_count:
        raise LearnError("the training episodes hold no complete transition; collect more episodes")
    losses: list[float] = []
    scored = 0
    for done, loss in _slices(algorithm, experience.buffer, total, min(REFILL, config.score_every)):
        losses.append(loss)
        if not math.isfinite(loss) or loss > DIVERGED:
            raise LearnError(
                f"training diverged after {done} updates (loss {loss:.3g}); "
                "lower the learning rate, raise the target interval, or use more steps (n_steps 3 or more)"
            )
        latest, past = mean_weights(q_func.layers), config.averaging if scored or len(losses) > 1 else 0.0
        average = tuple(
            (past * w + (1 - past) * new_w, past * b + (1 - past) * new_b)
            for (w, b), (new_w, new_b) in zip(average, latest, strict=True)
        )
        if score := done - scored >= config.score_every or done == total:
            policy = experience.policy(average)
            yield Snapshot(done, total, float(np.mean(losses)), policy, experience.achieved(policy))
            scored, losses = done, []
        if score or config.source == "sweeps":
            experience.refresh(latest)


def make_algorithm(data: Data, updates: int) -> Any:
    """d3rlpy's algorithm with our network, Adam and a hard target copy, on the CPU."""
    config, algos = data.config, d3rlpy.algos
    anneal = d3rlpy.optimizers.CosineAnnealingLRFactory(T_max=updates) if config.anneal else None
    return (algos.DoubleDQNConfig if config.algorithm == "double_dqn" else algos.DQNConfig)(
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        optim_factory=FusedAdamFactory(lr_scheduler_factory=anneal),
        encoder_factory=NoisyNetworkFactory(config.hidden, config.sigma0),
        q_func_factory=SquaredErrorFactory(),
        gamma=config.gamma,
        target_update_interval=config.target_interval,
    ).create(device=False)


def _slices(algorithm: Any, buffer: TableBuffer, total: int, every: int) -> Iterator[tuple[int, float]]:
    """Train for so many updates; yields after every so many, and the rest, how many are done and their mean loss."""
    done = 0
    for length, epochs in ((every, total // every), (total % every, 1)):
        if not length * epochs:  # d3rlpy trains nothing at all where there are fewer updates than an epoch has
            continue
        fitter = algorithm.fitter(
            buffer,
            n_steps=length * epochs,
            n_steps_per_epoch=length,
            logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
            show_progress=False,
        )
        for _, metrics in fitter:
            done += length
            yield done, metrics["loss"]


class _Sweeps:
    """Transitions from sweeps, made anew for the network so far."""

    def __init__(self, data: Data) -> None:
        self._data, self._engine = data, data.engine("train")
        self._rng = np.random.default_rng(data.config.seed)
        assert data.static is not None and data.costs is not None
        self._rate = data.static.rate
        # sampled texts are slower than greedy ones: time that is priced by the mean of both is too dear in one of them
        self._rates = static_rates(self._engine.texts, data.costs)
        self._own = self._engine.everywhere  # before there is a policy
        self._mean, self._scale = sampled_scaling(self._engine, self._rng)
        self.buffer = TableBuffer(self._rng, paired=True)

    def policy(self, weights: Weights) -> Policy:
        return self._data.policy(weights, self._mean, self._scale)

    def refresh(self, weights: Weights) -> None:
        config = self._data.config
        made = swept_transitions(
            self._engine, self.policy(weights), self._own, self._rates, config.n_steps, config.gamma, self._rng
        )
        self.buffer.fill(made)

    def achieved(self, policy: Policy) -> float:
        if self._data.advance():
            del self._engine, self._own  # not beside the next
            self._engine = self._data.engine("train")
        rollout = self._engine.play(policy.exits)
        self._own, self._rate = rollout.starts, max(self._rate, rollout.rate)
        self._rates = np.maximum(self._rates, self._engine.rates(rollout))
        return self._rate


class _Log:
    """The logged transitions, priced anew where the rate to beat has risen."""

    def __init__(self, data: Data) -> None:
        self._data = data
        self._rate: float | None = None
        if data.config.reward == "time" and data.prices is not None:
            self._rate = data.static.rate if data.static else plain_rate(data.rounds("train"), data.prices)
        self._read()
        self._mean, self._scale = scaling(self._seen.observations)
        self.buffer = TableBuffer(np.random.default_rng(data.config.seed))

    def policy(self, weights: Weights) -> Policy:
        return self._data.policy(weights, self._mean, self._scale)

    def refresh(self, weights: Weights) -> None:
        config = self._data.config
        greedy = self.policy(weights).exits(self._seen.observations) if config.watkins else None
        columns = self._data.rewarded(self._chains, self._rate)
        observations = (self._seen.observations - self._mean) / self._scale
        self.buffer.fill(logged_transitions(columns, observations, config.n_steps, config.gamma, greedy))

    def _read(self) -> None:
        self._chains = self._data.chains("train")
        self._seen = self._data.rewarded(self._chains, self._rate)

    def achieved(self, policy: Policy) -> float | None:
        """The rate to beat: what the policy achieves, less a standard error where that is estimated."""
        if self._rate is not None:
            enough, achieved = self._data.score(policy, "train", self._rate).rank(by_rate=True)
            self._rate = max(self._rate, achieved) if enough else self._rate
        if self._data.advance():
            del self._chains, self._seen  # not beside the next
            self._read()
        return self._rate
