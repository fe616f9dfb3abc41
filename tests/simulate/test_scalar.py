"""A replay must be the decoding that it stands for: the same rounds, drafts and decisions as the real loop takes."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from lede.bench.tune import drawn
from lede.collect.sweep import sweep
from lede.decode.generate import generate
from lede.decode.rules import Autoregressive, LayerSkip, LengthHeuristic, QPolicy, RandomRule, Rule
from lede.decode.sampling import Settings
from lede.decode.state import State
from lede.simulate.batched import simulate
from lede.simulate.costs import MAX_ROWS, Costs
from lede.simulate.families import FAMILIES, make_rule
from lede.simulate.scalar import replay_rule
from lede.simulate.texts import texts_of
from tests.models import ours

MODEL = ours("grouped")
LAYERS = (0, 1, 2, 3)
PROMPTS = [[3], [5, 9, 2, 30, 7, 1], [4, 4, 4, 4], [1, 2, 3, 1, 2, 3, 1, 2], [60, 11], [8, 8, 40, 8, 8]]
LENGTH = 60
COSTS = Costs(
    layers=4, layer=tuple(0.9 + 0.1 * rows for rows in range(MAX_ROWS)),
    head=tuple(0.7 + 0.2 * rows for rows in range(MAX_ROWS)), features=0.05, decision=0.13, lookup=0.03, round=0.4,
    context=20, cache=0.02, attention=0.01, prefill=0.5, autoregressive=5.1, index=0.17, trace=0.07,
)  # fmt: skip


class Threshold(Rule):
    """Exits and drafts on while the token is likely: looks at states, has none of its own."""

    needs_state = True

    def __init__(self, layers, keeps_last=True, max_drafts=12, shadow_layers=()):
        self.layers, self.keeps_last, self.max_drafts = layers, keeps_last, max_drafts
        self.shadow_layers = shadow_layers

    def exit_here(self, state):
        return state.top1_logp > -0.5 - 0.1 * state.layer if state.layer else state.lookup_length > 1

    def draft_on(self, state):
        return state.top1_logp + state.conf_trace > -0.9 and state.draft_logp > -3


class Network:
    """A value function with random weights."""

    def __init__(self, layers, features, seed):
        self.layers, self.features = layers, features
        sizes, rng = (len(features), 16, 2), np.random.default_rng(seed)
        self._weights = [rng.standard_normal(shape).astype(np.float32) for shape in pairwise(sizes)]

    def values(self, rows):
        return np.maximum(rows @ self._weights[0], 0) @ self._weights[1]


def features(layers, *without):
    return tuple(name for name in (*State._fields[4:], "draft_index") if name not in without) + tuple(
        f"layer={layer}" for layer in layers
    )


def network(layers, seed, *without):
    return QPolicy(Network(layers, features(layers, *without), seed))


def texts_under(settings):
    """Plain texts and their sweeps."""
    done = [generate(MODEL, prompt, None, settings) for prompt in PROMPTS]
    sweeps = [sweep(MODEL, LAYERS, i, d.prompt_ids, d.token_ids) for i, d in enumerate(done)]
    limits = [min(settings.max_new_tokens, MODEL.context - len(prompt)) for prompt in PROMPTS]
    return texts_of(sweeps, PROMPTS, LAYERS, limits, settings.stop_tokens)


SETTINGS = Settings(LENGTH, stop_tokens=frozenset())
TEXTS = texts_under(SETTINGS)
# `context` ends some of these before `max_new_tokens` would.
LONG = Settings(300, stop_tokens=frozenset())

EXACT = {
    "autoregressive": Autoregressive(),
    **{f"E={e}, d={d}": LayerSkip(e, d) for e in (0, 1, 3) for d in (1, 2, 7, 12)},
    **{f"coins {seed}": RandomRule((0, 1, 3), seed) for seed in range(3)},
    "coins, lookup alone": RandomRule((0,), 1),
    "coins, bypass": RandomRule((0, 2, 4), 2),
    "coins, lookup or bypass": RandomRule((0, 4), 3),
    "threshold, one draft": Threshold((0, 1, 2, 3), max_drafts=1),
    "threshold, one draft or none": Threshold((1, 3, 4), max_drafts=1, keeps_last=False),
    # what layer 0 drafts behind a wrong draft is known
    **{f"lookup that looks {layers}": Threshold(layers) for layers in ((0,), (0, 4))},
    "lookup that looks, drops": Threshold((0, 4), keeps_last=False),
    **{f"lookup's network {seed}": network((0, 4), seed, "accept_trace") for seed in range(6)},
    "network, one draft": QPolicy(Network((0, 1, 3), features((0, 1, 3)), 5), max_drafts=1),
}
BOUNDED = {
    **{f"threshold {layers}": Threshold(layers) for layers in ((0, 1, 2, 3), (1, 2, 4), (2,))},
    **{f"threshold {layers}, drops": Threshold(layers, keeps_last=False) for layers in ((0, 2, 4), (1, 3), (3,))},
    "threshold, shadows": Threshold((1, 3), shadow_layers=(1, 2)),
    # accept_trace would remember how many drafts were lost
    **{f"network {seed}": network((0, 1, 2), seed, "accept_trace") for seed in range(8)},
}


class Dropping(RandomRule):
    """Coins that drop the token at which they say stop."""

    keeps_last = False


EXACT["coins, drops"] = Dropping((0, 1, 3), 4)


def rivals(family, count, **changes):
    """A family's rules with parameters from all over its space."""
    found = drawn(FAMILIES[family].space(TEXTS, 4), count, seed=1)
    return {f"{family} {i}": make_rule(family, parameters | changes) for i, parameters in enumerate(found)}


