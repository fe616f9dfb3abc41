"""Tuning: equal budgets, real rules, and what it says of them can be used again."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from lede.bench import tune as tuning
from lede.bench.measure import measure, prompt_seed
from lede.bench.tune import Training, sweep_texts, tune
from lede.decode.generate import generate
from lede.decode.rules import Autoregressive, LayerSkip, PromptLookup
from lede.decode.sampling import Settings
from lede.simulate.baselines import (
    BASELINES,
    drawn,
    grid,
    ladders,
    make_rule,
    predicted_rate,
    promising,
    real_layers,
    searched,
)
from lede.simulate.costs import MAX_ROWS, Costs
from lede.simulate.scalar import replay_rule
from tests.models import ours

MODEL = ours("grouped")
PROMPTS = [[3], [5, 9, 2, 30, 7, 1], [4, 4, 4, 4]]
SETTINGS = Settings(40, stop_tokens=frozenset())
COSTS = Costs(
    layers=4,
    layer=tuple(0.9 + 0.1 * rows for rows in range(MAX_ROWS)),
    head=(0.1,) * MAX_ROWS,
    features=0.01,
    decision=0.01,
    lookup=0.01,
    round=0.1,
    prefill=0.2,
)
LAYERS = (1, 2, 3)
SAMPLED = replace(SETTINGS, temperature=0.9, top_k=20, seed=4)


@pytest.fixture(scope="module")
def texts():
    return sweep_texts(MODEL, PROMPTS, None, SETTINGS, LAYERS)


def test_every_real_layer_up_to_three_quarters_and_the_lookup_are_swept(texts):
    assert texts.layers == (0, 1, 2, 3)
    assert real_layers(16) == tuple(range(1, 13))
    assert real_layers(2) == (1,)
    plain = [generate(MODEL, prompt, None, SETTINGS).token_ids for prompt in PROMPTS]
    assert [tuple(row) for row in texts.targets.tolist()] == plain
    assert texts.limits.tolist() == [40, 40, 40]


def test_sampling_is_tuned_on_texts_sampled_alike(texts):
    warm = sweep_texts(MODEL, PROMPTS, None, SAMPLED, layers=(2,))
    assert warm.layers == (0, 2)
    for row, prompt in zip(warm.targets.tolist(), PROMPTS, strict=True):
        own = replace(SAMPLED, seed=prompt_seed(SAMPLED.seed, prompt))
        assert tuple(row) == generate(MODEL, prompt, None, own).token_ids
    assert warm.targets.tolist() != texts.targets.tolist()
    assert warm.temperatures.tolist() == pytest.approx([0.9] * 3)


def test_a_finalist_decodes_the_sampled_texts_that_it_was_scored_on(monkeypatch):
    seen = []

    def timed(*given):
        for sample in measure(*given):
            seen.append(sample)
            yield sample

    monkeypatch.setattr(tuning, "measure", timed)
    warm = sweep_texts(MODEL, PROMPTS, None, SAMPLED, LAYERS)
    tune(MODEL, [{"draft_length": 3}], lambda p: PromptLookup(**p), Training(PROMPTS, warm, COSTS, SAMPLED))
    assert [list(sample.token_ids) for sample in seen] == warm.targets.tolist()
    replayed = replay_rule(PromptLookup(3), warm, COSTS)
    assert replayed.accepted.tolist() == [sample.sums.accepted for sample in seen]


@pytest.mark.parametrize("family", BASELINES)
def test_a_family_is_tuned_and_stored(family, texts, monkeypatch):
    monkeypatch.setattr(tuning, "CONFIGURATIONS", 9)
    monkeypatch.setattr(tuning, "FINALISTS", 3)
    seen = []
    space = BASELINES[family].space(texts, MODEL.layer_count)
    training = Training(PROMPTS, texts, COSTS, SETTINGS)
    tuned = tune(MODEL, space, partial(make_rule, family), training, lambda *done: seen.append(done))
    assert tuned["scored"] == 9
    rates = [one["predicted"] for one in tuned["finalists"]]
    assert len(rates) == 3
    assert rates == sorted(rates, reverse=True)
    assert tuned["measured"] == max(one["measured"] for one in tuned["finalists"]) > 0
    assert seen == [(i + 1, 9 + 9) for i in range(18)]
    stored = json.loads(json.dumps(tuned))
    again = make_rule(family, stored["parameters"])
    assert predicted_rate(again, texts, COSTS) == pytest.approx(
        tuned["predicted"], rel=0.05
    )  # decisions are timed anew
    real = [layer for layer in again.layers if layer < MODEL.layer_count]
    if family != "ucb":  # which may be of any layer, whichever was faster at that moment
        assert (real == [0]) == family.endswith("-lookup")
        assert (0 in real) == (family.endswith("-lookup") or family == "cascade")
    for prompt in PROMPTS:
        assert generate(MODEL, prompt, again, SETTINGS).token_ids == generate(MODEL, prompt, None, SETTINGS).token_ids


def test_the_whole_of_a_space_can_be_made(texts):
    for family, entry in BASELINES.items():
        space = entry.space(texts, MODEL.layer_count)
        assert len({json.dumps(parameters) for parameters in space}) == len(space)  # no configuration twice
        for parameters in space:
            rule = make_rule(family, parameters)
            assert set(rule.layers) - {MODEL.layer_count} <= set(texts.layers)


def test_the_best_of_a_list_is_found_by_replay(texts, monkeypatch):
    monkeypatch.setattr(tuning, "FINALISTS", 1)
    space = [{"exit_layer": e, "draft_length": d} for e in (1, 3) for d in (1, 4, 12)]
    best = max((predicted_rate(LayerSkip(**p), texts, COSTS), i) for i, p in enumerate(space))[1]
    tuned = tune(MODEL, space, lambda p: LayerSkip(**p), Training(PROMPTS, texts, COSTS, SETTINGS))
    assert tuned["parameters"] == space[best]
    assert tuned["scored"] == 6


def test_reading_the_prompt_is_in_the_rate(texts):
    tokens, prompt = 3 * 40, sum(map(len, PROMPTS))
    expected = 1e3 * tokens / (tokens * COSTS.plain() + prompt * COSTS.prefill)
    assert predicted_rate(Autoregressive(), texts, COSTS) == pytest.approx(expected)


def test_draws_are_even_and_the_same_for_a_seed():
    space = [{"n": n} for n in range(1000)]
    some = drawn(space, 100, seed=3)
    assert some == drawn(space, 100, seed=3) != drawn(space, 100, seed=4)
    assert all(0 <= one["n"] - 10 * i < 10 for i, one in enumerate(some))
    assert drawn(space[:7], 100, seed=3) == space[:7]


@pytest.mark.parametrize("seed", range(5))
def test_a_search_keeps_to_its_budget_and_finds_more_than_a_draw(seed):
    space, asked = grid(a=range(12), b=range(12), c=range(12), d=range(12)), []

    def rate(parameters):  # one peak, the parameters not independent
        asked.append(tuple(parameters.values()))
        a, b, c, d = asked[-1]
        return -((a - 3) ** 2 + (b - a) ** 2 + (c - 9) ** 2 + abs(d - c))

    found = list(searched(space, rate, 120, seed))
    assert len(found) == len(asked) == len({*asked}) == 120
    assert [tuple(parameters.values()) for parameters, _ in found] == asked
    assert [one for one, _ in searched(space, rate, 120, seed)] == [one for one, _ in found]
    assert max(value for _, value in found) > max(map(rate, drawn(space, 120, seed)))


def test_a_search_of_a_flat_or_scattered_space_still_spends_its_budget():
    scattered = [{"a": n, "b": -n} for n in range(100)]  # no two differ in one parameter alone
    for space in (scattered, grid(a=range(10), b=range(10))):
        found = [one for one, _ in searched(space, lambda own: 1.0, 60)]
        assert len({tuple(own.values()) for own in found}) == 60
        assert [one for one, _ in searched(space, lambda own: 1.0, 100)] == list(space)


def test_promising_exits_are_those_with_the_most_tokens_for_their_layers(texts):
    assert promising(texts, MODEL.layer_count, 9) == [1, 2, 3]
    right = texts.right.copy()
    for layer, share in ((1, 0), (2, 9), (3, 10)):  # of ten; layer 3 is the dearest of a model of four
        right[:, :, layer] = np.arange(right.shape[1]) % 10 < share
    told = replace(texts, right=right)
    assert promising(told, MODEL.layer_count, 1) == [2]
    assert promising(told, MODEL.layer_count, 2) == [2, 3]


def test_ladders_start_where_they_say():
    found = ladders(range(1, 13), (1, 3))
    assert {(1,), (1, 7, 12), (1, 3, 6)} <= set(found)
    assert len(set(found)) == len(found)
    assert all(list(one) == sorted(set(one)) for one in found)
