"""A small collection in a folder of its own, for tests of what is written."""

from pathlib import Path

import polars as pl
import torch

import lede.collect.collector
from lede import replay
from lede.collect.collector import CollectConfig, Collected
from lede.collect.prompts import Prompt
from lede.decode.load import from_transformers
from lede.decode.model import Model
from lede.simulate.costs import MAX_ROWS, Costs
from tests.models import byte_llama, byte_tokenizer

PROMPTS = [Prompt(f"p{i}", "test", text) for i, text in enumerate(["def mean(values):", "abab", "x = [1, 1, 1, "])]
CONFIG = CollectConfig(episodes=7, layers=(0, 1, 2), max_drafts=12, max_new_tokens=40, sweep=True, seed=3)
COSTS = Costs(4, (1.0,) * MAX_ROWS, (1.0,) * MAX_ROWS, 0.1, 0.1, 0.1, 0.1)


def tiny_model(**changes) -> Model:
    return from_transformers(byte_llama(**changes), torch.float32, tokenizer=byte_tokenizer(), name="tiny")


def collected(
    out: Path, config: CollectConfig = CONFIG, model: Model | None = None, prompts: list[Prompt] = PROMPTS, **more
) -> Collected:
    """Collect without taking the time to measure costs."""
    measure = lede.collect.collector.measure
    lede.collect.collector.measure = lambda model: COSTS
    try:
        return lede.collect.collector.collect(model or tiny_model(), prompts, out, config, **more)
    finally:
        lede.collect.collector.measure = measure


def tables(out: Path) -> dict[str, pl.DataFrame]:
    """Everything in a dataset but what a clock said, in one order."""
    dataset = replay.open_dataset(out)
    keys = {
        "episodes": ["run", "episode"],
        "transitions": ["run", "episode", "round", "chain", "step"],
        "sweeps": ["run", "episode", "position", "layer"],
    }
    return {name: getattr(dataset, name).collect().drop("seconds", strict=False).sort(by) for name, by in keys.items()}


def same(a: dict[str, pl.DataFrame], b: dict[str, pl.DataFrame]) -> bool:
    """Whether two datasets hold the same rows."""
    return all(a[name].equals(b[name]) for name in a)
