"""Coin flips."""

import random

from lede.decode.rules.base import Rule
from lede.decode.state import State


class RandomRule(Rule):
    """Coin flips: for tests, and a floor under every other rule."""

    name = "random"

    def __init__(self, layers: tuple[int, ...], seed: int = 0, exit_chance: float = 0.5, draft_chance: float = 0.7):
        self.layers, self._seed = layers, seed
        self._exit, self._draft = exit_chance, draft_chance
        self.start()

    def start(self) -> None:
        """Every generation flips the same coins."""
        self._random = random.Random(self._seed)

    def exit_here(self, state: State) -> bool:
        """Exit with the chance given."""
        return self._flip(self._exit)

    def draft_on(self, state: State) -> bool:
        """Draft on with the chance given."""
        return self._flip(self._draft)

    def _flip(self, chance: float) -> bool:
        answer = self._random.random() < chance
        self.propensity = chance if answer else 1 - chance
        return answer
