"""Replay of any exit rule over sweeps: what it would do to texts that are already written, and in what time.

The rule is the real object, asked in the order and with the states in which `decode.loop` asks it; what it would have
drafted and what would have been accepted is in the sweeps (`simulate.texts`), and measured costs give the time. Greedy
decoding only. Nothing is estimated but what lies behind the first wrong draft of a real layer: there the rule would see
what the layer makes of that wrong token, and here it sees the true text. Those drafts are lost either way; what differs
is how many there are. So every such round has three times: as replayed; `low`, where the rule stops as soon as it can
after what it decided on the true text; and `high`, where it drafts up to its limit. What layer 0 drafts and sees behind
its wrong drafts is known (`simulate.rollouts`), so its rounds are exact; and so is a rule that does not look at states,
except for an end of text that a real layer drafts behind a wrong token.

A rule whose later rounds depend on how many of those lost drafts there were (Draft & Verify's threshold, the
accept_trace of a network) may go another way than here; its bounds are those of the rounds replayed.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from lede.decode.round import Decision, Round
from lede.decode.rules import ExitRule
from lede.decode.state import DEPTH, DRAFT, State, Traces
from lede.simulate.costs import Costs
from lede.simulate.prices import Deciding, Prices, deciding
from lede.simulate.texts import LOOKUPS, SWEPT, Texts

TOP1, TRACE = SWEPT.index("top1_logp"), SWEPT.index("conf_trace")
BLANK = (0.0,) * len(SWEPT)


@dataclass(frozen=True)
class Replayed:
    """One text under one rule; names as in `bench.measure.Sample`, times in milliseconds."""

    tokens: int
    rounds: int
    drafting_rounds: int
    exit_layers: int  # summed over the rounds that drafted
    drafted: int
    accepted: int
    decisions: int  # times that the rule was asked
    milliseconds: float  # reading the prompt not included
    milliseconds_low: float
    milliseconds_high: float
    prompt_milliseconds: float
    exits: dict[int, int]  # drafting rounds by exit layer


def replay_rule(
    rule: ExitRule, texts: Texts, costs: Costs, *, max_drafts: int | None = None, decision: float | None = None
) -> list[Replayed]:
    """What `rule` does on each text. `max_drafts` caps the rule's own limit further.

    decision: milliseconds that one call of the rule takes; by default the measured one for networks, and a timing of
    the rule for others that look at states. Raises ValueError for layers that the texts were not swept at.
    """
    rule.start()
    calls = deciding(rule, costs) if decision is None else Deciding(decision, decision)
    prices = Prices(costs, rule, calls)
    return [_Replay(rule, texts, n, prices, costs, max_drafts).run() for n in range(len(texts.lengths))]


class _Replay:
    """One text; the methods are those of `decode.loop.Decoding`, with the sweep in place of the model."""

    def __init__(
        self, rule: ExitRule, texts: Texts, number: int, prices: Prices, costs: Costs, max_drafts: int | None
    ) -> None:
        rule.start()
        self.rule, self.texts, self.prices, self.layer_count = rule, texts, prices, costs.layers
        self.cap = math.inf if max_drafts is None else max_drafts
        self.number, self.length, self.limit = number, int(texts.lengths[number]), int(texts.limits[number])
        self.prompt = int(texts.prompt_lengths[number])
        self.prompt_milliseconds = costs.read(self.prompt)
        self.targets = texts.targets[number].tolist()
        self.lookup = rule.needs_lookup or 0 in rule.layers
        self.traces = Traces()
        self.at = 0  # tokens committed
        self.spent = self.lost_low = self.lost_high = 0.0
        self.rounds = self.drafted = self.accepted = self.asked = 0
        self.exits: Counter[int] = Counter()

    def run(self) -> Replayed:
        while self.at < self.length:
            self._round()
        return Replayed(
            self.length, self.rounds, self.exits.total(), sum(layer * count for layer, count in self.exits.items()),
            self.drafted, self.accepted, self.asked, self.spent, self.spent + self.lost_low,
            self.spent + self.lost_high, self.prompt_milliseconds, dict(self.exits),
        )  # fmt: skip

    def _round(self) -> None:
        rule, prices, at = self.rule, self.prices, self.at
        position = self.prompt + at - 1
        most = int(min(rule.max_drafts, self.cap, self.limit - at - 1))
        self.drafts: list[int] = []
        self.wrong = 0  # the first draft that is; 0: none yet
        self.ended = False  # whether the last draft is an end of text; behind a wrong one nobody knows
        self.draft_logp = 0.0
        self.decisions: list[Decision] = []
        began = self.spent
        exit_layer, reached = self._walk(position) if most > 0 and rule.layers else (None, 0)
        count = 0
        if exit_layer is not None:
            dropped = self._draft(exit_layer, most)
            count = len(self.drafts)
            self.spent += prices.drafting(exit_layer, count, dropped, position)
            self._bound(exit_layer, count, dropped, most, position)
            self.exits[exit_layer] += 1
        else:
            self.spent += prices.finish(reached, 0, position) if reached > 0 else prices.plain(position)
        accepted = self.wrong - 1 if self.wrong else count
        shadow = self._shadow(accepted + 1)
        self.rounds += 1
        self.drafted += count
        self.accepted += accepted
        self.at = min(at + accepted + 1, self.length)
        if rule.needs_state:
            self.traces.drafted(accepted, count)
        cut = exit_layer is not None and (count == most < rule.max_drafts or self.ended)
        drafts, targets = tuple(self.drafts), tuple(self.targets[at : at + count + 1])
        committed, seconds = tuple(self.targets[at : self.at]), (self.spent - began) / 1e3
        rule.finish(
            Round(
                position, exit_layer, drafts, targets, accepted, committed, tuple(self.decisions), cut,
                seconds, draft_seconds=0.0, verify_seconds=0.0, shadow=shadow,
            )
        )  # fmt: skip

    def _walk(self, position: int) -> tuple[int | None, int]:
        """The exit layer, None where nothing is drafted, and how many layers have run."""
        rule, prices, at, reached = self.rule, self.prices, self.at, 0
        last = rule.layers[-1]
        for layer in rule.layers:
            if layer == self.layer_count:
                break
            column = _column(self.texts, layer)
            if layer == 0:
                self.spent += prices.lookup
                if not column.found[self.number][at]:
                    continue
                self.spent += prices.look0
            else:
                self.spent += prices.layers(layer - reached, position) + prices.look
                reached = layer
            state = self._observe(column, layer, 1)
            forced = layer == last
            exits = forced or self._ask(rule.exit_here(state))
            self._note(state, exits, forced)
            if exits:
                self.spent += prices.token if layer > 0 else 0.0
                self._take(column, state)
                return layer, reached
        return None, reached

    def _draft(self, layer: int, most: int) -> bool:
        """The draft phase; returns whether a token was seen and dropped at its end."""
        rule, drafts, column = self.rule, self.drafts, _column(self.texts, layer)
        while True:
            if len(drafts) == most or self.ended:
                return False
            # Behind a text that ended before its limit there is nothing to look at.
            if rule.needs_state and self.at + len(drafts) >= self.length and not (self.wrong and layer == 0):
                return not rule.keeps_last
            state = self._observe(column, layer, len(drafts) + 1)
            if not rule.keeps_last:
                goes_on = self._ask(rule.draft_on(state))
                self._note(state, goes_on, False)
                if not goes_on:
                    return True
                self._take(column, state)
                continue
            self._take(column, state)
            forced = len(drafts) == most or self.ended
            goes_on = not forced and self._ask(rule.draft_on(state))
            self._note(state, goes_on, forced)
            if not goes_on:
                return False

    def _observe(self, column: "_Column", layer: int, draft_index: int) -> State:
        phase, at = DEPTH if draft_index == 1 else DRAFT, self.at + draft_index - 1
        row: Sequence[float] = BLANK
        if layer == 0 and self.wrong:
            token, seen = self._copied(draft_index)
            row = (*BLANK[: LOOKUPS.start], *seen)
        elif at < self.length:
            token, row = column.drafts[self.number][at], column.states[self.number][at]
        else:  # a rule that does not look at states drafts on behind the end
            token = -1
        if not self.rule.needs_state:
            return State(layer, draft_index, phase, token)
        lookups = row[LOOKUPS] if self.lookup else BLANK[LOOKUPS]
        # conf_trace is over committed tokens: the round's drafts leave it as it was
        trace = column.states[self.number][self.at][TRACE] if self.rule.needs_trace else 0.0
        return State(
            layer, draft_index, phase, token, row[0], row[1], trace, row[3], row[4], self.draft_logp,
            self.traces.accept, *lookups,
        )  # fmt: skip

    def _copied(self, draft_index: int) -> tuple[int, list[float]]:
        """What layer 0 drafts, and sees, behind a wrong draft."""
        copies = self.texts.copies
        at = copies.number[self.number, self.at + self.wrong - 1], draft_index - self.wrong - 1
        return int(copies.tokens[at]), copies.states[at].tolist()

    def _take(self, column: "_Column", state: State) -> None:
        """Draft the token just observed."""
        at = self.at + len(self.drafts)
        self.drafts.append(state.token)
        self.draft_logp += state.top1_logp
        if not self.wrong or state.layer == 0:
            self.ended = state.token in self.texts.stops
        if not self.wrong and not (at < self.length and column.right[self.number][at]):
            self.wrong = len(self.drafts)

    def _ask(self, answer: bool) -> bool:
        self.asked += 1
        return answer

    def _note(self, state: State, exits: bool, forced: bool) -> None:
        if self.rule.needs_state:
            self.decisions.append(Decision(state, int(exits), forced, 1.0 if forced else self.rule.propensity))

    def _bound(self, layer: int, count: int, dropped: bool, most: int, position: int) -> None:
        """Add how much less and how much more the round may have taken, for what is behind its first wrong draft."""
        wrong = self.wrong
        decided = wrong == most or (self.rule.keeps_last and wrong == count)
        if not wrong or layer == 0 or not self.rule.needs_state or decided or self.ended:
            return
        price, spent = self.prices.drafting, self.prices.drafting(layer, count, dropped, position)
        kept = self.rule.keeps_last
        self.lost_low += price(layer, wrong + kept, not kept, position) - spent
        self.lost_high += price(layer, most, False, position) - spent

    def _shadow(self, rows: int) -> dict[int, tuple[tuple[int, float], ...]]:
        """Tokens and probabilities of the shadow layers at the positions verified, up to the first mismatch."""
        layers = self.rule.shadow_layers
        if not layers:
            return {}
        self.spent += self.prices.shadows(len(layers), rows)
        span = range(self.at, min(self.at + rows, self.length))
        columns = {layer: _column(self.texts, layer) for layer in layers}
        return {
            layer: tuple((c.drafts[self.number][t], math.exp(c.states[self.number][t][TOP1])) for t in span)
            for layer, c in columns.items()
        }


@dataclass(frozen=True)
class _Column:
    """One layer of some texts as nested lists [text][token]: reading single numbers out of arrays is slow."""

    found: list[list[bool]]
    right: list[list[bool]]
    drafts: list[list[int]]
    states: list[list[list[float]]]  # [text][token][SWEPT]


@lru_cache(maxsize=64)
def _column(texts: Texts, layer: int) -> _Column:
    if layer not in texts.layers:
        raise ValueError(f"the texts were not swept at layer {layer}, only at {', '.join(map(str, texts.layers))}")
    c = texts.layers.index(layer)
    return _Column(
        texts.found[:, :, c].tolist(), texts.right[:, :, c].tolist(), texts.drafts[:, :, c].tolist(),
        texts.states[:, :, c].tolist(),
    )  # fmt: skip
