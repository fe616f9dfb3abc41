"""One decoding in three engines: the loop over a model, the loop over a record, and all texts at once.

They must agree decision by decision and round by round, and on the time that the rounds take by the costs.
"""

from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lede.collect.sweep import sweep
from lede.decode.generate import generate
from lede.decode.rules import Autoregressive, ExitRule, LayerSkip, LengthHeuristic, PromptLookup, QPolicy
from lede.decode.sampling import Settings
from lede.decode.state import State
from lede.process import Sums
from lede.simulate.baselines import BASELINES, drawn, make_rule
from lede.simulate.batched import Engine
from lede.simulate.costs import MAX_ROWS, Costs
from lede.simulate.scalar import Record, replay_rule
from lede.simulate.texts import texts_of
from tests.decode.test_exits import with_heads
from tests.decode.values import random_policy
from tests.models import FIXED, ours
from tests.rules import RandomRule

LAYERS = (0, 1, 2, 3)
PROMPTS = [[3], [5, 9, 2, 30, 7, 1], [4, 4, 4, 4], [1, 2, 3, 1, 2, 3, 1, 2], [60, 11], [8, 8, 40, 8, 8]]
LENGTH = 60
COSTS = Costs(
    layers=4,
    layer=tuple(0.9 + 0.1 * rows for rows in range(MAX_ROWS)),
    head=tuple(0.7 + 0.2 * rows for rows in range(MAX_ROWS)),
    features=0.05,
    decision=0.13,
    lookup=0.03,
    round=0.4,
    context=20,
    cache=0.02,
    attention=0.01,
    prefill=0.5,
    autoregressive=5.1,
    index=0.17,
    trace=0.07,
    speak=0.45,
    choose=0.21,
    choose_draft=0.11,
)
FLAT = replace(COSTS, cache=0.0, attention=0.0)  # the batched engine knows no positions


class Threshold(ExitRule):
    """Exits and drafts on while the token is likely: looks at states, has none of its own."""

    needs_state = True

    def __init__(self, layers, keeps_last=True, max_drafts=12, shadow_layers=()):
        self.layers, self.keeps_last, self.max_drafts = layers, keeps_last, max_drafts
        self.shadow_layers = shadow_layers

    def exit_here(self, state):
        return state.top1_logp > -0.5 - 0.1 * state.layer if state.layer else state.lookup_length > 1

    def draft_on(self, state):
        return state.top1_logp + state.conf_trace > -0.9 and state.draft_logp > -3


def network(layers, seed, *without, max_drafts=None):
    features = [name for name in State._fields[4:] if name not in without]
    return QPolicy(random_policy(layers, seed, features), max_drafts=max_drafts)


def texts_under(settings, model):
    """Plain texts and their sweeps."""
    done = [generate(model, prompt, None, settings) for prompt in PROMPTS]
    layers = range(model.layer_count)
    sweeps = [sweep(model, tuple(layers), i, d.prompt_ids, d.token_ids, settings) for i, d in enumerate(done)]
    limits = [min(settings.max_new_tokens, model.context - len(prompt)) for prompt in PROMPTS]
    seeds = [settings.seed or 0] * len(PROMPTS)
    return texts_of(sweeps, PROMPTS, tuple(layers), limits, settings.stop_tokens, seeds)


SETTINGS = Settings(LENGTH, stop_tokens=frozenset())
PLAIN = ours("grouped")
HEADS = with_heads("grouped", layers=(1, 3), vocabulary=range(0, 60, 2))  # layer 2 speaks through the model's own head
TEXTS, SPOKEN = texts_under(SETTINGS, PLAIN), texts_under(SETTINGS, HEADS)
WARM = replace(SETTINGS, temperature=0.6, top_k=20, seed=2**64 - 5)
COMPILED = texts_under(WARM, PLAIN)
BARRED = replace(WARM, seed=3, options={"repetition_penalty": 1.2, "no_repeat_ngram_size": 3})  # by the library's code
CASES = {
    "plain": (PLAIN, SETTINGS, TEXTS),
    "exit heads and a draft vocabulary": (HEADS, SETTINGS, SPOKEN),
    "sampled": (PLAIN, WARM, COMPILED),
    "sampled with exit heads and a draft vocabulary": (HEADS, BARRED, texts_under(BARRED, HEADS)),
}