EXACT |= rivals("layerskip", 6) | rivals("prompt-lookup", 3) | rivals("length-heuristic", 6)
EXACT |= rivals("draft-verify", 3, max_drafts=2, keeps_last=True)  # two are drafted before it is asked
EXACT |= rivals("adaptive-lookup", 6)
BOUNDED |= rivals("del", 8)


def real(rule, settings, costs=COSTS):
    """What decoding really does, in the terms of a replay, and each text's milliseconds by the bill of its rounds."""
    out = []
    for prompt in PROMPTS:
        done = generate(MODEL, prompt, rule, settings)
        drafting = [r for r in done.rounds if r.exit_layer is not None]
        exits = {layer: sum(r.exit_layer == layer for r in drafting) for layer in {r.exit_layer for r in drafting}}
        counts = (
            len(done.token_ids), len(done.rounds), len(drafting), sum(r.exit_layer for r in drafting), done.drafted,
            done.accepted, exits,
        )  # fmt: skip
        asked = sum(not decision.forced for r in done.rounds for decision in r.decisions)
        room = min(settings.max_new_tokens, MODEL.context - len(prompt)) + len(prompt) - 2
        bills = [bill(r, rule, costs, room - r.position) for r in done.rounds]
        out.append((counts, asked if rule.needs_state else None, None if None in bills else sum(bills)))
    return out


def bill(round_, rule, costs, room):
    """Milliseconds of a round that was really decoded under a rule that sees states, or has one exit layer."""
    at, count, layer = round_.position, len(round_.drafts), round_.exit_layer
    lookup = rule.needs_lookup or 0 in rule.layers
    if not rule.needs_state:
        if len(rule.layers) > 1:
            return None  # it does not tell where it looked
        searched = costs.lookup if rule.layers == (0,) and room > 0 else 0.0
        if layer is None:
            return searched + costs.plain(at) + (costs.index if lookup else 0.0)
        again = layer * sum(costs.again(at + k) for k in range(1, count)) + layer * costs.first(at)
        beside = costs.head[0] if layer else costs.lookup
        return again + count * beside + costs.finish(layer, count, at, states=False, lookup=lookup)
    total = sum(costs.head[len(seen) - 1] + len(seen) * costs.features for seen in round_.shadow.values())
    reached, states = 0, round_.decisions
    if rule.layers and rule.layers[0] == 0 and room > 0 and (not states or states[0].state.layer > 0):
        total += costs.lookup  # without a guess
    for state in (d.state for d in states if d.state.phase == 0):
        total += costs.step(reached, state.layer, at) if state.layer else costs.visit0
        reached = state.layer
    if layer is None:
        kept = (costs.trace if rule.needs_trace else 0.0) + (costs.index if lookup else 0.0)
        return total + (
            costs.finish(reached, 0, at, states=rule.needs_trace, lookup=lookup) if reached else costs.plain(at) + kept
        )
    drafting = [d.state for d in states if d.state.phase == 1]
    total += sum(costs.draft(layer, at + s.draft_index - 1) for s in drafting)
    total += costs.finish(layer, count, at, states=rule.needs_trace, lookup=lookup)
    total -= len(drafting) * costs.lookup if layer and not lookup else 0.0
    dropped = len(drafting) - (count - 1)
    assert dropped in ((0,) if rule.keeps_last else (0, 1))
    return total - dropped * layer * costs.again(at)


