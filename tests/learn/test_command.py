"""`lede learn`: its options reach the training, and a grid is ranked, resumed and told."""

import json

import pytest
from typer.testing import CliRunner

from lede.cli import app
from lede.serve.policy import load_policy
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
    reward.write_text("def reward(columns, costs):\n    return columns['accepted'] * 2.0 - columns['bypass']\n")
    done = lede(
        "--dataset", data, "--out", tmp_path / "p", "--algorithm", "double_dqn", "--reward", reward,
        "--candidates", "2", "--bypass", "--gamma", 0.9, "--n-step", 2, "--updates", 30, "--seed", 5, "--json",
    )  # fmt: skip
    assert json.loads(done.stdout)["updates"] == 30
    policy = load_policy(tmp_path / "p")
    chosen = policy.info["hyperparameters"]
    assert policy.layers == (2, 8) and chosen["reward"] == str(reward)
    assert [chosen[name] for name in ("algorithm", "candidates", "bypass", "gamma", "n_steps", "seed")] == (
        ["double_dqn", [2], True, 0.9, 2, 5]
    )
    estimate = policy.info["training"]["doubly_robust"]
    assert estimate["low"] < estimate["rate"] < estimate["high"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--reward", "nowhere.py"), "there is no such file"),
        (("--reward", "speed"), "choose paper, accepted, time or a FILE.py"),
        (("--algorithm", "ppo"), "choose dqn or double_dqn"),
        (("--candidates", "2,3"), "nothing of layer 3"),
        (("--candidates", "two"), "not a list of layers"),
        (("--candidates", "4,2"), "ascending"),
        (("--algorithm", "fitted"), "swept"),
        (("--variants", "nowhere.toml"), "No such file"),
        (("--variants", "x.toml", "--gamma", "0.9"), "write gamma there"),
    ],
)
def test_what_cannot_be_learned_is_one_line(data, tmp_path, arguments, complaint):
    updates = () if "--variants" in arguments else ("--updates", 5)
    done = lede("--dataset", data, "--out", tmp_path / "p", *updates, *arguments, code=2)
    lines = [line for line in done.stderr.splitlines() if line.startswith("lede:")]
    assert len(lines) == 1 and complaint in lines[0]


def test_a_grid_is_ranked(data, tmp_path):
    grid = tmp_path / "mine.toml"
    grid.write_text("n_steps = [1, 3]\nseeds = [0, 1]\nupdates = 30\nscore_every = 15\nhidden = [8]\nbatch_size = 8")
    out = tmp_path / "policies"
    told = lede("--dataset", data, "--out", out, "--variants", grid).stdout
    assert "n_steps=1" in told and "best static rule" in told and "estimated from the log" in told
    ranking = json.loads(lede("--dataset", data, "--out", out, "--variants", grid, "--json").stdout)
    assert ranking == json.loads((out / "ranking.json").read_text())
    first, second = ranking["ranking"]
    assert first["rate"] >= second["rate"] and first["seeds"] == second["seeds"] == 2
    assert load_policy(out / first["folder"]).layers == (2, 4)
