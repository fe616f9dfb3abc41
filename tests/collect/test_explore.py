"""Exploring rules draw what they say they draw, with no action rarer than one in twenty."""

from collections import Counter

import numpy as np
import pytest

from lede.collect.explore import Epsilon, Noisy, Uniform
from lede.decode.generate import generate
from lede.decode.round import Decision
from lede.decode.rules import QPolicy
from lede.decode.sampling import Settings
from lede.decode.state import State
from lede.policy import Policy
from lede.process import DRAFT, WALK
from tests.models import ours

LAYERS = (0, 1, 2, 3)
DRAWS = 4000


def fixed(layers: tuple[int, ...] = LAYERS, **info: int) -> Policy:
    """A policy that exits at layer 2 and drafts on from everywhere but layer 1."""
    exit_ = [2.0, *({1: -9.0, 2: 1.0}.get(layer, -1.0) for layer in layers)]
    weights = np.array([np.zeros(len(exit_)), exit_], np.float32), np.zeros(2, np.float32)
    names = ("phase", *(f"layer={layer}" for layer in layers))
    return Policy(names, layers, (weights,), np.zeros(len(names)), np.ones(len(names)), info)


def state(layer: int, phase: int = WALK, confidence: float = 1.0) -> State:
    return State(layer, 1 + phase, phase, token=0, conf_topk=confidence, entropy=2 * confidence)


def makers():
    return [
        lambda seed: Uniform(LAYERS, seed),
        lambda seed: Noisy(LAYERS, seed),
        lambda seed: Epsilon(fixed(), seed, 0.3),
    ]


@pytest.mark.parametrize("make", makers(), ids=["uniform", "noisy", "epsilon"])
@pytest.mark.parametrize(("layer", "phase"), [(0, WALK), (1, WALK), (2, WALK), (1, DRAFT), (3, DRAFT)])
def test_actions_are_as_frequent_as_their_propensities_say(make, layer, phase):
    rule = make(seed=1)
    chosen = Counter()
    for _ in range(DRAWS):
        chosen[rule.answer(state(layer, phase))] += 1
    assert len(chosen) == 2  # both actions happen, each with one propensity
    assert sum(chance for _, chance in chosen) == pytest.approx(1)
    for (_, chance), count in chosen.items():
        assert chance >= 0.05 - 1e-9
        assert abs(count / DRAWS - chance) < 4.5 * (chance * (1 - chance) / DRAWS) ** 0.5


def test_uniform_takes_every_candidate_equally_often():
    rule, taken = Uniform(LAYERS, seed=0), Counter()
    for _ in range(DRAWS):
        taken[next((layer for layer in LAYERS[:-1] if rule.answer(state(layer))[0]), LAYERS[-1])] += 1
    assert all(abs(taken[layer] / DRAWS - 0.25) < 0.03 for layer in LAYERS)


@pytest.mark.parametrize(
    "rule",
    [Uniform(tuple(range(40)), 0), Epsilon(fixed(), 0, 0.05), Epsilon(fixed(), 0, 0.0)],
    ids=["40 candidates", "rare", "never"],
)
def test_no_action_is_ever_rarer_than_one_in_twenty(rule):
    chances = []
    for _ in range(300):
        for layer in rule.layers[:-1]:
            chances.append(rule.answer(state(layer))[1])
    assert min(chances) == pytest.approx(0.05)


def test_epsilon_mixes_the_policy_with_uniform():
    rule = Epsilon(fixed(), seed=0, epsilon=0.3)
    assert rule.exit_chance(state(2)) == pytest.approx(0.7 + 0.3 / 2)  # the policy exits; two candidates are left
    assert rule.exit_chance(state(0)) == pytest.approx(0.3 / 4)
    assert rule.exit_chance(state(3, DRAFT)) == pytest.approx(0.7 + 0.3 * 0.85)
    assert rule.exit_chance(state(1, DRAFT)) == pytest.approx(0.3 * 0.85)
    assert Epsilon(fixed(), seed=0, epsilon=1.0).exit_chance(state(2)) == Uniform(LAYERS, 0).exit_chance(state(2))


