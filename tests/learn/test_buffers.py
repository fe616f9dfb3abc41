"""The two buffers: logged rows against d3rlpy's own picker, and transitions from sweeps against rollouts."""

import numpy as np
import pytest
import torch

from lede.learn.buffers import (
    ANYWHERE,
    TableBuffer,
    Transitions,
    drawn_starts,
    logged_transitions,
    swept_transitions,
)
from lede.learn.library import d3rlpy
from lede.process import CONTINUE, EXIT
from lede.simulate.batched import Engine
from tests.learn.swept import made_up
from tests.learn.toy import COSTS, columns, random_columns
from tests.simulate.test_batched import features, network


def made(data, n_steps=3, gamma=0.99, **options) -> Transitions:
    return logged_transitions(data, data.observations, n_steps, gamma, **options)


def buffer(transitions, seed=0, paired=False) -> TableBuffer:
    out = TableBuffer(np.random.default_rng(seed), paired)
    out.fill(transitions)
    return out


def episodes_of(data):
    """The same chains as d3rlpy's episodes, with the offset of each."""
    for number, (start, stop) in enumerate(zip(data.chain_starts, data.chain_starts[1:], strict=False)):
        yield (
            int(start),
            d3rlpy.dataset.Episode(
                observations=data.observations[start:stop],
                actions=data.actions[start:stop, None].astype(np.int64),
                rewards=data.rewards[start:stop, None],
                terminated=not data.truncated[number],
            ),
        )


@pytest.mark.parametrize("n_steps", [1, 2, 3, 6, 20])
@pytest.mark.parametrize("gamma", [0.99, 1.0])
def test_every_logged_transition_equals_the_library_s(n_steps, gamma):
    data = random_columns(seed=n_steps)
    data.raw["forced"][:] = False
    ours = made(data, n_steps, gamma)
    picker = d3rlpy.dataset.MultiStepTransitionPicker(n_steps=n_steps, gamma=gamma)
    rows, expected = [], []
    for offset, episode in episodes_of(data):
        rows += [offset + index for index in range(episode.transition_count)]
        expected += [picker(episode, index) for index in range(episode.transition_count)]
    np.testing.assert_array_equal(ours.rows, rows)
    filled = buffer(ours)
    assert filled.transition_count == filled.size() == len(rows) < len(data.actions)
    batch = filled.batch(np.arange(len(rows)))
    theirs = d3rlpy.dataset.TransitionMiniBatch.from_transitions(expected)
    for name in ("observations", "actions", "next_observations", "terminals", "intervals"):
        np.testing.assert_array_equal(getattr(batch, name), getattr(theirs, name), err_msg=name)
    np.testing.assert_allclose(batch.rewards, theirs.rewards, rtol=1e-6, atol=1e-6)


def test_the_last_row_of_a_truncated_chain_starts_no_transition():
    one = {"observations": np.ones((1, 2)), "actions": [1], "rewards": [5.0], "truncated": True}
    whole = {"observations": np.ones((2, 2)), "actions": [0, 1], "rewards": [1.0, 2.0]}
    assert not len(made(columns([one])).rows)
    np.testing.assert_array_equal(made(columns([one, whole])).rows, [1, 2])


def test_looks_through_forced_actions():
    chain = {
        "observations": np.arange(5)[:, None],
        "actions": [0, 1, 1, 1, 0],
        "rewards": [1.0, 10.0, 100.0, 1000.0, 10000.0],
        "forced": [False, True, False, False, True],
    }
    data = columns([chain, {**chain, "truncated": True}])
    found = made(data, n_steps=1, gamma=0.5)
    # From row 0 through the forced row 1 to row 2; from row 3 through the forced row 4 to the end, unless that row is
    # the last of a truncated chain, whose successor nobody knows.
    np.testing.assert_array_equal(found.rows, [0, 1, 2, 3, 4, 5, 6, 7, 8])
    np.testing.assert_allclose(found.returns, [6, 10, 100, 6000, 10000, 6, 10, 100, 1000])
    np.testing.assert_array_equal(found.intervals, [2, 1, 1, 2, 1, 2, 1, 1, 1])
    np.testing.assert_array_equal(found.next_rows, [2, 2, 3, 10, 10, 7, 7, 8, 9])


