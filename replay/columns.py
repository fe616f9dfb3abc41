"""Logged decisions as arrays, and parts of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lede.replay.schema import CONTINUE, EXIT, WALK

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Columns:
    """Decisions as arrays, sorted by run, episode, round, chain and step.

    N rows in C chains; the rows of a chain are contiguous and in order, and the next state of a row is the next row's.
    """

    observations: NDArray[np.float32]  # (N, F), C-contiguous
    actions: NDArray[np.uint8]  # (N,) 0 continue, 1 exit
    rewards: NDArray[np.float32]  # (N,)
    terminals: NDArray[np.bool_]  # (N,) only ever true on the last row of a chain
    chain_starts: NDArray[np.int64]  # (C + 1,) offsets, the last one is N
    truncated: NDArray[np.bool_]  # (C,) the text's end cut the chain: its last row is not terminal
    propensities: NDArray[np.float32]  # (N,) probability with which the logged action was taken
    episodes: NDArray[np.int64]  # (N,) unique over runs, and the same wherever and with whatever a run is stored
    feature_names: tuple[str, ...]  # F names
    layers: tuple[int, ...]  # candidates
    raw: dict[str, NDArray[Any]]  # (N,) each: phase, layer, draft_index, forced, accepted, tokens, round


class Samples:
    """Transitions one by one: a map-style dataset, such as `torch.utils.data.DataLoader` takes.

    The last decision of a chain that the text's end cut is left out: what came after it is not known.
    """

    def __init__(self, columns: Columns) -> None:
        kept = np.ones(len(columns.actions), bool)
        kept[columns.chain_starts[1:][columns.truncated] - 1] = False
        self.columns, self._rows = columns, np.flatnonzero(kept)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """observation, next_observation (F,), zeros behind the end; action, reward, terminal, propensity, episode."""
        columns, row = self.columns, self._rows[index]
        seen, terminal = columns.observations, columns.terminals[row]
        return {
            "observation": seen[row],
            "action": columns.actions[row],
            "reward": columns.rewards[row],
            "next_observation": np.zeros_like(seen[row]) if terminal else seen[row + 1],
            "terminal": terminal,
            "propensity": columns.propensities[row],
            "episode": columns.episodes[row],
        }


def select(columns: Columns, rows: Mask, truncated: Mask | None = None) -> Columns:
    """The marked rows (N,) of every chain, in order; chains without any vanish. truncated: (C,), if it changes."""
    lengths = np.diff(np.append(0, np.cumsum(rows))[columns.chain_starts])
    left = lengths > 0
    cut = columns.truncated if truncated is None else truncated
    starts = np.concatenate([[0], np.cumsum(lengths[left])]).astype(np.int64)
    terminals = np.zeros(int(starts[-1]), bool)
    terminals[starts[1:] - 1] = ~cut[left]
    return replace(
        columns,
        observations=columns.observations[rows],
        actions=columns.actions[rows],
        rewards=columns.rewards[rows],
        terminals=terminals,
        chain_starts=starts,
        truncated=cut[left],
        propensities=columns.propensities[rows],
        episodes=columns.episodes[rows],
        raw={name: values[rows] for name, values in columns.raw.items()},
    )


def walks(columns: Columns) -> Columns:
    """The `walk` horizon: a chain is one layer walk, which its exit (or bypass) ends; drafting is left out."""
    rows = columns.raw["phase"] == WALK
    last = np.maximum.reduceat(np.where(rows, np.arange(len(rows)), -1), columns.chain_starts[:-1])
    ended = (columns.actions[last] == EXIT) | bypassed(columns)[last]
    return select(columns, rows, truncated=~ended)


def with_features(columns: Columns, names: tuple[str, ...]) -> Columns:
    """Only these observations, in this order."""
    if names == columns.feature_names:
        return columns
    at = [columns.feature_names.index(name) for name in names]
    return replace(columns, observations=np.ascontiguousarray(columns.observations[:, at]), feature_names=names)


def bypassed(columns: Columns) -> Mask:
    """Rows (N,) at which a walk went on past its last candidate: no draft, the full model's own token alone."""
    raw = columns.raw
    return (raw["phase"] == WALK) & (raw["layer"] == columns.layers[-1]) & (columns.actions == CONTINUE)