def test_noisy_draws_another_network_for_every_episode_and_keeps_it():
    states = [state(layer, phase, c) for c in (0.1, 1.0, 3.0, 9.0) for layer in (1, 2) for phase in (WALK, DRAFT)]

    def chances(rule: Noisy) -> tuple[float, ...]:
        rule.start()
        return tuple(rule.exit_chance(s) for s in states)

    assert len({chances(Noisy(LAYERS, seed)) for seed in range(30)}) > 3
    rule = Noisy(LAYERS, seed=5)
    assert chances(rule) == chances(rule)


def test_noisy_networks_see_features_in_deviations_from_the_mean_of_the_episode_so_far():
    rng = np.random.default_rng(0)
    rows = np.stack([rng.normal(4, 1.5, 50), rng.normal(1.2, 1.3, 50), np.full(50, 0.3)], 1)
    rule = Noisy(LAYERS, seed=0)
    for n, row in enumerate(rows, 1):
        deviation = rows[:n].std(axis=0)
        expected = (row - rows[:n].mean(axis=0)) / np.where(deviation > 1e-9, deviation, 1)
        np.testing.assert_allclose(rule._standardised(row), expected, atol=1e-9)


def test_most_noisy_networks_use_both_actions():
    """In features as an embedded model has them; as they are, two networks in three never change their mind."""
    rng = np.random.default_rng(0)
    entropy = rng.gamma(0.9, 1.4, 400)
    rows = np.stack([6 - entropy + rng.normal(0, 0.5, 400), entropy, rng.gamma(1.1, 0.3, 400)], 1)
    varied = 0
    for seed in range(60):
        rule = Noisy(LAYERS, seed)
        exits = [rule.exit_chance(State(1, 1, WALK, 0, *row)) > 0.5 for row in rows]
        varied += 0.02 < np.mean(exits) < 0.98
    assert varied > 36


@pytest.mark.parametrize("make", makers(), ids=["uniform", "noisy", "epsilon"])
def test_every_decision_of_a_generation_carries_the_chance_of_its_action(make):
    def run(seed: int) -> list[tuple[Decision, ...]]:
        rounds = generate(ours("grouped"), [5, 9, 2, 9], make(seed), Settings(40)).rounds
        return [round_.decisions for round_ in rounds]

    rule = make(3)
    for decision in (decision for round_ in run(3) for decision in round_):
        if decision.forced:
            assert decision.propensity == 1.0
            continue
        chance = min(max(rule.exit_chance(decision.state), 0.05), 0.95)
        assert decision.propensity == pytest.approx(chance if decision.action else 1 - chance)
    assert run(3) == run(3)
    assert run(4) != run(3)


def test_a_rule_that_does_not_draw_takes_its_actions_with_certainty():
    rounds = generate(ours("grouped"), [5, 9, 2, 9], QPolicy(fixed()), Settings(20)).rounds
    assert {decision.propensity for round_ in rounds for decision in round_.decisions} == {1.0}


def deciding() -> Policy:
    """A policy of long drafts that may also draft nothing: its last layer is the model's last."""
    return fixed((1, 2, 4), max_drafts=20)


def test_epsilon_may_bypass_and_draft_as_long_as_its_policy():
    rounds = [
        r
        for seed in range(4)
        for r in generate(ours("grouped"), [5, 9, 2], Epsilon(deciding(), seed), Settings(90)).rounds
    ]
    bypassed = [r for r in rounds if r.exit_layer is None and r.decisions]
    assert bypassed
    assert all([d.action for d in r.decisions] == [0, 0] and not r.drafts for r in bypassed)
    assert not any(d.forced for r in rounds for d in r.decisions if d.state.phase == WALK)
    assert 12 < max(len(r.drafts) for r in rounds) <= 20


def test_draft_limits():
    assert (Uniform(LAYERS, 0).max_drafts, Noisy(LAYERS, 0).max_drafts) == (31, 12)
    assert (Epsilon(deciding(), 0).max_drafts, Epsilon(fixed(), 0).max_drafts) == (20, 12)