def replayed(rule, texts=TEXTS, costs=COSTS):
    for r in replay_rule(rule, texts, costs, decision=costs.decision if rule.needs_state else 0.0):
        yield (
            (r.tokens, r.rounds, r.drafting_rounds, r.exit_layers, r.drafted, r.accepted, r.exits),
            r.decisions if rule.needs_state else None,
            r,
        )


@pytest.mark.parametrize("name", EXACT)
def test_what_is_not_drafted_behind_a_mismatch_is_replayed_exactly(name):
    rule = EXACT[name]
    for there, here in zip(real(rule, SETTINGS), replayed(rule), strict=True):
        assert here[:2] == there[:2]
        if there[2] is not None:
            assert here[2].milliseconds == pytest.approx(there[2])
        assert here[2].milliseconds_low == here[2].milliseconds == here[2].milliseconds_high


@pytest.mark.parametrize("name", BOUNDED)
def test_what_is_drafted_behind_a_mismatch_stays_within_the_bounds(name):
    rule, width = BOUNDED[name], 0.0
    for there, here in zip(real(rule, SETTINGS), replayed(rule), strict=True):
        (tokens, rounds, drafting, exits, drafted, accepted, by_layer), _, r = here
        assert (tokens, rounds, drafting, exits, accepted, by_layer) == (*there[0][:4], *there[0][5:])
        assert r.milliseconds_low <= r.milliseconds <= r.milliseconds_high
        slack = 1e-9 * r.milliseconds
        assert r.milliseconds_low - slack <= there[2] <= r.milliseconds_high + slack
        width += r.milliseconds_high - r.milliseconds_low
        if r.milliseconds_high == r.milliseconds_low:
            assert there[2] == pytest.approx(r.milliseconds)
            assert drafted == there[0][4]
    assert width > 0  # there is something to be unsure about


@pytest.mark.parametrize("rule", rivals("lite", 8).values(), ids=str)
def test_lite_decides_before_it_drafts_so_only_its_bounds_are_unsure(rule):
    for there, here in zip(real(rule, SETTINGS), replayed(rule), strict=True):
        assert here[:2] == there[:2]
        assert here[2].milliseconds == pytest.approx(there[2])


@pytest.mark.parametrize("rule", rivals("draft-verify", 6).values(), ids=str)
def test_draft_and_verify_remembers_lost_drafts_and_is_still_close(rule):
    there, here = real(rule, SETTINGS), [r for _, _, r in replayed(rule)]
    assert sum(r.milliseconds for r in here) == pytest.approx(sum(t[2] for t in there), rel=0.05)
    assert sum(r.rounds for r in here) == pytest.approx(sum(t[0][1] for t in there), rel=0.05)


