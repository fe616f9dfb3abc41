"""A rule for tests of all that any rule may do."""

import random

from lede.decode.rules import ExitRule
from lede.decode.state import State
from lede.process import WALK


class RandomRule(ExitRule):
    """Coin flips, the same in every generation."""

    name = "random"

    def __init__(self, layers: tuple[int, ...], seed: int = 0, exit_chance: float = 0.5, draft_chance: float = 0.7):
        self.layers, self._seed = layers, seed
        self._exit, self._draft = exit_chance, draft_chance
        self.start()

    def start(self) -> None:
        self._random = random.Random(self._seed)

    def answer(self, state: State) -> tuple[bool, float]:
        taken, _ = super().answer(state)
        chance = self._exit if state.phase == WALK else self._draft
        return taken, chance if taken else 1 - chance

    def exit_here(self, state: State) -> bool:
        return self._random.random() < self._exit

    def draft_on(self, state: State) -> bool:
        return self._random.random() < self._draft
