"""Held out means held out: no text and no group of texts is on two sides of the split, whatever run it is from."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch.utils.data import DataLoader

from lede import replay
from lede.collect.collector import CollectConfig
from lede.collect.prompts import Prompt
from lede.policy import Policy
from lede.replay.parts import episode_numbers
from lede.replay.schema import EPISODES
from lede.replay.split import SPLITS, episode_splits, group_of, split_of
from tests.collect.small import collected
from tests.replay.synthetic import make_episode, start


def write(path: Path, seed: int, texts: Sequence[tuple[list[int], str, str]]) -> str:
    """A run of episodes with these (prompt tokens, split, group); returns its id."""
    run = start(path, seed)
    with replay.EpisodeWriter(run) as writer:
        for number, (tokens, split, group) in enumerate(texts):
            episode, rows, _ = make_episode(number)
            writer.add(episode | {"prompt_tokens": tokens, "split": split, "group": group}, rows)
    return run.id


def sides(path: Path) -> dict[tuple[str, int], tuple[str, int]]:
    """{(run, episode): (side, group)}."""
    splits = episode_splits(replay.open_dataset(path))
    assert (np.diff(splits.numbers) > 0).all()
    keys = [(f"r{number >> 32:07x}", number & 0xFFFFFFFF) for number in splits.numbers.tolist()]
    return dict(zip(keys, zip(splits.split.tolist(), splits.group.tolist(), strict=True), strict=True))


def without_splits(path: Path) -> None:
    """Rewrite the episodes as versions without these columns wrote them."""
    for file in path.glob("episodes/*/*.parquet"):
        table = pq.read_table(file, partitioning=None)
        pq.write_table(table.drop_columns(["split", "group"]), file)


def test_groups_are_shared_out_by_a_hash_of_their_name() -> None:
    assert [split_of(name) for name in ("json.decoder", "argparse", "zipfile")] == ["train", "validation", "validation"]
    drawn = [split_of(str(i)) for i in range(5000)]
    for split, share in zip(SPLITS, (0.6, 0.2, 0.2), strict=True):
        assert abs(drawn.count(split) / 5000 - share) < 0.03


def test_every_episode_has_the_side_and_the_group_it_was_recorded_with(tmp_path: Path) -> None:
    texts = [([1], "test", "b"), ([2], "train", "a"), ([3], "validation", "c"), ([4], "train", "a")]
    run = write(tmp_path, 0, texts)
    splits = episode_splits(replay.open_dataset(tmp_path))
    assert splits.numbers.tolist() == episode_numbers(run, np.arange(4)).tolist()
    assert splits.split.tolist() == ["test", "train", "validation", "train"]
    assert splits.group[1] == splits.group[3]
    assert len(set(splits.group.tolist())) == 3
    columns = replay.open_dataset(tmp_path).columns("round")
    assert set(columns.episodes.tolist()) <= set(splits.numbers.tolist())


def test_a_text_or_a_group_recorded_on_two_sides_takes_the_most_held_out(tmp_path: Path) -> None:
    one = write(tmp_path, 1, [([1], "train", "a"), ([2], "validation", "b"), ([3], "train", "c"), ([5], "train", "e")])
    two = write(tmp_path, 2, [([1], "test", "a"), ([2], "train", "b"), ([3], "train", "d"), ([4], "test", "d")])
    found = sides(tmp_path)
    assert [found[one, i][0] for i in range(4)] == ["test", "validation", "test", "train"]  # c is d: they share a text
    assert [found[two, i][0] for i in range(4)] == ["test", "validation", "test", "test"]
    assert len({found[one, 2][1], found[two, 2][1], found[two, 3][1]}) == 1
    assert len({group for _, group in found.values()}) == 4
    frame: Any = replay.open_dataset(tmp_path).episodes.collect()
    for row in frame.iter_rows(named=True):
        assert row["split"] == found[row["run"], row["episode"]][0]


def test_several_datasets_have_one_split_and_samples_for_torch(tmp_path: Path) -> None:
    write(tmp_path / "a", 1, [([i], "train", f"a{i}") for i in range(4)])
    write(tmp_path / "b", 2, [([3], "test", "b"), ([9], "validation", "c")])
    both = replay.open_dataset(tmp_path / "a", tmp_path / "b")
    assert both.episodes.collect()["split"].sort().to_list() == ["test"] * 2 + ["train"] * 3 + ["validation"]
    assert [run["arguments"]["seed"] for run in both.runs] == [1, 2] or len(both.runs) == 2
    columns = both.columns("round", "extended")
    train = both.samples("train", "round", "extended")
    loaded = next(iter(DataLoader(train, batch_size=len(train))))  # type: ignore[arg-type]
    here = np.isin(columns.episodes, loaded["episode"].numpy())
    last = np.zeros(len(here), bool)
    last[columns.chain_starts[1:] - 1] = True
    kept = here & ~(last & ~columns.terminals)
    assert len(set(loaded["episode"].tolist())) == 3 and len(train) == kept.sum()
    assert np.array_equal(loaded["observation"], columns.observations[kept])
    assert np.array_equal(loaded["reward"], columns.rewards[kept]) and loaded["reward"].dtype == torch.float32
    following = np.where(last[:, None], 0, np.roll(columns.observations, -1, axis=0))
    assert np.array_equal(loaded["next_observation"], following[kept])
    assert np.array_equal(loaded["terminal"], columns.terminals[kept])
    assert len(train) + len(both.samples("test", "round")) < len(both.samples(horizon="round"))
    write(tmp_path / "b", 1, [([3], "test", "b")])
    with pytest.raises(replay.DatasetError, match=r"is in .*a and in .*b: take only"):
        replay.open_dataset(tmp_path / "a", tmp_path / "b")


def test_datasets_of_older_versions_are_split_by_their_prompts_tokens(tmp_path: Path) -> None:
    texts = [([i, 7], "train", "all one") for i in range(30)]
    one, two = write(tmp_path, 1, texts), write(tmp_path, 2, [*reversed(texts)])
    without_splits(tmp_path)
    assert replay.verify(tmp_path) == []
    found = sides(tmp_path)
    assert [found[one, i] for i in range(30)] == [found[two, 29 - i] for i in range(30)]
    assert [found[one, i][0] for i in range(30)] == [split_of(group_of(tokens)) for tokens, _, _ in texts]
    assert {side for side, _ in found.values()} == set(SPLITS)
    assert len({group for _, group in found.values()}) == 30

    three = write(tmp_path, 3, [([i, 7], "validation", "named") for i in range(3)])  # what is recorded goes first
    found = sides(tmp_path)
    assert {found[run, i] for run, i in [(one, 0), (one, 2), (two, 28), (three, 0), (three, 1)]} == {found[three, 2]}
    assert found[three, 2][0] == "validation"


@pytest.mark.parametrize("compacted", [False, True])
def test_files_without_the_columns_are_read_with_them(tmp_path: Path, compacted: bool) -> None:
    write(tmp_path, 1, [([i], "train", "a") for i in range(3)])
    without_splits(tmp_path)
    write(tmp_path, 2, [([9], "test", "b")])
    if compacted:
        replay.compact_dataset(tmp_path)
    frame: Any = replay.open_dataset(tmp_path).episodes.collect()
    assert frame.columns == [*EPISODES.names, "run"]
    found = sorted(zip(frame["group"], frame["split"], strict=True))
    assert found == [*sorted(("", split_of(group_of([i]))) for i in range(3)), ("b", "test")]


#: Exits at once and drafts one token: [continue, exit] are worth [phase, 0.5].
EXITS = Policy(
    features=("phase",),
    layers=(0, 1, 2),
    weights=((np.array([[1], [0]], np.float32), np.array([0, 0.5], np.float32)),),
    mean=np.zeros(1, np.float32),
    scale=np.ones(1, np.float32),
)


def test_the_same_prompts_collected_again_are_on_the_same_side(tmp_path: Path) -> None:
    """Explored around a policy, and with more episodes than prompts: no text and no group is on two sides."""
    prompts = [Prompt(f"p{i}", "test", f"x{i} = [{i}, ", group=f"module {i // 3}") for i in range(18)]
    prompts += [Prompt("alone", "test", "def f("), Prompt("own", "test", "def g(", group="module 0", split="test")]
    config = CollectConfig(episodes=20, layers=(0, 1, 2), max_new_tokens=4, sweep=True)
    collected(tmp_path, config, prompts=prompts)
    again = replace(config, episodes=50, explore="epsilon")
    collected(tmp_path, again, prompts=prompts, policy=EXITS, new_run=True)
    dataset = replay.open_dataset(tmp_path)
    splits = episode_splits(dataset)
    assert len(splits.numbers) == 70
    frame = dataset.episodes.collect()
    numbers = [
        int(episode_numbers(run, np.array([n]))[0]) for run, n in zip(frame["run"], frame["episode"], strict=True)
    ]
    side = dict(zip(splits.numbers.tolist(), splits.split.tolist(), strict=True))
    index = dict(zip(splits.numbers.tolist(), splits.group.tolist(), strict=True))
    for names in (frame["prompt_id"], frame["group"], map(tuple, frame["prompt_tokens"])):
        sides: dict[Any, set[str]] = {}
        for number, name in zip(numbers, names, strict=True):
            sides.setdefault(name, set()).add(side[number])
        assert all(len(found) == 1 for found in sides.values())
    assert len(set(index.values())) == 7  # six modules, and a prompt by itself
    assert set(side.values()) == set(SPLITS)
    by_prompt = dict(zip(frame["prompt_id"], (side[number] for number in numbers), strict=True))
    assert {by_prompt[f"p{i}"] for i in range(3)} == {"test"}  # their module is held out once
    assert by_prompt["p3"] == split_of("module 1") and by_prompt["alone"] == split_of(group_of("def f("))
    report = replay.inspect_dataset(tmp_path)["splits"]
    assert {split: report[split]["episodes"] for split in SPLITS} == {
        split: list(side.values()).count(split) for split in SPLITS
    }
    assert sum(report[split]["groups"] for split in SPLITS) == 7


def test_a_split_that_is_none_of_these_is_named(tmp_path: Path) -> None:
    write(tmp_path, 1, [([1], "train", "a"), ([2], "dev", "b")])
    assert [(f.kind, "'dev' is no split" in f.message) for f in replay.verify(tmp_path)] == [("values", True)]
    with pytest.raises(replay.DatasetError, match="a split 'dev', not of train, validation, test"):
        episode_splits(replay.open_dataset(tmp_path))
    assert "'dev'" in replay.inspect_dataset(tmp_path)["unreadable"]


def test_an_empty_dataset_has_no_sides(tmp_path: Path) -> None:
    start(tmp_path)
    splits = episode_splits(replay.open_dataset(tmp_path))
    assert len(splits.numbers) == len(splits.split) == len(splits.group) == 0