@pytest.mark.parametrize("rule", [LayerSkip(1, 5), LayerSkip(0, 12), LengthHeuristic(2), Threshold((0,))], ids=str)
def test_a_text_that_an_end_of_text_token_cut(rule):
    stop = int(np.bincount(TEXTS.targets[:, 10:].ravel()).argmax())
    settings = Settings(LENGTH, stop_tokens=frozenset({stop}))
    texts = texts_under(settings)
    assert (texts.lengths < LENGTH).any()
    assert (texts.limits == LENGTH).all()
    for there, here in zip(real(rule, settings), replayed(rule, texts), strict=True):
        (tokens, rounds, drafting, exits, drafted, accepted, by_layer) = here[0]
        assert (tokens, rounds, drafting, exits, accepted, by_layer) == (*there[0][:4], *there[0][5:])
        if rule.layers == (0,):
            assert drafted == there[0][4]
        assert drafted >= there[0][4]  # an end of text that a real layer drafts behind a mismatch is not foreseen


def test_a_text_that_the_context_cut():
    texts = texts_under(LONG)
    assert (texts.lengths < 300).all()
    for rule in (LayerSkip(3, 9), Threshold((0, 1, 3), max_drafts=1)):
        for there, here in zip(real(rule, LONG), replayed(rule, texts), strict=True):
            assert here[:2] == there[:2]


def test_rounds_are_as_the_loop_tells_them():
    class Listening(Threshold):
        def start(self):
            self.heard = []

        def finish(self, round_):
            accepted = len(round_.committed) - 1
            self.heard.append(
                (round_.position, round_.exit_layer, round_.drafts[: accepted + 1], round_.targets[: accepted + 1],
                 round_.accepted, round_.committed, round_.decisions[:2], round_.shadow)
            )  # fmt: skip

    rule = Listening((0, 1, 3), shadow_layers=(1, 2))
    for n in range(len(PROMPTS)):
        generate(MODEL, PROMPTS[n], rule, SETTINGS)
        there = rule.heard
        one = texts_of([sweep(MODEL, LAYERS, 0, tuple(PROMPTS[n]), tuple(TEXTS.targets[n].tolist()))],
                       [PROMPTS[n]], LAYERS)  # fmt: skip
        replay_rule(rule, one, COSTS)
        assert len(rule.heard) == len(there)
        for a, b in zip(rule.heard, there, strict=True):
            assert a[:6] == b[:6]
            assert [d[1:] for d in a[6]] == [d[1:] for d in b[6]]
            assert a[7].keys() == b[7].keys() == {1, 2}
            for layer in a[7]:
                assert [t for t, _ in a[7][layer]] == [t for t, _ in b[7][layer]]
                assert [p for _, p in a[7][layer]] == pytest.approx([p for _, p in b[7][layer]], rel=1e-4)


@pytest.mark.parametrize("layers", [(0, 1, 3), (2,), (0,), (1, 2, 3)], ids=str)
def test_networks_score_as_in_learning(layers):
    flat = Costs.from_json(COSTS.to_json() | {"attention": 0.0, "cache": 0.0})
    for seed in range(3):
        value = Network(layers, features(layers), seed)
        rows = {layer: c for c, layer in enumerate(TEXTS.layers)}
        columns = [rows[layer] for layer in layers]
        own = {name: getattr(TEXTS, name)[:, :, columns] for name in ("states", "found", "right", "drafts")}
        texts = replace(TEXTS, layers=layers, **own)
        score = simulate(texts, value.features, lambda x, v=value: np.diff(v.values(x))[:, 0] > 0, flat, rate=None)
        mine = replay_rule(QPolicy(value), TEXTS, flat)
        tokens, spent = sum(r.tokens for r in mine), sum(r.milliseconds for r in mine)
        assert tokens / spent == pytest.approx(score.rate)
        assert sum(r.rounds for r in mine) == score.effective
        assert sum(r.drafted for r in mine) / sum(r.drafting_rounds for r in mine) == pytest.approx(score.drafts)
        assert sum(r.exit_layers for r in mine) / sum(r.drafting_rounds for r in mine) == pytest.approx(
            score.exit_layer
        )


def test_layers_that_were_not_swept_are_named():
    with pytest.raises(ValueError, match="layer 5, only at 0, 1, 2, 3"):
        replay_rule(LayerSkip(5, 2), TEXTS, COSTS)
