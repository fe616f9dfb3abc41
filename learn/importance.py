"""What a log says of policies that did not collect it: weighted per-decision importance sampling.

A logged chain counts as far as the policy agrees with it: at each decision its weight is divided by the probability
with which the behaviour took the logged action, or becomes 0 where the policy would have taken the other; forced
decisions leave it. What happens at the t-th decision is estimated by the weighted mean over all chains, those that have
ended keeping their last weight. The estimator is consistent, biased on little data, and less noisy than the unbiased
one. Chains of one episode are not independent: standard errors take whole episodes as the unit.
"""

import math

import numpy as np
from numpy.typing import NDArray

from lede.learn.errors import LearnError
from lede.process import EXIT
from lede.replay.columns import Columns

Array = NDArray[np.generic]
Float = NDArray[np.float64]


def reach_probability(columns: Columns) -> Float:
    """Probability (N,) that the behaviour took every logged action of the chain before this row."""
    logs = np.log(columns.propensities.astype(np.float64))
    before = np.concatenate([[0.0], np.cumsum(logs)[:-1]])
    return np.exp(before - np.repeat(before[columns.chain_starts[:-1]], np.diff(columns.chain_starts)))


class Reweighted:
    """Chains weighted as if the greedy policy had taken the decisions.

    columns: N rows in C chains. exits: (N,), the policy's choice at each row.
    step: (N,), the row's place in its chain. weights: (N,), of each row. final: (C,), of each whole chain.
    """

    def __init__(self, columns: Columns, exits: Array) -> None:
        if len(columns.propensities) == 0:
            raise LearnError("no complete chain is left to validate on; collect more episodes")
        if not (columns.propensities > 0).all():
            raise LearnError("the dataset logs an action of probability 0; see the integrity report (lede inspect)")
        lengths = np.diff(columns.chain_starts)
        first = np.repeat(columns.chain_starts[:-1], lengths)
        differs = (np.asarray(exits, bool) != (columns.actions == EXIT)) & ~columns.raw["forced"].astype(bool)
        # How often it differed since its chain began: 0 while the policy would have come this way.
        strays = np.cumsum(differs) - (np.cumsum(differs) - differs)[first]
        self._starts = columns.chain_starts[:-1]
        self._episode = np.unique(columns.episodes[self._starts], return_inverse=True)[1]
        self.step = np.arange(len(first)) - first
        self.weights = (strays == 0) / (reach_probability(columns) * columns.propensities)
        self.final = self.weights[columns.chain_starts[1:] - 1]
        ended = np.cumsum(np.bincount(lengths, self.final))[: self.step.max() + 1]
        totals = (np.bincount(self.step, self.weights) + ended)[self.step]
        self._shares = np.divide(self.weights, totals, out=np.zeros_like(totals), where=totals > 0)

    @property
    def effective(self) -> float:
        """Effective sample size: so many episodes of the policy's own would tell as much."""
        by_episode = np.bincount(self._episode, self.final)
        squares = float((by_episode**2).sum())
        return float(by_episode.sum()) ** 2 / squares if squares else 0.0

    def mean(self, values: Array) -> float:
        """Expected sum over a chain of what each row contributes (N,); NaN if the policy agrees with no whole chain."""
        return float((self._shares * values.astype(np.float64)).sum()) if self.final.any() else math.nan

    def error(self, values: Array, centre: float = 0.0) -> float:
        """Standard error of `mean(values)`, whose estimate is `centre`; infinite on a single episode's evidence."""
        if self.effective <= 1:
            return math.inf
        sums = np.add.reduceat(values.astype(np.float64), self._starts)
        by_episode = np.bincount(self._episode, self.final * (sums - centre))
        spread = math.sqrt(float((by_episode**2).sum())) / float(self.final.sum())
        return spread * math.sqrt(self.effective / (self.effective - 1))
