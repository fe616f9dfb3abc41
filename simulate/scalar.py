"""Replay of any exit rule over sweeps: what it would do to texts that are already written, and in what time.

The speculation loop itself runs (`decode.loop`), with the record of a text in place of a model: what a layer would have
drafted, what the rule would have seen and what would have been accepted is in the sweeps (`simulate.texts`), and
measured costs are the clock. All is exact but what lies behind the first wrong draft of a real
layer, where the rule would see what the layer makes of that token, and here sees the true text. Those drafts are lost
either way; what differs is how many there are. So such a round has three times: as replayed; `low`, where the rule
stops as soon as it can after what it decided on the true text; and `high`, where it drafts up to its limit. A rule that
remembers how many drafts were lost (Draft & Verify, accept_trace) may decide later rounds otherwise than here.
"""

import math
from collections import Counter
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import lru_cache
from timeit import repeat

import numpy as np
from numpy.typing import NDArray

from lede.decode.loop import Attempt, Decoding, Look
from lede.decode.round import Round
from lede.decode.rules import ExitRule, QPolicy
from lede.decode.state import State
from lede.process import DRAFT, WALK, Sums
from lede.simulate.costs import MAX_ROWS, Costs
from lede.simulate.texts import COPIED, COUNTS, SWEPT, Texts, Totals

SEEN = [SWEPT.index(name) for name in Look._fields[1:]]
UNKNOWN = -1  # a token that nobody knows
BEYOND = -2  # the full model's behind the end of a text
CALLS = 50  # of a rule, to time its decisions


@dataclass(frozen=True)
class Replayed(Totals):
    """N texts under one rule. low, high: (N,) the bounds of milliseconds. exits: drafting rounds by exit layer."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    exits: dict[int, int]


def replay_rule(rule: ExitRule, texts: Texts, costs: Costs) -> Replayed:
    """What `rule` does on the texts. Its decisions take what was measured for networks, or what they take here.

    Raises ValueError for layers that the texts were not swept at, and for more drafts than there are costs for.
    """
    rule.start()
    own = costs.for_rule(rule)
    of_kind = own, own.sampled()
    calls = deciding(rule, own)
    exits, sums, times = Counter[int](), list[Sums](), []
    for number in range(len(texts.lengths)):
        record = Record(texts, number, of_kind[int(texts.temperatures[number] > 0)], calls)
        rounds = record.rounds(rule)
        exits.update(round_.exit_layer for round_ in rounds if round_.exit_layer is not None)
        sums.append(Sums.of(record.length, record.clock(), [round_.counts for round_ in rounds]))
        times.append((record.spent, record.spent + record.lost_low, record.spent + record.lost_high))
    counts = {name: np.array([getattr(one, name) for one in sums], float) for name in COUNTS}
    milliseconds, low, high = np.array(times, float).reshape(-1, 3).T
    return Replayed(milliseconds, **counts, low=low, high=high, exits=dict(sorted(exits.items())))


class Record:
    """One text as the source of a speculation loop. See `decode.loop.Source`.

    costs: of the rule (`Costs.for_rule`, and `Costs.sampled` where the text is), but for its decisions: milliseconds of
    one in the walk, and of one in the draft phase. The clock moves when a round is verified, by all that it took.
    """

    def __init__(self, texts: Texts, number: int, costs: Costs, decisions: tuple[float, float]):
        self.texts, self.number, self.costs = texts, number, replace(costs, decision=0.0)
        self.walk_decision, self.draft_decision = decisions
        self.layer_count, self.stops = costs.layers, texts.stops
        self.temperature = float(texts.temperatures[number])
        self.length, self.prompt = int(texts.lengths[number]), int(texts.prompt_lengths[number])
        self.limit, self.finish_at_limit = self.prompt + int(texts.limits[number]), "length"
        self.targets = texts.targets[number, : self.length].tolist()
        self.spent = self.lost_low = self.lost_high = 0.0  # milliseconds

    def rounds(self, rule: ExitRule) -> "list[Round]":
        """All rounds of the text under a rule."""
        return list(Decoding(self, [UNKNOWN] * self.prompt, rule).rounds())

    def start(self, text: list[int], rule: ExitRule) -> None:
        self.text, self.rule = text, rule

    def clock(self) -> float:
        """Seconds that the rounds have taken by the costs."""
        return self.spent / 1e3

    def ended(self, text: list[int]) -> bool:
        """Whether this is all that was written."""
        return len(text) == self.prompt + self.length

    def attempt(self, most: int) -> "RecordedAttempt":
        """A new round."""
        if most >= MAX_ROWS:
            raise ValueError(f"a rule may draft up to {most} tokens per round, and costs are known for {MAX_ROWS - 1}")
        return RecordedAttempt(self, most)


class RecordedAttempt(Attempt):
    """A round read from a record. See `decode.loop.Attempt`."""

    def __init__(self, source: Record, most: int):
        super().__init__(len(source.text) - 1, most)
        self._source, self._rule = source, source.rule
        self._at = len(source.text) - source.prompt  # tokens committed
        self._asked = False  # whether layer 0 was
        self._walk: list[int] = []  # candidates seen, the last of which drafts
        self._looks = 0  # what was seen behind drafts
        self.wrong = 0  # number of the first draft that is; 0: none yet
        self._column: _Column | None = None

    def reach(self, layer: int) -> bool:
        source = self._source
        column = self._column = _column(source.texts, layer)
        if self._rule.needs_trace:  # over committed tokens: the round's drafts leave it as it was
            self.conf_trace = column.trace[source.number][self._at]
        self._asked |= layer == 0
        return layer > 0 or column.found[source.number][self._at]

    def look(self, layer: int) -> Look:
        seen = self._see(layer)
        if layer == 0 or self._rule.needs_lookup:
            return seen
        return seen._replace(lookup_length=0.0, lookup_agreement=0.0, lookup_match=0.0)

    def take(self, layer: int, state: State) -> tuple[int, float]:
        source, column, at = self._source, self._column, self._at + len(self.drafts)
        assert column is not None
        token = state.token
        if not self._rule.needs_state:
            token = self._see(layer).token
        if not self.wrong and not (at < source.length and column.right[source.number][at]):
            self.wrong = len(self.drafts) + 1
        return token, state.token_logp if state.temperature else state.top1_logp

    def extend(self, layer: int) -> None:
        """Nothing is run; a round's price has all its passes."""

    def verify(self) -> list[int]:
        """See Attempt. Behind the first wrong draft the targets are the true text's."""
        source, count = self._source, len(self.drafts)
        spent = self._price(count, self._looks)
        source.spent += spent
        self._bound(count, spent)
        targets = source.targets[self._at : self._at + count + 1]
        return targets + [BEYOND] * (count + 1 - len(targets))

    def shadow(self, rows: int) -> dict[int, tuple[tuple[int, float], ...]]:
        source, number = self._source, self._source.number
        source.spent += len(self._rule.shadow_layers) * source.costs.shadow(rows)
        span = slice(self._at, min(self._at + rows, source.length))
        columns = {layer: _column(source.texts, layer) for layer in self._rule.shadow_layers}
        return {
            layer: tuple((seen.token, math.exp(seen.top1_logp)) for seen in column.looks[number][span])
            for layer, column in columns.items()
        }

    def commit(self, tokens: list[int]) -> None:
        """Nothing is kept."""

    def _see(self, layer: int) -> Look:
        """What `layer` says of the next token; of a token that nobody knows the rest is the true text's."""
        if self.drafts:
            self._looks += 1
        else:
            self._walk.append(layer)
        source, column, at = self._source, self._column, self._at + len(self.drafts)
        assert column is not None
        if layer == 0 and self.wrong:
            copies = source.texts.copies
            where = copies.number[source.number, self._at + self.wrong - 1], len(self.drafts) - self.wrong
            lookup = dict(zip(SWEPT[COPIED], copies.states[where].tolist(), strict=True))
            return Look(int(copies.tokens[where]), **lookup)
        seen = column.looks[source.number][min(at, source.length - 1)]
        if at >= source.length or (self.wrong and seen.token in source.stops):
            return seen._replace(token=UNKNOWN)
        return seen

    def _price(self, drafts: int, looks: int) -> float:
        """Milliseconds of the round with so many drafts, and states seen behind them."""
        source, walk = self._source, self._walk
        missed = self._asked and 0 not in walk
        spent = source.costs.price(walk, drafts, self.position, looks=looks, missed=missed)
        if drafts:  # each of whose passes is a position further on
            rise = source.costs.further(1, 1) - source.costs.further(1, 0)
            spent += walk[-1] * rise * drafts * (drafts + 1) / 2
        if self._rule.needs_state:
            spent += len(walk) * source.walk_decision + looks * source.draft_decision
        return spent

    def _bound(self, count: int, here: float) -> None:
        """Add how much less and how much more the round may have taken, for what is behind its first wrong draft."""
        source, rule, wrong = self._source, self._rule, self.wrong
        decided = wrong == self.most or (rule.keeps_last and wrong == count)
        if not wrong or self._walk[-1] == 0 or not rule.needs_state or decided or self.drafts[-1] in source.stops:
            return
        source.lost_low += self._price(wrong + rule.keeps_last, wrong) - here
        source.lost_high += self._price(self.most, self.most - 1) - here


