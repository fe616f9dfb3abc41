"""The tree of a round agrees with the replay, decision by decision, and what is fitted to it gets near the ceiling."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lede.learn.errors import LearnError
from lede.learn.fitted import FittedConfig, RoundTrees, fit
from lede.replay.schema import MAX_DRAFTS
from lede.serve.policy import Policy
from lede.simulate.batched import best_static, simulate
from lede.simulate.oracle import ceiling
from tests.learn.swept import made_up
from tests.learn.toy import COSTS


def arbitrary(trees: RoundTrees, seed: int) -> Policy:
    """A policy of random weights for these trees."""
    rng = np.random.default_rng(seed)
    inputs = len(trees.names)
    weights = (
        (rng.normal(size=(8, inputs)).astype(np.float32), rng.normal(size=8).astype(np.float32)),
        (rng.normal(size=(2, 8)).astype(np.float32), np.zeros(2, np.float32)),
    )
    return Policy(trees.names, trees.layers, weights, np.zeros(inputs, np.float32), np.ones(inputs, np.float32))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.booleans(), st.sampled_from([(0,), (2,), (0, 4), (2, 4), (0, 2, 4)]),
       st.sampled_from([2, 5, 12, 19]))  # fmt: skip
def test_playing_is_what_the_replay_says(seed, bypass, layers, longest):
    costs = replace(COSTS, trace=0.02, index=0.03)
    trees = RoundTrees(made_up(seed, layers), costs, bypass, longest)
    policy = arbitrary(trees, seed)
    rate, spent, starts = trees.play(policy)
    replayed = simulate(trees.texts, policy.features, policy.exits, costs, rate, bypass, longest)
    assert rate == pytest.approx(replayed.rate, rel=1e-6)
    assert trees.texts.lengths.sum() / spent.sum() == pytest.approx(rate)
    assert len(starts) == replayed.effective


@pytest.mark.parametrize("bypass", [False, True])
def test_the_value_of_chances_is_the_mean_over_choices(bypass):
    texts = made_up(5, (0, 2), count=6, longest=5)
    trees = RoundTrees(texts, COSTS, bypass)
    text, start = torch.arange(6), torch.zeros(6, dtype=torch.long)
    chance = torch.rand(6, 2, MAX_DRAFTS, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    free = [(c, k) for c in (0, 1) for k in (0, 1, 2)]  # later decisions are never reached in so short a text
    expected = torch.zeros(6, dtype=torch.float64)
    for choice in product((0.0, 1.0), repeat=len(free)):
        decided, likely = chance.round(), torch.ones(6, dtype=torch.float64)
        for (c, k), taken in zip(free, choice, strict=True):
            decided[:, c, k] = taken
            likely *= chance[:, c, k] if taken else 1 - chance[:, c, k]
        expected += likely * trees.value(decided, text, start, 0.7)
    torch.testing.assert_close(trees.value(chance, text, start, 0.7), expected)


def test_fits_what_there_is_to_know():
    train, held = (made_up(seed, count=30, longest=40, chance=0.8, signal=0.05) for seed in (1, 2))
    config = FittedConfig(steps=150, batch=128, hidden=(16,))
    costs = replace(COSTS, round=0.3)
    found = fit(train, held, costs, config)
    by_hand = simulate(held, ("margin",), lambda rows: rows[:, 0] > 0.5, costs, None).rate  # exits where it is right
    assert best_static(held, costs).rate < by_hand
    assert 0.99 * by_hand < found.score.rate < ceiling(held, costs, decisions=True).rate
    assert found.score.rate == pytest.approx(max(rate for _, _, rate in found.history))
    assert dict((step, rate) for step, _, rate in found.history)[found.kept] == pytest.approx(found.score.rate)
    again = fit(train, held, costs, config)
    for (weight, bias), (other, shift) in zip(found.policy.weights, again.policy.weights, strict=True):
        np.testing.assert_array_equal(weight, other)
        np.testing.assert_array_equal(bias, shift)


def test_refuses_what_it_cannot_fit():
    with pytest.raises(LearnError, match="swept at"):
        fit(made_up(0), made_up(0, (2, 4)), COSTS)
    with pytest.raises(LearnError, match="no swept texts"):
        fit(made_up(0, count=0), made_up(0), COSTS)
    with pytest.raises(LearnError, match="at least 1"):
        FittedConfig(steps=0)
    with pytest.raises(LearnError, match="2 to 31"):
        FittedConfig(max_drafts=32)
    with pytest.raises(LearnError, match="between 0 and 1"):
        FittedConfig(explore=2)
