"""Exit rules: who decides how deep to draft and when to stop. One protocol, so that one loop runs them all.

A round walks the rule's candidate layers for its first draft and asks `exit_here` at each but the last, where the exit
is forced; then, after each further draft, it asks `draft_on` (paper §3.3). A rule's state is per generation: `start`
resets.
"""

import random
from collections.abc import Callable
from operator import itemgetter
from typing import TYPE_CHECKING, Protocol

import numpy as np

from decode.state import State

if TYPE_CHECKING:
    from decode.round import Round

MAX_DRAFTS = 12  # a round, for rules that stop by themselves (paper §4.1)


class ExitRule(Protocol):
    """What the speculation loop asks."""

    name: str
    layers: tuple[int, ...]  # candidates in ascending order; 0 is prompt lookup; empty: never draft
    max_drafts: int
    needs_state: bool  # whether its decisions look at more than layer and draft index
    needs_lookup: bool  # whether they look at the lookup columns

    def start(self) -> None:
        """A new generation begins."""

    def exit_here(self, state: State) -> bool:
        """In the walk: draft from this layer (True), or go on to the next candidate."""

    def draft_on(self, state: State) -> bool:
        """After a draft: draft another (True), or stop and verify, this token included."""

    def finish(self, round_: "Round") -> None:
        """A round was verified."""


class Rule:
    """Defaults that most rules share."""

    name = "rule"
    layers: tuple[int, ...] = ()
    max_drafts = MAX_DRAFTS
    needs_state = False
    needs_lookup = False

    def start(self) -> None:
        """Nothing to reset."""

    def exit_here(self, state: State) -> bool:
        """Exit at the first candidate."""
        return True

    def draft_on(self, state: State) -> bool:
        """Draft up to the limit."""
        return True

    def finish(self, round_: "Round") -> None:
        """Nothing to learn."""


class Autoregressive(Rule):
    """No drafts: every token through all layers."""

    name = "autoregressive"
    max_drafts = 0


class LayerSkip(Rule):
    """A fixed exit layer and draft length (arXiv 2404.16710, §4.3). exit_layer 0 is plain prompt lookup."""

    name = "layerskip"

    def __init__(self, exit_layer: int, draft_length: int):
        self.layers = (exit_layer,)
        self.max_drafts = draft_length


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
        return self._random.random() < self._exit

    def draft_on(self, state: State) -> bool:
        """Draft on with the chance given."""
        return self._random.random() < self._draft


class ValueFunction(Protocol):
    """A learned policy as this room sees it; `serve.policy.Policy` is one."""

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""

    @property
    def layers(self) -> tuple[int, ...]:
        """Candidate layers, ascending."""

    def values(self, row: np.ndarray) -> np.ndarray:
        """(features,) → (2,): the values of continue and exit."""


class QPolicy(Rule):
    """Greedy in a learned value function (paper §3.2): exit where exiting is worth more than going on."""

    name = "lede"
    needs_state = True

    def __init__(self, policy: ValueFunction, name: str = "lede", max_drafts: int = MAX_DRAFTS):
        self.name, self.max_drafts = name, max_drafts
        self.layers = tuple(policy.layers)
        self.needs_lookup = any(feature.startswith("lookup_") for feature in policy.features)
        self.row = feature_row(policy.features, self.layers)
        self._values = policy.values

    def exit_here(self, state: State) -> bool:
        """Q(exit) > Q(continue)."""
        go_on, exit_ = self._values(self.row(state))
        return bool(exit_ > go_on)

    draft_on = exit_here


def feature_row(features: tuple[str, ...], layers: tuple[int, ...]) -> Callable[[State], np.ndarray]:
    """A function from a State to the row of numbers that a policy with these feature names takes.

    Names are State fields, or `layer=4`: 1 at that layer, else 0. Raises KeyError for any other name.
    """
    plain = [name for name in features if not name.startswith("layer=")]
    unknown = [name for name in plain if name not in State._fields]
    if unknown:
        raise KeyError(f"unknown features: {', '.join(unknown)}")
    where = [features.index(name) for name in plain]
    take = itemgetter(*[State._fields.index(name) for name in plain], 0)  # at least two, so that it returns a tuple
    blanks = {}
    for layer in layers:
        blank = np.zeros(len(features), np.float32)
        if f"layer={layer}" in features:
            blank[features.index(f"layer={layer}")] = 1
        blanks[layer] = blank
    contiguous = where == list(range(len(where)))
    columns = slice(len(where)) if contiguous else np.array(where)

    def row(state: State) -> np.ndarray:
        out = blanks[state.layer].copy()
        out[columns] = take(state)[:-1]
        return out

    return row
