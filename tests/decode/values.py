"""A value function with random weights: what the decoder needs of a learned policy."""

import numpy as np

from lede.decode.state import State


class Values:
    """Inputs are the state's columns, standardised by hand so that decisions vary; one hidden layer of 16."""

    def __init__(self, layers: tuple[int, ...], seed: int = 0):
        rng = np.random.default_rng(seed)
        self.layers = layers
        self.features = (*State._fields[4:], "draft_index", *(f"layer={layer}" for layer in layers))
        self._hidden = (rng.standard_normal((len(self.features), 16)) / 2).astype(np.float32)
        self._last = rng.standard_normal((16, 2)).astype(np.float32)

    def values(self, row: np.ndarray) -> np.ndarray:
        """(features,) → (2,)."""
        return np.maximum(row @ self._hidden, 0) @ self._last
