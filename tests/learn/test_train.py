"""Training from files alone: what is written, that it repeats, and that it finds a best policy that is known."""

import csv
import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from lede.learn.config import LearnConfig, preset
from lede.learn.data import Data, scaling
from lede.learn.errors import LearnError
from lede.learn.train import learn, train
from lede.policy import check_fits, load_policy
from lede.replay.errors import DatasetError
from lede.replay.reader import open_dataset
from lede.replay.schema import OF_SAMPLED
from lede.replay.writer import EpisodeWriter
from lede.simulate.costs import costs_device
from lede.simulate.oracle import best_static, ceiling
from tests.learn.swept import made_up
from tests.learn.toy import KNOWN_COSTS, write_known
from tests.replay.synthetic import header, make_episode, start, write_dataset

QUICK = {"updates": 120, "score_every": 50, "batch_size": 32, "hidden": (16,)}
LAYERS = (0, 4, 5, 8)


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    path = tmp_path_factory.mktemp("synthetic") / "data"
    write_dataset(path, 40, seed=0, layers=LAYERS, with_sweeps=True)
    return path


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    path = tmp_path_factory.mktemp("known") / "data"
    write_known(path, episodes=120, rounds=15)
    return path


@pytest.mark.parametrize("name", ["default", "log", "paper", "fitted"])
def test_writes_a_policy_and_the_record_of_its_training(synthetic, tmp_path, name, capfd):
    calls = []
    options = QUICK | ({"source": "log"} if name == "log" else {})
    config = preset("default" if name == "log" else name, **options)
    result = learn(synthetic, tmp_path / "out", config, lambda step, score: calls.append((step, score)))
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert sorted(os.listdir(tmp_path)) == ["out"]
    names = ["learning.csv", "learning.png", "policy.json", "policy.safetensors"]
    assert sorted(os.listdir(tmp_path / "out")) == names

    expected = ([0] if name == "fitted" else []) + [50, 100, 120]
    assert [step.update for step, _ in calls] == expected == [point["update"] for point in result.history]
    assert all(step.total == 120 for step, _ in calls)
    with open(tmp_path / "out" / "learning.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["update"]) for row in rows] == expected
    columns = "update,loss,rate_to_beat,reward,reward_error,rate,rate_error,exit_layer,drafts,acceptance,effective"
    assert ",".join(rows[0]) == columns
    assert (tmp_path / "out" / "learning.png").read_bytes().startswith(b"\x89PNG")

    policy = load_policy(tmp_path / "out")
    source = "sweeps" if name in ("default", "fitted") else "log"
    kept = {"paper": LAYERS[1:], "log": LAYERS}.get(name, (*LAYERS, 16))  # from sweeps also no draft
    assert policy.layers == kept and policy.max_drafts == (31 if name in ("default", "fitted") else 12)
    assert not {"conf_trace", "accept_trace"} & {*policy.features} or name == "paper"
    check_fits(policy, header(LAYERS)["model"])
    dataset = open_dataset(synthetic)
    assert policy.info["device"] == costs_device(dataset)
    assert policy.info["dataset"] == {"name": "data", "runs": [run["id"] for run in dataset.runs]}
    assert policy.info["hyperparameters"] == replace(config, source=source, bypass=source == "sweeps").to_dict()
    told = json.loads(json.dumps(result.summary()))
    kept_at = policy.info["training"]["kept"]
    # of 24 of the 40 texts, every third of which was sampled
    assert told["temperatures"] == {"min": 0.0, "max": 0.75, "sampled": pytest.approx(1 / 3, abs=0.05)}
    assert (told["folder"], told["updates"], told["kept"]) == (str(tmp_path / "out"), 120, kept_at)
    assert told["static"]["rate"] == result.data.static.rate and told["costs"].startswith("costs: run")
    if name in ("default", "log"):
        assert told["rate"] >= result.data.static.rate > 0
    # what chose the network is not what measures it
    data = Data(dataset, config)
    for side, score in (("validation", result.score), ("test", result.test)):
        assert data.score(policy, side, told["rate"]).rate == score.rate
    kept = next(point for point in result.history if point["update"] == kept_at)
    assert kept["rate"] == result.score.rate


@pytest.mark.slow
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
        "import os, torch; before = dict(os.environ), torch.get_float32_matmul_precision(); import lede.learn.train;"
        "assert before == (dict(os.environ), torch.get_float32_matmul_precision())"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize("algorithm", ["double_dqn", "dqn"])
def test_finds_the_policy_that_is_known_to_be_best_from_a_log(known, tmp_path, algorithm):
    """Exit exactly where everything so far is right; see `toy.write_known`."""
    config = preset(algorithm=algorithm, learning_rate=2e-3, updates=1500, score_every=500)
    result = learn(known, tmp_path, config)
    policy = load_policy(tmp_path)
    assert policy.info["hyperparameters"]["source"] == "log" and policy.max_drafts == 12
    data = open_dataset(known).columns(horizon="round", features="extended")
    seen = data.observations[:, [data.feature_names.index(name) for name in policy.features]]
    # Rows that the best policy itself would come to: all those before a first wrong draft, and that one.
    reached = ~data.raw["forced"] & (
        (data.raw["draft_index"] == 1) | np.concatenate([[True], data.raw["accepted"][:-1]])
    )
    assert (policy.exits(seen[reached]) == data.raw["accepted"][reached]).mean() > 0.95
    # It knows when to stop, which no fixed rule does: at layer 2 those are right with 0.8 at each draft.
    tokens = 1 + np.cumsum(0.8 ** np.arange(1, 13))
    fixed = max(made / KNOWN_COSTS.fixed(2, drafts) for drafts, made in enumerate(tokens.tolist(), 1))
    assert result.score.rate > fixed and result.data.static is None


def test_the_papers_recipe_finds_it_too(known, tmp_path):
    config = preset("paper", learning_rate=1e-3, updates=1000, score_every=500)
    learn(known, tmp_path, config)
    data = open_dataset(known).columns(horizon="walk", features="paper")
    free = ~data.raw["forced"]
    assert (load_policy(tmp_path).exits(data.observations[free]) == data.raw["accepted"][free]).mean() > 0.97


@pytest.mark.parametrize("algorithm", ["double_dqn", "dqn", "fitted"])
def test_finds_from_sweeps_what_there_is_to_know(synthetic, tmp_path, monkeypatch, algorithm):
    """margin tells right from wrong: a policy exits and drafts on where it is high, and gets near the oracle."""
    costs = replace(KNOWN_COSTS, round=0.3)
    sides = {
        side: made_up(seed, count=30, longest=40, chance=0.8, signal=0.05)
        for seed, side in enumerate(("train", "validation", "test"))
    }
    options = {"updates": 150} if algorithm == "fitted" else {"updates": 1000, "score_every": 250}
    monkeypatch.setattr("lede.learn.data.dataset_costs", lambda dataset: (costs, ""))
    monkeypatch.setattr(Data, "texts", lambda self, side: sides[side])
    monkeypatch.setattr(Data, "groups", lambda self, side: np.arange(30))
    monkeypatch.setattr(Data, "temperatures", lambda self: {"min": 0.0, "max": 0.0, "sampled": 0.0})
    config = preset(algorithm=algorithm, candidates=(0, 2, 4), hidden=(16,), **options)
    data = Data(open_dataset(synthetic), config)
    result = train(data, tmp_path)
    by_hand = data.engine("test").play(lambda rows: rows[:, data.features.index("margin")] > 0.5).rate
    assert best_static(sides["test"], costs).rate < 0.95 * by_hand
    assert 0.95 * by_hand < result.test.rate < ceiling(sides["test"], costs, decisions=True).rate


def test_layers_that_do_not_pay_are_left_out_unless_asked_for(synthetic, monkeypatch):
    dataset = open_dataset(synthetic)
    kept = (dataset.layers[0], dataset.layers[2])
    monkeypatch.setattr("lede.learn.data.worthwhile", lambda texts, costs: kept)
    data = Data(dataset, LearnConfig())
    assert data.layers == kept and sorted(kept + data.left_out) == list(dataset.layers)
    assert data.candidates == (*kept, dataset.model_layers) and data.texts("train").layers == kept
    for asked in ({"candidates": dataset.layers[1:]}, {"source": "log"}, {"reward": "accepted"}):
        assert Data(dataset, LearnConfig(**asked)).left_out == ()


def test_diverging_says_what_to_do(known, tmp_path):
    with pytest.raises(LearnError, match=r"diverged after .* lower the learning rate"):
        learn(
            known, tmp_path / "out", preset(**(QUICK | {"updates": 2000}), learning_rate=10.0, n_steps=1, averaging=0.0)
        )
    assert not list((tmp_path / "out").iterdir())


def test_an_impossible_folder_is_heard_of_before_training(known, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError):
        learn(known, tmp_path / "file", preset(**QUICK), lambda *_: pytest.fail("it trained"))


def test_too_little_data(tmp_path):
    write_known(tmp_path / "one", episodes=1)
    with pytest.raises(LearnError, match=r"episodes to train on, \d to validate on, \d to test on.*collect more"):
        learn(tmp_path / "one", tmp_path / "out")
    with pytest.raises(DatasetError):
        learn(tmp_path / "nowhere", tmp_path / "out")


def test_mixed_datasets_learn_from_the_episodes_that_were_swept(tmp_path):
    write_dataset(tmp_path / "d", 40, seed=0, layers=LAYERS, with_sweeps=True)
    alone = learn(tmp_path / "d", tmp_path / "alone", preset(**QUICK))
    write_dataset(tmp_path / "d", 20, seed=5, layers=LAYERS, with_sweeps=False)
    mixed = learn(tmp_path / "d", tmp_path / "mixed", preset(**QUICK))
    assert mixed.data.config.source == "sweeps" and mixed.test == alone.test
    files = [tmp_path / name / "policy.safetensors" for name in ("alone", "mixed")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_several_datasets_are_learned_from_as_one(tmp_path):
    for folders in (("d", "d"), ("a", "b")):
        for seed, folder in zip((0, 5), folders, strict=True):
            write_dataset(tmp_path / folder, 30, seed, layers=LAYERS, with_sweeps=True)
    learn(tmp_path / "d", tmp_path / "one", preset(**QUICK))
    both = learn(open_dataset(tmp_path / "a", tmp_path / "b"), tmp_path / "two", preset(**QUICK))
    assert len(both.data.splits.numbers) == 60 and both.policy.info["dataset"]["name"] == "a+b"
    files = [tmp_path / name / "policy.safetensors" for name in ("one", "two")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_no_text_is_on_two_sides(synthetic):
    data = Data(open_dataset(synthetic), preset())
    targets = [{tuple(row) for row in data.texts(side).targets} for side in ("train", "validation", "test")]
    assert all(targets) and not (targets[0] & targets[1] | targets[0] & targets[2] | targets[1] & targets[2])


def test_without_costs_only_the_papers_reward_can_be_learned(known, tmp_path, monkeypatch):
    def none(dataset):
        raise DatasetError("no measured costs")

    monkeypatch.setattr("lede.learn.data.dataset_costs", none)
    with pytest.raises(DatasetError, match="costs"):
        learn(known, tmp_path / "time", preset(**QUICK))
    result = learn(known, tmp_path / "paper", preset("paper", **QUICK))
    assert result.data.static is None and np.isnan(result.score.rate) and np.isfinite(result.score.reward)
    assert json.loads((tmp_path / "paper" / "policy.json").read_text())["training"]["validation"]["rate"] is None
    assert ",," in (tmp_path / "paper" / "learning.csv").read_text()


def test_scaling_leaves_indicators_and_constants_alone():
    rows = np.stack([np.arange(10), np.arange(10) == 3, np.full(10, 7)], axis=1).astype(np.float32)
    mean, scale = scaling(rows)
    np.testing.assert_allclose(mean, [4.5, 0, 0])
    np.testing.assert_allclose(scale, [np.arange(10).std(), 1, 1])


def test_presets():
    paper = preset("paper")
    assert (paper.algorithm, paper.horizon, paper.reward, paper.features) == ("dqn", "walk", "paper", "paper")
    assert (paper.gamma, paper.n_steps, paper.batch_size, paper.target_interval) == (0.99, 3, 32, 512)
    assert (paper.learning_rate, paper.sigma0, paper.layer0, paper.max_drafts) == (6.25e-5, 0.1, False, 12)
    assert paper.updates_for(1000) == 250 and paper.updates_for(1) == 1
    assert preset("paper", updates=7, gamma=None).updates_for(1000) == 7
    assert preset() == LearnConfig() and (preset().algorithm, preset().n_steps) == ("double_dqn", 3)
    assert preset(algorithm="fitted") == preset("fitted")


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        ({"horizon": "walk"}, "whole rounds"),
        ({"horizon": "week"}, "choose walk or round"),
        ({"features": "all"}, "choose paper or free or extended"),
        ({"source": "sweeps", "reward": "paper"}, "learn from sweeps"),
        ({"algorithm": "fitted", "reward": "paper"}, "learn from sweeps"),
        ({"algorithm": "fitted", "source": "log"}, "learn from sweeps"),
        ({"bypass": True, "source": "log"}, "learn from sweeps"),
    ],
)
def test_wrong_options_are_named(overrides, complaint):
    with pytest.raises(LearnError, match=complaint):
        preset(**overrides)
    with pytest.raises(LearnError, match="default or paper or fitted"):
        preset("papre")


@pytest.mark.parametrize(
    ("chosen", "there", "told"),
    [
        (lambda number: number % 3 != 2, set(), (0.0, 0.0, 0.0)),
        (lambda number: number % 3 == 2, {"token_logp", "noise", "noise_margin"}, (0.75, 0.75, 1.0)),
        (lambda number: True, {*OF_SAMPLED}, (0.0, 0.75, pytest.approx(1 / 3, abs=0.05))),
    ],
    ids=["greedy", "sampled", "both"],
)
@pytest.mark.parametrize("source", ["sweeps", "log"])
def test_a_policy_looks_at_noise_where_it_learned_from_some(tmp_path, chosen, there, told, source):
    """What is the same in all that it learned from would enter with weights that nothing has trained."""
    with EpisodeWriter(start(tmp_path / "data", layers=LAYERS)) as writer:
        for number in filter(chosen, range(60)):
            writer.add(*make_episode(number, layers=LAYERS, with_sweeps=True))
    result = learn(tmp_path / "data", tmp_path / "out", preset(source=source, **QUICK))
    assert {*result.policy.features} & {*OF_SAMPLED} == there
    assert result.policy.info["training"]["temperatures"] == dict(zip(("min", "max", "sampled"), told, strict=True))
    assert result.data.rows and result.score.rate > 0
