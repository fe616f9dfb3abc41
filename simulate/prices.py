"""What the steps of a round cost under one rule, as lines in the position: `replay.Costs` made quick to ask."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from time import perf_counter

from lede.decode.rules import ExitRule, QPolicy
from lede.decode.state import DEPTH, State
from lede.simulate.costs import Costs

Line = tuple[float, float]  # milliseconds at position 0, and what each position adds
FAR = 1000  # costs are linear in the position, so that two positions give the line
CALLS = 50


@dataclass(frozen=True)
class Deciding:
    """Milliseconds of one call of a rule: of `exit_here` and of `draft_on`."""

    walk: float
    draft: float


class Prices:
    """Milliseconds under a rule, which does or does not look at states, and use the lookup index.

    Every state that is reached is charged for a decision, as by the methods of Costs and in the time reward, those
    where the choice is forced included.
    """

    def __init__(self, costs: Costs, rule: ExitRule, deciding: Deciding):
        states, lookup = rule.needs_state, rule.needs_lookup or 0 in rule.layers
        self._costs, self._traces, self._uses_lookup = costs, states and rule.needs_trace, lookup
        look = costs.head[0] + costs.features if states else 0.0
        self.look = look + deciding.walk if states else 0.0  # to see a state of a real layer in the walk
        self.look0 = deciding.walk if states else 0.0
        self.token = 0.0 if states else costs.head[0]  # to read a token off a layer whose state was not seen
        self.lookup = costs.lookup
        self._again = look + (deciding.draft if states else 0.0) + (costs.lookup if lookup else 0.0)
        self._again0 = costs.lookup + (deciding.draft if states else 0.0)
        self._kept = (costs.trace if self._traces else 0.0) + (costs.index if lookup else 0.0)
        self._plain, self._walk, self._draft = _line(costs.plain), _line(costs.first), _line(costs.again)
        self._finishes: dict[tuple[int, int], Line] = {}

    def layers(self, count: int, position: int) -> float:
        """So many layers of a walk."""
        return count * (self._walk[0] + self._walk[1] * position)

    def plain(self, position: int) -> float:
        """A round without drafts, from the first layer on."""
        return self._plain[0] + self._plain[1] * position + self._kept

    def finish(self, exit_layer: int, drafts: int, position: int) -> float:
        """Verification, the last draft's own early pass included; no drafts: from the state that a walk left."""
        found = self._finishes.get((exit_layer, drafts))
        if found is None:
            found = self._finishes[exit_layer, drafts] = _line(
                lambda at: self._costs.finish(exit_layer, drafts, at, states=self._traces, lookup=self._uses_lookup)
            )
        return found[0] + found[1] * position

    def drafting(self, exit_layer: int, drafts: int, dropped: bool, position: int) -> float:
        """What follows the walk: drafts 2 … `drafts` at `exit_layer`, perhaps a token seen and dropped, and the finish.

        The round starts at `position`; draft k was read at `position` + k - 1.
        """
        seen = drafts - 1 + dropped
        if exit_layer == 0:
            return seen * self._again0 + self.finish(0, drafts, position)
        base, rise = self._draft
        passes = seen * (base + rise * (position + (seen + 1) / 2))  # a line's sum is its middle, so many times
        spent = exit_layer * passes + seen * self._again + (drafts - 1) * self.token
        # the last draft's own early pass was made to see the token that was dropped
        own = exit_layer * (base + rise * position) if dropped else 0.0
        return spent - own + self.finish(exit_layer, drafts, position)

    def shadows(self, layers: int, rows: int) -> float:
        """Heads and states of so many shadow layers over the first `rows` of a verification."""
        return layers * (self._costs.head[rows - 1] + rows * self._costs.features)


def _line(cost: Callable[[int], float]) -> Line:
    at_zero = cost(0)
    return at_zero, (cost(FAR) - at_zero) / FAR


def deciding(rule: ExitRule, costs: Costs) -> Deciding:
    """What a rule's decisions take: those of networks as measured; simple rules are called, on a copy, and timed."""
    if not rule.needs_state or not rule.layers:
        return Deciding(0.0, 0.0)
    own, kind = deepcopy(rule), type(rule)
    own.start()
    state = State(rule.layers[0], 2, DEPTH, 0, 0.5, 0.5, 0.5, 0.5, -0.5, -0.5)
    network = isinstance(rule, QPolicy)
    return Deciding(
        costs.decision if network and kind.exit_here is QPolicy.exit_here else _timed(own.exit_here, state),
        costs.decision if network and kind.draft_on is QPolicy.draft_on else _timed(own.draft_on, state),
    )


def _timed(question: Callable[[State], bool], state: State) -> float:
    best = float("inf")
    for _ in range(5):
        began = perf_counter()
        for _ in range(CALLS):
            question(state)
        best = min(best, perf_counter() - began)
    return best / CALLS * 1e3
