"""Which texts are for training, validation and testing: one split for every command.

Policies learn from train, validation chooses among checkpoints and settings, test measures what was chosen. A text's
side follows from its *group* (the module, article or conversation that it is from) and is recorded with every episode.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lede.ground import fingerprint, stable_hash
from lede.replay.errors import DatasetError

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)  # from the least held out to the most
SHARES: dict[Split, float] = {"train": 0.6, "validation": 0.2, "test": 0.2}  # of the groups


def split_of(group: str) -> Split:
    """The side of a group, by a hash of its name: the same on every machine and in every run."""
    place = stable_hash(group) / 2**64
    train, validation, _ = SHARES.values()
    return "train" if place < train else "validation" if place < train + validation else "test"


def group_of(content: str | Iterable[int]) -> str:
    """The group of a text or a prompt's tokens of which nothing else is known: a hash, so only itself is in it."""
    return fingerprint(content if isinstance(content, str) else np.fromiter(content, np.int32).tobytes())


@dataclass(frozen=True)
class EpisodeSplits:
    """The side and the group of each of E episodes."""

    numbers: NDArray[np.int64]  # (E,) as in `Columns.episodes`, ascending
    split: NDArray[Any]  # (E,) "train", "validation" or "test"
    group: NDArray[np.int64]  # (E,) index of the group, 0…


class Readable(Protocol):
    """A dataset, as far as its split needs one."""

    @property
    def path(self) -> object: ...

    def read(self, table: str, columns: list[str]) -> tuple[pa.Table, NDArray[np.int64]]: ...


def episode_splits(dataset: Readable) -> EpisodeSplits:
    """The side of every episode, such that neither a group nor a prompt is on two, whatever run it is from.

    Episodes that share a prompt's tokens belong to one group, under whatever names they were recorded. Where a group
    was recorded on several sides (as by data sets' own splits), it takes the most held-out one; where on none (by
    versions that had no splits), the one that a hash of the prompt's tokens gives. Raises `DatasetError` if a file is
    damaged, or a split none of these.
    """
    rows, numbers = dataset.read("episodes", ["prompt_tokens", "split", "group"])
    order = np.argsort(numbers)
    given = list(zip(rows["prompt_tokens"].take(order), rows["group"].take(order).to_pylist(), strict=True))
    # where a text is not recorded, its group is all that is known of it
    prompts = [group_of(tokens.values.to_numpy()) if len(tokens) else name for tokens, name in given]
    names = [name or prompt for prompt, (_, name) in zip(prompts, given, strict=True)]
    prompt, group = (np.unique(np.array(keys, str), return_inverse=True)[1] for keys in (prompts, names))
    group = _merged(group, prompt)
    count = int(group.max(initial=-1)) + 1
    recorded, hashed = np.full(count, -1), np.full(count, -1)
    rank = {split: i for i, split in enumerate(("", *SPLITS), -1)}
    sides = rows["split"].take(order).to_pylist()
    if strange := set(sides) - rank.keys():
        raise DatasetError(f"{dataset.path} has episodes of a split {min(strange)!r}, not of {', '.join(SPLITS)}")
    np.maximum.at(recorded, group, [rank[side] for side in sides])
    np.maximum.at(hashed, group, [rank[split_of(prompt)] for prompt in prompts])
    side = np.where(recorded < 0, hashed, recorded)
    return EpisodeSplits(numbers[order], np.array(SPLITS)[side[group]], group)


def _merged(group: NDArray[np.int64], prompt: NDArray[np.int64]) -> NDArray[np.int64]:
    """Groups joined where they share a prompt, numbered anew from 0."""
    while True:
        joined = group
        for key in (prompt, group):
            least = np.full(len(key), len(key))
            np.minimum.at(least, key, joined)
            joined = least[key]
        if np.array_equal(joined, group):
            return np.unique(group, return_inverse=True)[1]
        group = joined
