"""The best fixed (E, d) for a model on a device: what LayerSkip would be run with by somebody who took care.

Every pair is scored exactly on the training prompts: one teacher-forced pass over each greedy text tells what every
layer would draft at every position, and so how many rounds (E, d) takes; the measured costs give their time. The few
best pairs are then timed for real, in turns, and the fastest is kept.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from collect.costs import measure
from collect.sweep import sweep
from decode.generate import generate
from decode.model import Model
from decode.rules import MAX_DRAFTS, LayerSkip
from decode.sampling import Settings
from replay.costs import Costs

FINALISTS = 5


@dataclass(frozen=True)
class Static:
    """A fixed exit layer and draft length, and the tokens a second it reached on the training prompts."""

    exit_layer: int
    draft_length: int
    tokens_per_s: float

    @property
    def rule(self) -> LayerSkip:
        """The exit rule."""
        return LayerSkip(self.exit_layer, self.draft_length)


def best_static(
    model: Model,
    prompts: Sequence[list[int]],
    settings: Settings,
    layers: Sequence[int] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Static:
    """Search E over `layers` (default: every real layer of the lower three quarters) and d over 1…12."""
    layers = layers or range(1, max(model.layer_count * 3 // 4, 2))
    total = len(prompts) * 2
    correct: list[dict[int, np.ndarray]] = []
    for i, ids in enumerate(prompts):
        greedy = generate(model, ids, settings=settings)
        rows = sweep(model, tuple(layers), 0, greedy.prompt_ids, greedy.token_ids)
        layer, position = np.array(rows["layer"]), np.array(rows["position"]) - len(ids)
        right = np.array(rows["draft_token"]) == np.array(rows["target_token"])
        hits = {e: np.zeros(len(greedy.token_ids), bool) for e in layers}
        for e in layers:
            hits[e][position[layer == e]] = right[layer == e]
        correct.append(hits)
        progress(i + 1, total)
    costs = measure(model)

    def predicted(pair: tuple[int, int]) -> float:
        e, d = pair
        return predicted_rate([hits[e] for hits in correct], e, d, costs)

    pairs = [(e, d) for e in layers for d in range(1, MAX_DRAFTS + 1)]
    finalists = sorted(pairs, key=predicted, reverse=True)[:FINALISTS]
    tokens, seconds = dict.fromkeys(finalists, 0), dict.fromkeys(finalists, 0.0)
    for i, ids in enumerate(prompts):
        for pair in finalists:
            done = generate(model, ids, LayerSkip(*pair), settings)
            tokens[pair] += len(done.token_ids)
            seconds[pair] += done.seconds
        progress(len(prompts) + i + 1, total)
    best = max(finalists, key=lambda pair: tokens[pair] / seconds[pair])
    return Static(*best, tokens[best] / seconds[best])


def predicted_rate(texts: Sequence[np.ndarray], exit_layer: int, drafts: int, costs: Costs) -> float:
    """Tokens a millisecond of a fixed (E, d) over texts given as `right[t]`: would layer E draft token t correctly."""
    first = exit_layer * costs.layer[0] + costs.head[0] if exit_layer else costs.lookup
    again = first
    spent, written = 0.0, 0
    for right in texts:
        at = 0
        while at < len(right):
            most = min(drafts, len(right) - at - 1)
            if most == 0:
                spent += costs.plain()
                at += 1
                continue
            window = right[at : at + most]
            accepted = most if window.all() else int(window.argmin())
            spent += first + (most - 1) * again + costs.finish(exit_layer, most)
            at += accepted + 1
        written += len(right)
    return written / spent
