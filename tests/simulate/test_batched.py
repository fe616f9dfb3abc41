"""Rounds as trees: their values by enumeration, what a policy plays, and that only what is used is paid for."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lede.policy import Policy
from lede.process import EXIT
from lede.replay.schema import EXTENDED, OF_SAMPLED, SWEPT
from lede.simulate.batched import Engine, Starts, prices_of
from tests.learn.swept import made_up
from tests.learn.toy import COSTS

COSTS = replace(COSTS, trace=0.02, index=0.03)
SHAPES = st.sampled_from([(0,), (2,), (0, 4), (2, 4), (0, 2, 4)])


def features(layers, bypass=False, without=()):
    named = [name for name in EXTENDED if name not in without]
    return (*named, *(f"layer={layer}" for layer in ((*layers, 8) if bypass else layers)))


def network(names, layers, seed):
    rng = np.random.default_rng(seed)
    width = len(names)
    weights = (
        (rng.normal(size=(8, width)).astype(np.float32), rng.normal(size=8).astype(np.float32)),
        (rng.normal(size=(2, 8)).astype(np.float32), np.zeros(2, np.float32)),
    )
    return Policy(names, layers, weights, np.zeros(width, np.float32), np.ones(width, np.float32))


def starts(text, position):
    return Starts(torch.as_tensor(text), torch.as_tensor(position), torch.full((len(text),), 0.5))


def totals(engine, rounds, chance):
    return rounds.expected(chance, *engine.gains(rounds))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.booleans(), SHAPES, st.sampled_from([2, 5, 12, 31]), st.sampled_from([0.0, 0.8]))
def test_playing_follows_the_nodes_of_every_round(seed, bypass, layers, longest, heat):
    """Node by node, as the tree says which is next, and by sums from the leaves back: the same rounds."""
    names = features(layers, bypass)
    engine = Engine(made_up(seed, layers, temperature=heat), COSTS, names, bypass=bypass, max_drafts=longest)
    policy = network(names, (*layers, 8) if bypass else layers, seed)
    played = engine.play(policy.exits)
    rounds = engine.rounds(played.starts)
    exits = policy.exits(rounds.rows.reshape(-1, len(names)).numpy()).reshape(rounds.rows.shape[:-1])
    end = len(layers) * longest
    tokens = milliseconds = decisions = 0
    visited = rounds.visited(torch.from_numpy(exits))
    for b in range(len(rounds.first)):
        tokens, milliseconds = tokens + float(rounds.begin[b, 0]), milliseconds + float(rounds.begin[b, 1])
        node = int(rounds.first[b])
        while node != end:
            c, k = divmod(node, longest)
            possible = rounds.possible[b, c, k]
            action = int(exits[b, c, k]) if possible.all() else int(possible[EXIT])
            assert visited[b, c, k]
            tokens += float(rounds.tokens[b, c, k, action])
            milliseconds += float(rounds.milliseconds[b, c, k, action])
            node, decisions = int(rounds.next[b, c, k, action]), decisions + 1
    assert tokens == played.tokens.sum() == engine.texts.lengths.sum()
    assert milliseconds == pytest.approx(played.milliseconds.sum())
    assert decisions == visited.sum()
    assert len(played.starts.text) == played.rounds.sum()
    assert played.accepted.sum() == played.tokens.sum() - played.rounds.sum()


@pytest.mark.parametrize("bypass", [False, True])
def test_the_value_of_chances_is_the_mean_over_choices(bypass):
    layers = (0, 2)
    texts = made_up(5, layers, count=6, longest=5)
    engine = Engine(texts, COSTS, features(layers, bypass), bypass=bypass, max_drafts=12)
    rounds = engine.rounds(starts(range(6), [0] * 6))
    chance = torch.rand(6, 2, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    free = [(c, k) for c in (0, 1) for k in (0, 1, 2)]  # later decisions are never reached in so short a text
    expected = torch.zeros(6, 5, dtype=torch.float64)
    for choice in product((0.0, 1.0), repeat=len(free)):
        decided, likely = chance.round(), torch.ones(6, 1, dtype=torch.float64)
        for (c, k), taken in zip(free, choice, strict=True):
            decided[:, c, k] = taken
            likely[:, 0] *= chance[:, c, k] if taken else 1 - chance[:, c, k]
        expected += likely * totals(engine, rounds, decided)
    torch.testing.assert_close(totals(engine, rounds, chance), expected)


def test_one_round_by_hand():
    """Layer 2 drafts right twice, then wrong; layer 4 is never reached."""
    texts = made_up(0, (2, 4), count=1, longest=24, chance=1.0)
    texts = replace(texts, right=texts.right.copy(), lengths=np.array([24]))
    texts.right[0, 2, 0] = False
    engine = Engine(texts, COSTS, ("draft_index",), max_drafts=31)
    rounds = engine.rounds(starts([0], [0]))
    exits = (torch.arange(1, 32) < 4).expand(1, 2, 31)  # exit at once, draft until the fourth
    tokens, milliseconds, drafts, depth, paper = totals(engine, rounds, exits.double())[0].tolist()
    used = COSTS.for_policy(("draft_index",), (2, 4))
    assert (tokens, drafts, depth) == (3, 4, 2)
    assert milliseconds == pytest.approx(used.step(0, 2) + 3 * used.draft(2) + used.finish(2, 4))
    assert paper == pytest.approx(1 + 6 / 8)


def test_a_policy_pays_for_what_it_looks_at():
    bare = prices_of(COSTS, ("margin",), (2, 4))
    traced = prices_of(COSTS, ("margin", "conf_trace"), (2, 4))
    copying = prices_of(COSTS, ("margin", "lookup_match"), (2, 4))
    assert traced.finish - bare.finish == pytest.approx(np.full((2, 2, 32), COSTS.trace))
    np.testing.assert_allclose(traced.draft, bare.draft)
    assert (copying.draft > bare.draft).all() and (copying.plain > bare.plain).all()
    assert bare.plain == pytest.approx([COSTS.plain(), COSTS.plain() + COSTS.choose])


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000))
def test_earlier_rounds_are_remembered_as_the_decoder_remembers_them(seed):
    from lede.decode.state import AcceptTrace

    layers, names = (0, 2), features((0, 2))
    engine = Engine(made_up(seed, layers, count=3), COSTS, names, max_drafts=5)
    policy = network(names, layers, seed)
    played = engine.play(policy.exits)
    rounds = engine.rounds(played.starts)
    exits = torch.from_numpy(policy.exits(rounds.rows.reshape(-1, len(names)).numpy())).reshape(rounds.rows.shape[:-1])
    sums = totals(engine, rounds, exits.double())
    traces = [AcceptTrace() for _ in range(3)]
    for text, accept, (tokens, _, drafts, _, _) in zip(played.starts.text, played.starts.accept, sums, strict=True):
        assert float(accept) == pytest.approx(traces[int(text)].value, rel=2**-11)
        traces[int(text)].add(int(tokens) - 1, int(drafts))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000))
def test_a_policy_that_does_not_know_of_noise_is_played_all_the_same(seed):
    """Policies name their features: what sampled text has on top leaves one of before as it was, in either kind."""
    layers, names = (0, 2), features((0, 2), without=(*OF_SAMPLED, "draft_logp"))
    texts = made_up(seed, layers, temperature=0.8)
    other = replace(texts, states=texts.states.copy())
    other.states[..., [SWEPT.index(name) for name in OF_SAMPLED]] = 7.0
    policy = network(names, layers, seed)
    there, here = (Engine(some, COSTS, names, max_drafts=5).play(policy.exits) for some in (texts, other))
    for name in ("rounds", "drafted", "accepted", "milliseconds"):
        assert np.array_equal(getattr(there, name), getattr(here, name)), name


def test_earlier_drafts_count_as_likely_as_they_were_drawn():
    """`draft_logp` is of the processed distribution in sampled text, else of the layer's own; 0 at layer 0."""
    texts = made_up(3, (0, 2), count=2, longest=12, temperature=0.8)
    texts = replace(texts, lengths=np.array([12, 12]), states=texts.states.copy())
    texts.states[:, :, 0, SWEPT.index("token_logp")] = texts.states[:, :, 0, SWEPT.index("top1_logp")] = 0.0
    engine = Engine(texts, COSTS, ("draft_logp",), max_drafts=6)
    rows = engine.rounds(starts([0, 1], [2, 2])).rows[:, 1, :, 0]
    for row, text, name in zip(rows, (0, 1), ("top1_logp", "token_logp"), strict=True):
        drafted = texts.states[text, 2:7, 1, SWEPT.index(name)]
        assert row.numpy() == pytest.approx(np.append(0, drafted.cumsum()), rel=2**-9, abs=1e-3)