@st.composite
def candidates(draw, bypass=True):
    """Layers of a rule, the full model perhaps the last of several."""
    layers = sorted(draw(st.sets(st.sampled_from(LAYERS), min_size=1)))
    return (*layers, 4) if bypass and draw(st.booleans()) else tuple(layers)


@st.composite
def looking_rules(draw):
    """Coins, thresholds and networks, with any candidates, draft limit, features and way to stop."""
    layers, most, seed = draw(candidates()), draw(st.integers(1, MAX_ROWS - 1)), draw(st.integers(0, 99))
    kind = draw(st.sampled_from(("coins", "threshold", "network")))
    if kind == "network":
        # accept_trace remembers how many drafts were lost behind a mismatch, which only layer 0's record knows
        without = set() if set(layers) <= {0, 4} else {"accept_trace"}
        without |= draw(st.sets(st.sampled_from(State._fields[4:])))
        rule = network(layers, seed, *without, max_drafts=most)
    elif kind == "coins":
        rule = RandomRule(layers, seed)
        rule.needs_state = draw(st.booleans())
        rule.max_drafts = most
    else:
        rule = Threshold(layers, max_drafts=most)
        rule.needs_trace, rule.needs_lookup = True, draw(st.booleans())
        rule.shadow_layers = tuple(sorted(draw(st.sets(st.sampled_from(LAYERS[1:]), max_size=2))))
    rule.keeps_last = draw(st.booleans())
    return rule


def blind(rule):
    """Whether the rule drafts as many behind a mismatch as on the true text."""
    return isinstance(rule, RandomRule) or not rule.needs_state


def outcome(round_):
    """What a round is for the text."""
    return round_.position, round_.exit_layer, round_.accepted, round_.committed


def used(rule, settings):
    """The costs that a rule pays."""
    costs = COSTS.for_rule(rule)
    return costs.sampled() if settings.temperature else costs


def both(rule, number, texts=TEXTS, settings=SETTINGS, model=PLAIN):
    """The rounds of one text in decoding and by its record, and the record."""
    there = generate(model, PROMPTS[number], rule, settings).rounds
    rule.start()
    record = Record(texts, number, used(rule, settings), (COSTS.decision, COSTS.decision))
    return there, record.rounds(rule), record


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@given(rule=looking_rules(), number=st.integers(0, len(PROMPTS) - 1))
@settings(FIXED, max_examples=80)
def test_a_record_is_decoded_as_its_model_is(case, rule, number):
    model, settings, texts = CASES[case]
    there, here, record = both(rule, number, texts, settings, model)
    room = LENGTH + len(PROMPTS[number]) - 2
    assert len(there) == len(here)
    exact = True
    for a, b in zip(there, here, strict=True):
        known = blind(rule) or a.exit_layer in (None, 0) or (rule.keeps_last and len(a.drafts) <= a.accepted + 1)
        exact &= known
        told = a.accepted + 1  # what is behind the first wrong draft is lost in any case
        assert outcome(a) == outcome(b)
        assert (a.drafts[:told], a.targets[:told]) == (b.drafts[:told], b.targets[:told])
        if known:
            assert (len(a.drafts), a.cut) == (len(b.drafts), b.cut)
        for x, y in zip(a.decisions, b.decisions, strict=known):
            if x.state.draft_index > told:
                break
            assert (x.state[:4], x[1:]) == (y.state[:4], y[1:])
            assert x.state[4:10] == pytest.approx(y.state[4:10], abs=1e-3)
            assert x.state[11:14] == pytest.approx(y.state[11:14], abs=1e-5)
            assert x.state[14:] == pytest.approx(y.state[14:], rel=2e-3, abs=1e-3)
            assert bool(y.state.temperature) == bool(y.state.noise) == bool(settings.temperature)
        assert a.shadow.keys() == b.shadow.keys() == set(rule.shadow_layers)
        for layer, seen in a.shadow.items():
            assert [t for t, _ in seen] == [t for t, _ in b.shadow[layer]]
            assert [p for _, p in seen] == pytest.approx([p for _, p in b.shadow[layer]], rel=1e-3)
    assert record.lost_low <= 1e-9 and record.lost_high >= -1e-9
    bills = [bill(r, rule, room - r.position, used(rule, settings)) for r in there]
    if None not in bills:
        assert record.spent + record.lost_low - 1e-6 <= sum(bills) <= record.spent + record.lost_high + 1e-6
        if exact:
            assert record.spent == pytest.approx(sum(bills))


