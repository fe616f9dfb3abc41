"""Views of logged decisions: other features, another horizon, other candidate layers, one more action.

All start from the columns of the `round` horizon with `extended` features, so that many variants share one reading of
the files. Rewards are not kept up: they are computed on the view (`learn.rewards`).
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lede.learn.errors import LearnError
from lede.replay.reader import Columns
from lede.replay.schema import CONTINUE, EXIT, WALK

Mask = NDArray[np.bool_]


def take(columns: Columns, chains: Mask) -> Columns:
    """The marked chains (C,), all their rows, in the same order."""
    return select(columns, np.repeat(chains, np.diff(columns.chain_starts)))


def complete(columns: Columns) -> Columns:
    """Without the chains that were cut short: what the policy would have done next is not in them."""
    return take(columns, ~columns.truncated)


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


def with_bypass(columns: Columns, layers: int) -> Columns:
    """One more candidate, the full model of so many `layers`: at the last real one going on becomes a choice.

    What it leads to is known without having been logged: one token, at the cost of the upper layers. So each round that
    reached the last candidate becomes two, one that exits there, as logged, and one that goes on. Propensities are such
    that each weighs half until the two part, and all where a policy agrees with it: estimates count the round once.
    """
    raw, starts, size = columns.raw, columns.chain_starts, len(columns.actions)
    lengths = np.diff(starts)
    choice = (raw["phase"] == WALK) & (raw["layer"] == columns.layers[-1]) & (columns.actions == EXIT)
    reached = np.logical_or.reduceat(choice, starts[:-1])
    copied = np.repeat(reached, lengths) & (raw["phase"] == WALK)
    rows = np.append(np.arange(size), np.flatnonzero(copied))
    goes_on = choice[rows] & (np.arange(len(rows)) >= size)
    copies = np.repeat(np.arange(len(lengths)), lengths)[copied]
    chain_starts = np.append(starts, size + np.flatnonzero(np.diff(copies, append=-1)) + 1)
    observations, names = columns.observations[rows], columns.feature_names
    if any(name.startswith("layer=") for name in names):
        observations = np.pad(observations, ((0, 0), (0, 1)))
        names = (*names, f"layer={layers}")
    propensities = np.where(choice[rows], np.float32(0.5), np.float32(1)) * columns.propensities[rows]
    propensities[chain_starts[:-1][np.append(reached, np.ones(reached.sum(), bool))]] *= 2
    truncated = np.append(columns.truncated, np.zeros(reached.sum(), bool))
    terminals = np.zeros(len(rows), bool)
    terminals[chain_starts[1:] - 1] = ~truncated
    return replace(
        columns,
        observations=observations,
        actions=np.where(goes_on, CONTINUE, columns.actions[rows]).astype(columns.actions.dtype),
        rewards=columns.rewards[rows],
        terminals=terminals,
        chain_starts=chain_starts,
        truncated=truncated,
        propensities=propensities,
        episodes=columns.episodes[rows],
        feature_names=names,
        raw={name: values[rows] for name, values in raw.items()}
        | {"forced": (raw["forced"].astype(bool) & ~choice)[rows]},
    )


def with_candidates(columns: Columns, candidates: tuple[int, ...]) -> Columns:
    """Rounds as a walk over these candidates, without a bypass, would have logged them.

    Rows at other layers leave the walk; the rows around them meet, so the walk's next state is that of the next
    candidate left. A round that exits at another layer, or walks past the deepest candidate left, is not one that such
    a policy can have: it is cut (truncated) before that. The deepest candidate left is forced. The chance with which
    the behaviour came past the rows that were left out goes into the propensity of the row before them, or after them
    at a round's start, so that off-policy weights stay right.

    Raises LearnError if a candidate was not logged.
    """
    if candidates == columns.layers and not bypassed(columns).any():
        return columns
    if not set(candidates) <= set(columns.layers):
        logged, wanted = (", ".join(map(str, layers)) for layers in (columns.layers, candidates))
        raise LearnError(
            f"the decisions logged are at layers {logged}, not at {wanted}: "
            "draw others from the sweeps with --write-transitions, and learn from those"
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
