"""Importance sampling against exact enumeration: a log that holds every trajectory as often as it is likely."""

import itertools
import math

import numpy as np
import pytest

from lede.learn.errors import LearnError
from lede.learn.offpolicy import Reweighted, Score, complete, score
from lede.learn.rate import tokens_and_time
from lede.replay.reader import open_dataset
from tests.learn.toy import COSTS, columns, write_known
from tests.replay.synthetic import COSTS as SYNTHETIC_COSTS
from tests.replay.synthetic import write_dataset

# A toy with two coins. The state is (place, coin); at place 0 `exit` ends with 3 * coin - 1 and `continue` costs 0.5
# and flips a new coin, heads with 3/4; at place 1 `exit` ends with 2 * coin and `continue` ends with 0.7.
BEHAVIOUR = {(0, 0): 0.25, (0, 1): 0.5, (1, 0): 0.5, (1, 1): 0.25}  # chance of exit
GAMMA = 0.9


def reward(place, coin, exits):
    if place == 0:
        return 3.0 * coin - 1 if exits else -0.5
    return 2.0 * coin if exits else 0.7


def trajectories():
    """Every trajectory as (states, exits, chance of the coins)."""
    for coin in (0, 1):
        yield [(0, coin)], [True], 0.5
        for second, last in itertools.product((0, 1), (False, True)):
            yield [(0, coin), (1, second)], [False, last], 0.5 * (0.75 if second else 0.25)


def logged():
    """The behaviour's log: each trajectory as often as it happens in 64 * 4 chains."""
    chains = []
    for states, exits, chance in trajectories():
        propensities = [BEHAVIOUR[s] if e else 1 - BEHAVIOUR[s] for s, e in zip(states, exits, strict=True)]
        chain = {
            "observations": np.array(states, float),
            "actions": np.array(exits, int),
            "rewards": [reward(*s, e) for s, e in zip(states, exits, strict=True)],
            "propensities": propensities,
        }
        often = 256 * chance * math.prod(propensities)
        assert often == int(often)
        chains += [chain] * int(often)
    return columns(chains)


def exact(policy):
    """The discounted return and length of a greedy policy, by enumeration."""
    value = length = 0.0
    for states, exits, chance in trajectories():
        if all(policy[s] == e for s, e in zip(states, exits, strict=True)):
            returns = [reward(*s, e) * GAMMA**t for t, (s, e) in enumerate(zip(states, exits, strict=True))]
            value += chance * sum(returns)
            length += chance * len(states)
    return value, length


@pytest.mark.parametrize("choices", list(itertools.product((False, True), repeat=4)))
def test_every_policy_is_scored_as_by_enumeration(choices):
    policy = dict(zip(BEHAVIOUR, choices, strict=True))
    data = logged()
    exits = np.array([policy[tuple(int(x) for x in row)] for row in data.observations])
    weighted = Reweighted(data, exits)
    value, length = exact(policy)
    assert weighted.mean(data.rewards * GAMMA**weighted.step) == pytest.approx(value, rel=1e-5)
    assert weighted.mean(np.ones(len(exits))) == pytest.approx(length, rel=1e-6)
    assert 0 < weighted.effective < len(data.truncated)


def test_a_policy_that_was_the_behaviour_counts_every_chain():
    chains = [
        {"observations": np.zeros((2, 1)), "actions": [0, 1], "rewards": [1.0, 2.0]},
        {"observations": np.zeros((1, 1)), "actions": [1], "rewards": [5.0]},
    ]
    data = columns(chains * 3)
    weighted = Reweighted(data, data.actions == 1)
    assert weighted.mean(data.rewards) == pytest.approx(4.0)
    assert weighted.effective == pytest.approx(6)
    assert weighted.error(data.rewards, 4.0) == pytest.approx(math.sqrt(6) / 6 * math.sqrt(6 / 5))


