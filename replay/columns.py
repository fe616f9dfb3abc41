"""Logged decisions as arrays, and views of them: some of the chains, other candidate layers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lede.process import CONTINUE, EXIT, WALK
from lede.replay.errors import DatasetError

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
    raw: dict[str, NDArray[Any]]  # (N,) each: phase, layer, draft_index, forced, accepted, tokens, round, temperature


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


def take(columns: Columns, chains: Mask) -> Columns:
    """The marked chains (C,), all their rows, in the same order."""
    return select(columns, np.repeat(chains, np.diff(columns.chain_starts)))


def complete(columns: Columns) -> Columns:
    """Without the chains that were cut short: what the policy would have done next is not in them."""
    return take(columns, ~columns.truncated)


def with_candidates(columns: Columns, candidates: tuple[int, ...]) -> Columns:
    """Rounds as a walk over these candidates, without a bypass, would have logged them.

    Rows at other layers leave the walk; the rows around them meet, so the walk's next state is that of the next
    candidate left. A round that exits at another layer, or walks past the deepest candidate left, is not one that such
    a policy can have: it is cut (truncated) before that. The deepest candidate left is forced. The chance with which
    the behaviour came past the rows that were left out goes into the propensity of the row before them, or after them
    at a round's start, so that off-policy weights stay right.

    Raises DatasetError if a candidate was not logged.
    """
    if candidates == columns.layers and not bypassed(columns).any():
        return columns
    if not set(candidates) <= set(columns.layers):
        logged, wanted = (", ".join(map(str, layers)) for layers in (columns.layers, candidates))
        raise DatasetError(
            f"the decisions logged are at layers {logged}, not at {wanted}: "
            "name some of those, or learn from the sweeps (--source sweeps), which hold others"
        )
    raw, starts = columns.raw, columns.chain_starts
    lengths = np.diff(starts)
    walking, exits = raw["phase"] == WALK, columns.actions == EXIT
    inside = np.isin(raw["layer"], candidates)
    past = walking & inside & (raw["layer"] == candidates[-1]) & ~exits
    cuts = past | (walking & ~inside & exits)
    before = np.cumsum(cuts)
    gone = before - np.repeat(before[starts[:-1]] - cuts[starts[:-1]], lengths) > 0
    rows = inside & ~gone
    truncated = columns.truncated | np.logical_or.reduceat(cuts, starts[:-1])

    propensities = columns.propensities.astype(np.float64)
    kept, skipped = np.flatnonzero(rows), np.flatnonzero(~inside & ~gone)
    if len(kept):
        chain = np.repeat(np.arange(len(lengths)), lengths)
        after = np.searchsorted(kept, skipped)
        owner = kept[np.maximum(after - 1, 0)]
        owner = np.where((after > 0) & (chain[owner] == chain[skipped]), owner, kept[np.minimum(after, len(kept) - 1)])
        own = chain[owner] == chain[skipped]
        np.multiply.at(propensities, owner[own], propensities[skipped[own]])
    forced = np.where(walking & (raw["layer"] == candidates[-1]), True, raw["forced"].astype(bool))
    left_out = {f"layer={layer}" for layer in {*columns.layers} - {*candidates}}
    changed = replace(
        with_features(columns, tuple(name for name in columns.feature_names if name not in left_out)),
        propensities=propensities.astype(np.float32),
        layers=candidates,
        raw=raw | {"forced": forced},
    )
    return select(changed, rows, truncated)
