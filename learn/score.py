"""How good a policy is on held-out texts: exactly where they were swept, else estimated from the log."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lede.learn.importance import Reweighted
from lede.learn.rewards import drafts_made, first_step, tokens_and_time
from lede.process import EXIT, WALK, Measured, Sums
from lede.replay.columns import Columns
from lede.simulate.batched import Prices, Rollout

ENOUGH_EPISODES = 5  # estimates that rest on fewer are luck

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Score:
    """What a policy does on held-out texts; NaN where nothing is known.

    reward: mean (discounted) return of a chain. rate: tokens per millisecond. The errors are standard errors, of groups
    of texts, or of episodes of a log. exit_layer, drafts: means per drafting round. acceptance: accepted / drafted.
    effective: number of rounds; from a log, the effective number of episodes.
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
        return self.effective >= ENOUGH_EPISODES, lower if math.isfinite(lower) else -math.inf


def exact_score(rollout: Rollout, group: NDArray[np.int64], reward: str, rate: float) -> Score:
    """The score of a rollout over swept texts of these groups (N,): its errors are over groups.

    Known rewards are `paper` (of a walk, undiscounted) and `time` at this rate (of a round); others are NaN.
    """
    known = {"paper": rollout.paper, "time": rollout.tokens - rate * rollout.milliseconds}
    gained = known.get(reward, np.full(len(group), math.nan))
    per_round, reward_error = ratio(gained, rollout.rounds, group)
    achieved, rate_error = ratio(rollout.tokens, rollout.milliseconds, group)
    return Score(
        reward=per_round,
        reward_error=reward_error,
        rate=achieved,
        rate_error=rate_error,
        **drafting(rollout),
        effective=float(rollout.rounds.sum()),
    )


def drafting(done: Measured) -> dict[str, float]:
    """How it drafted, by the names of `Score`; NaN where nothing was."""
    found = {"exit_layer": done.exit_layer, "drafts": done.draft_length, "acceptance": done.acceptance}
    return {name: math.nan if value is None else value for name, value in found.items()}


def ratio(above: Float, below: Float, group: NDArray[np.int64]) -> tuple[float, float]:
    """Σ above / Σ below over texts (N,), and its standard error over groups of texts (linearised; infinite for one)."""
    value = float(above.sum() / below.sum())
    sums = np.bincount(np.unique(group, return_inverse=True)[1], above - value * below)
    count = len(sums)
    if count < 2:
        return value, math.inf
    return value, float(math.sqrt((sums**2).sum() * count / (count - 1)) / abs(below.sum()))


def logged_score(
    chains: Columns,
    rounds: Columns,
    exits: NDArray[np.bool_],
    round_exits: NDArray[np.bool_],
    gamma: float,
    prices: Prices | None,
) -> Score:
    """The score of a greedy policy, estimated from a log.

    chains: complete chains of the horizon learned on, with their rewards; rounds: complete whole rounds (the same
    object for the `round` horizon). exits, round_exits: the policy's choice at each of their rows.
    prices: without them there is no rate.
    """
    walk = Reweighted(chains, exits)
    whole = walk if rounds is chains else Reweighted(rounds, round_exits)
    returns = chains.rewards * gamma**walk.step
    reward = walk.mean(returns)
    leaves = (rounds.raw["phase"] == WALK) & (rounds.actions == EXIT)
    drafted = drafts_made(rounds)
    means = Sums(
        tokens=math.nan,
        rounds=1,
        drafting=whole.mean(leaves),
        depth=whole.mean(leaves * rounds.raw["layer"]),
        drafted=whole.mean(drafted),
        accepted=whole.mean(drafted & rounds.raw["accepted"].astype(bool)),
        seconds=math.nan,
    )
    rate = rate_error = math.nan
    if prices is not None:
        tokens, spent = tokens_and_time(rounds, prices)
        spent += first_step(rounds, prices)
        mean_spent = whole.mean(spent)
        rate = whole.mean(tokens) / mean_spent
        rate_error = whole.error(tokens - rate * spent) / mean_spent
    return Score(
        reward=reward,
        reward_error=walk.error(returns, reward),
        rate=rate,
        rate_error=rate_error,
        **drafting(means),
        effective=whole.effective,
    )
