"""The best static rule, from logs whose acceptance is known."""

import numpy as np
import pytest

from lede.learn.errors import LearnError
from lede.learn.rate import acceptance, best_static, first_step, reach_probability, static_rules
from lede.replay.reader import open_dataset
from lede.replay.schema import DRAFT, WALK
from tests.learn.toy import COSTS, columns, write_known


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    path = tmp_path_factory.mktemp("known") / "d"
    write_known(path, episodes=150, rounds=20, chance=0.8)
    return open_dataset(path).columns(horizon="round", features="paper")


def test_acceptance_is_conditional_and_per_layer(known):
    np.testing.assert_allclose(acceptance(known, 2)[:4], 0.8, atol=0.06)
    deep = acceptance(known, 4)
    assert deep[0] == 1.0
    np.testing.assert_allclose(deep[1:4], 0.8, atol=0.06)
    assert acceptance(known, 7) is None


def test_rates_follow_from_acceptance_and_costs(known):
    rules = {(rule.layer, rule.drafts): rule for rule in static_rules(known, COSTS)}
    assert len(rules) == 24
    rule = rules[2, 3]
    assert rule.tokens == pytest.approx((1 - 0.8**4) / (1 - 0.8), rel=0.05)
    assert rule.rate == pytest.approx(rule.tokens / (3 * (2 * 0.1 + 0.05) + COSTS.finish(2, 3)))
    best = best_static(known, COSTS)
    assert best.rate == max(rule.rate for rule in rules.values())
    assert best.layer == 2


def test_exploration_that_follows_the_state_is_undone():
    """Half the rounds look easy and are right with 0.9, half look hard and are right with 0.5; the log drafts on mostly
    where it looks easy, the static rule everywhere."""
    rng = np.random.default_rng(0)
    chains = []
    for number in range(8000):
        easy = number % 2 == 0
        chance, on = (0.9, 0.8) if easy else (0.5, 0.2)
        first, second = rng.random(2) < chance
        goes_on = rng.random() < on
        third = second and rng.random() < chance
        size = 3 if goes_on else 2
        chain = {
            "observations": np.zeros((3, 1)),
            "actions": [1, int(goes_on), 0],
            "rewards": [0, 0, 0],
            "propensities": [1, on if goes_on else 1 - on, 1],
            "phase": [WALK, DRAFT, DRAFT],
            "draft_index": [1, 2, 3],
            "accepted": [first, first and second, first and third],
        }
        chains.append({name: values[:size] for name, values in chain.items()})
    # P(third | first two) = (0.9³ + 0.5³) / (0.9² + 0.5²); what the log shows is nearer to 0.9.
    expected = (0.9**3 + 0.5**3) / (0.9**2 + 0.5**2)
    assert acceptance(columns(chains), 2)[2] == pytest.approx(expected, abs=0.02)


def test_few_rows_fall_back_to_the_draft_before():
    chain = {"observations": np.zeros((2, 1)), "actions": [1, 0], "rewards": [0, 0], "phase": [WALK, DRAFT]}
    chain |= {"draft_index": [1, 2]}
    data = columns([{**chain, "accepted": [True, False]}] * 10 + [{**chain, "accepted": [False, False]}] * 10)
    np.testing.assert_allclose(acceptance(data, 2), 0.5)  # only 10 rows follow a right first draft


def test_a_static_lookup_decodes_plainly_where_it_finds_nothing():
    found = {"observations": np.zeros((1, 1)), "actions": [1], "rewards": [0], "layer": [0], "accepted": [True]}
    missed = {"observations": np.zeros((1, 1)), "actions": [1], "rewards": [0], "layer": [4], "accepted": [True]}
    data = columns([found, found, missed, missed], layers=(0, 4))
    rule = next(rule for rule in static_rules(data, COSTS) if (rule.layer, rule.drafts) == (0, 1))
    assert rule.tokens == pytest.approx(0.5 * 2 + 0.5)
    spent = 0.5 * (COSTS.lookup + COSTS.finish(0, 1)) + 0.5 * (COSTS.lookup + COSTS.plain())
    assert rule.rate == pytest.approx(1.5 / spent)
    visited = [COSTS.visit0, COSTS.lookup + COSTS.step(0, 4)]
    np.testing.assert_allclose(first_step(data, COSTS), np.repeat(visited, 2))


def test_reaching_a_row_takes_every_action_before_it():
    first = {
        "observations": np.zeros((3, 1)),
        "actions": [0, 0, 1],
        "rewards": [0] * 3,
        "propensities": [0.5, 0.25, 0.1],
    }
    second = {"observations": np.zeros((1, 1)), "actions": [1], "rewards": [0], "propensities": [0.5]}
    np.testing.assert_allclose(reach_probability(columns([first, second])), [1, 0.5, 0.125, 1])


def test_nothing_to_go_by():
    empty = columns([{"observations": np.zeros((1, 1)), "actions": [1], "rewards": [0], "layer": [9]}])
    with pytest.raises(LearnError, match="collect more"):
        best_static(empty, COSTS)
