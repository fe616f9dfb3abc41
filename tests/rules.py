"""A rule for tests of all that any rule may do."""

import random

from lede.decode.rules import ExitRule
from lede.decode.state import State


class RandomRule(ExitRule):
    """Coin flips, the same in every generation."""

    name = "random"

    def __init__(self, layers: tuple[int, ...], seed: int = 0, exit_chance: float = 0.5, draft_chance: float = 0.7):
        self.layers, self._seed = layers, seed
        self._exit, self._draft = exit_chance, draft_chance
        self.start()

    def start(self) -> None:
        self._random = random.Random(self._seed)

    def exit_here(self, state: State) -> bool:
        return self._flip(self._exit)

    def draft_on(self, state: State) -> bool:
        return self._flip(self._draft)

    def _flip(self, chance: float) -> bool:
        answer = self._random.random() < chance
        self.propensity = chance if answer else 1 - chance
        return answer
