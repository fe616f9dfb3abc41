"""The paper's reward against a slow literal version of its formula."""

import numpy as np
import pytest

from lede.process import EXIT
from lede.replay.reward import paper_reward
from tests.replay.synthetic import MODEL_LAYERS, make_episode

CANDIDATES = [(4, 5, 6, 8), (0, 4, 5, 6, 8), (1, 15), (16,)]


def rows_of(episode: int, layers: tuple[int, ...]) -> dict[str, np.ndarray]:
    rows = make_episode(episode, 7, layers)[1]
    return {name: np.asarray(values) for name, values in rows.items()}


@pytest.mark.parametrize("layers", CANDIDATES)
def test_paper_reward_is_the_formula(layers: tuple[int, ...]) -> None:
    for episode in range(10):
        rows = rows_of(episode, layers)
        if not len(rows["action"]):
            continue
        rewards = paper_reward(rows["action"], rows["accepted"], rows["layer"], MODEL_LAYERS)
        assert rewards.dtype == np.float32
        for reward, action, accepted, layer in zip(
            rewards, rows["action"], rows["accepted"], rows["layer"], strict=True
        ):
            if action == EXIT and accepted:
                expected = 1 + (MODEL_LAYERS - int(layer)) / MODEL_LAYERS
            elif action == EXIT:
                expected = -2 + (MODEL_LAYERS - int(layer)) / MODEL_LAYERS
            else:
                expected = -0.01
            assert reward == np.float32(expected)
