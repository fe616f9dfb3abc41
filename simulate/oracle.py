"""The ceiling: the least time in which any policy could have written texts whose every draft is known.

In greedy decoding the text does not depend on the policy, so a sweep tells for every position how many drafts of every
candidate layer would be accepted, and dynamic programming from a text's end finds the rounds that take the least time
together. No policy is faster; how far it stays behind is its regret. Restricting the choice (one layer, one length, a
given pair) gives what each decision is worth.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lede.simulate.costs import MAX_ROWS, Costs
from lede.simulate.texts import Texts

Float = NDArray[np.float64]
Int = NDArray[np.int64]
FAR = 1000  # costs are linear in the position, so that two positions give the line


@dataclass(frozen=True)
class Ceiling:
    """The fastest way to write N texts; every array is (N,).

    milliseconds: the least time. tokens: length. rounds; drafting: rounds with drafts; depth: sum of their exit layers;
    drafted: sum of their drafts; accepted: of those, committed.
    """

    milliseconds: Float
    tokens: Int
    rounds: Int
    drafting: Int
    depth: Int
    drafted: Int
    accepted: Int

    @property
    def rate(self) -> float:
        """Tokens a millisecond over all texts."""
        return float(self.tokens.sum() / self.milliseconds.sum())

    @property
    def exit_layer(self) -> float:
        """E: mean exit layer of the rounds that draft; NaN if none does."""
        return float(self.depth.sum() / self.drafting.sum()) if self.drafting.any() else float("nan")

    @property
    def drafts(self) -> float:
        """d: mean drafts of the rounds that draft; NaN if none does."""
        return float(self.drafted.sum() / self.drafting.sum()) if self.drafting.any() else float("nan")


def ceiling(
    texts: Texts,
    costs: Costs,
    *,
    layers: Sequence[int] | None = None,
    lengths: Sequence[int] = range(1, MAX_ROWS),
    decisions: bool = False,
    keeps_last: bool = True,
    bypass: bool = False,
    positions: bool = False,
) -> Ceiling:
    """The least time over all choices of an exit layer and a draft length for every round.

    layers: the candidates to choose from, some of `texts.layers` (None: all). lengths: the draft lengths to choose
    from; a round near the text's end drafts what is left. decisions: pay for every candidate on the walk to the exit
    and for every state a policy would look at, as a policy must; without, a round pays only for what it drafts with,
    and knows by magic. keeps_last, with `decisions`: the token at which a policy says stop is drafted (so that it
    drafts two or more), or it is dropped, having been looked at. bypass: a round may draft nothing; with `decisions`,
    after the whole walk, as if the full model were its last candidate. positions: each round costs what it does at its
    own position in the cache, as in `simulate.scalar`; without, what it does at the costs' `context`.
    """
    chosen = texts.layers if layers is None else tuple(layers)
    if not set(chosen) <= set(texts.layers) or not chosen:
        raise ValueError(f"layers {chosen} are not among the texts' {texts.layers}")
    if not lengths or min(lengths) < 1:
        raise ValueError("lengths must name draft lengths of 1 or more")
    table = _Table(texts, costs, chosen, sorted(set(lengths)), decisions, keeps_last, bypass, positions)
    count, longest = texts.right.shape[:2]
    every = np.arange(count)
    left = np.zeros((count, longest + table.widest + 2))  # milliseconds from a position to the end
    best = np.zeros((count, longest), np.int64)  # which option is taken there
    for t in range(longest - 1, -1, -1):
        room = texts.lengths - t
        spent, committed, _, _ = table.options(t, room)
        total = spent + left[every[:, None], t + committed]
        best[:, t] = total.argmin(1)
        left[:, t] = np.where(room > 0, total[every, best[:, t]], 0.0)
    return _follow(texts, table, best, left[:, 0])


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


def static_milliseconds(texts: Texts, costs: Costs, layer: int) -> Float:
    """(N, 32): milliseconds of each text if every round drafts 0, 1, …, 31 tokens at `layer`: nothing to choose.

    A fixed rule reads no features and decides nothing, so it pays for neither.
    """
    table = _Table(texts, costs, (layer,), list(range(1, MAX_ROWS)))
    count, longest = texts.right.shape[:2]
    left = np.zeros((count, longest + MAX_ROWS + 1, MAX_ROWS - 1))
    for t in range(longest - 1, -1, -1):
        room = texts.lengths - t
        spent, committed, _, _ = table.options(t, room)
        drafts = np.isfinite(spent[:, :-1])
        spent, committed = np.where(drafts, spent[:, :-1], spent[:, -1:]), np.where(drafts, committed[:, :-1], 1)
        ahead = np.take_along_axis(left, t + committed[:, None], 1)[:, 0]
        left[:, t] = np.where(room[:, None] > 0, spent + ahead, 0.0)
    return np.concatenate([texts.lengths[:, None] * costs.plain(), left[:, 0]], 1)


class _Table:
    """What every option of a round costs and commits: all pairs of a candidate and a length, and drafting nothing."""

    def __init__(
        self,
        texts: Texts,
        costs: Costs,
        layers: tuple[int, ...],
        lengths: list[int],
        decisions: bool = False,
        keeps_last: bool = True,
        bypass: bool = False,
        positions: bool = False,
    ):
        columns = [texts.layers.index(layer) for layer in layers]
        self.layers, self.lengths = np.array(layers), np.array(lengths)
        self.runs, self.found = accepted_runs(texts)[:, :, columns], texts.found[:, :, columns]
        self._bypass, self._decisions, self._keeps_last = bypass, decisions, keeps_last
        self._least = 2 if decisions and keeps_last else 1
        self.widest = max(*lengths, self._least)
        self._prompts = texts.prompt_lengths
        # what a round costs at position 0, or wherever the costs were measured, and what each position adds
        self._prices = self._priced(costs, 0 if positions else None)
        self._rises: list[Float] | None = None
        if positions:
            far = self._priced(costs, FAR)
            self._rises = [(there - here) / FAR for here, there in zip(self._prices, far, strict=True)]

    def _priced(self, costs: Costs, position: int | None) -> list[Float]:
        """Milliseconds of rounds: with drafts, by (guess found, candidate, drafts, room for another); without, at a
        text's end, for want of a guess, and (2,) by choice, without and with a guess found."""
        layers, decisions = self.layers.tolist(), self._decisions
        kept = costs.trace + costs.index if decisions else 0.0  # what a round of a policy keeps for the next
        looked = costs.lookup if layers[0] == 0 else 0.0
        plain = np.array(costs.plain(position) + kept)
        alone = np.array(costs.fixed(0, 0, position) + kept - (costs.index if decisions else 0.0))
        skip = np.full(2, costs.plain(position))
        spent = np.zeros((2, len(layers), self.widest + 1, 2))
        for found in (0, 1):
            walk, before = 0.0, 0
            for c, layer in enumerate(layers):
                if layer == 0:
                    walk += costs.visit0 if found else looked
                else:
                    walk += costs.step(before, layer, position)
                before = layer
                again = costs.draft(layer, position)
                for d in range(1, self.widest + 1):
                    if not decisions:
                        spent[found, c, d] = costs.fixed(layer, d, position)
                        continue
                    spent[found, c, d] = walk + (d - 1) * again + costs.finish(layer, d, position)
                    if not self._keeps_last:  # one more state is seen; the pass that it takes is the bonus token's
                        spent[found, c, d, 1] += again - layer * costs.again(position)
            if decisions:
                skip[found] = walk + costs.finish(layers[-1], 0, position)
        return [spent, plain, alone, skip]

    def options(self, t: int, room: Int) -> tuple[Float, Int, Int, Int]:
        """At position `t` of every text, (N, O) each: milliseconds (inf: impossible), tokens committed, drafts,
        candidate."""
        most = np.clip(room - 1, 0, self.widest)[:, None, None]
        found = self.found[:, t].astype(np.int64)[:, :, None]
        guess = found[:, 0, 0] if self.layers[0] == 0 else np.zeros(len(room), np.int64)
        candidates = np.arange(len(self.layers))[None, :, None]
        wanted = np.maximum(self.lengths, self._least)[None, None, :]
        drafts = np.minimum(wanted, most) + 0 * candidates
        where = (guess[:, None, None], candidates, drafts, (drafts < most).astype(np.int64))
        spent, plain, alone, skip = (
            price[index] for price, index in zip(self._prices, (where, (), (), (guess,)), strict=True)
        )
        if self._rises is not None:
            position = (self._prompts + t - 1).astype(np.float64)
            spent = spent + self._rises[0][where] * position[:, None, None]
            plain, alone = plain + self._rises[1] * position, alone + self._rises[2] * position
            skip = skip + self._rises[3][guess] * position
        spent = np.where((found > 0) & (drafts > 0), spent, np.inf)
        committed = np.minimum(drafts, self.runs[:, t][:, :, None]) + 1
        # nothing is drafted: by choice, or because the text ends, or because the lookup is alone and found nothing
        forced = np.isinf(spent).all((1, 2))
        nothing = np.where(forced, np.where(most[:, 0, 0] > 0, alone, plain), np.inf)
        if self._bypass:
            nothing = np.where(forced, nothing, skip)
        flat = (len(room), -1)
        one = np.ones((len(room), 1), np.int64)
        return (
            np.concatenate([spent.reshape(flat), nothing[:, None]], 1),
            np.concatenate([committed.reshape(flat), one], 1),
            np.concatenate([drafts.reshape(flat), 0 * one], 1),
            np.concatenate([(candidates + 0 * drafts).reshape(flat), 0 * one], 1),
        )


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


def _follow(texts: Texts, table: _Table, best: Int, milliseconds: Float) -> Ceiling:
    """Take the best option from the start to the end of every text, and count."""
    count = len(texts.lengths)
    position = np.zeros(count, np.int64)
    rounds, drafting, depth, drafted, accepted = (np.zeros(count, np.int64) for _ in range(5))
    for t in range(texts.right.shape[1]):
        here = np.flatnonzero((position == t) & (texts.lengths > t))
        if not len(here):
            continue
        _, committed, drafts, candidates = table.options(t, texts.lengths - t)
        option = best[here, t]
        made = drafts[here, option]
        rounds[here] += 1
        drafting[here] += made > 0
        depth[here] += np.where(made > 0, table.layers[candidates[here, option]], 0)
        drafted[here] += made
        accepted[here] += committed[here, option] - 1
        position[here] += committed[here, option]
    return Ceiling(milliseconds, texts.lengths.copy(), rounds, drafting, depth, drafted, accepted)
