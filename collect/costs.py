"""What the operations of a round cost on this device, in milliseconds: the base of the time reward.

They are taken from real rounds, not from operations timed alone: rounds of 1…12 drafts at several exit layers are
decoded, and what each layer, row, head, decision and round adds is fitted to their times. Timed alone an operation
looks dearer (its data is cold each time) or cheaper (one layer again and again stays in the cache) than it is between
the others.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

import numpy as np
import torch

from decode.lookup import Lookup
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


@torch.inference_mode()
def measure(model: Model) -> Costs:
    """Measure this model on its device: some seconds for a small one."""
    lengths = range(1, MAX_DRAFTS + 1)
    shallow, deep = max(model.layer_count // 8, 1), max(model.layer_count // 2, 2)
    rules: dict[tuple[int, int], Rule] = {(e, d): _Probe(e, d) for e in (0, shallow, deep) for d in lengths}
    rounds = timings(model, rules)
    one, step = drafting(rounds)
    first, per_row, head, head_per_row = verifying(rounds, model.layer_count, deep)
    layers = (one, *(max(first + per_row * d, one) for d in lengths))
    # A lookup's draft runs no layer and no head: what it takes is the index, and what every decision takes.
    looked = median(rounds[0, d].draft / d for d in lengths)
    lookup = min(timed(lookup_step(model)), looked)
    decision = min(looked - lookup, step)
    logits = model.head(model.embed([0]))
    features = min(timed(lambda: model.statistics(logits)), step - decision)
    heads = (step - decision - features, *(head + head_per_row * d for d in lengths))
    return Costs(model.layer_count, layers, heads, features, decision, lookup, median(r.rest for r in rounds.values()))


def drafting(rounds: Mapping[tuple[int, int], _Timing]) -> tuple[float, float]:
    """Milliseconds of an early layer at one row, and of what a draft takes beside its layers (head, state, decision).

    d drafts at layer E take d times the early layers and the rest, and the early layers of the last draft.
    """
    real = [((d + 1) * e, d, timing.draft) for (e, d), timing in rounds.items() if e > 0]
    layer, step = line([row[:2] for row in real], [row[2] for row in real])
    return max(layer, 0.0), max(step, 0.0)


def verifying(
    rounds: Mapping[tuple[int, int], _Timing], layer_count: int, deep: int
) -> tuple[float, float, float, float]:
    """Milliseconds of a later layer and what each draft adds to it; of head and pass, and what each draft adds to that.

    The time of a verification is a line in the number of drafts, one from layer 0 on and one from `deep` on; their
    difference is the layers between, so that both are met, and what lies between them is between.
    """
    lines = []
    for exit_layer in (0, deep):
        chosen = {d: timing.verify for (e, d), timing in rounds.items() if e == exit_layer}
        lines.append(line([(1, d) for d in chosen], list(chosen.values())))
    layer, per_draft = (
        min(max((whole - upper) / deep, 0.0), max(whole, 0.0) / layer_count)
        for whole, upper in zip(*lines, strict=True)
    )
    return layer, per_draft, lines[0][0] - layer_count * layer, max(lines[0][1], 0.0) - layer_count * per_draft


def line(rows: Sequence[tuple[float, float]], values: Sequence[float]) -> tuple[float, float]:
    """The two factors that give `values` from `rows` by least squares, relative errors weighing alike."""
    target = np.array(values)
    found = np.linalg.lstsq(np.array(rows, float) / target[:, None], np.ones(len(target)), rcond=None)[0]
    return float(found[0]), float(found[1])


def timings(model: Model, rules: dict[tuple[int, int], Rule]) -> dict[tuple[int, int], _Timing]:
    """Rounds under each rule, going on from the same text; the rules take turns, so that a slow spell hits all."""
    room = max(model.context - TOKENS - 1, 1)
    prompt = [int(t) for t in np.random.default_rng(0).integers(model.vocabulary, size=min(320, room))]
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


def lookup_step(model: Model) -> Callable[[], None]:
    """One draft's work on a lookup index: a token tried, a guess, and the token taken back."""
    index = Lookup(int(t) for t in np.random.default_rng(0).integers(min(model.vocabulary, 64), size=256))
    length = len(index)

    def run() -> None:
        index.push(0)
        index.guess()
        index.truncate(length)

    return run


def timed(operation: Callable[[], object], repeats: int = 50) -> float:
    """Median milliseconds of something that runs on the host or waits for the device."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        operation()
        seconds.append(time.perf_counter() - began)
    return median(seconds) * 1e3


def synchronise(model: Model) -> None:
    """Wait for the device: a GPU's work is not done when the call returns."""
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
