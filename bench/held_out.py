"""The episodes of a dataset as a bench's prompts: those that `lede learn` holds out, and those that it trains on."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lede.bench.errors import BenchError
from lede.collect.prompts import Prompt
from lede.learn.config import LearnConfig
from lede.learn.split import held_out
from lede.replay.reader import Dataset
from lede.simulate.calibration import IDENTITY


def dataset_prompts(dataset: Dataset, limit: int, tuning: int) -> tuple[list[Prompt], list[Prompt]]:
    """Up to `limit` held-out prompts to measure on, and up to `tuning` others to tune on, in the dataset's order.

    A prompt that several runs decoded, some of them to train on, is on neither side. Raises LearnError for a dataset
    of one episode, BenchError for one that leaves nothing to measure or tune on.
    """
    import polars as pl  # not before it is needed: importing it changes the process's environment

    rows = dataset.episodes.select("run", "episode", "prompt_id", "task", "prompt_tokens").sort("run", "episode")
    frame = rows.filter(pl.col("prompt_tokens").list.len() > 0).collect()
    numbers = np.array(
        [int(run[1:], 16) << 32 | episode for run, episode in frame.select("run", "episode").iter_rows()], np.int64
    )
    held = held_out(numbers, LearnConfig().validation)
    prompts = [
        Prompt(prompt_id, task, "", tokens=tuple(tokens))
        for prompt_id, task, tokens in frame.select("prompt_id", "task", "prompt_tokens").iter_rows()
    ]
    test, training = _side(prompts, held), _side(prompts, ~held)
    if not training or not test:
        raise BenchError(f"{dataset.path} has every prompt on both sides of the split: collect more episodes")
    return test[:limit], training[:tuning]


def _side(prompts: Sequence[Prompt], mine: NDArray[np.bool_]) -> list[Prompt]:
    """The marked prompts, each once, without those that are also among the others, by name or by text."""
    others = [prompt for prompt, own in zip(prompts, mine, strict=True) if not own]
    seen = {key for prompt in others for key in (prompt.id, prompt.tokens)}
    found = []
    for prompt, own in zip(prompts, mine, strict=True):
        if own and not {prompt.id, prompt.tokens} & seen:
            found.append(prompt)
            seen |= {prompt.id, prompt.tokens}
    return found


def check_same_model(dataset: Dataset, model_facts: Mapping[str, Any]) -> None:
    """Raise BenchError unless the dataset was collected from this model."""
    theirs = dataset.header["model"]
    if other := [name for name in IDENTITY if theirs.get(name) and theirs.get(name) != model_facts.get(name)]:
        raise BenchError(
            f"{dataset.path} is of {theirs.get('name')}, not of {model_facts['name']} ({', '.join(other)} differ): "
            "name its model with --model, or another dataset"
        )
