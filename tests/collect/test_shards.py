"""Many collectors, one store: shards, and workers that may die, give the rows that one process gives."""

import json
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import lede.collect.collector
import lede.collect.pool
from lede import replay
from lede.cli import app
from lede.collect.collector import CollectConfig, collect
from lede.collect.errors import CollectError
from lede.collect.prompts import Prompt
from lede.collect.workers import Workers
from lede.decode.errors import ModelError
from lede.decode.model import Model
from lede.replay.runs import claim
from tests.collect.small import CONFIG, COSTS, PROMPTS, collected, same, tables, tiny_model

TALK = [Prompt("talk", "test", "", messages=({"role": "user", "content": "a b"},), turns=("c d", "e f"))]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process collects."""
    path = tmp_path_factory.mktemp("alone") / "data"
    collected(path)
    return path


def load_tiny() -> Model:
    torch.set_num_threads(1)
    lede.collect.collector.measure = lambda model: COSTS
    return tiny_model()


def load_mortal(marker: Path, deaths: int) -> Model:
    """A model whose process dies when it has decoded its second episode, so many times."""
    died = len(list(marker.parent.glob(f"{marker.name}*")))
    row, rows = lede.collect.collector.episode_row, []

    def dying(*arguments: Any) -> dict[str, Any]:
        rows.append(row(*arguments))
        if len(rows) == 2 and died < deaths:
            marker.with_name(f"{marker.name}{died}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return rows[-1]

    lede.collect.collector.episode_row = dying
    return load_tiny()


def test_shards_in_one_folder_or_merged_are_what_one_process_collects(alone: Path, tmp_path: Path) -> None:
    for number in (1, 0):
        done = collected(tmp_path / "one", shard=(number, 2))
        assert done.planned == done.episodes == (4, 3)[number]
        collected(tmp_path / f"own-{number}", shard=(number, 2))
    assert same(tables(tmp_path / "one"), tables(alone))
    replay.merge_datasets([tmp_path / "own-0", tmp_path / "own-1"], tmp_path / "merged")
    assert same(tables(tmp_path / "merged"), tables(alone))
    for path in (tmp_path / "one", tmp_path / "merged"):
        assert replay.verify(path) == []
        assert collected(path).episodes == 0
    with pytest.raises(replay.DatasetError, match="both have its episode"):
        replay.merge_datasets([tmp_path / "own-0", tmp_path / "one"], tmp_path / "again")


def test_a_share_that_is_being_collected_is_refused_and_others_are_not(tmp_path: Path) -> None:
    collected(tmp_path, CollectConfig(episodes=1, layers=(1,), max_new_tokens=4), shard=(0, 1))
    run = replay.start_run(tmp_path, replay.open_dataset(tmp_path).runs[0]["arguments"], {})
    with claim(run, (0, 2)), claim(run, (1, 2)):
        for shard in ((0, 2), (0, 1), (0, 3)):
            with pytest.raises(replay.DatasetError, match="is being collected"), claim(run, shard):
                pass
    with claim(run):
        pass


def test_turns_of_a_conversation_stay_together(tmp_path: Path) -> None:
    config = CollectConfig(episodes=8, layers=(1,), max_new_tokens=4)
    model = tiny_model()
    model.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}|{% endfor %}"
    collected(tmp_path / "alone", config, model, TALK)
    assert [collected(tmp_path / "shards", config, model, TALK, shard=(i, 2)).episodes for i in (0, 1)] == [5, 3]
    assert same(tables(tmp_path / "shards"), tables(tmp_path / "alone"))


@pytest.mark.slow
def test_workers_collect_the_same_also_if_one_is_killed(alone: Path, tmp_path: Path) -> None:
    mortal = partial(load_mortal, tmp_path / "died", 1)
    told: list[str] = []
    with Workers([mortal, mortal], told.append) as workers:
        done = collect(workers, PROMPTS, tmp_path / "data", CONFIG)
    assert (tmp_path / "died0").exists()
    assert [line[len("worker 0") :] for line in told] == [" died and is started again, death 1 of 4 that end it"]
    assert (done.planned, done.episodes, done.resumed) == (7, 7, 0)
    assert same(tables(tmp_path / "data"), tables(alone))
    assert replay.verify(tmp_path / "data") == []


@pytest.mark.slow
def test_a_worker_that_dies_again_and_again_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lede.collect.pool, "RESTARTS", 1)
    with (
        pytest.raises(CollectError, match=r"^worker 0 died 2 times \(exit code -9\): the same command goes on"),
        Workers([kill_self]) as one,
    ):
        collect(one, PROMPTS, tmp_path / "data", CONFIG)


@pytest.mark.parametrize("error", [ModelError, FileNotFoundError])  # the latter is not a broken pipe
def test_what_a_worker_raises_is_raised_here(error: type[Exception], tmp_path: Path) -> None:
    with pytest.raises(error, match="no such model"), Workers([partial(refuse, error)]) as workers:
        collect(workers, PROMPTS, tmp_path / "data", CONFIG)


def refuse(error: type[Exception] = ModelError) -> Model:
    raise error("no such model")


def kill_self() -> Model:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


@pytest.mark.slow
def test_the_command_takes_workers_and_says_what_is_no_shard(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, [*SHORT, str(tmp_path / "two"), "--workers", "2"])
    assert done.exit_code == 0 and json.loads(done.stdout)["episodes"] == 6, done.output
    assert replay.verify(tmp_path / "two") == []
    for wrong in ("--shard 3/2", "--shard 0/2", "--workers 2 --shard 1/2", "--ray --shard 1/2", "--num-gpus 1"):
        assert CliRunner().invoke(app, [*SHORT, str(tmp_path / "none"), *wrong.split()]).exit_code == 2
    assert not (tmp_path / "none").exists()


SHORT = ["collect", "--episodes", "6", "--max-new-tokens", "12", "--threads", "1", "--json", "--out"]
