"""How fast learning is: updates per second with our table buffer and with d3rlpy's own, through d3rlpy's fitter.

    python benchmarks/learn.py [--dataset DIR] [--updates N]

Both train the same network on the same transitions, in slices that take turns, so that whatever else the machine does
falls on both; the fastest slice of each counts.
"""

import argparse
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from lede.learn.buffers import TableBuffer, logged_transitions
from lede.learn.config import PRESETS
from lede.learn.dqn import make_algorithm
from lede.learn.library import d3rlpy, quiet, threadpool_limits
from lede.replay.reader import open_dataset

SLICES = 6  # the first of each warms up
ROWS = 20_000  # the stock buffer keeps an object per episode; more rows only fill memory


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dataset", default="data/lede-tiny")
    parser.add_argument("--updates", type=int, default=200, help="per slice")
    options = parser.parse_args()
    columns = open_dataset(options.dataset).columns(horizon="round", features="extended")
    torch.set_num_threads(1)
    with quiet(), threadpool_limits(1):
        for name in ("paper", "default"):
            config = PRESETS[name]
            ours = TableBuffer(np.random.default_rng(0))
            ours.fill(logged_transitions(columns, columns.observations, config.n_steps, config.gamma))
            buffers = {"tables": ours, "d3rlpy's": stock_buffer(columns, config)}
            algorithms = {kind: make_algorithm(SimpleNamespace(config=config), 10**6) for kind in buffers}
            for algorithm in algorithms.values():
                algorithm.create_impl(columns.observations.shape[1:], 2)
            seconds = dict.fromkeys(buffers, float("inf"))
            for turn in range(SLICES):
                for kind, buffer in buffers.items():
                    start = time.perf_counter()
                    quietly = {"show_progress": False, "logger_adapter": d3rlpy.logging.NoopAdapterFactory()}
                    algorithms[kind].fit(buffer, options.updates, options.updates, **quietly)
                    if turn:
                        seconds[kind] = min(seconds[kind], time.perf_counter() - start)
            rates = ", ".join(f"{kind} {options.updates / spent:.0f}" for kind, spent in seconds.items())
            print(f"{name}, batch {config.batch_size}: {rates} updates per second")


def stock_buffer(columns: Any, config: Any) -> Any:
    """The first chains in d3rlpy's own buffer and multi-step picker."""
    episodes = [
        d3rlpy.dataset.Episode(
            observations=columns.observations[start:stop],
            actions=columns.actions[start:stop, None].astype(np.int64),
            rewards=columns.rewards[start:stop, None],
            terminated=not cut,
        )
        for start, stop, cut in zip(columns.chain_starts, columns.chain_starts[1:], columns.truncated, strict=False)
        if stop <= ROWS and stop - start > cut
    ]
    return d3rlpy.dataset.ReplayBuffer(
        d3rlpy.dataset.InfiniteBuffer(),
        episodes=episodes,
        transition_picker=d3rlpy.dataset.MultiStepTransitionPicker(n_steps=config.n_steps, gamma=config.gamma),
        action_space=d3rlpy.ActionSpace.DISCRETE,
        action_size=2,
    )


if __name__ == "__main__":
    main()
