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
from tests.replay.synthetic import write_dataset

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
    horizons = {"n_steps=1": "round", "n_steps=3": "round", "preset=paper": "walk"}
    assert {variant.name: variant.config.horizon for variant in read_grid(path)} == horizons


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
    write_known(tmp_path / "data", episodes=40)
    grid = read_grid(written(tmp_path / "g.toml", GRID))
    out = tmp_path / "out"
    real, trained = running.train, []

    def interrupted(data, folder, progress):
        trained.append(folder)
        if len(trained) == 3:
            raise KeyboardInterrupt
        return real(data, folder, progress)

    monkeypatch.setattr(running, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_grid(tmp_path / "data", grid, out, nothing)
    first = {path.parent: path.stat().st_mtime_ns for path in out.rglob("result.json")}
    assert len(first) == 2
    seen = []
    results = run_grid(tmp_path / "data", grid, out, lambda *now: seen.append(now))
    done = {path.parent: path.stat().st_mtime_ns for path in out.rglob("result.json")}
    assert len(done) == len(grid) == len(results) == 8 and first.items() <= done.items()
    assert seen == sorted(seen, key=lambda now: now[0]) and not set(trained[:2]) & set(trained[3:])

    statuses = {result.name: result.status for result in results}
    assert sorted(statuses.values()) == ["diverged", "failed", "ok", "ok", "ok", "ok"]
    assert "nothing of layer 7" in next(r.message for r in results if r.status == "failed")
    for result, variant in zip(results, grid, strict=True):
        assert (out / variant.folder / "policy.json").exists() == (result.status == "ok")
        if result.status == "ok":
            expected = variant.config.to_dict() | {"source": "log"}
            assert load_policy(out / variant.folder).info["hyperparameters"] == expected

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


def test_a_variant_of_a_grid_is_what_learn_gives(tmp_path):
    """What trained before it in the same process must not matter."""
    write_dataset(tmp_path / "data", 30, seed=0, with_sweeps=True)
    grid = read_grid(written(tmp_path / "g.toml", "n_steps = [1, 3]\nupdates = 40\nscore_every = 20\nhidden = [8]"))
    results = run_grid(tmp_path / "data", grid, tmp_path / "out", nothing)
    alone = learn(tmp_path / "data", tmp_path / "alone", grid[1].config)
    files = [folder / "policy.safetensors" for folder in (tmp_path / "out" / grid[1].folder, tmp_path / "alone")]
    assert files[0].read_bytes() == files[1].read_bytes()
    told = results[1].texts
    assert sum(told["tokens"]) / sum(told["milliseconds"]) == pytest.approx(alone.score.rate)
    assert sum(told["tokens"]) / sum(told["static"]) == pytest.approx(alone.static_validation[0])


def made_up(name, seed, milliseconds, status="ok"):
    """Two groups of two texts, 10 tokens and 4 ms of the static rule each; `milliseconds` of each group's."""
    spent = [milliseconds[0]] * 2 + [milliseconds[1]] * 2 if status == "ok" else []
    score = {"rate": 40 / sum(spent)} if spent else {}
    score |= {"rate_error": 0.1, "exit_layer": 2.0, "drafts": 3.0, "acceptance": 0.5, "reward": 1.0, "effective": 9.0}
    texts = {"group": [3, 3, 8, 8], "tokens": [10.0] * 4, "milliseconds": spent, "static": [4.0] * 4}
    return Result(name, seed, status, "", {}, {}, score, texts if spent else None)


def test_the_ranking_is_by_the_mean_over_seeds_with_t_intervals():
    results = [
        made_up("steady", 0, (2.0, 2.0)),
        made_up("steady", 1, (2.0, 2.0)),
        made_up("seeds differ", 0, (2.0, 2.0)),
        made_up("seeds differ", 1, (4.0, 4.0)),
        made_up("texts differ", 0, (3.0, 5.0)),
        made_up("lost", 0, None, "diverged"),
        made_up("lost", 1, (8.0, 8.0)),
    ]
    rows = {row.name: row for row in rank(results)}
    assert list(rows) == ["steady", "seeds differ", "texts differ", "lost"]
    assert (rows["lost"].seeds, rows["lost"].diverged) == (1, 1)
    steady, seeds, texts = (rows[name] for name in ("steady", "seeds differ", "texts differ"))
    assert (steady.rate, steady.low, steady.high, steady.over_static) == (5, 5, 5, 2)
    # two seeds: rates 5 and 2.5, t with one degree of freedom
    assert seeds.rate == 3.75 and seeds.high - seeds.rate == pytest.approx(12.706 * 1.25, rel=1e-3)
    # two groups: contributions ±5 / 16, t with one degree of freedom; their static rule took as long on both
    assert texts.rate == 2.5 and texts.high - texts.rate == pytest.approx(12.706 * math.sqrt(4 * 5**2) / 16, rel=1e-3)
    assert texts.over_static == 1 and texts.over_high - 1 == pytest.approx(12.706 * math.sqrt(4 * 2**2) / 16, rel=1e-3)


def test_a_variant_as_fast_as_the_static_rule_on_every_text_has_no_doubt_about_it():
    """Paired: texts that are slow for both say nothing of the difference."""
    texts = {"group": [0, 1], "tokens": [10.0, 10.0], "milliseconds": [2.0, 8.0], "static": [4.0, 16.0]}
    one = made_up("a", 0, (1.0, 1.0))
    row = rank([Result(**(vars(one) | {"texts": texts}))])[0]
    assert (row.over_static, row.over_low, row.over_high) == pytest.approx((2, 2, 2)) and row.high > row.rate + 1
