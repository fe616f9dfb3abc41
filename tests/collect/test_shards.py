"""Many collectors, one store: shards, and workers that may die, give the rows that one process gives."""

import json
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

import lede.collect.collector
from lede import replay
from lede.collect.collector import CollectConfig, Collected, start
from lede.collect.errors import CollectError
from lede.collect.prompts import Prompt
from lede.collect.workers import execute
from lede.decode.model import Model
from lede.replay.shards import claim
from lede.replay.writer import EpisodeWriter
from tests.collect.small import CONFIG, COSTS, PROMPTS, collected, same, tables, tiny_model
from tests.replay.test_crash import run_python

TALK = [Prompt("talk", "test", "", messages=({"role": "user", "content": "a b"},), turns=("c d", "e f"))]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process collects."""
    path = tmp_path_factory.mktemp("alone") / "data"
    collected(path)
    return path


def load_tiny() -> Model:
    torch.set_num_threads(1)
    return tiny_model()


def load_mortal(marker: Path, deaths: int) -> Model:
    """A model whose process dies behind its second episode, one committed and one not, so many times."""
    died = len(list(marker.parent.glob(f"{marker.name}*")))
    add, added = EpisodeWriter.add, []

    def dying(self: EpisodeWriter, *rows: object) -> None:
        add(self, *rows)  # type: ignore[arg-type]
        added.append(rows)
        if len(added) == 1:
            self.flush()
        if len(added) == 2 and died < deaths:
            marker.with_name(f"{marker.name}{died}").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    EpisodeWriter.add = dying  # type: ignore[method-assign]
    return load_tiny()


def with_workers(out: Path, *loaders: Callable[[], Model], monkeypatch: pytest.MonkeyPatch) -> Collected:
    monkeypatch.setattr(lede.collect.collector, "measure", lambda model: COSTS)
    return execute(start(tiny_model(), PROMPTS, out, CONFIG), loaders, None)


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


def test_workers_collect_the_same_also_if_one_is_killed(
    alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mortal = partial(load_mortal, tmp_path / "died", 2)
    done = with_workers(tmp_path / "data", load_tiny, mortal, monkeypatch=monkeypatch)
    assert len(list(tmp_path.glob("died*"))) == 2
    assert (done.planned, done.episodes, done.resumed) == (7, 7, 0)
    assert same(tables(tmp_path / "data"), tables(alone))
    assert replay.verify(tmp_path / "data") == []


def test_a_worker_that_dies_again_and_again_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CollectError, match="worker 0 died 4 times, last with exit code -9"):
        with_workers(tmp_path / "data", kill_self, monkeypatch=monkeypatch)


def kill_self() -> Model:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


COMMAND = """
import sys
from lede.cli import app
app(["collect", "--episodes", "6", "--max-new-tokens", "12", "--threads", "1", "--out", *sys.argv[1:], "--json"])
"""


def test_the_command_takes_workers_and_says_what_is_no_shard(tmp_path: Path) -> None:
    for out, more in (("alone", []), ("two", ["--workers", "2"])):
        with run_python(COMMAND, tmp_path / out, *more) as process:
            said, _ = process.communicate()
        assert process.returncode == 0 and json.loads(said)["episodes"] == 6
    assert same(tables(tmp_path / "alone"), tables(tmp_path / "two"))
    for wrong in (["--shard", "3/2"], ["--shard", "0/2"], ["--workers", "2", "--shard", "1/2"]):
        with run_python(COMMAND, tmp_path / "none", *wrong) as process:
            process.communicate()
        assert process.returncode == 2 and not (tmp_path / "none").exists()