def test_forced_rows_weigh_nothing():
    chain = {"observations": np.zeros((2, 1)), "actions": [0, 1], "rewards": [1.0, 2.0], "forced": [False, True]}
    data = columns([{**chain, "propensities": [0.5, 1.0]}] * 4)
    assert Reweighted(data, np.array([False, False] * 4)).mean(data.rewards) == pytest.approx(3.0)


def test_a_policy_the_log_never_followed_is_unknown_not_good():
    chain = {"observations": np.zeros((2, 1)), "actions": [0, 1], "rewards": [9.0, 9.0], "propensities": [0.5, 0.5]}
    data = columns([chain] * 4)
    strays = Reweighted(data, np.array([False, False] * 4))
    assert math.isnan(strays.mean(data.rewards)) and strays.effective == 0 and math.isinf(strays.error(data.rewards))


def test_a_propensity_of_zero_is_refused():
    data = columns([{"observations": np.zeros((1, 1)), "actions": [1], "rewards": [1.0], "propensities": [0.0]}])
    with pytest.raises(LearnError, match="probability 0"):
        Reweighted(data, np.array([True]))


def test_scores_rank_by_evidence_then_by_the_lower_end():
    fields = {"exit_layer": 1.0, "drafts": 1.0, "acceptance": 1.0}

    def made(reward=0.0, reward_error=0.1, rate=1.0, rate_error=0.1, effective=100.0):
        return Score(reward, reward_error, rate, rate_error, effective=effective, **fields)

    assert made(rate=2.0).rank(True) > made().rank(True)
    assert made(rate=2.0, rate_error=1.5).rank(True) < made().rank(True)
    assert made(rate=9.0, effective=3).rank(True) < made().rank(True)
    assert made(reward=1.0).rank(False) > made().rank(False)
    assert made(rate=math.nan).rank(True) < made(rate=-5.0).rank(True)


def test_tokens_add_up_to_what_was_committed(tmp_path):
    write_dataset(tmp_path / "d", 20, seed=0, layers=(0, 4, 8))
    dataset = open_dataset(tmp_path / "d")
    rounds = dataset.columns(horizon="round", features="extended")
    tokens, spent = tokens_and_time(rounds, SYNTHETIC_COSTS)
    episodes = dataset.episodes.collect()
    assert tokens.sum() == episodes["accepted"].sum() + episodes["rounds"].sum()
    assert (spent > 0).all()
    priced = dataset.columns(horizon="round", reward="time", features="extended", rate=0.7).rewards
    np.testing.assert_allclose(tokens - 0.7 * spent, priced, atol=1e-5)


def test_the_best_policy_of_a_known_dataset(tmp_path):
    """Drafting on exactly while all is right: its drafts, acceptance and rate follow from the chance alone."""
    chance, most = 0.8, 12
    write_known(tmp_path / "d", episodes=150, rounds=20, chance=chance)
    rounds = complete(open_dataset(tmp_path / "d").columns(horizon="round", features="paper"))
    exits = rounds.observations[:, 0] > 0.5
    scored = score(rounds, rounds, exits, exits, 1.0, COSTS)
    # Layer 2 or else layer 4 gives a right first draft; then drafts until the first wrong one or the limit.
    expected = sum((1 if k <= 2 else chance ** (k - 2)) for k in range(1, most + 1))
    accepted = sum(chance ** (k - 1) for k in range(1, most + 1))
    assert scored.exit_layer == pytest.approx(2 * chance + 4 * (1 - chance), rel=0.05)
    assert scored.drafts == pytest.approx(expected, rel=0.12)
    assert scored.acceptance == pytest.approx(accepted / expected, rel=0.08)
    assert scored.rate > 0 and scored.rate_error < 0.1 * scored.rate and scored.effective > 50
    without = score(rounds, rounds, exits, exits, 1.0, None)
    assert math.isnan(without.rate) and without.drafts == scored.drafts
    never = score(rounds, rounds, ~exits, ~exits, 1.0, COSTS)
    assert never.rate < scored.rate
