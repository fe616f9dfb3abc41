"""Importance sampling against exact enumeration, on a log that holds every trajectory as often as it is likely."""

import itertools
import math

import numpy as np
import pytest

from lede.learn.errors import LearnError
from lede.learn.importance import Reweighted, reach_probability
from lede.learn.rewards import first_step, rewarded, tokens_and_time
from lede.learn.score import Score, exact_score, logged_score, ratio
from lede.process import DRAFT, WALK
from lede.replay.columns import complete
from lede.replay.reader import open_dataset
from lede.simulate.batched import Engine, prices_of
from tests.learn.swept import made_up
from tests.learn.toy import COSTS, KNOWN_COSTS, columns, write_known
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
    """The behaviour's log: each trajectory as often as it happens in 64 * 4 chains, an episode each."""
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
        chains += [{**chain, "episode": len(chains) + i} for i in range(int(often))]
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


def test_chains_of_one_episode_are_one_piece_of_evidence():
    """Six chains as three episodes: the error is that of three sums, the estimate is the same."""
    chains = [
        {"observations": np.zeros((2, 1)), "actions": [0, 1], "rewards": [1.0, 2.0]},
        {"observations": np.zeros((1, 1)), "actions": [1], "rewards": [5.0]},
    ]
    alone = columns([{**chains[i % 2], "episode": i} for i in range(6)])
    weighted = Reweighted(alone, alone.actions == 1)
    assert weighted.mean(alone.rewards) == pytest.approx(4.0) and weighted.effective == pytest.approx(6)
    assert weighted.error(alone.rewards, 4.0) == pytest.approx(math.sqrt(6) / 6 * math.sqrt(6 / 5))
    alike = columns([{**chains[i // 3], "episode": i // 3} for i in range(6)])
    weighted = Reweighted(alike, alike.actions == 1)
    assert weighted.mean(alike.rewards) == pytest.approx(4.0) and weighted.effective == pytest.approx(2)
    assert weighted.error(alike.rewards, 4.0) == pytest.approx(math.sqrt(3**2 + 3**2) / 6 * math.sqrt(2))


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


def test_reaching_a_row_takes_every_action_before_it():
    first = {"observations": np.zeros((3, 1)), "actions": [0, 0, 1], "rewards": [0] * 3}
    first["propensities"] = [0.5, 0.25, 0.1]
    second = {"observations": np.zeros((1, 1)), "actions": [1], "rewards": [0], "propensities": [0.5]}
    np.testing.assert_allclose(reach_probability(columns([first, second])), [1, 0.5, 0.125, 1])


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    path = tmp_path_factory.mktemp("known") / "d"
    write_known(path, episodes=150, rounds=20, chance=0.8)
    return open_dataset(path).columns(horizon="round", features="extended")


def test_a_round_pays_for_a_lookup_that_had_nothing():
    one = {"observations": np.zeros((1, 1)), "actions": [1], "rewards": [0]}
    data, used = columns([one | {"layer": [0]}, one | {"layer": [4]}], (0, 4)), COSTS.for_policy(("margin",), (0, 4))
    expected = [used.step(0, 0), COSTS.lookup + used.step(0, 4)]
    np.testing.assert_allclose(first_step(data, prices_of(COSTS, ("margin",), (0, 4))), expected)


def test_scores_rank_by_evidence_then_by_the_lower_end():
    fields = {"exit_layer": 1.0, "drafts": 1.0, "acceptance": 1.0}

    def made(reward=0.0, reward_error=0.1, rate=1.0, rate_error=0.1, effective=100.0):
        return Score(reward, reward_error, rate, rate_error, effective=effective, **fields)

    assert made(rate=2.0).rank(True) > made().rank(True)
    assert made(rate=2.0, rate_error=1.5).rank(True) < made().rank(True)
    assert made(rate=9.0, effective=3).rank(True) < made().rank(True)
    assert made(reward=1.0).rank(False) > made().rank(False)
    assert made(rate=math.nan).rank(True) < made(rate=-5.0).rank(True)


def test_the_error_of_a_rate_is_over_groups():
    tokens, spent = np.array([2.0, 2, 4, 4]), np.array([1.0, 1, 1, 1])
    value, by_group = ratio(tokens, spent, np.array([7, 7, 9, 9]))
    assert value == 3 and by_group == pytest.approx(math.sqrt(2 * 2**2 * 2) / 4)
    _, by_text = ratio(tokens, spent, np.arange(4))
    assert by_text == pytest.approx(math.sqrt(4 * 4 / 3) / 4) and math.isinf(ratio(tokens, spent, np.zeros(4, int))[1])


def test_an_exact_score_is_that_of_the_rollout():
    texts = made_up(1, (0, 2), count=8)
    rollout = Engine(texts, COSTS, ("margin",)).play(lambda rows: rows[:, 0] > 0)
    timed, paper, own = (exact_score(rollout, np.arange(8), name, 0.4) for name in ("time", "paper", "accepted"))
    assert timed.rate == paper.rate == own.rate == rollout.rate
    spent = rollout.milliseconds.sum()
    assert timed.reward == pytest.approx((rollout.tokens.sum() - 0.4 * spent) / rollout.rounds.sum())
    assert paper.reward == pytest.approx(rollout.paper.sum() / rollout.rounds.sum()) and math.isnan(own.reward)
    assert timed.drafts == pytest.approx(rollout.drafted.sum() / rollout.drafting.sum())


def test_tokens_and_times_add_up_to_what_was_written(tmp_path):
    write_dataset(tmp_path / "d", 20, seed=0, layers=(0, 4, 8))
    dataset = open_dataset(tmp_path / "d")
    rounds = dataset.columns(horizon="round", features="extended")
    prices = prices_of(SYNTHETIC_COSTS, rounds.feature_names, rounds.layers)
    tokens, spent = tokens_and_time(rounds, prices)
    episodes = dataset.episodes.collect()
    assert tokens.sum() == episodes["accepted"].sum() + len(rounds.truncated)
    priced = rewarded(rounds, "time", 16, SYNTHETIC_COSTS, prices, 0.7).rewards
    np.testing.assert_allclose(tokens - 0.7 * spent, priced, atol=1e-5)
    used = SYNTHETIC_COSTS.for_policy(rounds.feature_names, rounds.layers)
    for start, stop in zip(rounds.chain_starts, rounds.chain_starts[1:], strict=False):
        walk = [int(layer) for layer in rounds.raw["layer"][start:stop][rounds.raw["phase"][start:stop] == WALK]]
        drafts = int(rounds.raw["draft_index"][start:stop].max())
        time = sum(used.step(before, layer) for before, layer in itertools.pairwise(walk))
        time += (drafts - 1) * used.draft(walk[-1]) + used.finish(walk[-1], drafts)
        assert spent[start:stop].sum() == pytest.approx(time)


@pytest.mark.parametrize("heat", [0.0, 0.8])
def test_the_time_reward_of_each_action(heat):
    """Walk 2 -> 4, exit there, one more draft, stop; then a walk that goes on to the full model."""
    chain = {"observations": np.zeros((4, 1)), "actions": [0, 1, 1, 0], "rewards": [0] * 4, "layer": [2, 4, 4, 4]}
    chain |= {"phase": [WALK, WALK, DRAFT, DRAFT], "draft_index": [1, 1, 2, 3], "accepted": [True, True, True, False]}
    bypass = {"observations": np.zeros((2, 1)), "actions": [0, 0], "rewards": [0] * 2, "layer": [2, 4]}
    chain, bypass = ({**rows, "temperature": [heat] * len(rows["actions"])} for rows in (chain, bypass))
    data, used = columns([chain, bypass]), COSTS.for_policy(("margin",), (2, 4))
    used = used.sampled() if heat else used
    rewards = rewarded(data, "time", 8, COSTS, prices_of(COSTS, ("margin",), (2, 4)), 2.0).rewards
    expected = [
        -2 * used.step(2, 4),
        1 - 2 * used.draft(4),
        1 - 2 * used.draft(4),
        0 + 1 - 2 * used.finish(4, 3),
        -2 * used.step(2, 4),
        1 - 2 * used.finish(4, 0),
    ]
    np.testing.assert_allclose(rewards, expected, rtol=1e-6)


def test_the_best_policy_of_a_known_dataset(known):
    """Drafting on exactly while all is right: its drafts, acceptance and rate follow from the chance alone."""
    chance, most = 0.8, 12
    rounds = complete(known)
    exits = rounds.observations[:, 0] > 0.5
    prices = prices_of(KNOWN_COSTS, rounds.feature_names, rounds.layers)
    scored = logged_score(rounds, rounds, exits, exits, 1.0, prices)
    # Layer 2 or else layer 4 gives a right first draft; then drafts until the first wrong one or the limit.
    expected = sum((1 if k <= 2 else chance ** (k - 2)) for k in range(1, most + 1))
    accepted = sum(chance ** (k - 1) for k in range(1, most + 1))
    assert scored.exit_layer == pytest.approx(2 * chance + 4 * (1 - chance), rel=0.05)
    assert scored.drafts == pytest.approx(expected, rel=0.12)
    assert scored.acceptance == pytest.approx(accepted / expected, rel=0.08)
    assert scored.rate > 0 and scored.rate_error < 0.1 * scored.rate and scored.effective > 20
    without = logged_score(rounds, rounds, exits, exits, 1.0, None)
    assert math.isnan(without.rate) and without.drafts == scored.drafts
    assert logged_score(rounds, rounds, ~exits, ~exits, 1.0, prices).rate < scored.rate
