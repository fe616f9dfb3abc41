"""What a training run is judged by while it trains: its scores, the network to keep, and the rate to beat.

The time reward needs the rate to beat, which is what the best policy achieves and so not known in advance. As in
Dinkelbach's method, training runs in rounds: the first is at the best static rule's rate, each later one at the best
rate the policies so far are estimated to achieve, never a lower one, and continues from the weights before.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lede.learn.config import LearnConfig
from lede.learn.data import Data
from lede.learn.errors import LearnError
from lede.learn.history import Point
from lede.learn.offpolicy import Score, score
from lede.learn.split import scaling
from lede.learn.views import with_features
from lede.replay.reader import Columns
from lede.serve.policy import Policy
from lede.simulate.batched import simulate

DIVERGED = 1e4

Weights = tuple[tuple[NDArray[np.float32], NDArray[np.float32]], ...]


class Diverged(LearnError):
    """The loss grew without bound: other settings may well learn from the same data."""


@dataclass(frozen=True)
class Checkpoint:
    """A network that was scored. update: after how many."""

    update: int
    policy: Policy
    score: Score


class Judge:
    """One training run's scores so far. rate: the rate to beat, tokens a millisecond; None unless it is learned at."""

    best: Checkpoint

    def __init__(self, data: Data, config: LearnConfig) -> None:
        self.data, self.config = data, config
        seen = with_features(data.train, config.features)
        self.features = seen.feature_names
        self.mean, self.scale = scaling(seen.observations)
        self.observations: NDArray[np.float32] = (seen.observations - self.mean) / self.scale
        self.total = config.updates_for(len(seen.actions))
        self.rate = data.static.rate if config.reward == "time" and data.static else None
        self.history: list[Point] = []
        # Without costs there is no rate, and the paper's recipe is to be had to the letter.
        self.by_rate = config.reward != "paper" and data.costs is not None
        self.exact = data.texts is not None and data.costs is not None

    def rounds(self) -> list[int]:
        """Updates of each training round: `outer` of them where there is a rate to beat, else one."""
        rounds = min(self.config.outer if self.rate is not None else 1, self.total)
        ends = [self.total * (number + 1) // rounds for number in range(rounds)]
        return [end - start for start, end in zip([0, *ends], ends, strict=False)]

    def begin(self) -> Columns:
        """A training round begins: the training rows with this round's rewards."""
        data, config = self.data, self.config
        train, self._chains = (data.priced(part, config, self.rate) for part in (data.train, data.chains))
        self._rounds = self._chains if data.chains is data.rounds else with_features(data.rounds, config.features)
        return train

    def end(self) -> None:
        """A training round ended: beat the lower end of the best estimate; the best of many noisy ones flatters."""
        if self.rate is not None:
            enough, achieved = self.best.score.rank(by_rate=True)
            self.rate = max(self.rate, achieved) if enough else self.rate

    def score(self, done: int, loss: float, weights: Weights) -> Point:
        """Score the network after so many updates; raises Diverged if the loss since the last score says so."""
        if not math.isfinite(loss) or loss > DIVERGED:
            raise Diverged(
                f"training diverged after {done} updates (loss {loss:.3g}); "
                "lower the learning rate, raise the target interval, or use more steps (n_steps 3 or more)"
            )
        policy = Policy(self.features, self.data.candidates, weights, self.mean, self.scale)
        values = policy.values(self._chains.observations)
        return self.record(done, loss, float(values.max(axis=1).mean()), policy)

    def record(self, done: int, loss: float, mean_q: float, policy: Policy) -> Point:
        """Score a policy, and keep it if it is the best so far. loss, mean_q: NaN where the training has none."""
        found = self._score(policy)
        if not self.history or found.rank(self.by_rate) > self.best.score.rank(self.by_rate):
            self.best = Checkpoint(done, policy, found)
        point = Point(
            update=done,
            loss=loss,
            mean_q=mean_q,
            validation_reward=found.reward,
            validation_rate=found.rate,
            exit_layer=found.exit_layer,
            draft_length=found.drafts,
            acceptance=found.acceptance,
            effective_rounds=found.effective,
        )
        self.history.append(point)
        return point

    def _score(self, policy: Policy) -> Score:
        """Exact where the held-out episodes were swept; from the log what sweeps cannot say, and all without them."""
        data, config = self.data, self.config
        exact = None
        if data.texts is not None and data.costs is not None:
            exact = simulate(
                data.texts, policy.features, policy.exits, data.costs, self.rate, data.bypass, config.max_drafts
            )  # fmt: skip
            if config.reward in ("paper", "time"):
                return exact
            if config.reward == "accepted":
                drafted = 0.0 if math.isnan(exact.drafts) else exact.drafts * (2 * exact.acceptance - 1)
                return replace(exact, reward=drafted, reward_error=math.nan)
        exits = policy.exits(self._chains.observations)
        round_exits = exits if self._rounds is self._chains else policy.exits(self._rounds.observations)
        logged = score(self._chains, self._rounds, exits, round_exits, config.gamma, data.costs)
        if exact is None:
            return logged
        return replace(exact, reward=logged.reward, reward_error=logged.reward_error)