def bill(round_, rule, room, costs):
    """Milliseconds of a round that was really decoded; None where it does not tell what was run."""
    at, count, layer = round_.position, len(round_.drafts), round_.exit_layer
    decisions, kept = [d.state for d in round_.decisions], costs.trace + costs.index
    if not rule.needs_state and len(rule.layers) > 1:
        return None
    total = sum(costs.shadow(len(seen)) for seen in round_.shadow.values())
    walked = [s.layer for s in decisions if s.phase == 0] if rule.needs_state else [] if layer is None else [layer]
    if 0 in rule.layers and room > 0 and 0 not in walked:
        total += costs.lookup  # without a match
    for lower, upper in pairwise([0, *walked]):
        total += costs.step(lower, upper, at)
    reached = max(walked, default=0)
    if layer is None:
        return total + costs.plain(at) - reached * costs.first(at) + kept
    looks = [s for s in decisions if s.phase == 1] if rule.needs_state else range(count - 1)
    total += len(looks) * (costs.draft(layer, at) - layer * costs.again(at))
    total += sum(layer * costs.again(at + k) for k in range(1, count + 1))
    return total + costs.finish(layer, count, at) - layer * costs.again(at)


@pytest.mark.slow
@given(
    layers=candidates(),
    seed=st.integers(0, 99),
    most=st.integers(1, MAX_ROWS - 1),
    without=st.sets(st.sampled_from(State._fields[4:])),
    greedy=st.booleans(),
)
@settings(FIXED, max_examples=80)
def test_all_texts_at_once_are_the_texts_one_by_one(layers, seed, most, without, greedy):
    swept = TEXTS if greedy else COMPILED
    rule, bypass = network(layers, seed, *without, max_drafts=most), layers[-1] == 4
    columns = list(layers[: len(layers) - bypass])
    if not columns:
        return
    own = {name: getattr(swept, name)[:, :, columns] for name in ("states", "found", "right", "drafts")}
    texts = replace(swept, layers=tuple(columns), **own)
    engine = Engine(texts, FLAT, rule.policy.features, bypass=bypass, max_drafts=most)
    played = engine.play(rule.policy.exits)
    mine = replay_rule(rule, swept, FLAT)
    for name in ("tokens", "rounds", "drafting", "depth", "drafted", "accepted", "milliseconds"):
        assert getattr(played, name).tolist() == pytest.approx(getattr(mine, name).tolist()), name


def tuned_rules(family, count, **changes):
    """A family's rules with parameters from all over its space."""
    space = drawn(BASELINES[family].space(TEXTS, 4), count, seed=1)
    return [(family, parameters | changes) for parameters in space]


