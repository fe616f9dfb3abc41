"""Logged decisions in the forms of offline reinforcement learning: d3rlpy's replay buffer, Minari's datasets."""

import json
import os
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from lede.learn.library import d3rlpy, quiet
from lede.replay.columns import Columns, take
from lede.replay.errors import DatasetError
from lede.replay.export import whole
from lede.replay.reader import Dataset
from lede.replay.split import SPLITS, Split, episode_splits


def replay_buffer(columns: Columns) -> Any:
    """Logged decisions (`Dataset.columns`) as a `d3rlpy.dataset.ReplayBuffer`: its episodes are the chains.

    A truncated chain ends by a timeout; one without a transition is dropped.
    """
    last = np.zeros(len(columns.rewards), bool)
    last[columns.chain_starts[1:] - 1] = True
    return d3rlpy.dataset.MDPDataset(
        observations=columns.observations,
        actions=columns.actions.astype(np.int32),
        rewards=columns.rewards,
        terminals=columns.terminals,
        timeouts=last & ~columns.terminals,
        action_space=d3rlpy.ActionSpace.DISCRETE,
        action_size=2,
    )


def sides(dataset: Dataset) -> Iterator[tuple[Split, Columns]]:
    """All logged rounds, `extended` features, of each side with a transition. Raises DatasetError where none is."""
    columns, splits = dataset.columns(horizon="round", features="extended"), episode_splits(dataset)
    chains, found = columns.episodes[columns.chain_starts[:-1]], False
    for side in SPLITS:
        marked = np.isin(chains, splits.numbers[splits.split == side])
        if marked.any():
            mine = take(columns, marked)
            if (np.diff(mine.chain_starts) > mine.truncated).any():
                found = True
                yield side, mine
    if not found:
        raise DatasetError(f"{dataset.path} has no decision with a known outcome: collect longer texts (lede collect)")


def to_d3rlpy(dataset: Dataset, out: str | os.PathLike[str]) -> None:
    """Write `train.h5`, `validation.h5` and `test.h5`, as `d3rlpy.dataset.ReplayBuffer.load` reads them.

    A round is an episode, but one without a transition is dropped by d3rlpy; `features.json` names the observations'
    columns. Raises `DatasetError` if the dataset is damaged, has no rows or `out` holds anything; `OSError`.
    """
    with whole(out) as folder:
        for side, columns in sides(dataset):
            (folder / "features.json").write_text(json.dumps(columns.feature_names))
            with (folder / f"{side}.h5").open("w+b") as file, quiet():
                replay_buffer(columns).dump(file)


def to_minari(dataset: Dataset, out: str | os.PathLike[str]) -> None:
    """Write Minari's datasets `<name>/train-v0`, `validation-v0` and `test-v0` for `MINARI_DATASETS_PATH=out`.

    A round is an episode, followed by zeros. One that the text's end cut is truncated before its last decision, whose
    outcome is not known. Raises as `to_d3rlpy`.
    """
    import gymnasium
    import minari
    from minari.data_collector import EpisodeBuffer

    name = "".join(c if c.isascii() and c.isalnum() else "-" for c in dataset.name)
    before = os.environ.get("MINARI_DATASETS_PATH")
    with whole(out) as folder, warnings.catch_warnings():
        os.environ["MINARI_DATASETS_PATH"] = str(folder)
        try:
            for side, columns in sides(dataset):
                buffers: list[EpisodeBuffer] = []
                zero = np.zeros_like(columns.observations[:1])
                starts, cuts = columns.chain_starts.tolist(), columns.truncated.tolist()
                for a, b, cut in zip(starts[:-1], starts[1:], cuts, strict=True):
                    last = b - cut
                    if last == a:
                        continue
                    ends = np.arange(a, last) == last - 1
                    observations = columns.observations[a:b]
                    buffers.append(
                        EpisodeBuffer(
                            id=len(buffers),
                            observations=observations if cut else np.concatenate([observations, zero]),
                            actions=columns.actions[a:last].astype(np.int64),
                            rewards=columns.rewards[a:last],
                            terminations=ends & (not cut),
                            truncations=ends & cut,
                        )
                    )
                warnings.simplefilter("ignore")  # Minari's, of an author and an environment that there are not
                minari.create_dataset_from_buffers(
                    f"{name}/{side}-v0",
                    buffers,
                    observation_space=gymnasium.spaces.Box(-np.inf, np.inf, zero.shape[1:], np.float32),
                    action_space=gymnasium.spaces.Discrete(2),
                    description=f"features: {', '.join(columns.feature_names)}",
                )
        finally:
            os.environ.pop("MINARI_DATASETS_PATH")
            if before is not None:
                os.environ["MINARI_DATASETS_PATH"] = before