@dataclass(frozen=True)
class _Column:
    """One layer of some texts as nested lists [text][token]: reading single numbers out of arrays is slow."""

    found: list[list[bool]]
    right: list[list[bool]]
    trace: list[list[float]]  # conf_trace
    looks: list[list[Look]]


@lru_cache(maxsize=64)
def _column(texts: Texts, layer: int) -> _Column:
    if layer not in texts.layers:
        raise ValueError(f"the texts were not swept at layer {layer}, only at {', '.join(map(str, texts.layers))}")
    c = texts.layers.index(layer)
    found, right, drafts, states = (getattr(texts, name)[:, :, c] for name in ("found", "right", "drafts", "states"))
    seen = zip(drafts.tolist(), states[..., SEEN].tolist(), strict=True)
    looks = [[Look(token, *row) for token, row in zip(*text, strict=True)] for text in seen]
    return _Column(found.tolist(), right.tolist(), states[..., SWEPT.index("conf_trace")].tolist(), looks)


def deciding(rule: ExitRule, costs: Costs) -> tuple[float, float]:
    """Milliseconds of one answer in the walk, and one behind a draft: a network's as measured; others' on a copy.

    Every state that is reached is charged for a decision, as in learning, those where the choice is forced included.
    """
    if not rule.needs_state or not rule.layers:
        return 0.0, 0.0
    seen = {"conf_topk": 0.5, "entropy": 0.5, "conf_trace": 0.5, "margin": 0.5, "top1_logp": -0.5, "draft_logp": -0.5}
    own = deepcopy(rule)
    own.start()

    def spent(phase: int, question: str) -> float:
        if getattr(type(rule), question) is getattr(QPolicy, question):
            return costs.decision
        state = State(rule.layers[0], 2, phase, 0, **seen)
        return min(repeat(lambda: own.answer(state), number=CALLS, repeat=5)) / CALLS * 1e3

    return spent(WALK, "exit_here"), spent(DRAFT, "draft_on")
