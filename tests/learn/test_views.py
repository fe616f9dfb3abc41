"""Views of the same rows: fewer candidates, one more action, other rewards, and decisions drawn anew from sweeps."""

import numpy as np
import pytest

from lede.learn.errors import LearnError
from lede.learn.importance import Reweighted
from lede.learn.rewards import rewarded, tokens_and_time
from lede.learn.views import bypassed, complete, walks, with_bypass, with_candidates, with_features
from lede.replay.reader import open_dataset
from lede.replay.schema import CONTINUE, EXIT, WALK
from lede.simulate.batched import prices_of
from tests.learn.toy import COSTS, MODEL_LAYERS, write_known
from tests.replay.synthetic import write_dataset

LAYERS = (0, 4, 5, 8)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = tmp_path_factory.mktemp("synthetic") / "data"
    write_dataset(path, 30, seed=0, layers=LAYERS)
    return open_dataset(path)


@pytest.fixture(scope="module")
def rounds(dataset):
    return dataset.columns(horizon="round", features="extended")


@pytest.mark.parametrize("features", ["paper", "extended"])
def test_walks_and_features_are_what_the_reader_gives(dataset, rounds, features):
    theirs = dataset.columns(horizon="walk", features=features)
    ours = with_features(walks(rounds), theirs.feature_names)
    assert (ours.feature_names, ours.layers) == (theirs.feature_names, theirs.layers)
    for name in ("observations", "actions", "rewards", "terminals", "chain_starts", "truncated", "propensities"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)


def test_fewer_candidates_keep_what_such_a_walk_would_have_logged(rounds):
    kept = (0, 5)
    view = with_candidates(rounds, kept)
    assert view.layers == kept and set(np.unique(view.raw["layer"])) <= set(kept)
    assert [name for name in view.feature_names if name.startswith("layer=")] == ["layer=0", "layer=5"]

    def keys(columns):
        """What identifies each row."""
        named = (columns.raw[name] for name in ("round", "phase", "layer", "draft_index"))
        return [tuple(map(int, row)) for row in zip(columns.episodes, *named, strict=True)]

    numbers, kept_keys = {key: number for number, key in enumerate(keys(rounds))}, keys(view)
    chain_of = np.repeat(np.arange(len(rounds.truncated)), np.diff(rounds.chain_starts))
    whole = cut = 0
    for start, stop, truncated in zip(view.chain_starts, view.chain_starts[1:], view.truncated, strict=False):
        here = [numbers[key] for key in kept_keys[start:stop]]
        original = np.flatnonzero(chain_of == chain_of[here[0]])
        exits = original[(rounds.raw["phase"][original] == WALK) & (rounds.actions[original] == EXIT)]
        possible = len(exits) and rounds.raw["layer"][exits[0]] in kept
        if possible:  # everything of the round but the rows in between, and the probability of all of it
            whole += 1
            assert truncated == rounds.truncated[chain_of[here[0]]]
            np.testing.assert_allclose(
                view.propensities[start:stop].prod(), rounds.propensities[original].prod(), rtol=1e-5
            )
            assert here[-1] == original[-1]
        else:
            cut += 1
            assert truncated and not view.terminals[start:stop].any()
            assert (view.actions[start:stop] == CONTINUE).all()
        walk = slice(start, stop)
        last = (view.raw["phase"][walk] == WALK) & (view.raw["layer"][walk] == 5)
        assert view.raw["forced"][walk][last].all() and (view.actions[walk][last] == EXIT).all()
    assert whole > 50 and cut > 10
    assert with_candidates(rounds, LAYERS) is rounds
    with pytest.raises(LearnError, match="not at 0, 7"):
        with_candidates(rounds, (0, 7))


def test_fewer_candidates_leave_off_policy_weights_right(tmp_path):
    """The weighted mean over what is left is that of rounds which exit at the only candidate left."""
    write_known(tmp_path, episodes=200, rounds=20)
    rounds = open_dataset(tmp_path).columns(horizon="round", features="extended")
    view = complete(with_candidates(rounds, (4,)))
    always = Reweighted(view, np.ones(len(view.actions), bool))
    first = view.raw["draft_index"] == 1
    assert always.mean(first * view.raw["accepted"]) == pytest.approx(1.0)  # layer 4 is always right
    second = (view.raw["draft_index"] == 2) * view.raw["accepted"]
    assert always.mean(second) == pytest.approx(0.8, abs=0.03)


