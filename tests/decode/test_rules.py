"""Each rule against what its source says, on real rounds and on made-up ones; and no rule remembers the last text."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lede.decode import rules
from lede.decode.errors import ModelError
from lede.decode.generate import generate
from lede.decode.round import Generation, Round
from lede.decode.rules import (
    AdaptiveLookup,
    Autoregressive,
    Bandit,
    Cascade,
    Del,
    DraftVerify,
    ExitRule,
    FixedExit,
    FixedLength,
    Kangaroo,
    LayerSkip,
    LengthHeuristic,
    Lite,
    PromptLookup,
    QPolicy,
    TapOut,
    Ucb,
)
from lede.decode.rules.bandit import GOES_ON
from lede.decode.rules.dynamic_exit import best_exit
from lede.decode.sampling import Settings
from lede.decode.state import State
from lede.process import DRAFT, WALK
from tests.decode.rounds import timeless
from tests.decode.values import random_policy
from tests.models import FIXED, ours, variant
from tests.rules import RandomRule

L = 4  # layers of `ours("grouped")`
PROMPTS = [(3,), (5, 9, 2, 30, 7, 1), (11, 12, 13) * 4, (4, 4, 4, 4), tuple(range(40, 8, -1))]

RULES = {
    "autoregressive": Autoregressive,
    "layerskip": lambda: LayerSkip(1, 4),
    "prompt-lookup": lambda: PromptLookup(5),
    "adaptive-lookup": lambda: AdaptiveLookup(2, 1),
    "cascade": lambda: Cascade(1, 2, 1, 1, 9, 0.5, 4),
    "cascade, bypass": lambda: Cascade(2, 3, 2, 2, 6, 0.4, 12, keeps_last=False, layer_count=L),
    "lite": lambda: Lite({1: 0.6, 2: 0.5, 3: 0.4}, 6),
    "lite, bypass": lambda: Lite({1: 0.6, 2: 0.5}, 6, L),
    "draft-verify": lambda: DraftVerify(1, 0.4, step=0.3),
    "draft-verify, drops": lambda: DraftVerify(1, 0.4, step=0.3, keeps_last=False),
    "kangaroo": lambda: Kangaroo(1, 0.5),
    "length-heuristic": lambda: LengthHeuristic(1, 2),
    "del": lambda: Del((1, 2, 3), L),
    "del, drops": lambda: Del((1, 3), L, 0.8, first=3, max_drafts=18, keeps_last=False),
    "lede": lambda: QPolicy(random_policy((0, 1, 3))),
    "lede, bypass": lambda: QPolicy(random_policy((0, 1, 3, L))),
    "lede-fixed-exit": lambda: FixedExit(random_policy((0, 1, 3)), 1),
    "lede-fixed-length": lambda: FixedLength(random_policy((0, 1, 3)), 4),
    "random": lambda: RandomRule((0, 1, 2), seed=5),
}
LEARNING = {
    "ucb": lambda: Ucb((0, 1, 3), (2, 5), 0.5),
    "ucb, forgets": lambda: Ucb((1,), (3,), decay=0.9),
    "tapout": lambda: TapOut(1, 0.2),
}


def decoded(rule: ExitRule, prompt: tuple[int, ...], tokens: int = 40) -> Generation:
    return generate(ours("grouped"), list(prompt), rule, Settings(tokens))


def finished(drafts: int, accepted: int, **more) -> Round:
    """A round as a rule sees it when it ends."""
    targets = tuple(range(drafts + 1))
    wrong = tuple(t if t < accepted else -1 for t in range(drafts))
    return Round(0, 1, wrong, targets, accepted, targets[: accepted + 1], (), False, 0.0, 0.0, 0.0, **more)


def state(layer: int, probability: float, draft_index: int = 1) -> State:
    phase = WALK if draft_index == 1 else DRAFT
    return State(layer, draft_index, phase, 0, top1_logp=math.log(probability))


def test_every_rule_is_among_them():
    known = {value for name in rules.__all__ if isinstance(value := getattr(rules, name), type)}
    made = {type(make()) for make in (RULES | LEARNING).values()}
    assert {rule for rule in known if hasattr(rule, "start")} - {ExitRule, Bandit} == made - {RandomRule}


@pytest.mark.parametrize("name", RULES)
def test_a_rule_that_served_before_decides_as_a_fresh_one(name):
    make = RULES[name]
    used = make()
    decoded(used, PROMPTS[-1], 3)  # a generation that is over before the rule has seen much
    once = [timeless(decoded(used, prompt).rounds) for prompt in PROMPTS]
    again = [timeless(decoded(used, prompt).rounds) for prompt in reversed(PROMPTS)]
    fresh = [timeless(decoded(make(), prompt).rounds) for prompt in PROMPTS]
    assert once == again[::-1] == fresh


@pytest.mark.parametrize("name", LEARNING)
def test_a_bandit_goes_on_learning_and_writes_plain_decodings_text(name):
    rule = LEARNING[name]()
    for prompt in PROMPTS:
        known = sum(rule._sums[0])
        assert decoded(rule, prompt).token_ids == decoded(Autoregressive(), prompt).token_ids
        assert sum(rule._sums[0]) > known or rule._decay < 1
    assert all(rule._sums[0])  # every arm was tried, whatever the clock said


def test_ucb_tries_every_arm_and_settles_for_the_most_tokens_a_second():
    rule = Ucb((0, 2), (1, 4), exploration=0.5)
    rates = {((), 0): 1.0, ((0,), 1): 1.5, ((0,), 4): 0.5, ((2,), 1): 3.0, ((2,), 4): 2.0}
    played = []
    for _ in range(300):
        arm = (rule.layers, rule.max_drafts)
        played.append(arm)
        rule.finish(replace(finished(4, 3), seconds=4 / rates[arm]))
    assert played[:5] == list(rates)
    assert played[5:].count(((2,), 1)) > 150
    assert set(played[20:]) == set(rates)  # and never stops looking at the others
    rule.finish(replace(finished(4, 3), seconds=1e9, cut=True))  # says nothing of the arm
    assert (rule.layers, rule.max_drafts) == ((2,), 1)


def test_a_bandit_that_forgets_follows_a_change():
    ends = {}
    for decay in (1.0, 0.9):
        rule = Ucb((1,), (2,), exploration=0.01, decay=decay)
        for number in range(260):
            drafting = rule.layers == (1,)
            rule.finish(replace(finished(2, 2), seconds=1.0 if drafting == (number < 200) else 2.0))
        ends[decay] = rule.layers
    assert ends == {1.0: (1,), 0.9: ()}


def test_tapout_pays_for_accepted_shares_and_its_arms_stop_where_they_say():
    rule = TapOut(1, max_drafts=4)
    rule.finish(finished(2, 1))
    assert [sums[0] for sums in rule._sums] == [1.0, (1 / 4 + 1 / 2) / 2, 1.0]
    unsure = State(1, 2, DRAFT, 0, entropy=1.5, margin=0.1, top1_logp=math.log(0.3))
    sure = State(1, 2, DRAFT, 0, entropy=0.1, margin=0.9, top1_logp=math.log(0.95))
    stopping = []
    for arm in range(len(GOES_ON)):
        rule.play(arm)
        assert rule.draft_on(sure)
        stopping.append(not rule.draft_on(unsure))
    assert stopping == [GOES_ON[arm] != ("margin", 1, 0.0) for arm in range(len(GOES_ON))]


def test_kangaroo_keeps_its_threshold():
    rule = Kangaroo(1, 0.5)
    for _ in range(3):
        rule.finish(finished(3, 0))
    assert [rule.draft_on(state(1, p, 2)) for p in (0.49, 0.51)] == [False, True]


def test_coin_flips_say_how_likely_they_were():
    rule = RandomRule((1, 2), seed=1, exit_chance=0.25, draft_chance=0.7)
    rule.needs_state = True
    seen = {
        (d.state.phase, d.action, d.forced): d.propensity for r in decoded(rule, PROMPTS[1]).rounds for d in r.decisions
    }
    chances = {(WALK, 1, False): 0.25, (WALK, 0, False): 0.75, (DRAFT, 1, False): 0.7, (DRAFT, 0, False): 0.3}
    assert {key: seen[key] for key in chances} == pytest.approx(chances)
    assert all(propensity == 1 for (_, _, forced), propensity in seen.items() if forced)


@pytest.mark.parametrize(
    "rule",
    [DraftVerify(1, 0.4, step=0.5), LengthHeuristic(1, 2), Del((1, 2, 3), L)],
    ids=lambda rule: rule.name,
)
def test_the_adaptive_rules_do_adapt_within_a_text(rule):
    """Or the test above would prove nothing of them."""
    seen, changed = set(), 0
    for prompt in PROMPTS:
        rule.start()
        before = vars(rule).copy()
        seen.update(len(round_.drafts) for round_ in decoded(rule, prompt).rounds[:-1])
        changed += vars(rule) != before
    assert len(seen) > 2 and changed > 2


def test_the_lookup_is_layer_0_of_a_fixed_length():
    rounds = decoded(PromptLookup(3), PROMPTS[2]).rounds
    assert [r.exit_layer for r in rounds if r.drafts] and {r.exit_layer for r in rounds} <= {0, None}
    assert {len(r.drafts) for r in rounds[:-1]} <= {0, 3}


@pytest.mark.parametrize("keeps_last", [True, False])
@pytest.mark.parametrize("bypass", [None, L])
def test_the_cascade_copies_behind_long_matches_and_drafts_from_its_exit_elsewhere(keeps_last, bypass):
    match, goes_on, least, most, threshold, drafts = 2, 9, 2, 5, 0.3, 4
    rule = Cascade(2, match, goes_on, least, most, threshold, drafts, keeps_last=keeps_last, layer_count=bypass)
    lengths, unsure = {0: set(), 2: set()}, 0
    for prompt in PROMPTS:
        for round_ in decoded(rule, prompt).rounds:
            walk = [d.state for d in round_.decisions if d.state.phase == WALK]
            on = [d.state for d in round_.decisions if d.state.phase == DRAFT]
            copies = [state.lookup_length >= match for state in walk if state.layer == 0]
            sure = [math.exp(state.top1_logp) >= threshold for state in walk if state.layer == 2]
            if round_.exit_layer == 0:
                assert copies == [True] and not sure
                holds, low, high = [state.lookup_length >= goes_on for state in on], least, most
            elif round_.exit_layer == 2:
                assert copies in ([], [False]) and (bypass is None or sure == [True])
                holds, low, high = [math.exp(state.top1_logp) >= threshold for state in on], 1, drafts
            else:
                assert not walk or (bypass is not None and copies in ([], [False]) and sure == [False])
                unsure += sure == [False]
                continue
            lengths[round_.exit_layer].add(len(round_.drafts))
            assert len(round_.drafts) <= high
            if round_.cut or len(round_.drafts) == rule.max_drafts:
                continue
            assert len(round_.drafts) == len(on) + keeps_last  # the last state's own token is kept or dropped
            numbers = [number + keeps_last for number in range(2, len(on) + 2)]  # of the drafts that were asked about
            goes = [n <= low or (n <= high and held) for n, held in zip(numbers, holds, strict=True)]
            assert goes == [True] * (len(on) - 1) + [False]
    assert all(len(some) > 1 for some in lengths.values()) and (unsure > 0) == (bypass is not None)


def test_lite_leaves_at_the_first_layer_that_is_sure_enough():
    for bypass in (None, L):
        rule = Lite({1: 0.6, 2: 0.5, 3: 0.9}, 6, bypass)
        exits = set()
        for prompt in PROMPTS:
            for round_ in decoded(rule, prompt).rounds:
                walk = [d for d in round_.decisions if d.state.phase == WALK]
                sure = [math.exp(d.state.top1_logp) >= {1: 0.6, 2: 0.5, 3: 0.9}[d.state.layer] for d in walk]
                assert not any(sure[:-1])
                if walk and round_.exit_layer is not None:
                    assert sure[-1] or (bypass is None and walk[-1].forced and round_.exit_layer == 3)
                    assert walk[-1].state.layer == round_.exit_layer
                    exits.add(round_.exit_layer)
                elif walk:
                    assert bypass and not sure[-1] and [d.state.layer for d in walk] == [1, 2, 3]
                    exits.add(None)
        assert len(exits) > 2


def test_draft_and_verify_stops_behind_an_unlikely_token_and_adapts_as_its_authors_code():
    # γ, then the acceptance rate, written out from the paper's formulae: 0.5 · 0 + 0.5 · 2/4 = 0.25 < 0.9 and so on
    rule = DraftVerify(1, 0.6, 0.9, max_drafts=8)
    assert rule.draft_on(state(1, 0.61)) and not rule.draft_on(state(1, 0.59))
    rule.finish(finished(4, 2))
    assert (rule.acceptance, rule.threshold) == pytest.approx((0.25, 0.9 * 0.6 + 0.1 * 0.61))
    for _ in range(3):
        rule.finish(finished(5, 5))
    assert rule.acceptance == pytest.approx(1 - 0.75 / 8)
    raised = 0.601 + 0.001 + 0.001  # at 0.625 and 0.8125 it rose, at 0.90625 it fell
    assert rule.threshold == pytest.approx(raised - 0.001)
    rule.finish(finished(8, 8))  # at the limit it stays
    assert rule.threshold == pytest.approx(raised - 0.001)
    assert rule.draft_on(state(1, 0.603)) and not rule.draft_on(state(1, 0.601))


@pytest.mark.parametrize("keeps_last", [True, False])
def test_draft_and_verify_in_decoding(keeps_last):
    rule = DraftVerify(1, 0.5, step=0.0, keeps_last=keeps_last)
    stopped = 0
    for prompt in PROMPTS:
        for round_ in decoded(rule, prompt).rounds:
            drafting = [d for d in round_.decisions if d.state.phase == DRAFT]
            likely = [math.exp(d.state.top1_logp) >= 0.5 for d in drafting]
            assert all(likely[:-1])
            if drafting and not round_.cut and not likely[-1]:
                assert len(round_.drafts) == len(drafting) + keeps_last
                stopped += 1
    assert stopped > 10


def test_the_length_heuristic_counts_up_and_down():
    rule = LengthHeuristic(2, 3, most=4)
    lengths = []
    for drafts, accepted in [(3, 3), (4, 4), (4, 3), (3, 0), (2, 1), (1, 0), (1, 0), (1, 1)]:
        assert drafts == rule.max_drafts
        rule.finish(finished(drafts, accepted))
        lengths.append(rule.max_drafts)
    assert lengths == [4, 4, 3, 2, 1, 1, 1, 2]
    library = LengthHeuristic(2, 5, up=2)
    library.finish(finished(5, 5))
    assert library.max_drafts == 7


@settings(FIXED, max_examples=80)
@given(st.dictionaries(st.integers(1, 15), st.floats(0, 1), min_size=1), st.integers(1, 18))
def test_del_takes_the_most_tokens_a_layer(acceptance, most):
    def tpl(layer, drafts):
        alpha = acceptance[layer]
        tokens = drafts + 1 if alpha == 1 else (1 - alpha ** (drafts + 1)) / (1 - alpha)
        return tokens / (16 - layer + (drafts + 1) * layer)

    layer, drafts = best_exit(acceptance, 16, most)
    assert 1 <= drafts <= most
    assert tpl(layer, drafts) >= max(tpl(e, d) for e in acceptance for d in range(1, most + 1)) - 1e-9


def test_del_remembers_matches_and_mismatches_and_forgets_them_slowly():
    rule = Del((1, 2), L, 0.5, first=2)
    assert (rule.layers, rule.max_drafts) == ((2,), 1)
    assert rule.draft_on(state(2, 0.01))  # nothing known: nothing stops
    # targets are 0, 1, 2 …: layer 1 is right, wrong, right, layer 2 right
    shadow = {1: ((0, 0.9), (7, 0.3), (2, 0.7)), 2: ((0, 0.8), (1, 0.8), (2, 0.8))}
    rule.finish(finished(2, 2, shadow=shadow))
    assert (rule.layers, rule.max_drafts) == ((2,), 12)  # always right: (d + 1) / (2 + 2 (d + 1)) grows with d
    rule.finish(finished(1, 0, shadow={1: ((0, 0.5),), 2: ((9, 0.2),)}))
    alpha = {1: (0.5 * 2 + 1) / (0.5 * 3 + 1), 2: 0.5 * 3 / (0.5 * 3 + 1)}
    assert (*rule.layers, rule.max_drafts) == best_exit(alpha, L, 12)
    matched, mismatched = (0.5 * 1.6 + 0.5) / (0.5 * 2 + 1), 0.3
    assert rule.layers == (1,)
    middle = (matched + mismatched) / 2
    assert rule.draft_on(state(1, middle + 0.001)) and not rule.draft_on(state(1, middle - 0.001))


@pytest.mark.parametrize("layers", [(0, 1, 3), (0, 1, 3, L)])
def test_half_a_policy_decides_half(layers):
    whole = [r for p in PROMPTS for r in decoded(QPolicy(random_policy(layers)), p).rounds]
    assert len({r.exit_layer for r in whole}) > 2 and len({len(r.drafts) for r in whole}) > 2
    depth = [r for p in PROMPTS for r in decoded(FixedLength(random_policy(layers), 4), p).rounds]
    assert len({r.exit_layer for r in depth}) > 2
    assert all(len(r.drafts) == 4 for r in depth if r.drafts and not r.cut)
    length = [r for p in PROMPTS for r in decoded(FixedExit(random_policy(layers), 1), p).rounds]
    assert {r.exit_layer for r in length} <= {1, None} and len({len(r.drafts) for r in length}) > 2
    with pytest.raises(ValueError, match="not a candidate"):
        FixedExit(random_policy(layers), 2)


class Shadowed(RandomRule):
    shadow_layers = (1, 2, 3)


@pytest.mark.parametrize("layers", [(0, 1, 2), (2, L), (0, L)])
@pytest.mark.parametrize("name", ["grouped", "odd"])  # native, eager
def test_shadow_tokens_are_what_every_layer_says_of_the_verified_positions(name, layers):
    prompt = [5, 9, 2, 9, 2, 30, 7, 1]
    rule = Shadowed(layers, seed=3, exit_chance=0.6)
    model, library = ours(name), variant(name)
    layers_seen = tuple(layer for layer in (1, 2, 3) if layer < model.layer_count)
    rule.shadow_layers = layers_seen
    done = generate(model, prompt, rule, Settings(30))
    text = [*prompt, *done.token_ids]
    with torch.no_grad():
        hidden = library.model(torch.tensor([text]), output_hidden_states=True).hidden_states
        p = {e: torch.softmax(library.lm_head(library.model.norm(hidden[e]))[0], -1) for e in layers_seen}
    assert len({round_.exit_layer for round_ in done.rounds}) > 1
    for round_ in done.rounds:
        assert tuple(round_.shadow) == layers_seen
        for layer, tokens in round_.shadow.items():
            assert len(tokens) == round_.accepted + 1
            for at, (token, probability) in enumerate(tokens[: len(text) - 1 - round_.position], round_.position):
                assert token == int(p[layer][at].argmax())
                assert probability == pytest.approx(float(p[layer][at].max()), abs=1e-3)


def test_rules_without_shadow_layers_get_none():
    assert all(round_.shadow == {} for round_ in decoded(RandomRule((0, 1, 2)), PROMPTS[1]).rounds)


def test_a_bypass_drafts_nothing_and_goes_on_where_the_walk_ended():
    class Bypass(ExitRule):
        layers, needs_state = (0, 1, 3, L), True

        def exit_here(self, state):
            return False

    ran = []
    model = ours("grouped")
    run = model.run

    def counted(lo, hi, x, position, cache):
        ran.extend([(lo, hi, len(x))] * (lo < hi))  # a prompt is read in a call of its own
        return run(lo, hi, x, position, cache)

    model.run = counted
    try:
        done = decoded(Bypass(), PROMPTS[3], 6)
    finally:
        model.run = run
    assert ran[:3] == [(0, 1, 1), (1, 3, 1), (3, 4, 1)]  # the prompt is read; x_p goes once through every layer
    for round_ in done.rounds[:-1]:
        assert (round_.exit_layer, round_.drafts, round_.cut, len(round_.committed)) == (None, (), False, 1)
        assert [(d.state.layer, d.action, d.forced) for d in round_.decisions][-2:] == [(1, 0, False), (3, 0, False)]


def test_a_rule_that_drops_can_draft_one_token_and_is_never_forced():
    class One(ExitRule):
        layers, needs_state, keeps_last = (1,), True, False

        def draft_on(self, state):
            return False

    for round_ in decoded(One(), PROMPTS[1]).rounds[:-1]:
        assert len(round_.drafts) == 1 and not round_.cut
        assert [(d.state.draft_index, d.action, d.forced) for d in round_.decisions] == [(1, 1, True), (2, 0, False)]

    class All(One):
        max_drafts = 3

        def draft_on(self, state):
            return True

    drafted = [round_ for round_ in decoded(All(), PROMPTS[1]).rounds if not round_.cut]
    assert drafted and all([d.state.draft_index for d in r.decisions] == [1, 2, 3] for r in drafted)


def test_the_time_inside_a_rule_is_told():
    class Slow(RandomRule):
        def draft_on(self, state):
            torch.arange(200_000).sum()  # something that takes longer than a clock's step
            return super().draft_on(state)

    asked = [round_ for round_ in decoded(Slow((1,)), PROMPTS[1]).rounds if len(round_.drafts) > 1 and not round_.cut]
    assert asked and all(0 < round_.decision_seconds < round_.draft_seconds for round_ in asked)
    assert all(round_.decision_seconds == 0 for round_ in decoded(LayerSkip(1, 1), PROMPTS[1]).rounds)


@pytest.mark.parametrize(
    ("layers", "shadow", "message"),
    [(layers, (), "exits at layers") for layers in ((L, L + 1), (L,), (-1, 2), (1, L + 1))]
    + [((L, 1), (), "ascend"), ((1, 1), (), "ascend")]
    + [((1,), shadow, "shadow") for shadow in ((0, 2), (L,), (2, 1), (1, 1))],
)
def test_rules_that_cannot_be_are_refused(layers, shadow, message):
    rule = ExitRule()
    rule.layers, rule.shadow_layers = layers, shadow
    with pytest.raises(ModelError, match=message):
        decoded(rule, (1, 2))
