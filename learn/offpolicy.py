"""How good a greedy policy would be, from decisions that another policy took: per-decision importance sampling.

A logged chain counts as far as the policy agrees with it: at each decision its weight is divided by the probability
with which the behaviour took the logged action, or becomes 0 where the policy would have taken the other. Forced
decisions leave it as it is. What happens at the t-th decision is estimated by the weighted mean over all chains, those
that have ended keeping their last weight. Weights are normalised: the estimator is consistent, biased on little data,
and far less noisy than the unbiased one. The states that rounds start from are those of the log.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lede.learn.errors import LearnError
from lede.learn.rate import drafts_made, first_step, reach_probability, tokens_and_time
from lede.learn.split import take
from lede.replay.reader import Columns
from lede.replay.schema import EXIT, WALK
from lede.simulate.costs import Costs

# Estimates that rest on fewer rounds than this are luck.
ENOUGH_ROUNDS = 10

Array = NDArray[np.generic]


class Reweighted:
    """Chains weighted as if the greedy policy had taken the decisions.

    columns: N rows in C chains. exits: (N,), the policy's choice at each row.
    step: (N,), the row's place in its chain. weights: (N,), of each row. final: (C,), of each whole chain.
    """

    def __init__(self, columns: Columns, exits: Array) -> None:
        if len(columns.propensities) == 0:
            raise LearnError("no complete chain is left to validate on; collect more episodes")
        if not (columns.propensities > 0).all():
            raise LearnError("the dataset logs an action of probability 0; run `lede data verify` on it")
        lengths = np.diff(columns.chain_starts)
        first = np.repeat(columns.chain_starts[:-1], lengths)
        differs = (np.asarray(exits, bool) != (columns.actions == EXIT)) & ~columns.raw["forced"].astype(bool)
        # How often it differed since its chain began: 0 while the policy would have come this way.
        strays = np.cumsum(differs) - (np.cumsum(differs) - differs)[first]
        self._starts = columns.chain_starts[:-1]
        self.step = np.arange(len(first)) - first
        taken = reach_probability(columns) * columns.propensities
        self.weights = (strays == 0) / taken
        self.final = self.weights[columns.chain_starts[1:] - 1]
        ended = np.cumsum(np.bincount(lengths, self.final))[: self.step.max() + 1]
        self._totals = np.bincount(self.step, self.weights) + ended

    @property
    def effective(self) -> float:
        """Effective sample size: so many chains of the policy's own would tell as much."""
        squares = float((self.final**2).sum())
        return float(self.final.sum()) ** 2 / squares if squares else 0.0

    def mean(self, values: Array) -> float:
        """Expected sum over a chain of what each row contributes (N,); NaN if the policy agrees with no whole chain."""
        return float((self.shares * values.astype(np.float64)).sum()) if self.final.any() else math.nan

    @property
    def shares(self) -> NDArray[np.float64]:
        """The rows' weights (N,), normalised over all chains at each step; 0 where no chain is left at a step."""
        totals = self._totals[self.step]
        return np.divide(self.weights, totals, out=np.zeros_like(totals), where=totals > 0)

    def error(self, values: Array, centre: float = 0.0) -> float:
        """Standard error of `mean(values)`, whose estimate is `centre`; infinite on a single chain's evidence."""
        if self.effective <= 1:
            return math.inf
        sums = np.add.reduceat(values.astype(np.float64), self._starts)
        spread = math.sqrt(float(((self.final * (sums - centre)) ** 2).sum())) / float(self.final.sum())
        return spread * math.sqrt(self.effective / (self.effective - 1))


@dataclass(frozen=True)
class Score:
    """What a policy is expected to do on the held-out rounds; NaN where the log cannot tell.

    reward: mean (discounted) return of a chain. rate: tokens a millisecond. The errors are standard errors.
    exit_layer, drafts: means a round. acceptance: accepted / drafted. effective: effective number of rounds.
    """

    reward: float
    reward_error: float
    rate: float
    rate_error: float
    exit_layer: float
    drafts: float
    acceptance: float
    effective: float

    def rank(self, by_rate: bool) -> tuple[bool, float]:
        """What a better score has more of: evidence at all, then the rate or the reward less a standard error."""
        lower = self.rate - self.rate_error if by_rate else self.reward - self.reward_error
        return self.effective >= ENOUGH_ROUNDS, lower if math.isfinite(lower) else -math.inf


def complete(columns: Columns) -> Columns:
    """Without the chains that were cut short: what the policy would have done next is not in them."""
    return take(columns, ~columns.truncated)


def score(
    chains: Columns, rounds: Columns, exits: Array, round_exits: Array, gamma: float, costs: Costs | None
) -> Score:
    """Score a greedy policy.

    chains: complete chains of the horizon learned on, with their rewards; rounds: complete whole rounds (the same
    object for the `round` horizon). exits, round_exits: the policy's choice at each of their rows.
    costs: without them there is no rate.
    """
    walk = Reweighted(chains, exits)
    whole = walk if rounds is chains else Reweighted(rounds, round_exits)
    returns = chains.rewards * gamma**walk.step
    reward = walk.mean(returns)
    leaves = (rounds.raw["phase"] == WALK) & (rounds.actions == EXIT)
    drafted = drafts_made(rounds)
    drafts = whole.mean(drafted)
    rate = rate_error = math.nan
    if costs is not None:
        tokens, spent = tokens_and_time(rounds, costs)
        spent += first_step(rounds, costs)
        mean_spent = whole.mean(spent)
        rate = whole.mean(tokens) / mean_spent
        rate_error = whole.error(tokens - rate * spent) / mean_spent
    return Score(
        reward=reward,
        reward_error=walk.error(returns, reward),
        rate=rate,
        rate_error=rate_error,
        exit_layer=whole.mean(leaves * rounds.raw["layer"]) / whole.mean(leaves),
        drafts=drafts,
        acceptance=whole.mean(drafted & rounds.raw["accepted"].astype(bool)) / drafts,
        effective=whole.effective,
    )
