"""Rules that learn while they decode, without a dataset: bandits, whose arms are ways to draft.

A generation is too short to try every arm, so what a bandit has learned outlives it: one rule object goes on learning
from text to text, in the order in which they come. `start` resets nothing. All parameters but TapOut's stopping rules
are tuned on training prompts by `bench.tune`.
"""

import math
from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING

from lede.decode.rules.base import ExitRule
from lede.decode.state import State
from lede.process import MAX_DRAFTS

if TYPE_CHECKING:
    from lede.decode.round import Round


class Bandit(ExitRule):
    """Plays the arm with the highest upper confidence bound (UCB1); at first each once, in order.

    An arm's mean is what its rounds paid over what they cost, and is taken relative to the best arm's. Its bound is
    that plus √(`exploration` · ln n / nᵢ), of n rounds nᵢ with this arm; UCB1's own constant is 2. `decay` below 1
    forgets: every sum shrinks by it each round (discounted UCB).
    """

    needs_trace = False

    def __init__(self, arms: int, exploration: float, decay: float = 1.0):
        self._exploration, self._decay = exploration, decay
        self._sums = [[0.0] * arms for _ in range(3)]  # rounds, pay, cost
        self.play(0)

    def play(self, arm: int) -> None:
        """Draft the next round like this."""
        self.arm = arm

    def learn(self, pay: float, cost: float) -> None:
        """Credit the last round to its arm, and play the best."""
        for sums, new in zip(self._sums, (1.0, pay, cost), strict=True):
            if self._decay < 1:
                sums[:] = [self._decay * old for old in sums]
            sums[self.arm] += new
        rounds, pays, costs = self._sums
        if 0.0 in rounds:
            self.play(rounds.index(0.0))
            return
        means = [paid / spent for paid, spent in zip(pays, costs, strict=True)]
        best, width = max(means) or 1.0, self._exploration * math.log(max(sum(rounds), 1.0))
        bounds = [mean / best + math.sqrt(width / n) for mean, n in zip(means, rounds, strict=True)]
        self.play(bounds.index(max(bounds)))


class Ucb(Bandit):
    """Arms are no draft, and every pair of an exit layer (0: prompt lookup) and a draft length; pay is tokens a second.

    Source: UCBSpec of BanditSpec (Hou et al., ICML 2025, arXiv 2505.15141), whose code measures the same reward round
    by round for draft lengths 1…4, with an exploration constant of 6. Deviations: exit layers and the lookup are arms
    too; the constant is tuned, on means relative to the best; tokens over seconds of all of an arm's rounds, where the
    code takes the mean of the rounds' rates; what is learned is kept from text to text, where it starts anew.
    """

    name = "ucb"

    def __init__(self, layers: Sequence[int], lengths: Sequence[int], exploration: float = 2.0, decay: float = 1.0):
        self._arms: list[tuple[tuple[int, ...], int]] = [((), 0)]
        self._arms += [((layer,), length) for layer, length in product(layers, lengths)]
        self.needs_lookup = 0 in layers
        super().__init__(len(self._arms), exploration, decay)

    def play(self, arm: int) -> None:
        self.arm, (self.layers, self.max_drafts) = arm, self._arms[arm]

    def finish(self, round_: "Round") -> None:
        if not round_.cut:
            self.learn(len(round_.committed), round_.seconds)


# A column of the state, a sign and the least that their product must be for drafting to go on.
GOES_ON: tuple[tuple[str, int, float], ...] = (
    *(("top1_logp", 1, math.log(probability)) for probability in (0.4, 0.6, 0.8)),
    *(("margin", 1, margin) for margin in (0.0, 0.2, 0.4)),  # 0: never stop
    *(("entropy", -1, -(root**2)) for root in (0.6, 1.0)),
)


class TapOut(Bandit):
    """A fixed exit layer; arms are rules that say when to stop drafting.

    Source: TapOut (Sridhar et al., arXiv 2511.02017), a bandit over stopping rules without parameters of their own,
    with UCB1 and half the accepted share of the longest draft plus half the accepted share of the round's as reward.
    Deviations: the draft model is the first E layers; the stopping rules are thresholds on the top probability, on its
    margin over the second and on the root of the entropy, several of each, with values of ours, and never to stop;
    none compares with the token before or moves its threshold; a round's first draft is not judged.
    """

    name = "tapout"
    needs_state = True

    def __init__(
        self, exit_layer: int, exploration: float = 2.0, *, max_drafts: int = MAX_DRAFTS, keeps_last: bool = True
    ):
        self.layers, self.max_drafts, self.keeps_last = (exit_layer,), max_drafts, keeps_last
        super().__init__(len(GOES_ON), exploration)

    def draft_on(self, state: State) -> bool:
        column, sign, least = GOES_ON[self.arm]
        return bool(sign * getattr(state, column) >= least)

    def finish(self, round_: "Round") -> None:
        if round_.drafts and not round_.cut:
            shares = round_.accepted / self.max_drafts + round_.accepted / len(round_.drafts)
            self.learn(shares / 2, 1.0)
