"""Held out means held out: no text and no group of texts is on two sides of the split, whatever run it is from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from lede import replay
from lede.replay.files import episode_numbers
from lede.replay.schema import EPISODES
from lede.replay.split import SPLITS, episode_splits, group_of, split_of
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
    assert sorted(zip(frame["split"], frame["group"], strict=True)) == [("", "")] * 3 + [("test", "b")]


def test_an_empty_dataset_has_no_sides(tmp_path: Path) -> None:
    start(tmp_path)
    splits = episode_splits(replay.open_dataset(tmp_path))
    assert len(splits.numbers) == len(splits.split) == len(splits.group) == 0
