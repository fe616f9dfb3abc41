"""Exploring rules: they try what a policy would not, and say how likely each choice was (its propensity).

Every action that is not forced has a propensity of at least 5 %, so that any policy can be judged from the rows.
"""

import random
from itertools import pairwise

import numpy as np

from lede.decode.rules import ExitRule, feature_row
from lede.decode.state import State
from lede.policy import Policy, forward
from lede.process import LONG_DRAFTS, MAX_DRAFTS, WALK
from lede.replay.schema import PAPER_STATE

DRAFT_CHANCE = 0.85  # of `Uniform`: long drafts are seldom tried otherwise, and a policy must learn where they end
FLOOR = 0.05  # the least likely that an action may be
NOISY_FLOOR = 0.1  # share of `Noisy`'s actions drawn at random


class Exploring(ExitRule):
    """An exit rule that draws its actions."""

    needs_state = True
    needs_lookup = True
    max_drafts = LONG_DRAFTS

    def __init__(self, layers: tuple[int, ...], seed: int):
        self.layers, self._seed = layers, seed
        self.start()

    def start(self) -> None:
        """Every generation draws alike."""
        self._random = random.Random(self._seed)

    def exit_chance(self, state: State) -> float:
        """The probability of action 1 in `state`."""
        raise NotImplementedError

    def answer(self, state: State) -> tuple[bool, float]:
        """Draw an action; its probability."""
        chance = min(max(self.exit_chance(state), FLOOR), 1 - FLOOR)
        exits = self._random.random() < chance
        return exits, chance if exits else 1 - chance


class Uniform(Exploring):
    """Every candidate equally often; drafts go on with probability 0.85. The broadest cover, and the default."""

    name = "uniform"

    def exit_chance(self, state: State) -> float:
        """1 / (candidates from here on) in the walk."""
        if state.phase == WALK:
            return 1 / (len(self.layers) - self.layers.index(state.layer))
        return DRAFT_CHANCE


class Noisy(Exploring):
    """The paper's exploration (§4.1): a noisy Q-network over the paper's state, freshly drawn for each episode.

    Before any learning that network is a random one: one draw of freshly initialised `NoisyLinear` layers. It sees
    features at temperature 1, standardised, as a learned network does, by the mean and deviation of the episode so far.
    Its greedy action is a certainty, which leaves no propensity to weigh by; so one action in ten is drawn at random.
    """

    name = "noisy"
    max_drafts = MAX_DRAFTS

    def __init__(self, layers: tuple[int, ...], seed: int, sigma: float = 0.1, hidden: tuple[int, ...] = (64, 64)):
        super().__init__(layers, seed)
        rng = np.random.default_rng(seed)
        sizes = (len(PAPER_STATE), *hidden, 2)
        drawn = (noisy_linear(rng, i, o, sigma) for i, o in pairwise(sizes))
        self._network = [(weight.T, bias) for weight, bias in drawn]
        self._row = feature_row(PAPER_STATE, layers)

    def start(self) -> None:
        """Forget the last episode's features too."""
        super().start()
        self._count = 0
        self._mean, self._squares = np.zeros(len(PAPER_STATE)), np.zeros(len(PAPER_STATE))

    def exit_chance(self, state: State) -> float:
        """1 - floor/2 where the network prefers to exit, else floor/2."""
        go_on, exit_ = forward(self._network, self._standardised(self._row(state)))
        return 1 - NOISY_FLOOR / 2 if exit_ > go_on else NOISY_FLOOR / 2

    def _standardised(self, row: np.ndarray) -> np.ndarray:
        """(F,) in deviations from the mean of the rows so far, this one included (Welford's algorithm)."""
        self._count += 1
        before = row - self._mean
        self._mean = self._mean + before / self._count
        self._squares = self._squares + before * (row - self._mean)
        deviation = np.sqrt(self._squares / self._count)
        return (row - self._mean) / np.where(deviation > 0, deviation, 1.0)


class Epsilon(Exploring):
    """Around a learned policy: its greedy action, but with probability ε one drawn as by `Uniform`. For second runs.

    Candidates, the bypass included, and the draft limit are the policy's.
    """

    name = "epsilon"

    def __init__(self, policy: Policy, seed: int, epsilon: float = 0.2):
        super().__init__(policy.layers, seed)
        self.max_drafts = policy.max_drafts
        self.policy, self._epsilon = policy, epsilon
        self._row = feature_row(policy.features, self.layers)
        self._uniform = Uniform(self.layers, seed)

    def exit_chance(self, state: State) -> float:
        """(1 - ε)·[policy exits] + ε·(uniform's chance)."""
        exits = float(self.policy.exits(self._row(state)))
        return (1 - self._epsilon) * exits + self._epsilon * self._uniform.exit_chance(state)


def noisy_linear(rng: np.random.Generator, inputs: int, outputs: int, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """One draw of a fresh factorised NoisyLinear layer (arXiv 1706.10295, §3.2): weight (out, in) and bias (out,)."""
    bound = inputs**-0.5

    def factor(size: int) -> np.ndarray:
        noise = rng.standard_normal(size)
        return np.sign(noise) * np.sqrt(np.abs(noise))

    into, out = factor(inputs), factor(outputs)
    weight = rng.uniform(-bound, bound, (outputs, inputs)) + sigma * bound * np.outer(out, into)
    return weight, rng.uniform(-bound, bound, outputs) + sigma * bound * out
