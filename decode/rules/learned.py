"""A learned value function as an exit rule."""

from collections.abc import Callable
from operator import itemgetter
from typing import Protocol

import numpy as np

from decode.rules.base import MAX_DRAFTS, Rule
from decode.state import State


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
        self.needs_trace = "conf_trace" in policy.features
        self.needs_lookup = any(feature.startswith("lookup_") for feature in policy.features)
        self.row = feature_row(policy.features, self.layers)
        self._values = policy.values

    def exit_here(self, state: State) -> bool:
        """Q(exit) > Q(continue)."""
        go_on, exit_ = self._values(self.row(state)).tolist()
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
