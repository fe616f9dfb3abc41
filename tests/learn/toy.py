"""Columns made by hand, and a dataset whose best policy is known."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lede.process import CONTINUE, DRAFT, EXIT, WALK
from lede.replay.header import open_for_writing
from lede.replay.reader import Columns
from lede.replay.runs import start_run
from lede.replay.schema import STATE
from lede.replay.writer import EpisodeWriter
from lede.simulate.costs import MAX_ROWS, Costs

LAYERS = (2, 4)
MODEL_LAYERS = 8
MAX_DRAFTS = 12
COSTS = Costs(
    layers=MODEL_LAYERS,
    layer=tuple(0.1 + 0.005 * rows for rows in range(MAX_ROWS)),
    head=tuple(0.05 + 0.001 * rows for rows in range(MAX_ROWS)),
    features=0.01,
    decision=0.01,
    lookup=0.005,
    round=2.0,  # dear, so that a draft that is likely right is worth its time at either layer
    choose=0.04,
    choose_draft=0.03,
)
KNOWN_COSTS = replace(COSTS, autoregressive=3.0)  # plain decoding is no rival


def columns(chains: list[dict[str, Any]], layers: tuple[int, ...] = LAYERS) -> Columns:
    """Chains of `actions`, `rewards`, `observations` and, if not 1 / False, `propensities`, `forced`, `truncated`."""
    lengths = [len(chain["actions"]) for chain in chains]
    count = sum(lengths)

    def joined(name: str, fallback: float, dtype: Any) -> np.ndarray:
        parts = [chain.get(name, [fallback] * size) for chain, size in zip(chains, lengths, strict=True)]
        return np.concatenate(parts).astype(dtype)

    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    truncated = np.array([chain.get("truncated", False) for chain in chains])
    terminals = np.zeros(count, bool)
    terminals[starts[1:] - 1] = ~truncated
    observations = np.concatenate([chain["observations"] for chain in chains]).astype(np.float32)
    return Columns(
        observations=observations,
        actions=joined("actions", 0, np.uint8),
        rewards=joined("rewards", 0, np.float32),
        terminals=terminals,
        chain_starts=starts,
        truncated=truncated,
        propensities=joined("propensities", 1, np.float32),
        episodes=np.repeat([chain.get("episode", 0) for chain in chains], lengths).astype(np.int64),
        feature_names=tuple(f"f{number}" for number in range(observations.shape[1])),
        layers=layers,
        raw={
            "round": np.repeat(np.arange(len(chains)), lengths),
            "forced": joined("forced", 0, bool),
            "phase": joined("phase", WALK, np.uint8),
            "layer": joined("layer", layers[0], np.uint8),
            "draft_index": joined("draft_index", 1, np.uint8),
            "accepted": joined("accepted", 0, bool),
            "temperature": joined("temperature", 0, np.float32),
        },
    )


def random_columns(seed: int, chains: int = 60, features: int = 4) -> Columns:
    """Chains of 1 to 9 rows, a third of them truncated, a fifth of the rows forced."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(chains):
        size = int(rng.integers(1, 10))
        made.append(
            {
                "observations": rng.normal(size=(size, features)),
                "actions": rng.integers(0, 2, size),
                "rewards": rng.normal(size=size),
                "forced": rng.random(size) < 0.2,
                "truncated": number % 3 == 0,
                "episode": number // 4,
            }
        )
    return columns(made)


def write_known(path: Path, episodes: int = 40, rounds: int = 12, seed: int = 0, chance: float = 0.8) -> None:
    """A dataset that tells right from wrong: `margin` and `conf_topk` are 1 where everything drafted so far is right.

    Layer 2 is right with `chance`, layer 4 always, each further draft with `chance` at either layer. So the best policy
    exits exactly where the token is right, in both phases, under either reward.
    """
    rng = np.random.default_rng(seed)
    model = {"name": "known", "revision": None, "config_hash": "f" * 16, "layers": MODEL_LAYERS, "vocab": 10}
    header = {"model": model, "tokenizer_hash": "0" * 16, "layers": list(LAYERS), "top_k": 5, "trace": 20}
    open_for_writing(path, header)
    facts = {"versions": {}, "device": {}, "behaviour": {}, "costs": KNOWN_COSTS.to_json()}
    with EpisodeWriter(start_run(path, {"seed": seed}, facts)) as writer:
        for number in range(episodes):
            rows: list[dict[str, Any]] = []
            for round_number in range(rounds):
                _known_round(rng, rows, round_number, chance)
            arrays = {name: np.array([row[name] for row in rows]) for name in rows[0]}
            arrays["episode"] = np.full(len(rows), number)
            episode = {
                "episode": number,
                "prompt_id": f"known:{number}",
                "task": "toy",
                "prompt_tokens": [number],
                "output_tokens": [1, 2],
                "seed": number,
                "rounds": rounds,
                "drafted": 0,
                "accepted": 0,
                "seconds": 1.0,
                "finish": "length",
            }
            writer.add(episode, arrays, None)


def _known_round(rng: np.random.Generator, rows: list[dict[str, Any]], number: int, chance: float) -> None:
    opening = len(rows)

    def add(phase: int, layer: int, index: int, right: bool, exits: bool, forced: bool, propensity: float) -> None:
        signal = float(right) + rng.normal(0, 0.05)
        state = dict.fromkeys(STATE, 0.0) | {"margin": signal, "conf_topk": signal, "entropy": rng.normal()}
        row = {
            "round": number,
            "chain": index - 1,
            "step": len(rows) - opening,
            "position": 20 * number + index,
            "phase": phase,
            "layer": layer,
            "draft_index": index,
            "forced": forced,
            "action": EXIT if exits else CONTINUE,
            "propensity": 1.0 if forced else propensity,
            "terminal": False,
            "truncated": False,
            "draft_token": 1 if right else 2,
            "target_token": 1,
            "accepted": right,
        }
        rows.append(row | state)

    layer, right = LAYERS[0], bool(rng.random() < chance)
    leaves = bool(rng.random() < 0.5)
    add(WALK, layer, 1, right, leaves, False, 0.5)
    if not leaves:
        layer, right = LAYERS[1], True
        add(WALK, layer, 1, True, True, True, 1.0)
    for index in range(2, MAX_DRAFTS + 1):
        right = right and bool(rng.random() < chance)
        forced = index == MAX_DRAFTS
        goes_on = not forced and bool(rng.random() < 2 / 3)
        add(DRAFT, layer, index, right, goes_on, forced, 2 / 3 if goes_on else 1 / 3)
        if not goes_on:
            break
    rows[-1]["terminal"] = True