def test_a_return_is_cut_where_the_log_leaves_the_greedy_action():
    chain = {"observations": np.arange(4)[:, None], "actions": [0, 0, 1, 1], "rewards": [1.0, 10.0, 100.0, 1000.0]}
    chain["forced"] = [False, False, False, True]
    greedy = np.array([True, False, False, False])  # differs at rows 0, 2 and 3; 3 is forced
    found = made(columns([chain]), n_steps=3, gamma=1.0, greedy=greedy)
    np.testing.assert_allclose(found.returns, [11, 10, 1100, 1000])
    np.testing.assert_array_equal(found.next_rows, [2, 2, 4, 4])
    assert made(columns([chain]), n_steps=3, gamma=1.0).returns.tolist() == [1111, 1110, 1100, 1000]


def test_samples_are_uniform_and_reproducible():
    transitions = made(random_columns(seed=3), n_steps=1)
    count = len(transitions.rows)
    batch = buffer(transitions).sample_transition_batch(40 * count)  # checks float32 and 2-D itself
    _, counts = np.unique(batch.observations[:, 0], return_counts=True)
    assert len(counts) == count  # every observation is different
    assert counts.min() > 10 and counts.max() < 90
    again = buffer(transitions).sample_transition_batch(40 * count)
    np.testing.assert_array_equal(batch.observations, again.observations)


def test_cannot_be_written_to():
    with pytest.raises(NotImplementedError):
        buffer(made(random_columns(seed=1))).append(None, 0, 0.0)


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "bypass"])
def played(request):
    """An engine, a policy and its rollout."""
    layers, bypass = (0, 2, 4), request.param
    names = features(layers, bypass)
    engine = Engine(made_up(3, layers, count=6), COSTS, names, bypass=bypass, max_drafts=7)
    policy = network(names, (*layers, 8) if bypass else layers, 1)
    return engine, policy, engine.play(policy.exits)


RATE = 0.6


def test_long_returns_from_sweeps_are_what_rounds_are_worth(played):
    """With as many steps as a round has, a return is that of taking the action and being greedy to the round's end."""
    engine, policy, rollout = played
    rng = np.random.default_rng(0)
    found = swept_transitions(engine, policy, rollout.starts, RATE, 99, 1.0, rng, rounds=200)
    assert (found.next_rows == len(found.observations) - 1).all()
    for action in (CONTINUE, EXIT):
        assert (found.actions[action::2] == action).all()  # both actions of every state, one behind the other
    np.testing.assert_array_equal(found.rows[::2], found.rows[1::2])

    rng = np.random.default_rng(0)  # the same starts again
    starts = drawn_starts(engine, rollout.starts, ANYWHERE, 200, rng)
    rounds = engine.rounds(starts)
    shape = rounds.rows.shape[:3]
    greedy = torch.from_numpy(policy.exits(rounds.rows.reshape(-1, rounds.rows.shape[-1]).numpy())).reshape(shape)
    gains = (rounds.tokens - RATE * rounds.milliseconds)[..., None]
    worth = rounds.expected(greedy.double(), gains, torch.zeros(200, 1))[:, 0]
    checked = 0
    for number in range(0, len(found.rows), 2):
        b, node = divmod(int(found.rows[number]), shape[1] * shape[2])
        if node != int(rounds.first[b]):
            continue
        c, k = divmod(node, shape[2])
        assert found.returns[number + int(greedy[b, c, k])] == pytest.approx(float(worth[b]))
        checked += 1
    assert checked > 50


def test_short_returns_from_sweeps_add_up_along_greedy_actions(played):
    """A 1-step return, and then the (n-1)-step return of the greedy action at the next state."""
    engine, policy, rollout = played

    def steps(n):
        return swept_transitions(engine, policy, rollout.starts, RATE, n, 0.9, np.random.default_rng(1), rounds=300)

    one, two, three = (steps(n) for n in (1, 2, 3))
    end = len(one.observations) - 1
    values = policy.values(np.asarray(one.observations * policy.scale + policy.mean))
    at = {
        (int(row), int(action)): number for number, (row, action) in enumerate(zip(two.rows, two.actions, strict=True))
    }
    checked = 0
    for number, following in enumerate(one.next_rows.tolist()):
        if following == end:
            assert three.returns[number] == pytest.approx(one.returns[number])
        elif one.intervals[number] > 1:
            continue  # a forced action in between is a step of the longer return, but none of these two
        elif (then := at.get((following, int(values[following, 1] > values[following, 0])))) is not None:
            expected = one.returns[number] + 0.9 ** one.intervals[number] * two.returns[then]
            assert three.returns[number] == pytest.approx(expected)
            assert three.next_rows[number] == two.next_rows[then]
            checked += 1
    assert checked > 100
