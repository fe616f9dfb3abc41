"""The ceiling equals brute force on tiny texts, and no rule that is replayed ever gets above it."""

import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lede.simulate.batched import Engine
from lede.simulate.costs import Costs
from lede.simulate.oracle import best_static, ceiling, static_milliseconds, worthwhile
from lede.simulate.texts import Texts
from tests.learn.swept import made_up
from tests.learn.toy import COSTS, KNOWN_COSTS

SEEDS = st.integers(0, 10_000)


def least(texts: Texts, costs: Costs, layers, lengths, decisions, bypass) -> float:
    """The time of the cheapest sequence of rounds, each of them tried."""
    kept = costs.trace + costs.index if decisions else 0.0  # the same in sampled text
    fewest = 2 if decisions else 1

    def rounds(n, t, costs):
        """(milliseconds, tokens) of every round that may start here."""
        most = min(int(texts.lengths[n]) - t - 1, max(fewest, *lengths))
        if most == 0:
            yield costs.plain() + kept, 1
            return
        spent, before, drafted = 0.0, 0, False
        for layer in layers:
            column = texts.layers.index(layer)
            if not texts.found[n, t, column]:
                spent += costs.lookup
                continue
            spent += costs.step(before, layer)
            before, drafted = layer, True
            for wanted in lengths:
                drafts = min(max(wanted, fewest), most)
                hits = [*texts.right[n, t : t + drafts, column].tolist(), False]
                tokens = hits.index(False) + 1
                if not decisions:
                    yield costs.fixed(layer, drafts), tokens
                    continue
                yield spent + (drafts - 1) * costs.draft(layer) + costs.finish(layer, drafts), tokens
        if not drafted:
            yield costs.plain() + kept + costs.lookup + (0.0 if decisions else costs.index), 1
        elif bypass:
            yield (spent + costs.finish(layers[-1], 0) if decisions else costs.plain()), 1

    @cache
    def from_here(n, t):
        if t >= texts.lengths[n]:
            return 0.0
        kind = costs.sampled() if texts.temperatures[n] else costs
        return min(spent + from_here(n, t + tokens) for spent, tokens in rounds(n, t, kind))

    return sum(from_here(n, 0) for n in range(len(texts.lengths)))


LAYERS = st.sampled_from([(0,), (2,), (0, 4), (0, 2, 4)])
HEAT = st.sampled_from([0.0, 0.8])
LENGTHS = st.sampled_from([range(1, 13), range(1, 32), (1,), (3,), (1, 4)])


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.booleans(), st.booleans(), LAYERS, LENGTHS, HEAT)
def test_equals_brute_force(seed, decisions, bypass, layers, lengths, heat):
    texts = made_up(seed, count=3, longest=18, temperature=heat)
    found = ceiling(texts, COSTS, layers=layers, lengths=lengths, decisions=decisions, bypass=bypass)
    assert found.milliseconds.sum() == pytest.approx(least(texts, COSTS, layers, lengths, decisions, bypass))
    assert (found.accepted + found.rounds >= found.tokens).all()  # every round adds a token to its accepted drafts


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.floats(0.1, 0.9), st.booleans(), HEAT)
def test_no_rule_is_faster(seed, eagerness, bypass, heat):
    texts = made_up(seed, temperature=heat)
    rng = np.random.default_rng(seed)
    engine = Engine(texts, COSTS, ("margin",), bypass=bypass)
    reached = engine.play(lambda rows: rng.random(len(rows)) < eagerness)
    paying = ceiling(texts, COSTS, decisions=True, bypass=bypass)
    assert reached.rate <= paying.rate + 1e-9
    assert paying.rate <= ceiling(texts, COSTS, bypass=True).rate + 1e-9


@pytest.mark.parametrize("heat", [0.0, 0.8])
def test_a_fixed_rule_has_nothing_to_choose(heat):
    texts = made_up(1, temperature=heat)
    every = {}
    for layer in texts.layers:
        spent = static_milliseconds(texts, COSTS, layer)
        dearer = COSTS.choose * (texts.temperatures > 0)
        np.testing.assert_allclose(spent[:, 0], texts.lengths * (COSTS.plain() + dearer))
        for drafts in (1, 5, 12, 31):
            found = ceiling(texts, COSTS, layers=(layer,), lengths=(drafts,))
            np.testing.assert_allclose(spent[:, drafts], found.milliseconds)
        every |= {(layer, d): texts.lengths.sum() / spent[:, d].sum() for d in range(32)}
    best = best_static(texts, COSTS)
    assert best.rate == pytest.approx(max(every.values())) == pytest.approx(every[best.layer, best.drafts])


def test_every_choice_is_worth_something():
    texts = made_up(2, count=30)
    free = ceiling(texts, COSTS)
    for fixed in (ceiling(texts, COSTS, layers=(2,)), ceiling(texts, COSTS, lengths=(4,))):
        assert fixed.rate < free.rate
    deep = ceiling(texts, COSTS, layers=(4,))
    assert deep.depth.sum() == 4 * deep.drafting.sum() > 0
    assert (free.accepted == free.drafted).all()  # who knows all never drafts a wrong token where layers are found


def test_sure_drafts_are_taken_to_the_end():
    texts = made_up(3, layers=(2,), count=1, longest=40, chance=1.0)
    length = int(texts.lengths[0])
    found = ceiling(texts, COSTS, layers=(2,))
    assert found.rounds.sum() == math.ceil(length / 32)
    assert not ceiling(made_up(4, count=1, longest=1), COSTS).drafting.any()


def test_refuses_layers_that_were_not_swept():
    with pytest.raises(ValueError, match="not among"):
        ceiling(made_up(0), COSTS, layers=(3,))
    with pytest.raises(ValueError, match="lengths"):
        ceiling(made_up(0), COSTS, lengths=())


def test_a_layer_that_is_never_right_is_not_worthwhile():
    texts = made_up(1, count=8, chance=0.9)
    assert worthwhile(texts, KNOWN_COSTS) == texts.layers and worthwhile(texts, COSTS) == ()
    column = 1
    texts.right[..., column], texts.drafts[..., column] = False, 2
    assert worthwhile(texts, KNOWN_COSTS) == tuple(layer for layer in texts.layers if layer != texts.layers[column])
