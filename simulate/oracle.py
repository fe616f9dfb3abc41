"""The ceiling: the least time in which any policy could have written texts whose every draft is known.

A text, greedy or sampled with a seed, does not depend on the policy, so a sweep tells for every position how many
drafts of every candidate layer would be accepted, and dynamic programming from a text's end finds the rounds that take
the least time together. Restricting the choice (one layer, one length, a given pair) gives what each decision is worth.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lede.simulate.costs import MAX_ROWS, Costs
from lede.simulate.texts import Texts, Totals

Float = NDArray[np.float64]
Int = NDArray[np.int64]


def ceiling(
    texts: Texts,
    costs: Costs,
    *,
    layers: Sequence[int] | None = None,
    lengths: Sequence[int] = range(1, MAX_ROWS),
    decisions: bool = False,
    bypass: bool = False,
    positions: bool = False,
) -> Totals:
    """The least time over all choices of an exit layer and a draft length for every round.

    layers: the candidates to choose from, some of `texts.layers` (None: all). lengths: the draft lengths to choose
    from; a round near the text's end drafts what is left. decisions: pay for every candidate on the walk to the exit
    and for every state that `costs` charge, and draft the token at which to stop, so two or more, as a policy must;
    without, a round pays only for what it drafts with. bypass: a round may draft nothing; with `decisions`, after the
    whole walk, as if the full model were its last candidate. positions: each round costs what it does at its own
    position in the cache, as in `simulate.scalar`; without, what it does at the costs' `context`.
    """
    chosen = texts.layers if layers is None else tuple(layers)
    if not set(chosen) <= set(texts.layers) or not chosen:
        raise ValueError(f"layers {chosen} are not among the texts' {texts.layers}")
    if not lengths or min(lengths) < 1:
        raise ValueError("lengths must name draft lengths of 1 or more")
    table = _Table(texts, costs, chosen, sorted(set(lengths)), decisions, bypass, positions)
    count, longest = texts.right.shape[:2]
    every = np.arange(count)
    # milliseconds and, as in `Totals`, rounds, drafting, depth, drafted, accepted from a position to the end
    sums = np.zeros((count, longest + table.widest + 2, 6))
    for t in range(longest - 1, -1, -1):
        spent, committed, drafts = table.options(t)
        best = (spent + sums[every[:, None], t + committed, 0]).argmin(1)
        tokens, made = committed[every, best], drafts[every, best]
        depth = np.where(made > 0, table.depths[best], 0)
        here = np.stack((spent[every, best], np.ones(count), made > 0, depth, made, tokens - 1), 1)
        inside = t < texts.lengths
        sums[inside, t] = (here + sums[every, t + tokens])[inside]
    return Totals(sums[:, 0, 0], texts.lengths, *sums[:, 0, 1:].T.astype(np.int64))


@dataclass(frozen=True)
class Static:
    """A fixed rule: `drafts` tokens at `layer` in every round, or plain decoding (0). rate: tokens per millisecond."""

    layer: int
    drafts: int
    rate: float


def best_static(texts: Texts, costs: Costs) -> Static:
    """The fixed rule with the highest rate on these texts."""
    tokens = texts.lengths.sum()
    rules = [
        Static(layer, d, float(tokens / spent))
        for layer in texts.layers
        for d, spent in enumerate(static_milliseconds(texts, costs, layer).sum(0))
    ]
    return max(rules, key=lambda rule: rule.rate)


def static_rates(texts: Texts, costs: Costs) -> NDArray[np.float64]:
    """(2,) the rate of the best fixed rule on the greedy texts, and on the sampled ones; 0 where there are none."""
    spent = np.stack([static_milliseconds(texts, costs, layer) for layer in texts.layers])  # (C, N, lengths)
    rates = np.zeros(2)
    for kind in (0, 1):
        mine = (texts.temperatures > 0) == kind
        if mine.any():
            rates[kind] = (texts.lengths[mine].sum() / spent[:, mine].sum(1)).max()
    return rates


def worthwhile(texts: Texts, costs: Costs) -> tuple[int, ...]:
    """The candidates at which some fixed draft length is faster than plain decoding on these texts.

    What a walk pays for looking at a layer is charged to no length here, so a layer that is left out could not have
    paid for itself in any fixed rule.
    """
    spent = {layer: static_milliseconds(texts, costs, layer).sum(0) for layer in texts.layers}
    return tuple(layer for layer, by_length in spent.items() if by_length[1:].min() < by_length[0])


def static_milliseconds(texts: Texts, costs: Costs, layer: int) -> Float:
    """(N, 32): milliseconds of each text if every round drafts 0, 1, …, 31 tokens at `layer`: nothing to choose.

    A fixed rule reads no features and decides nothing, so it pays for neither.
    """
    table = _Table(texts, costs, (layer,), list(range(1, MAX_ROWS)))
    count, longest = texts.right.shape[:2]
    left = np.zeros((count, longest + MAX_ROWS + 1, MAX_ROWS - 1))
    for t in range(longest - 1, -1, -1):
        spent, committed, _ = table.options(t)
        drafts = np.isfinite(spent[:, :-1])
        spent, committed = np.where(drafts, spent[:, :-1], spent[:, -1:]), np.where(drafts, committed[:, :-1], 1)
        ahead = np.take_along_axis(left, t + committed[:, None], 1)[:, 0]
        left[:, t] = np.where(t < texts.lengths[:, None], spent + ahead, 0.0)
    plain = np.where(texts.temperatures > 0, costs.sampled().plain(), costs.plain())
    return np.concatenate([(texts.lengths * plain)[:, None], left[:, 0]], 1)


class _Table:
    """What every option of a round costs and commits: all pairs of a candidate and a length, and drafting nothing.

    depths: (O,) the options' exit layers. widest: the most drafts of any.
    """

    def __init__(
        self,
        texts: Texts,
        costs: Costs,
        layers: tuple[int, ...],
        lengths: list[int],
        decisions: bool = False,
        bypass: bool = False,
        positions: bool = False,
    ):
        columns = [texts.layers.index(layer) for layer in layers]
        self._layers, self._bypass, self._decisions = layers, bypass, decisions
        self._lengths = np.maximum(lengths, 2 if decisions else 1)
        self.widest = int(self._lengths.max())
        self.depths = np.append(np.repeat(layers, len(lengths)), 0)
        self._runs, self._found = accepted_runs(texts)[:, :, columns], texts.found[:, :, columns]
        self._texts, self._context = texts, costs.context
        self._kind = (texts.temperatures > 0).astype(np.int64)
        kinds = costs, costs.sampled()
        # costs are linear in the position: what they are at the context, and what each position more adds
        here = [self._priced(kind, costs.context) for kind in kinds]
        there = [self._priced(kind, costs.context + 1) for kind in kinds] if positions else here
        self._prices, further = ([np.stack(both) for both in zip(*at, strict=True)] for at in (here, there))
        self._rises = [more - one for one, more in zip(self._prices, further, strict=True)]

    def _priced(self, costs: Costs, position: int) -> list[Float]:
        """Milliseconds of rounds of one kind of text: with drafts, by (guess found, candidate, drafts); without, at a
        text's end, for want of a guess, and (2,) by choice, without and with a guess found."""
        layers, looks = self._layers, self._decisions
        blind, copying = (costs, costs) if looks else (costs.blind(copies=False), costs.blind(copies=True))
        spent, skip = np.zeros((2, len(layers), self.widest + 1)), np.zeros(2)
        for found in (0, 1):
            walk, missed = list[int](), looks and 0 in layers and not found
            for c, layer in enumerate(layers):
                walk = [*walk, layer] if layer or found else walk
                own, seen = blind if layer else copying, walk if looks else [layer]
                spent[found, c, 1:] = [own.price(seen, d + 1, position, missed=missed) for d in range(self.widest)]
            skip[found] = blind.price(walk if looks else (), 0, position, missed=missed)
        plain = np.array(blind.price((), 0, position))
        alone = np.array(copying.price((), 0, position, missed=True))
        return [spent, plain, alone, skip]

    def options(self, t: int) -> tuple[Float, Int, Int]:
        """At position `t` of every text, (N, O) each: milliseconds (inf: impossible), tokens committed, drafts."""
        count, candidates = len(self._texts.lengths), len(self._layers)
        most = np.clip(self._texts.lengths - t - 1, 0, self.widest)
        found = self._found[:, t]
        guess = (found[:, 0] & (self._layers[0] == 0)).astype(np.int64)
        drafts = np.repeat(np.minimum(self._lengths, most[:, None])[:, None], candidates, 1)
        at = (self._kind[:, None, None], guess[:, None, None], np.arange(candidates)[:, None], drafts)
        further = (self._texts.prompt_lengths + t - 1 - self._context).astype(np.float64)
        spent = self._prices[0][at] + self._rises[0][at] * further[:, None, None]
        plain, alone = (self._prices[i][self._kind] + self._rises[i][self._kind] * further for i in (1, 2))
        skip = self._prices[3][self._kind, guess] + self._rises[3][self._kind, guess] * further
        spent = np.where(found[:, :, None] & (drafts > 0), spent, np.inf)
        committed = np.minimum(drafts, self._runs[:, t][:, :, None]) + 1
        # nothing is drafted: by choice, or because the text ends, or because the lookup is alone and found nothing
        forced = np.isinf(spent).all((1, 2))
        nothing = np.where(forced, np.where(most > 0, alone, plain), skip if self._bypass else np.inf)
        parts = zip((spent, committed, drafts), (nothing, np.ones(count, int), np.zeros(count, int)), strict=True)
        spent, committed, drafts = (np.column_stack((part.reshape(count, -1), none)) for part, none in parts)
        return spent, committed, drafts


def accepted_runs(texts: Texts) -> Int:
    """(N, T, C): how many drafts in a row, from each position on, the candidate would have right."""
    inside = np.arange(texts.right.shape[1]) < texts.lengths[:, None]
    right = texts.right & inside[:, :, None]
    runs = np.zeros(right.shape, np.int64)
    run = np.zeros(right[:, 0].shape, np.int64)
    for t in range(right.shape[1] - 1, -1, -1):
        run = np.where(right[:, t], run + 1, 0)
        runs[:, t] = run
    return runs
