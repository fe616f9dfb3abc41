"""Which episodes train and which are held out, and how inputs are scaled."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lede.learn.errors import LearnError
from lede.replay.reader import Columns


def held_out(episodes: NDArray[np.int64], share: float) -> NDArray[np.bool_]:
    """Whether each episode number is kept for validation, (N,), by a hash of the number.

    An episode stays on its side as a dataset grows. At least one unique episode is on either side.
    Raises LearnError if there are fewer than two.
    """
    unique, inverse = np.unique(episodes, return_inverse=True)
    if len(unique) < 2:
        raise LearnError(
            f"the dataset has {len(unique)} episode(s); one is kept for validation, so collect at least two"
        )
    hashes = hashed(unique)
    held = hashes < np.uint64(share * 2**64)
    held[hashes.argmin()] = True
    held[hashes.argmax()] = False
    return held[inverse]


def split(columns: Columns, share: float) -> tuple[Columns, Columns]:
    """Training and validation chains; all chains of an episode are on the same side."""
    held = held_out(columns.episodes[columns.chain_starts[:-1]], share)
    return take(columns, ~held), take(columns, held)


def take(columns: Columns, chains: NDArray[np.bool_]) -> Columns:
    """The chains marked in (C,), all their rows, in the same order."""
    lengths = np.diff(columns.chain_starts)
    rows = np.repeat(chains, lengths)
    return replace(
        columns,
        observations=columns.observations[rows],
        actions=columns.actions[rows],
        rewards=columns.rewards[rows],
        terminals=columns.terminals[rows],
        chain_starts=np.concatenate([[0], np.cumsum(lengths[chains])]).astype(np.int64),
        truncated=columns.truncated[chains],
        propensities=columns.propensities[rows],
        episodes=columns.episodes[rows],
        raw={name: values[rows] for name, values in columns.raw.items()},
    )


def scaling(observations: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and scale (F,) of rows (N, F): the standard deviation, or 1 where a feature does not vary.

    Features that are 0 or 1 throughout stay as they are: scaled, a rare layer's indicator would dwarf all others.
    """
    mean = observations.mean(axis=0, dtype=np.float64)
    scale = observations.std(axis=0, dtype=np.float64)
    as_is = (scale < 1e-6) | np.isin(observations, (0.0, 1.0)).all(axis=0)
    return np.where(as_is, 0, mean).astype(np.float32), np.where(as_is, 1, scale).astype(np.float32)


def hashed(numbers: NDArray[np.int64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser: neighbouring numbers become unrelated ones. Wraps around on purpose."""
    z = numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
