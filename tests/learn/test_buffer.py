"""The column buffer against d3rlpy's own picker, transition by transition."""

import numpy as np
import pytest

from lede.learn.buffer import ColumnBuffer, n_step_targets
from lede.learn.library import d3rlpy
from tests.learn.toy import columns, random_columns


def make(data, n_steps=3, gamma=0.99, seed=0, **options) -> ColumnBuffer:
    return ColumnBuffer(data, data.observations, n_steps, gamma, np.random.default_rng(seed), **options)


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
def test_every_transition_equals_the_library_s(n_steps, gamma):
    data = random_columns(seed=n_steps)
    buffer = make(data, n_steps, gamma)
    picker = d3rlpy.dataset.MultiStepTransitionPicker(n_steps=n_steps, gamma=gamma)
    rows, expected = [], []
    for offset, episode in episodes_of(data):
        rows += [offset + index for index in range(episode.transition_count)]
        expected += [picker(episode, index) for index in range(episode.transition_count)]
    np.testing.assert_array_equal(buffer.rows, rows)
    assert buffer.transition_count == buffer.size() == len(rows) < len(data.actions)

    ours, theirs = buffer.batch(buffer.rows), d3rlpy.dataset.TransitionMiniBatch.from_transitions(expected)
    for name in ("observations", "actions", "next_observations", "next_actions", "terminals", "intervals"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)
    np.testing.assert_allclose(ours.rewards, theirs.rewards, rtol=1e-6, atol=1e-6)


def test_the_last_row_of_a_truncated_chain_starts_no_transition():
    one = {"observations": np.ones((1, 2)), "actions": [1], "rewards": [5.0], "truncated": True}
    whole = {"observations": np.ones((2, 2)), "actions": [0, 1], "rewards": [1.0, 2.0]}
    assert make(columns([one])).transition_count == 0
    np.testing.assert_array_equal(make(columns([one, whole])).rows, [1, 2])


def test_samples_are_uniform_and_reproducible():
    data = random_columns(seed=3)
    buffer = make(data, n_steps=1)
    batch = buffer.sample_transition_batch(40 * buffer.transition_count)
    _, counts = np.unique(batch.observations[:, 0], return_counts=True)
    assert len(counts) == buffer.transition_count  # every observation is different
    assert counts.min() > 10 and counts.max() < 90
    again = make(data, n_steps=1).sample_transition_batch(40 * buffer.transition_count)
    np.testing.assert_array_equal(batch.observations, again.observations)


def test_batches_are_what_the_library_asks_for():
    batch = make(random_columns(seed=1)).sample_transition_batch(7)  # checks float32 and 2-D itself
    assert batch.observations.shape == batch.next_observations.shape == (7, 4)
    assert batch.actions.shape == batch.rewards.shape == batch.terminals.shape == batch.intervals.shape == (7, 1)


def test_looks_through_forced_actions():
    chain = {
        "observations": np.arange(5)[:, None],
        "actions": [0, 1, 1, 1, 0],
        "rewards": [1.0, 10.0, 100.0, 1000.0, 10000.0],
        "forced": [False, True, False, False, True],
    }
    data = columns([chain, {**chain, "truncated": True}])
    targets = n_step_targets(data, n_steps=1, gamma=0.5, through_forced=True)
    # From row 0 through the forced row 1 to row 2; from row 3 through the forced row 4 to the end, unless that row is
    # the last of a truncated chain, whose successor nobody knows.
    np.testing.assert_allclose(targets.returns, [6, 10, 100, 6000, 10000, 6, 10, 100, 1000, 0])
    np.testing.assert_array_equal(targets.intervals, [2, 1, 1, 2, 1, 2, 1, 1, 1, 0])
    np.testing.assert_array_equal(targets.next_row, [2, 2, 3, 10, 10, 7, 7, 8, 9, 9])
    np.testing.assert_array_equal(targets.terminals, [0, 0, 0, 1, 1, 0, 0, 0, 0, 0])


def test_forced_targets_never_bootstrap_at_a_forced_row():
    data = random_columns(seed=9)
    targets = n_step_targets(data, n_steps=2, gamma=1.0, through_forced=True)
    follows = targets.next_row[(targets.terminals == 0) & (targets.intervals > 0)]
    last_of_truncated = data.chain_starts[1:][data.truncated] - 1
    assert set(follows[data.raw["forced"][follows]]) <= set(last_of_truncated)


def test_cannot_be_written_to():
    buffer = make(random_columns(seed=1))
    with pytest.raises(NotImplementedError, match="read-only"):
        buffer.append(None, 0, 0.0)
    with pytest.raises(NotImplementedError):
        _ = buffer.episodes
