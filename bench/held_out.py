"""The episodes of a dataset as a bench's prompts: those of the test side, and those that `lede learn` trains on."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lede.bench.errors import BenchError
from lede.collect.prompts import Prompt
from lede.replay.reader import Dataset
from lede.replay.split import SPLITS, episode_splits
from lede.simulate.calibration import IDENTITY


def dataset_prompts(dataset: Dataset, limit: int, tuning: int) -> tuple[list[Prompt], list[Prompt]]:
    """Up to `limit` test prompts to measure on, and up to `tuning` training prompts to tune on, in the dataset's order.

    Raises BenchError for a dataset that leaves nothing to measure or tune on.
    """
    rows, numbers = dataset.read("episodes", ["prompt_id", "task", "prompt_tokens"])
    splits = episode_splits(dataset)
    sides: dict[str, dict[tuple[int, ...], Prompt]] = {side: {} for side in SPLITS}  # each prompt once
    for row, side, group in zip(rows.take(np.argsort(numbers)).to_pylist(), splits.split, splits.group, strict=True):
        if tokens := tuple(row["prompt_tokens"]):
            sides[side].setdefault(tokens, Prompt(row["prompt_id"], row["task"], "", tokens=tokens, group=str(group)))
    test, training = (list(sides[side].values()) for side in ("test", "train"))
    if not training or not test:
        raise BenchError(
            f"{dataset.path} has {len(training)} prompts to tune on and {len(test)} to measure on: "
            "collect more episodes, of all sides of the split"
        )
    return test[:limit], training[:tuning]


def check_same_model(dataset: Dataset, model_facts: Mapping[str, Any]) -> None:
    """Raise BenchError unless the dataset was collected from this model."""
    theirs = dataset.header["model"]
    if other := [name for name in IDENTITY if theirs.get(name) and theirs.get(name) != model_facts.get(name)]:
        raise BenchError(
            f"{dataset.path} is of {theirs.get('name')}, not of {model_facts['name']} ({', '.join(other)} differ): "
            "name its model with --model, or another dataset"
        )
