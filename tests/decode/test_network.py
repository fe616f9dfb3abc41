"""A policy's network as one call: it decides as `values` does, whatever its sizes and the order of its features."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lede.decode.backends.compile import library
from lede.decode.rules.network import WIDEST, decider, feature_row
from lede.decode.state import State
from lede.policy import Policy
from lede.process import WALK
from tests.decode.values import random_policy
from tests.models import FIXED

LAYERS = (0, 2, 4)


def policy(rng: np.random.Generator, hidden: tuple[int, ...]) -> Policy:
    """Features in any order, and not always all of them."""
    names = np.array([*State._fields[4:], "draft_index", *(f"layer={layer}" for layer in LAYERS)])
    indicators = [name.startswith("layer=") for name in names]
    kept = names[rng.permutation(np.flatnonzero((rng.random(len(names)) < 0.8) | indicators))]
    sizes = (len(kept), *hidden, 2)
    weights = [
        (rng.standard_normal((o, i)).astype(np.float32), rng.standard_normal(o).astype(np.float32))
        for i, o in pairwise(sizes)
    ]
    mean, scale = rng.standard_normal(len(kept)), rng.uniform(0.5, 2, len(kept))
    return Policy(tuple(kept.tolist()), LAYERS, tuple(weights), mean.astype(np.float32), scale.astype(np.float32))


def states(rng: np.random.Generator, count: int) -> list[State]:
    return [
        State(int(rng.choice(LAYERS)), int(rng.integers(1, 13)), WALK, 17, *rng.standard_normal(10).tolist())
        for _ in range(count)
    ]


@settings(FIXED, max_examples=60)
@given(st.integers(0, 2**32), st.lists(st.sampled_from([1, 3, 16, 64, WIDEST, WIDEST + 1]), max_size=3))
def test_a_decision_is_the_larger_of_the_two_values(seed, hidden):
    rng = np.random.default_rng(seed)
    learned = policy(rng, tuple(hidden))
    decide, row = decider(learned), feature_row(learned.features, LAYERS)
    seen = states(rng, 20)
    answers = [decide(state) for state in seen]
    for state, answer in zip(seen, answers, strict=True):
        go_on, exit_ = learned.values(row(state))
        if abs(exit_ - go_on) > 1e-4 * max(abs(exit_), abs(go_on), 1):
            assert answer == (exit_ > go_on)
    assert answers == [decide(state) for state in seen]  # nothing is left over from the rows before


def test_where_nothing_is_compiled_values_decides(monkeypatch):
    learned = random_policy(LAYERS)
    row = feature_row(learned.features, LAYERS)
    seen = states(np.random.default_rng(0), 50)
    expected = [bool(np.diff(learned.values(row(state)))[0] > 0) for state in seen]
    assert len(set(expected)) == 2
    asked, values = [], Policy.values
    monkeypatch.setattr(Policy, "values", lambda self, row: asked.append(row) or values(self, row))
    if library("decide") is not None:
        decider(learned)(seen[0])
        assert not asked
    monkeypatch.setattr("lede.decode.rules.network.library", lambda name: None)
    assert [decider(learned)(state) for state in seen] == expected and len(asked) == 50
    monkeypatch.setattr(Policy, "values", lambda self, row: np.zeros(2))
    assert decider(learned)(seen[0]) is False  # a tie continues


def test_rows_are_the_named_columns():
    state = State(4, 3, WALK, 17, *(float(i) for i in range(10, 20)))
    names = ("entropy", "layer=2", "draft_index", "lookup_match", "layer=4")
    assert feature_row(names, (2, 4))(state).tolist() == [11.0, 0.0, 3.0, 19.0, 1.0]
    assert feature_row(("conf_topk",), (2, 4))(state).tolist() == [10.0]
    assert feature_row(("layer=4",), (2, 4))(state).tolist() == [1.0]
    with pytest.raises(KeyError, match="mood"):
        feature_row(("entropy", "mood"), (2,))
