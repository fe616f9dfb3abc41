"""Grids: what a file says, that an interrupted one goes on, and how variants are ranked."""

import json
import math

import pytest

from lede.learn import variants as running
from lede.learn.errors import LearnError
from lede.learn.grid import read_grid
from lede.learn.ranking import rank, write_ranking
from lede.learn.train import learn
from lede.learn.variants import Result, run_grid
from lede.serve.policy import load_policy
from tests.learn.toy import write_known

GRID = """
seeds = [0, 1]
updates = 40
score_every = 20
batch_size = 16
hidden = [8]
[[grid]]
n_steps = [1, 3]
[[grid]]
algorithm = "cql"
seeds = 2
[[grid]]
learning_rate = 1000.0
n_steps = 1
seeds = 0
[[grid]]
candidates = [[2], [2, 7]]
seeds = 0
"""


def written(path, text):
    path.write_text(text)
    return path


def nothing(*_):
    pass


def test_a_grid_is_every_combination(tmp_path):
    path = written(tmp_path / "g.toml", 'seeds = [0, 1]\nn_steps = [1, 3]\nhidden = [[8], [16, 8]]\nreward = "time"')
    grid = read_grid(path)
    assert len(grid) == len({variant.folder for variant in grid}) == 8
    assert grid[0].name == "n_steps=1,hidden=8" and grid[-1].folder == "n_steps=3,hidden=16-8/seed=1"
    assert {variant.config.n_steps for variant in grid} == {1, 3}
    assert all(variant.config.reward == "time" for variant in grid)


def test_tables_of_a_grid_have_their_own_options_and_repetitions_are_one(tmp_path):
    path = written(tmp_path / "g.toml", '[[grid]]\nn_steps = [1, 3]\n[[grid]]\npreset = "paper"\n[[grid]]\nn_steps = 3')
    assert [(v.name, v.config.horizon) for v in read_grid(path)] == [
        ("n_steps=1", "round"), ("n_steps=3", "round"), ("preset=paper", "walk"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("n_step = [1]", "no option n_step;"),
        ("n_steps = []", "n_steps has no values"),
        ('n_steps = "1"', "n_steps = '1' is not what"),
        ("bypass = 1", "bypass = 1 is not what"),
        ("n_steps = [0, 1]", "n_steps must be at least 1"),
        ('horizon = "walk"', "whole rounds"),
        ("n_steps = ", "not a TOML file"),
        ("[grid]\nn_steps = 1", "two brackets"),
    ],
)
def test_what_is_wrong_in_a_grid_is_named(tmp_path, text, complaint):
    with pytest.raises(LearnError, match=complaint) as caught:
        read_grid(written(tmp_path / "g.toml", text))
    assert "g.toml" in str(caught.value)


def test_an_interrupted_grid_goes_on(tmp_path, monkeypatch):
    write_known(tmp_path / "data", episodes=20)
    grid = read_grid(written(tmp_path / "g.toml", GRID))
    out = tmp_path / "out"
    real, trained = running._Grid.train, []

    def interrupted(self, group):
        trained.append([variant.folder for variant in group])
        if len(trained) == 3:
            raise KeyboardInterrupt
        return real(self, group)

    monkeypatch.setattr(running._Grid, "train", interrupted)
    monkeypatch.setattr(running, "STACK", 3)
    with pytest.raises(KeyboardInterrupt):
        run_grid(tmp_path / "data", grid, out, nothing)
    first = {path.parent: path.stat().st_mtime_ns for path in out.rglob("result.json")}
    assert len(first) == 5  # two stacks, of three and of two: the networks of candidates 2 have another shape
    seen = []
    results = run_grid(tmp_path / "data", grid, out, lambda *now: seen.append(now))
    done = {path.parent: path.stat().st_mtime_ns for path in out.rglob("result.json")}
    assert len(done) == len(grid) == len(results) == 8 and first.items() <= done.items()
    assert seen[-1][0] == 1000 and seen == sorted(seen, key=lambda now: now[0])
    assert not set(trained[0] + trained[1]) & {folder for group in trained[3:] for folder in group}

    statuses = {result.name: result.status for result in results}
    assert sorted(statuses.values()) == ["diverged", "failed", "ok", "ok", "ok", "ok"]
    assert "nothing of layer 7" in next(r.message for r in results if r.status == "failed")
    for result, variant in zip(results, grid, strict=True):
        assert (out / variant.folder / "policy.json").exists() == (result.status == "ok")
        if result.status == "ok":
            assert load_policy(out / variant.folder).info["hyperparameters"] == variant.config.to_dict()

    rows = rank(results)
    write_ranking(out, rows, results)
    stored = json.loads((out / "ranking.json").read_text())
    assert not stored["exact"] and [row["name"] for row in stored["ranking"]] == [row.name for row in rows]
    assert stored["ranking"][-1]["rate"] is None and (out / "ranking.png").read_bytes().startswith(b"\x89PNG")
    assert run_grid(tmp_path / "data", grid, out, lambda *_: pytest.fail("it trained")) == results


