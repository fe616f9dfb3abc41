"""The speedup that a method's own drafts imply: what it would reach if deciding and the host's work were free.

A round of d drafts at depth E costs d early passes with their heads, one early pass more for the last draft, and the
other layers and the head over d + 1 rows; it commits acceptance · d + 1 tokens. By the costs measured on this device,
prompts left out, no exit policy with these E, d and acceptance can be faster.
"""

from collections import Counter
from collections.abc import Sequence
from math import floor

from lede.bench.measure import Sample
from lede.simulate.costs import MAX_ROWS, Costs


def implied(costs: Costs, exit_layer: int, draft_length: float, acceptance: float) -> float:
    """The speedup over plain decoding of rounds with these means; layer 0 is the lookup, 0 drafts plain decoding."""
    tokens = acceptance * draft_length + 1
    return tokens * costs.plain() / round_cost(costs, exit_layer, draft_length)


def limit(costs: Costs, samples: Sequence[Sample]) -> float | None:
    """The same for a method's rounds, layer by layer with its own mean number of drafts there; None without rounds."""
    rounds = Counter(layer for s in samples for layer in s.exits)
    drafted = Counter[int | None]()
    for s in samples:
        for layer, drafts in zip(s.exits, s.drafts, strict=True):
            drafted[layer] += drafts
    spent = sum(count * round_cost(costs, layer or 0, drafted[layer] / count) for layer, count in rounds.items())
    return sum(s.accepted + s.rounds for s in samples) * costs.plain() / spent if rounds else None


def round_cost(costs: Costs, exit_layer: int, draft_length: float) -> float:
    """Milliseconds of the model's own work in a round; between whole lengths, on a straight line."""
    if draft_length == 0:
        return costs.plain()
    low = max(min(floor(draft_length), MAX_ROWS - 2), 1)
    below, above = costs.fixed(exit_layer, low), costs.fixed(exit_layer, low + 1)
    host = costs.round + (costs.index if exit_layer == 0 else 0.0)
    return below + (draft_length - low) * (above - below) - host
