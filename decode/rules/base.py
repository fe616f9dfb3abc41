"""What the speculation loop asks of an exit rule, and the rule that never drafts.

A round walks the rule's candidate layers for its first draft and asks for an `answer` at each but the last, where the
exit is forced; then, after each further draft, it asks again (paper §3.3).
"""

from typing import TYPE_CHECKING

from lede.decode.state import State
from lede.process import MAX_DRAFTS, WALK

if TYPE_CHECKING:
    from lede.decode.round import Round


class ExitRule:
    """A rule that exits at its first candidate and drafts up to its limit; others override what they decide.

    State is per generation: `start` resets all of it, but for what a bandit has learned. `layers` and `max_drafts` are
    read anew at each round's start.
    """

    name = "rule"
    # Candidates, ascending; 0 is prompt lookup; the number of layers, as the last, is the bypass: a walk that
    # gets there drafts nothing and goes on to the full model; empty: never draft.
    layers: tuple[int, ...] = ()
    max_drafts = MAX_DRAFTS
    needs_state = False  # whether its decisions look at more than layer and draft index
    needs_trace = True  # whether they look at conf_trace, which takes a pass over the verification's logits
    needs_lookup = False  # whether they look at the lookup columns
    keeps_last = True  # whether the token at which the rule says stop is drafted (as in the paper) or dropped
    shadow_layers: tuple[int, ...] = ()  # layers whose tokens at the verified positions are wanted in `Round.shadow`

    def start(self) -> None:
        """A new generation begins."""

    def answer(self, state: State) -> tuple[bool, float]:
        """What the loop asks: the decision in this phase's state, and the probability with which it was drawn.

        A rule that does not draw decides for certain, by the two questions below.
        """
        return (self.exit_here(state) if state.phase == WALK else self.draft_on(state)), 1.0

    def exit_here(self, state: State) -> bool:
        """In the walk: draft from this layer (True), or go on to the next candidate."""
        return True

    def draft_on(self, state: State) -> bool:
        """In the draft phase: draft another (True), or stop and verify.

        With `keeps_last` the state's own token is drafted either way, and the question is about the one after it;
        without, the question is about the state's own token.
        """
        return True

    def finish(self, round_: "Round") -> None:
        """A round was verified."""


class Autoregressive(ExitRule):
    """No drafts: every token through all layers."""

    name = "autoregressive"
    max_drafts = 0
