"""Views of the same rows: fewer candidates, one more action, other rewards, and decisions drawn anew from sweeps."""

import numpy as np
import pytest

from lede.learn.errors import LearnError
from lede.learn.importance import Reweighted
from lede.learn.rewards import rewarded
from lede.process import CONTINUE, EXIT, WALK
from lede.replay.columns import complete, with_candidates
from lede.replay.errors import DatasetError
from lede.replay.reader import open_dataset
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


def test_walks_end_with_their_exit(dataset, rounds):
    theirs = dataset.columns(horizon="walk", features="paper")
    walking = rounds.raw["phase"] == WALK
    at = [rounds.feature_names.index(name) for name in theirs.feature_names]
    np.testing.assert_array_equal(theirs.observations, rounds.observations[walking][:, at])
    np.testing.assert_array_equal(theirs.rewards, rounds.rewards[walking])
    assert not theirs.truncated.any() and (theirs.actions[theirs.chain_starts[1:] - 1] == EXIT).all()
    np.testing.assert_array_equal(np.flatnonzero(theirs.terminals), theirs.chain_starts[1:] - 1)


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
    with pytest.raises(DatasetError, match="not at 0, 7"):
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


def test_named_rewards(rounds):
    paper = rewarded(rounds, "paper", 16, COSTS, None, None).rewards
    np.testing.assert_array_equal(paper, rounds.rewards)
    accepted = rewarded(rounds, "accepted", 16, COSTS, None, None).rewards
    drafts = (rounds.raw["phase"] != WALK) | (rounds.actions == EXIT)
    right = rounds.raw["accepted"].astype(bool)
    assert accepted.sum() == (drafts & right).sum() - (drafts & ~right).sum()
    assert (accepted[~drafts] == 0).all()


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
        ("x = 1", "fails: KeyError: 'reward'"),
        ("def reward(columns, costs): return columns['typo']", "fails: KeyError: 'typo'"),
        ("def reward(columns, costs): return columns['margin'][:-1]", "a finite number for each"),
        ("def reward(columns, costs): return columns['margin'] * float('nan')", "a finite number for each"),
        ("def reward(columns, costs): return ['a']", "fails: ValueError"),
        ("def reward(", "fails: SyntaxError"),
    ],
)
def test_what_is_wrong_with_a_reward_of_ones_own_is_said(rounds, tmp_path, source, complaint):
    file = tmp_path / "mine.py"
    file.write_text(source)
    with pytest.raises(LearnError, match=complaint):
        rewarded(rounds, str(file), 16, COSTS, None, None)