@pytest.mark.parametrize(
    ("family", "parameters"),
    [
        *tuned_rules("layerskip", 3),
        *tuned_rules("prompt-lookup", 2),
        *tuned_rules("length-heuristic", 3),
        *tuned_rules("draft-verify", 2, max_drafts=2, keeps_last=True),  # two are drafted before it is asked
        *tuned_rules("adaptive-lookup", 3),
        *tuned_rules("del", 4),
        *tuned_rules("lite", 4),
        ("plain", {}),
    ],
)
def test_baselines_take_the_same_rounds(family, parameters):
    for number, case in product(range(len(PROMPTS)), ("plain", "sampled")):
        model, settings, texts = CASES[case]
        rule = make_rule(family, parameters) if parameters else Autoregressive()
        there, here, record = both(rule, number, texts, settings, model)
        assert list(map(outcome, there)) == list(map(outcome, here))
        if family not in ("del", "lite"):
            assert [len(r.drafts) for r in there] == [len(r.drafts) for r in here]
            assert record.lost_low == record.lost_high == 0


def test_a_replay_is_measured_as_decoding_is():
    rule = PromptLookup(3)
    decoded = Sums.total([generate(PLAIN, prompt, rule, SETTINGS) for prompt in PROMPTS])
    replayed = replay_rule(rule, TEXTS, COSTS)
    assert replace(decoded, seconds=0) == replace(replayed.sums, seconds=0)
    assert (decoded.exit_layer, replayed.draft_length) == (0, decoded.drafted / decoded.drafting)
    assert replayed.measures == decoded.measures | {"tokens_per_s": pytest.approx(1e3 * replayed.rate)}


@pytest.mark.parametrize(("family", "parameters"), tuned_rules("draft-verify", 4))
def test_draft_and_verify_remembers_lost_drafts_and_is_still_close(family, parameters):
    rounds = [both(make_rule(family, parameters), number)[:2] for number in range(len(PROMPTS))]
    there, here = (sum(len(one) for one in side) for side in zip(*rounds, strict=True))
    assert here == pytest.approx(there, rel=0.05)


def test_bounds_are_apart_where_a_rule_looks_behind_a_mismatch():
    replayed = replay_rule(Threshold((1, 2, 3)), TEXTS, COSTS)
    assert (replayed.low <= replayed.milliseconds).all() and (replayed.milliseconds <= replayed.high).all()
    assert (replayed.low < replayed.high).any()


@pytest.mark.parametrize("rule", [LayerSkip(1, 5), LayerSkip(0, 12), LengthHeuristic(2), Threshold((0,))])
def test_a_text_that_an_end_of_text_token_cut(rule):
    stop = int(np.bincount(TEXTS.targets[:, 10:].ravel()).argmax())
    settings = Settings(LENGTH, stop_tokens=frozenset({stop}))
    texts = texts_under(settings, PLAIN)
    assert (texts.lengths < LENGTH).any()
    assert (texts.limits == LENGTH).all()
    for number in range(len(PROMPTS)):
        there, here, _ = both(rule, number, texts, settings)
        assert list(map(outcome, there)) == list(map(outcome, here))
        for a, b in zip(there, here, strict=True):
            # an end of text that a real layer drafts behind a mismatch is not foreseen
            assert len(b.drafts) >= len(a.drafts) and (rule.layers != (0,) or len(b.drafts) == len(a.drafts))


def test_a_text_that_the_context_cut():
    long = Settings(300, stop_tokens=frozenset())
    texts = texts_under(long, PLAIN)
    assert (texts.lengths < 300).all()
    for rule in (LayerSkip(3, 9), Threshold((0, 1, 3), max_drafts=1)):
        there, here, _ = both(rule, 1, texts, long)
        assert [r.committed for r in there] == [r.committed for r in here]
        assert [(len(r.drafts), r.cut) for r in there] == [(len(r.drafts), r.cut) for r in here]


def test_what_there_are_no_numbers_for_is_named():
    with pytest.raises(ValueError, match="layer 5, only at 0, 1, 2, 3"):
        replay_rule(LayerSkip(5, 2), TEXTS, COSTS)
    with pytest.raises(ValueError, match="up to 40 tokens per round, and costs are known for 31"):
        replay_rule(LayerSkip(2, 40), TEXTS, COSTS)
