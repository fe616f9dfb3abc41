"""How fast learning is: updates a second with our column buffer, with d3rlpy's own, and of many networks in a stack.

    python -m bench.learn [--dataset DIR] [--updates N] [--json]

All train the same algorithm (the noisy DQN of `learn`) on the same transitions, the first two through d3rlpy's
`fitter`, in slices that take turns, so that whatever else the machine does falls on all; the fastest slice of each
counts. An update of a stack counts as one of each of its networks. Without a dataset the transitions are made up, with
as many features and chains as long as a dataset has.
"""

import argparse
import dataclasses
import json
import time
from functools import partial
from typing import Any

import numpy as np
import torch

from lede.learn.algorithms import make_algorithm
from lede.learn.buffer import ColumnBuffer
from lede.learn.config import PRESETS, LearnConfig
from lede.learn.library import d3rlpy, quiet
from lede.learn.split import scaling
from lede.learn.stacked import Stack
from lede.learn.together import Rows
from lede.replay.reader import Columns, open_dataset

SLICES = 5
NETWORKS = 24  # in the stack: as many as a grid trains together, three seeds of eight variants
ROWS = 20_000  # the stock buffer keeps an object an episode; more rows only fill memory


def made_up(rows: int, features: int, seed: int = 0) -> Columns:
    """Random decisions in chains of 1 to 9, one in twenty of them truncated."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 10, rows // 5)
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    count, chains = int(starts[-1]), len(lengths)
    truncated = rng.random(chains) < 0.05
    terminals = np.zeros(count, bool)
    terminals[starts[1:] - 1] = ~truncated
    return Columns(
        observations=rng.normal(size=(count, features)).astype(np.float32),
        actions=rng.integers(0, 2, count).astype(np.uint8),
        rewards=rng.normal(size=count).astype(np.float32),
        terminals=terminals,
        chain_starts=starts,
        truncated=truncated,
        propensities=np.full(count, 0.5, np.float32),
        episodes=np.repeat(np.arange(chains), lengths),
        feature_names=tuple(f"f{number}" for number in range(features)),
        layers=(4, 5, 6, 8),
        raw={"forced": np.zeros(count, bool)},
    )


def stock_buffer(columns: Columns, observations: Any, config: LearnConfig) -> Any:
    """The same chains in d3rlpy's own buffer and multi-step picker; at most about `ROWS` rows."""
    episodes = []
    for chain, (start, stop) in enumerate(zip(columns.chain_starts, columns.chain_starts[1:], strict=False)):
        if start >= ROWS:
            break
        episodes.append(
            d3rlpy.dataset.Episode(
                observations=observations[start:stop],
                actions=columns.actions[start:stop, None].astype(np.int64),
                rewards=columns.rewards[start:stop, None],
                terminated=not columns.truncated[chain],
            )
        )
    return d3rlpy.dataset.ReplayBuffer(
        d3rlpy.dataset.InfiniteBuffer(),
        episodes=episodes,
        transition_picker=d3rlpy.dataset.MultiStepTransitionPicker(n_steps=config.n_steps, gamma=config.gamma),
        action_space=d3rlpy.ActionSpace.DISCRETE,
        action_size=2,
    )


def compare(columns: Columns, config: LearnConfig, updates: int) -> dict[str, float]:
    """Updates a second with either buffer and in a stack, and two ratios: of the buffers, and of the stack to ours.

    Interleaved; the first slice of each warms up.
    """
    mean, scale = scaling(columns.observations)
    observations = (columns.observations - mean) / scale
    rng = np.random.default_rng(0)
    buffers = {
        "stock": stock_buffer(columns, observations, config),
        "columns": ColumnBuffer(columns, observations, config.n_steps, config.gamma, rng),
    }
    length = max(updates // SLICES, 1)
    contenders = {name: partial(_train, make_algorithm(config), buffer, length) for name, buffer in buffers.items()}
    stacked = max(length // NETWORKS, 1)
    contenders["stack"] = partial(_train_stack, *_stack(columns, observations, config), stacked)
    made = {"stock": length, "columns": length, "stack": stacked * NETWORKS}
    seconds = dict.fromkeys(contenders, float("inf"))
    for turn in range(SLICES + 1):
        for name, contender in contenders.items():
            start = time.perf_counter()
            contender()
            if turn:
                seconds[name] = min(seconds[name], time.perf_counter() - start)
    rates = {name: made[name] / spent for name, spent in seconds.items()}
    ratios = {"ratio": rates["columns"] / rates["stock"], "stack_ratio": rates["stack"] / rates["columns"]}
    return {"batch": config.batch_size, **rates, **ratios}


def _stack(columns: Columns, observations: Any, config: LearnConfig) -> tuple[Stack, Rows]:
    """`NETWORKS` networks that differ in seed and steps, as in a grid."""
    configs = [dataclasses.replace(config, seed=k % 3, n_steps=1 + k // 3) for k in range(NETWORKS)]
    rows = Rows(observations, columns.actions, configs)
    for k in range(NETWORKS):
        rows.learn_from(k, columns, None)
    seeds, rates = [each.seed for each in configs], [config.learning_rate] * NETWORKS
    return Stack(observations.shape[1], config.hidden, seeds, rates, config.sigma0), rows


def _train_stack(stack: Stack, rows: Rows, updates: int) -> None:
    for batch in rows.batches(updates):
        stack.update(batch)


def _train(algorithm: Any, buffer: Any, updates: int) -> None:
    options = {"logger_adapter": d3rlpy.logging.NoopAdapterFactory(), "show_progress": False}
    for _ in algorithm.fitter(buffer, n_steps=updates, n_steps_per_epoch=updates, **options):
        pass


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.learn", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dataset", help="a dataset folder; made-up transitions without it")
    parser.add_argument("--updates", type=int, default=1000, help="updates measured with each buffer (default 1000)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    if options.dataset:
        columns = open_dataset(options.dataset).columns(horizon="round", features="extended")
    else:
        columns = made_up(ROWS, features=15)
    torch.set_num_threads(1)
    with quiet():
        sizes = [PRESETS[name].batch_size for name in ("paper", "dqn")]
        configs = [dataclasses.replace(PRESETS["dqn"], batch_size=size) for size in sizes]
        results = [compare(columns, config, options.updates) for config in configs]
    if options.json:
        print(json.dumps({"rows": len(columns.actions), "results": results}, indent=2))
        return
    print(f"{len(columns.actions)} rows, {columns.observations.shape[1]} features, updates a second")
    print(f"{'batch':>6} {'d3rlpy buffer':>14} {'column buffer':>14} {'ratio':>7} {NETWORKS:>4} stacked {'ratio':>7}")
    for result in results:
        print(
            f"{result['batch']:>6} {result['stock']:>14.0f} {result['columns']:>14.0f} {result['ratio']:>6.2f}× "
            f"{result['stack']:>12.0f} {result['stack_ratio']:>6.1f}×"
        )


if __name__ == "__main__":
    main()
