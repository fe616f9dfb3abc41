"""A policy with random weights."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from lede.decode.state import State
from lede.policy import Policy


def random_policy(layers: tuple[int, ...], seed: int = 0, features: Sequence[str] | None = None) -> Policy:
    """One hidden layer of 16; features are by default all that there are, and decisions vary."""
    rng = np.random.default_rng(seed)
    names = (*(State._fields[4:] if features is None else features), "draft_index", *(f"layer={at}" for at in layers))
    shapes = pairwise((len(names), 16, 2))
    weights = [
        (rng.standard_normal(shape).astype(np.float32).T / 2, np.zeros(shape[1], np.float32)) for shape in shapes
    ]
    mean, scale = np.zeros(len(names), np.float32), np.ones(len(names), np.float32)
    return Policy(names, layers, tuple(weights), mean, scale)
