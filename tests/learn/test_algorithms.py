"""Every algorithm ends as a plain network that decides as the algorithm does."""

import numpy as np
import pytest

from lede.learn.algorithms import BCQ_RATIO, _masked, exported, make_algorithm
from lede.learn.buffer import ColumnBuffer
from lede.learn.config import ALGORITHMS, preset
from lede.learn.errors import LearnError
from lede.learn.library import quiet
from lede.learn.train import _fit, learn
from lede.replay.reader import open_dataset
from lede.serve.policy import Policy, load_policy
from tests.learn.toy import random_columns, write_known

QLEARNERS = tuple(name for name in ALGORITHMS if name != "fitted")


@pytest.mark.parametrize("name", QLEARNERS)
def test_the_export_is_the_algorithms_own_greedy_policy(name):
    columns = random_columns(1, chains=80, features=5)
    config = preset(algorithm=name, hidden=(24, 16), batch_size=32, learning_rate=1e-2)
    with quiet():
        algorithm = make_algorithm(config)
        buffer = ColumnBuffer(columns, columns.observations, config.n_steps, config.gamma, np.random.default_rng(0))
        for _ in _fit(algorithm, buffer, 150, 150):
            pass
    weights = exported(algorithm, config)
    rows = np.random.default_rng(1).normal(size=(2000, 5)).astype(np.float32)
    policy = Policy(tuple("abcde"), (2, 4), weights, np.zeros(5, np.float32), np.ones(5, np.float32))
    values, actions = policy.values(rows), algorithm.predict(rows)
    clear = np.abs(values[:, 1] - values[:, 0]) > 1e-4
    assert clear.mean() > 0.95 and 0.02 < actions.mean() < 0.98
    np.testing.assert_array_equal(policy.exits(rows)[clear], actions[clear] == 1)
    if name != "bcq":
        theirs = np.stack([algorithm.predict_value(rows, np.full(len(rows), action)) for action in (0, 1)], axis=1)
        np.testing.assert_allclose(values, theirs, atol=1e-4)


def test_the_masked_choice_of_bcq_is_expressed_exactly():
    """Beyond a ratio of 0.3 the imitator decides, within it the values."""
    rng = np.random.default_rng(0)
    head, imitator = ((rng.normal(size=(2, 8)), rng.normal(size=2)) for _ in range(2))
    x = rng.normal(size=(5000, 8))
    q, g = ((x @ w.T + b) @ (-1, 1) for w, b in (head, imitator))
    y = x
    for number, (weight, bias) in enumerate(_masked(head, imitator)):
        y = y @ weight.T + bias
        y = np.maximum(y, 0) if number < 2 else y
    limit = -np.log(BCQ_RATIO)
    expected = np.where(g > limit, True, np.where(g < -limit, False, q > 0))
    assert 0.1 < (np.abs(g) > limit).mean() < 0.9
    clear = np.abs(y[:, 1]) > 1e-4
    np.testing.assert_array_equal((y[:, 1] > y[:, 0])[clear], expected[clear])


@pytest.mark.parametrize("name", ["cql", "bcq", "qr_dqn"])
def test_each_learns_what_is_known_to_be_best(tmp_path, name):
    write_known(tmp_path / "data", episodes=60, rounds=15)
    learn(
        tmp_path / "data", tmp_path / "out", preset(algorithm=name, learning_rate=2e-3, updates=1200, score_every=400)
    )
    policy = load_policy(tmp_path / "out")
    data = open_dataset(tmp_path / "data").columns(horizon="round", features="extended")
    reached = ~data.raw["forced"] & ((data.raw["draft_index"] == 1) | np.append(True, data.raw["accepted"][:-1]))
    assert (policy.exits(data.observations[reached]) == data.raw["accepted"][reached]).mean() > 0.95


def test_fitted_needs_sweeps_and_takes_no_reward(tmp_path):
    write_known(tmp_path / "data", episodes=20)
    with pytest.raises(LearnError, match="not every episode was swept"):
        learn(tmp_path / "data", tmp_path / "out", preset(algorithm="fitted"))
    with pytest.raises(LearnError, match="leave out --reward"):
        preset(algorithm="fitted", reward="paper")
    assert preset(algorithm="fitted", seed=4).hidden == preset("fitted").hidden != preset().hidden
