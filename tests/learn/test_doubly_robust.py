"""Doubly robust estimates, against a rate that is known."""

import numpy as np
import pytest
import torch

from lede.learn.doubly_robust import _as_algorithm, doubly_robust
from lede.learn.offpolicy import complete
from lede.learn.split import split
from lede.replay.reader import open_dataset
from lede.serve.policy import Policy
from tests.learn.toy import COSTS, write_known

CHANCE, MOST = 0.8, 12


def threshold(columns, sign=1.0):
    """The policy that exits where conf_topk > 0.5: exactly where all is right, the best there is in `write_known`."""
    weight = np.zeros((2, len(columns.feature_names)), np.float32)
    weight[1, columns.feature_names.index("conf_topk")] = sign
    zeros = np.zeros(weight.shape[1], np.float32)
    last = np.array([0, -0.5 * sign], np.float32)
    return Policy(columns.feature_names, columns.layers, ((weight, last),), zeros, zeros + 1)


def known_rate():
    """Its tokens a millisecond: a round is right up to a = 1…12 with chance 0.8^(a-1)·0.2, and drafts one more."""
    chances = [CHANCE ** (a - 1) * (1 - CHANCE) for a in range(1, MOST)] + [CHANCE ** (MOST - 1)]
    tokens = milliseconds = 0.0
    for layer, share in ((2, CHANCE), (4, 1 - CHANCE)):
        reach = COSTS.step(0, 2) + (COSTS.step(2, 4) if layer == 4 else 0)
        for a, chance in enumerate(chances, start=1):
            drafts = min(a + 1, MOST)
            tokens += share * chance * (a + 1)
            milliseconds += share * chance * (reach + (drafts - 1) * COSTS.draft(layer) + COSTS.finish(layer, drafts))
    return tokens / milliseconds


def estimates(tmp_path, episodes, seeds, updates):
    for seed in seeds:
        path = tmp_path / f"{seed}"
        write_known(path, episodes=episodes, rounds=15, seed=seed)
        train, held = split(open_dataset(path).columns(horizon="round", features="extended"), 0.4)
        yield doubly_robust(threshold(train), train, complete(held), COSTS, updates)


def test_it_is_right_about_a_policy_whose_rate_is_known_and_nearer_than_weights_alone(tmp_path):
    known = known_rate()
    found = list(estimates(tmp_path, 100, range(4), 1000))
    assert all(one.low < known < one.high for one in found)
    off = np.array([(one.rate - known, one.weighted - known) for one in found]) / known
    assert np.abs(off[:, 0]).max() < 0.1 and np.sqrt((off**2).mean(0))[0] < np.sqrt((off**2).mean(0))[1]
    assert all(0 < one.high - one.low < 0.5 * known for one in found)


def test_a_policy_that_the_log_never_followed_is_still_estimated(tmp_path):
    """The weights say nothing of one that goes on exactly where all is right; the prediction does."""
    write_known(tmp_path, episodes=100, rounds=15)
    train, held = split(open_dataset(tmp_path).columns(horizon="round", features="extended"), 0.4)
    best, worst = (doubly_robust(threshold(train, sign), train, complete(held), COSTS, 600) for sign in (1.0, -1.0))
    assert worst.rate < best.low


def test_the_evaluated_algorithm_is_the_policy():
    rng = np.random.default_rng(0)
    weights = tuple(
        (rng.normal(size=size).astype(np.float32), rng.normal(size=size[0]).astype(np.float32))
        for size in ((6, 3), (2, 6))
    )
    mean, scale = rng.normal(size=(2, 3)).astype(np.float32)
    policy = Policy(("a", "b", "c"), (2,), weights, mean, np.abs(scale))
    rows = rng.normal(size=(500, 3)).astype(np.float32)
    centre, width = rows.mean(0), rows.std(0)
    algorithm = _as_algorithm(policy, centre, width)
    actions = algorithm.impl.predict_best_action(torch.from_numpy((rows - centre) / width)).numpy()
    assert (actions == policy.exits(rows)).mean() == pytest.approx(1, abs=0.01)
