"""Views of logged rounds: some of the chains, other candidate layers. Rewards are not kept up."""

from dataclasses import replace

import numpy as np

from lede.learn.errors import LearnError
from lede.replay.columns import Columns, Mask, bypassed, select, with_features
from lede.replay.schema import EXIT, WALK


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
