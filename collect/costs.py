"""What the operations of a round cost on this device, in milliseconds: the base of the time reward.

They are taken from real rounds, not from operations timed alone: rounds of 1…12 drafts at several exit layers are
decoded, and what each layer, row, head, decision and round adds is fitted to their times. Timed alone an operation
looks dearer (its data is cold each time) or cheaper (one layer again and again stays in the cache) than it is between
the others.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

import numpy as np
import torch

from decode.loop import Decoding
from decode.model import Model
from decode.round import Round
from decode.rules import MAX_DRAFTS, QPolicy, Rule
from decode.sampling import Settings
from decode.state import State
from replay.costs import Costs

REPEATS = 3
TOKENS = 40  # decoded for each rule and repeat


class _Probe(Rule):
    """Drafts a fixed number of tokens from one layer, but looks and thinks each time as a learned policy would."""

    needs_state = True
    needs_lookup = True

    def __init__(self, layer: int, drafts: int):
        self.layers, self.max_drafts = (layer,), drafts
        self._policy = QPolicy(_Network(layer))

    def exit_here(self, state: State) -> bool:
        """Evaluate the network, then exit."""
        self._policy.exit_here(state)
        return True

    draft_on = exit_here


class _Network:
    """A policy of the usual size with arbitrary weights."""

    def __init__(self, layer: int):
        self.layers = (layer,)
        self.features = (*State._fields[4:], "draft_index", f"layer={layer}")
        sizes, rng = (len(self.features), 64, 64, 2), np.random.default_rng(0)
        self._weights = [rng.standard_normal(shape).astype(np.float32) for shape in pairwise(sizes)]

    def values(self, row: np.ndarray) -> np.ndarray:
        """Two numbers that nobody uses."""
        for weight in self._weights[:-1]:
            row = np.maximum(row @ weight, 0)
        return row @ self._weights[-1]


@dataclass(frozen=True)
class _Timing:
    """Median milliseconds of one kind of round."""

    draft: float
    verify: float
    rest: float


def measure(model: Model) -> Costs:
    """Measure this model on its device: some seconds for a small one."""
    lengths = range(1, MAX_DRAFTS + 1)
    shallow, deep = max(model.layer_count // 8, 1), max(model.layer_count // 2, 2)
    rules: dict[tuple[int, int], Rule] = {(e, d): _Probe(e, d) for e in (0, shallow, deep) for d in lengths}
    rounds = timings(model, rules)
    one, many, per_row, head, head_per_row, step = fit(rounds, model.layer_count)
    layers = (one, *(max(many + per_row * d, one) for d in lengths))
    first = min(head, step)  # a verification's constant part is the head and what a pass costs beside its layers
    heads = (first, *(head + head_per_row * d for d in lengths))
    features = min(time_statistics(model), step - first)
    decision = step - first - features
    lookup = max(median(rounds[0, d].draft / d for d in lengths) - decision, 0.0)
    return Costs(model.layer_count, layers, heads, features, decision, lookup, median(r.rest for r in rounds.values()))


def fit(rounds: Mapping[tuple[int, int], _Timing], layer_count: int) -> list[float]:
    """Least squares for what rounds are made of, relative errors weighing alike; none of it below zero.

    Returns the milliseconds of a layer at one row; of a layer at more rows, and for each row beyond the first; of the
    head, and for each row beyond the first; of a step of drafting beside its layers (head, state, decision).
    """
    rows, values = [], []
    for (e, d), timing in rounds.items():
        rows.append([0, layer_count - e, (layer_count - e) * d, 1, d, 0])
        values.append(timing.verify)
        if e > 0:  # d times the early layers and a step, and the early layers of the last draft
            rows.append([(d + 1) * e, 0, 0, 0, 0, d])
            values.append(timing.draft)
    matrix, target = np.array(rows, float), np.array(values)
    matrix /= target[:, None]
    kept = list(range(matrix.shape[1]))
    while True:  # what comes out negative is nothing: leave it out, fit again
        found = np.linalg.lstsq(matrix[:, kept], np.ones(len(target)), rcond=None)[0]
        if (found >= 0).all():
            break
        kept.pop(int(found.argmin()))
    out = np.zeros(matrix.shape[1])
    out[kept] = found
    return [float(value) for value in out]


def timings(model: Model, rules: dict[tuple[int, int], Rule]) -> dict[tuple[int, int], _Timing]:
    """Rounds under each rule, going on from the same text; the rules take turns, so that a slow spell hits all."""
    room = max(model.context - TOKENS - 1, 1)
    prompt = [int(t) for t in np.random.default_rng(0).integers(model.vocabulary, size=min(160, room))]
    settings = Settings(max_new_tokens=min(TOKENS, model.context - len(prompt)), stop_tokens=frozenset())
    seen: dict[tuple[int, int], list[Round]] = {key: [] for key in rules}
    for repeat in range(REPEATS + 1):
        for key, rule in rules.items():
            rounds = [r for r in Decoding(model, prompt, rule, settings).rounds() if len(r.drafts) == rule.max_drafts]
            seen[key] += rounds if repeat else []

    def typical(rounds: list[Round], name: str) -> float:
        return median(getattr(r, name) for r in rounds) * 1e3

    return {
        key: _Timing(
            typical(rounds, "draft_seconds"), typical(rounds, "verify_seconds"),
            median(r.seconds - r.draft_seconds - r.verify_seconds for r in rounds) * 1e3,
        )
        for key, rounds in seen.items()
    }  # fmt: skip


@torch.inference_mode()
def time_statistics(model: Model) -> float:
    """Milliseconds of one row's state from its logits."""
    logits, seconds = model.head(model.embed([0])), []
    for _ in range(50):
        synchronise(model)
        began = time.perf_counter()
        model.statistics(logits)
        seconds.append(time.perf_counter() - began)
    return median(seconds) * 1e3


def synchronise(model: Model) -> None:
    """Wait for the device: a GPU's work is not done when the call returns."""
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