def test_another_dataset_or_option_is_trained_anew(tmp_path):
    write_known(tmp_path / "data", episodes=20)
    write_known(tmp_path / "other" / "data", episodes=20, seed=1)
    options = "updates = 20\nscore_every = 20\nhidden = [8]\nbatch_size = {}"
    grid, bigger = (read_grid(written(tmp_path / "g.toml", options.format(size))) for size in (8, 16))
    assert grid[0].folder == bigger[0].folder
    digests = set()
    for data, variants in (("data", grid), ("other/data", grid), ("other/data", bigger)):
        result = run_grid(tmp_path / data, variants, tmp_path / "out", nothing)[0]
        digests.add((tmp_path / "out" / variants[0].folder / "policy.safetensors").read_bytes())
        assert result.config["batch_size"] == variants[0].config.batch_size
    assert len(digests) == 3


def test_a_single_variant_of_a_grid_is_what_learn_gives(tmp_path):
    """What cannot be stacked goes the same way as `lede learn`."""
    write_known(tmp_path / "data", episodes=20)
    grid = read_grid(written(tmp_path / "g.toml", GRID))
    variant = next(v for v in grid if v.config.algorithm == "cql")
    run_grid(tmp_path / "data", [variant], tmp_path / "out", nothing)
    learn(tmp_path / "data", tmp_path / "alone", variant.config)
    files = [folder / "policy.safetensors" for folder in (tmp_path / "out" / variant.folder, tmp_path / "alone")]
    assert files[0].read_bytes() == files[1].read_bytes()


def made_up(name, seed, rate, status="ok"):
    score = {"rate": rate, "rate_error": 0.1, "exit_layer": 2.0, "drafts": 3.0, "acceptance": 0.5, "reward": 1.0}
    static = {"layer": 0, "drafts": 5, "tokens": 3.0, "rate": 2.0}
    return Result(name, seed, status, "", {}, {}, score if status == "ok" else {}, 10, static, True)


def test_the_ranking_is_by_the_mean_over_seeds():
    results = [
        made_up("a", 0, 2.0), made_up("a", 1, 4.0), made_up("b", 0, 3.5), made_up("b", 1, 3.5),
        made_up("c", 0, None, "diverged"), made_up("c", 1, 1.0),
    ]  # fmt: skip
    rows = rank(results)
    assert [(row.name, row.rate, row.seeds, row.diverged) for row in rows] == [
        ("b", 3.5, 2, 0), ("a", 3.0, 2, 0), ("c", 1.0, 1, 1),
    ]  # fmt: skip
    b, a, _ = rows
    assert b.high - b.rate == pytest.approx(1.96 * 0.1) and b.over_static == pytest.approx(1.75)
    assert a.high - a.rate == pytest.approx(1.96 * math.hypot(0.1, 1.0)) and a.folder == "a/seed=1"
