"""`lede learn`: its options reach the training, and what is wrong with them is one line."""

import json

import pytest
from typer.testing import CliRunner

from lede.cli import app
from lede.policy import load_policy
from tests.learn.toy import write_known

RUNNER = CliRunner()


def lede(*arguments, code=0):
    done = RUNNER.invoke(app, ["learn", *map(str, arguments)])
    assert done.exit_code == code, (done.output, done.exception)
    return done


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("command") / "known"
    write_known(path, episodes=60)
    return path


def test_every_option_is_heard(data, tmp_path):
    reward = tmp_path / "mine.py"
    reward.write_text("def reward(columns, costs):\n    return columns['accepted'] * 2.0\n")
    done = lede(
        "--dataset",
        data,
        "--out",
        tmp_path / "p",
        "--algorithm",
        "dqn",
        "--reward",
        reward,
        "--candidates",
        "2",
        "--gamma",
        0.9,
        "--n-step",
        2,
        "--updates",
        30,
        "--seed",
        5,
        "--json",
    )
    assert json.loads(done.stdout)["updates"] == 30
    policy = load_policy(tmp_path / "p")
    chosen = policy.info["hyperparameters"]
    assert policy.layers == (2,) and chosen["reward"] == str(reward)
    assert [chosen[name] for name in ("algorithm", "candidates", "gamma", "n_steps", "seed")] == ["dqn", [2], 0.9, 2, 5]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--reward", "nowhere.py"), "there is no such file"),
        (("--reward", "speed"), "choose paper, accepted, time or a FILE.py"),
        (("--algorithm", "ppo"), "choose double_dqn or dqn or fitted"),
        (("--candidates", "2,3"), "nothing of layer 3"),
        (("--candidates", "two"), "not a list of layers"),
        (("--candidates", "4,2"), "ascending"),
        (("--algorithm", "fitted"), "no swept episodes"),
        (("--bypass", "--source", "log"), "learn from sweeps"),
    ],
)
def test_what_cannot_be_learned_is_one_line(data, tmp_path, arguments, complaint):
    done = lede("--dataset", data, "--out", tmp_path / "p", "--updates", 5, *arguments, code=2)
    lines = [line for line in done.stderr.splitlines() if line.startswith("lede:")]
    assert len(lines) == 1 and complaint in lines[0]


def test_policies_of_other_recipes_have_folders_of_their_own(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quick = ("--dataset", data, "--updates", 5)
    for options, folder in {
        (): "known",
        ("--seed", "3"): "known",
        ("--preset", "paper"): "known-paper",
        ("--algorithm", "dqn"): "known-dqn",
        ("--no-bypass", "--reward", "accepted"): "known-accepted-no-bypass",
        ("--candidates", "2", "--n-step", "1"): "known-candidates=2-n_steps=1",
    }.items():
        done = lede(*quick, *options, "--json")
        assert json.loads(done.stdout)["folder"] == f"policies/{folder}"
    assert len(list((tmp_path / "policies").iterdir())) == 5