def test_a_bypass_makes_going_on_a_choice_at_the_last_candidate(rounds):
    both = with_bypass(rounds, 16)
    assert both.feature_names == (*rounds.feature_names, "layer=16") and not both.observations[:, -1].any()
    reached = (rounds.raw["phase"] == WALK) & (rounds.raw["layer"] == 8)
    passed = bypassed(both)
    assert passed.sum() == reached.sum()
    assert (both.actions[passed] == CONTINUE).all() and both.terminals[passed].all()
    assert len(both.truncated) == len(rounds.truncated) + reached.sum()
    assert not both.raw["forced"][(both.raw["phase"] == WALK)].any()
    # it commits one token, in the time that verifying nothing takes
    prices = prices_of(COSTS, both.feature_names, both.layers)
    tokens, milliseconds = tokens_and_time(both, prices)
    assert (tokens[passed] == 1).all()
    np.testing.assert_allclose(milliseconds[passed], COSTS.for_policy(both.feature_names, both.layers).finish(8, 0))
    assert len(walks(both).truncated) == len(both.truncated) and bypassed(walks(both)).sum() == passed.sum()


def test_a_policy_counts_a_round_once_with_a_bypass(tmp_path):
    """Going on where layer 4 is reached, which is where layer 2 is wrong: a fifth of the rounds, a token each."""
    write_known(tmp_path, episodes=200, rounds=20)
    view = with_bypass(open_dataset(tmp_path).columns(horizon="round", features="extended"), MODEL_LAYERS)
    walking = view.raw["phase"] == WALK
    at_two = walking & (view.raw["layer"] == 2)
    exits = np.where(walking, at_two & view.raw["accepted"], False)
    weighted = Reweighted(view, exits)
    assert weighted.mean(bypassed(view)) == pytest.approx(0.2, abs=0.02)
    assert weighted.mean(at_two & (view.actions == EXIT)) == pytest.approx(0.8, abs=0.02)


def test_named_rewards(rounds):
    view = with_bypass(rounds, 16)
    passed = bypassed(view)
    paper = rewarded(view, "paper", 16, COSTS, None, None).rewards
    np.testing.assert_allclose(paper[passed], 0.99, rtol=1e-6)
    np.testing.assert_array_equal(paper[: len(rounds.rewards)], rounds.rewards)
    accepted = rewarded(rounds, "accepted", 16, COSTS, None, None).rewards
    drafts = (rounds.raw["phase"] != WALK) | (rounds.actions == EXIT)
    right = rounds.raw["accepted"].astype(bool)
    assert accepted.sum() == (drafts & right).sum() - (drafts & ~right).sum()
    assert (accepted[~drafts] == 0).all() and not rewarded(view, "accepted", 16, COSTS, None, None).rewards[
        passed
    ].any()


def test_a_reward_of_ones_own(rounds, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "import numpy as np\n"
        "def reward(columns, costs):\n"
        "    columns['margin'][:] = 7  # its own copy\n"
        "    return np.where(columns['accepted'], costs.layers, -columns['draft_index']) * columns['last']\n"
    )
    before = rounds.observations.copy()
    found = rewarded(rounds, str(file), 16, COSTS, None, None).rewards
    np.testing.assert_array_equal(rounds.observations, before)
    last = np.zeros(len(found), bool)
    last[rounds.chain_starts[1:] - 1] = True
    expected = np.where(rounds.raw["accepted"], MODEL_LAYERS, -rounds.raw["draft_index"].astype(float)) * last
    np.testing.assert_array_equal(found, expected.astype(np.float32))


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("x = 1", "no function reward"),
        ("def reward(columns, costs): return columns['typo']", "fails: KeyError: 'typo'"),
        ("def reward(columns, costs): return columns['margin'][:-1]", "has shape"),
        ("def reward(columns, costs): return columns['margin'] * float('nan')", "is nan at row 0"),
        ("def reward(columns, costs): return ['a']", "fails: ValueError"),
        ("def reward(", "fails: SyntaxError"),
    ],
)
def test_what_is_wrong_with_a_reward_of_ones_own_is_said(rounds, tmp_path, source, complaint):
    file = tmp_path / "mine.py"
    file.write_text(source)
    with pytest.raises(LearnError, match=complaint):
        rewarded(rounds, str(file), 16, COSTS, None, None)
