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
    temperature: float = 0.0,
) -> Texts:
    """Texts of 1 to `longest` tokens whose drafts are right with `chance`; states are noise, or, with a `signal`,
    margin tells right from wrong up to so much noise. The lookup has no guess at every fifth position or so. If a
    temperature is given, every other text is sampled."""
    rng = np.random.default_rng(seed)
    shape = (count, longest, len(layers))
    lengths = rng.integers(1, longest + 1, count)
    found = np.ones(shape, bool)
    if layers[0] == 0:
        found[..., 0] = rng.random(shape[:2]) < 0.8
    right = (rng.random(shape) < chance) & found
    states = np.zeros((*shape, len(SWEPT)), np.float32)
    own = SWEPT.index("token_logp")  # the first of what only sampled text has
    states[..., :own] = rng.normal(size=(*shape, own))
    if signal is not None:
        states[..., SWEPT.index("margin")] = right + signal * rng.normal(size=shape)
    targets = np.ones(shape[:2], np.int32)
    drafts = np.where(found, np.where(right, 1, 2), -1).astype(np.int32)
    wrong = ~right[..., 0]
    number = np.where(wrong, wrong.cumsum().reshape(wrong.shape) - 1, -1)
    behind = (wrong.sum(), BEHIND)
    copied = np.zeros((*behind, 5), np.float32)
    copied[..., :3] = rng.normal(size=(*behind, 3))
    prompts, heat = np.full(count, 5, np.int64), (temperature * (np.arange(count) % 2)).astype(np.float32)
    warm = heat > 0
    states[warm, :, :, own:] = rng.normal(size=(warm.sum(), *shape[1:], len(SWEPT) - own))
    states[..., SWEPT.index("temperature")] = heat[:, None, None]
    copied[..., 4] = rng.normal(size=behind) * warm[np.argwhere(number >= 0)[:, :1]]
    copies = Copies(number, np.full(behind, 3, np.int32), copied)
    arrays = states, found, right, drafts, targets, lengths, prompts, lengths.copy()
    return Texts(layers, *arrays, copies, temperatures=heat)
