"""Rewards against slow literal versions of their formulas."""

from itertools import pairwise

import numpy as np
import pytest

from lede.replay.reward import paper_reward, time_reward
from lede.replay.schema import DRAFT, EXIT, WALK
from tests.replay.synthetic import COSTS, MODEL_LAYERS, make_episode

CANDIDATES = [(4, 5, 6, 8), (0, 4, 5, 6, 8), (1, 15), (16,)]


def rows_of(episode: int, layers: tuple[int, ...]) -> dict[str, np.ndarray]:
    rows = make_episode(episode, 7, layers)[1]
    return {name: np.asarray(values) for name, values in rows.items()}


def is_last(rows: dict[str, np.ndarray]) -> np.ndarray:
    return rows["terminal"] | rows["truncated"]


def timed(rows: dict[str, np.ndarray], rate: float) -> np.ndarray:
    decisions = {name: rows[name] for name in ("action", "accepted", "phase", "layer", "draft_index")}
    return time_reward(**decisions, last=is_last(rows), costs=COSTS, rate=rate)


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


@pytest.mark.parametrize("layers", CANDIDATES)
def test_time_reward_telescopes(layers: tuple[int, ...]) -> None:
    """A round's rewards sum to its tokens minus rate * time, but for the way to the first candidate."""
    rate, rounds = 0.37, 0
    for episode in range(20):
        rows = rows_of(episode, layers)
        if not len(rows["action"]):
            continue
        rewards = timed(rows, rate)
        for number in np.unique(rows["round"]):
            here = rows["round"] == number
            walk = rows["layer"][here & (rows["phase"] == WALK)].tolist()
            exit_layer, drafts = walk[-1], int(rows["draft_index"][here].max())
            time = sum(COSTS.step(lo, hi) for lo, hi in pairwise(walk))
            time += (drafts - 1) * COSTS.draft(exit_layer) + COSTS.finish(exit_layer, drafts)
            drafted = here & ((rows["phase"] == DRAFT) | (rows["action"] == EXIT))
            committed = 1 + int(rows["accepted"][drafted].sum())
            assert rewards[here].sum() == pytest.approx(committed - rate * time, abs=1e-5)
            rounds += 1
    assert rounds > 30


def test_time_reward_of_each_action() -> None:
    """Walk 4 -> 5, exit there, one more draft, stop; then a truncated round of a single walk decision."""
    phase = np.array([WALK, WALK, DRAFT, DRAFT, WALK])
    action = np.array([0, 1, 1, 0, 1])
    layer = np.array([4, 5, 5, 5, 4])
    accepted = np.array([True, True, True, False, False])
    draft_index = np.array([1, 1, 2, 3, 1])
    last = np.array([False, False, False, True, True])
    rewards = time_reward(action, accepted, phase, layer, draft_index, last, COSTS, rate=2.0)
    expected = [
        -2 * COSTS.step(4, 5),
        1 - 2 * COSTS.draft(5),
        1 - 2 * COSTS.draft(5),
        0 + 1 - 2 * COSTS.finish(5, 3),
        0 + 1 - 2 * COSTS.finish(4, 1),
    ]
    np.testing.assert_allclose(rewards, expected, rtol=1e-6)
