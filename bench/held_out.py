"""The episodes of a dataset as a bench's prompts: those of the test side, and those that `lede learn` trains on."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lede.bench.errors import BenchError
from lede.collect.prompts import Prompt
from lede.replay.files import episode_numbers
from lede.replay.reader import Dataset
from lede.replay.split import Split, episode_splits
from lede.simulate.calibration import IDENTITY


def dataset_prompts(dataset: Dataset, limit: int, tuning: int) -> tuple[list[Prompt], list[Prompt]]:
    """Up to `limit` test prompts to measure on, and up to `tuning` training prompts to tune on, in the dataset's order.

    Raises BenchError for a dataset that leaves nothing to measure or tune on.
    """
    test, training = _side(dataset, "test"), _side(dataset, "train")
    if not training or not test:
        raise BenchError(
            f"{dataset.path} has {len(training)} prompts to tune on and {len(test)} to measure on: "
            "collect more episodes, of all sides of the split"
        )
    return test[:limit], training[:tuning]


def _side(dataset: Dataset, side: Split) -> list[Prompt]:
    """The prompts of one side, each once."""
    splits = episode_splits(dataset)
    names = dict(zip(splits.numbers.tolist(), zip(splits.split, splits.group.tolist(), strict=True), strict=True))
    rows = dataset.episodes.select("run", "episode", "prompt_id", "task", "prompt_tokens").sort("run", "episode")
    found: dict[tuple[int, ...], Prompt] = {}
    for run, episode, prompt_id, task, tokens in rows.collect().iter_rows():
        mine, group = names[int(episode_numbers(run, np.array([episode]))[0])]
        if mine == side and tokens:
            found.setdefault(tuple(tokens), Prompt(prompt_id, task, "", tokens=tuple(tokens), group=str(group)))
    return list(found.values())


def check_same_model(dataset: Dataset, model_facts: Mapping[str, Any]) -> None:
    """Raise BenchError unless the dataset was collected from this model."""
    theirs = dataset.header["model"]
    if other := [name for name in IDENTITY if theirs.get(name) and theirs.get(name) != model_facts.get(name)]:
        raise BenchError(
            f"{dataset.path} is of {theirs.get('name')}, not of {model_facts['name']} ({', '.join(other)} differ): "
            "name its model with --model, or another dataset"
        )
