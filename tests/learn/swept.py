"""Swept texts made by hand."""

import numpy as np

from lede.simulate.rollouts import BEHIND, Copies
from lede.simulate.texts import SWEPT, Texts


def made_up(
    seed: int,
    layers: tuple[int, ...] = (0, 2, 4),
    count: int = 4,
    longest: int = 24,
    chance: float = 0.75,
    signal: float | None = None,
) -> Texts:
    """Texts of 1 to `longest` tokens whose drafts are right with `chance`; states are noise, or, with a `signal`,
    margin tells right from wrong up to so much noise. The lookup has no guess at every fifth position or so."""
    rng = np.random.default_rng(seed)
    shape = (count, longest, len(layers))
    lengths = rng.integers(1, longest + 1, count)
    found = np.ones(shape, bool)
    if layers[0] == 0:
        found[..., 0] = rng.random(shape[:2]) < 0.8
    right = (rng.random(shape) < chance) & found
    states = rng.normal(size=(*shape, len(SWEPT))).astype(np.float32)
    if signal is not None:
        states[..., SWEPT.index("margin")] = right + signal * rng.normal(size=shape)
    targets = np.ones(shape[:2], np.int32)
    drafts = np.where(found, np.where(right, 1, 2), -1).astype(np.int32)
    wrong = ~right[..., 0]
    number = np.where(wrong, wrong.cumsum().reshape(wrong.shape) - 1, -1)
    behind = (wrong.sum(), BEHIND)
    copies = Copies(number, np.full(behind, 3, np.int32), rng.normal(size=(*behind, 3)).astype(np.float32))
    return Texts(
        layers, states, found, right, drafts, targets, lengths, np.full(count, 5, np.int64), lengths.copy(), copies
    )
