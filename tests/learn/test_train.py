"""Training from files alone: what is written, that it repeats, and that it finds a best policy that is known."""

import csv
import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from lede.learn.config import PRESETS, LearnConfig, preset
from lede.learn.errors import LearnError
from lede.learn.split import held_out, scaling, split
from lede.learn.train import learn
from lede.replay.errors import DatasetError
from lede.replay.reader import open_dataset
from lede.serve.policy import check_fits, load_policy
from tests.learn.toy import random_columns, write_known
from tests.replay.synthetic import header, write_dataset

QUICK = {"updates": 120, "score_every": 50, "batch_size": 32, "hidden": (16,)}


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    path = tmp_path_factory.mktemp("synthetic") / "data"
    write_dataset(path, 40, seed=0, layers=(0, 4, 5, 8))
    return path


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    path = tmp_path_factory.mktemp("known") / "data"
    write_known(path, episodes=80, rounds=15)
    return path


@pytest.mark.parametrize("name", ["dqn", "paper"])
def test_writes_a_policy_and_the_record_of_its_training(synthetic, tmp_path, name, capfd):
    calls = []
    config = preset(name, **QUICK)
    result = learn(synthetic, tmp_path / "out", config, lambda *now: calls.append(now))
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert sorted(os.listdir(tmp_path)) == ["out"]
    names = ["learning.csv", "learning.png", "policy.json", "policy.safetensors"]
    assert sorted(os.listdir(tmp_path / "out")) == names

    # Two rounds of 60 are 50 + 10 updates each, one of 120 is 50 + 50 + 20.
    expected = [50, 60, 110, 120] if name == "dqn" else [50, 100, 120]
    assert [call[0] for call in calls] == expected == [point.update for point in result.history]
    assert all(call[1] == 120 for call in calls) and all(np.isfinite(call[2:4]).all() for call in calls)
    with open(tmp_path / "out" / "learning.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["update"]) for row in rows] == expected
    assert list(rows[0])[:8] == (
        ["update", "loss", "mean_q", "validation_reward", "validation_rate", "exit_layer", "draft_length", "acceptance"]
    )
    assert (tmp_path / "out" / "learning.png").read_bytes().startswith(b"\x89PNG")

    policy = load_policy(tmp_path / "out")
    columns = open_dataset(synthetic).columns(features=config.features)
    assert policy.features == columns.feature_names and policy.layers == (0, 4, 5, 8)
    np.testing.assert_array_equal(policy.values(columns.observations), result.policy.values(columns.observations))
    model = header((0, 4, 5, 8))["model"]
    check_fits(policy, model)
    assert policy.info["dataset"] == {"name": "data", "runs": [run["id"] for run in open_dataset(synthetic).runs]}
    assert policy.info["hyperparameters"] == config.to_dict()
    assert policy.info["training"]["kept"] == result.update and policy.info["training"]["updates"] == 120
    summary = json.loads(json.dumps(result.summary()))
    assert (summary["folder"], summary["updates"]) == (str(tmp_path / "out"), 120)
    assert summary["static"]["rate"] == result.static.rate
    if name == "dqn":
        assert result.rate >= result.static.rate > 0
    else:
        assert result.rate is None


def test_the_same_seed_and_files_give_the_same_weights(synthetic, tmp_path):
    def digest(folder, **overrides):
        learn(synthetic, tmp_path / folder, preset(**QUICK, **overrides))
        return hashlib.sha256((tmp_path / folder / "policy.safetensors").read_bytes()).hexdigest()

    first = digest("a")
    torch.manual_seed(123)  # what goes on in the process around it must not matter
    np.random.seed(7)
    assert digest("b") == first
    assert digest("c", seed=1) != first
    assert (tmp_path / "a" / "policy.json").read_text() == (tmp_path / "b" / "policy.json").read_text()


def test_leaves_the_process_as_it_was(synthetic, tmp_path):
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    learn(synthetic, tmp_path, preset(**QUICK))
    assert torch.equal(torch.randn(3), expected)
    assert (torch.get_num_threads(), torch.get_float32_matmul_precision()) == (threads, precision)


def test_importing_prints_nothing_and_changes_nothing():
    code = (
        "import os, torch; before = dict(os.environ), torch.get_float32_matmul_precision(); import learn.train;"
        "assert before == (dict(os.environ), torch.get_float32_matmul_precision())"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize("name", ["dqn", "paper"])
def test_finds_the_policy_that_is_known_to_be_best(known, tmp_path, name):
    """Exit exactly where everything so far is right; see `toy.write_known`."""
    result = learn(known, tmp_path, preset(name, learning_rate=1e-3, updates=1500, score_every=250))
    policy = load_policy(tmp_path)
    horizon = PRESETS[name].horizon
    data = open_dataset(known).columns(horizon=horizon, features=PRESETS[name].features)
    free = ~data.raw["forced"]
    # Rows that the best policy itself would come to: all those before a first wrong draft, and that one.
    reached = free & ((data.raw["draft_index"] == 1) | np.concatenate([[True], data.raw["accepted"][:-1]]))
    right = data.raw["accepted"][reached]
    agreement = (policy.exits(data.observations[reached]) == right).mean()
    assert agreement > 0.97
    if name == "dqn":
        assert result.score.rate > result.static.rate  # knows when to stop, which no static rule does


def test_diverging_says_what_to_do(known, tmp_path):
    with pytest.raises(LearnError, match=r"diverged after .* lower the learning rate"):
        learn(known, tmp_path / "out", preset(**(QUICK | {"updates": 2000}), learning_rate=10.0, n_steps=1))
    assert not list((tmp_path / "out").iterdir())


def test_an_impossible_folder_is_heard_of_before_training(known, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError):
        learn(known, tmp_path / "file", preset(**QUICK), lambda *_: pytest.fail("it trained"))


def test_too_little_data(tmp_path):
    write_known(tmp_path / "one", episodes=1)
    with pytest.raises(LearnError, match="collect at least two"):
        learn(tmp_path / "one", tmp_path / "out")
    with pytest.raises(DatasetError):
        learn(tmp_path / "nowhere", tmp_path / "out")


def test_without_costs_only_the_papers_reward_can_be_learned(known, tmp_path, monkeypatch):
    def none(dataset):
        raise DatasetError("no measured costs")

    monkeypatch.setattr("lede.learn.data.dataset_costs", none)
    with pytest.raises(DatasetError, match="costs"):
        learn(known, tmp_path / "time", preset(**QUICK))
    result = learn(known, tmp_path / "paper", preset("paper", **QUICK))
    assert result.static is None and np.isnan(result.score.rate) and np.isfinite(result.score.reward)
    assert json.loads((tmp_path / "paper" / "policy.json").read_text())["training"]["validation"]["rate"] is None
    assert ",," in (tmp_path / "paper" / "learning.csv").read_text()


def test_a_later_round_never_lowers_the_rate(known, tmp_path):
    result = learn(known, tmp_path, preset(**(QUICK | {"updates": 90}), outer=3))
    assert len(result.history) == 3 and result.rate >= result.static.rate


def test_episodes_are_split_whole_and_for_good():
    data = random_columns(0, chains=400)
    train, held = split(data, 0.15)
    assert not set(train.episodes) & set(held.episodes)
    assert len(train.actions) + len(held.actions) == len(data.actions)
    assert train.chain_starts[-1] == len(train.actions) and len(train.truncated) == len(train.chain_starts) - 1
    numbers = np.arange(2000)
    chosen = held_out(numbers, 0.15)
    assert 0.12 < chosen.mean() < 0.18
    grown = held_out(np.arange(4000), 0.15)
    np.testing.assert_array_equal(grown[:2000], chosen)
    for share in (1e-9, 1 - 1e-9):
        assert sorted(held_out(np.array([3, 4, 4]), share)[:2]) == [False, True]


def test_scaling_leaves_indicators_and_constants_alone():
    rows = np.stack([np.arange(10), np.arange(10) == 3, np.full(10, 7)], axis=1).astype(np.float32)
    mean, scale = scaling(rows)
    np.testing.assert_allclose(mean, [4.5, 0, 0])
    np.testing.assert_allclose(scale, [np.arange(10).std(), 1, 1])


def test_presets():
    paper = preset("paper")
    assert (paper.horizon, paper.reward, paper.features) == ("walk", "paper", "paper")
    assert (paper.gamma, paper.n_steps, paper.batch_size, paper.target_interval) == (0.99, 3, 32, 512)
    assert (paper.learning_rate, paper.sigma0) == (6.25e-5, 0.1)
    assert paper.updates_for(1000) == 250 and paper.updates_for(1) == 1
    assert preset("paper", updates=7, gamma=None).updates_for(1000) == 7
    assert preset() == LearnConfig()


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        ({"horizon": "walk"}, "whole rounds"),
        ({"horizon": "week"}, "choose walk or round"),
        ({"features": "all"}, "choose paper or extended"),
        ({"gamma": 1.5}, "gamma"),
        ({"updates": 0}, "updates"),
        ({"n_steps": 0}, "n_steps"),
        ({"hidden": ()}, "hidden"),
        ({"validation": 1.0}, "validation"),
        ({"typo": 1}, "no such option: typo"),
    ],
)
def test_wrong_options_are_named(overrides, complaint):
    with pytest.raises(LearnError, match=complaint):
        preset(**overrides)
    with pytest.raises(LearnError, match="dqn or paper"):
        preset("papre")
