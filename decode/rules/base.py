"""What the speculation loop asks of an exit rule, and the rule that never drafts.

A round walks the rule's candidate layers for its first draft and asks `exit_here` at each but the last, where the exit
is forced; then, after each further draft, it asks `draft_on` (paper §3.3).
"""

from typing import TYPE_CHECKING

from lede.decode.state import State
from lede.process import MAX_DRAFTS

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
    propensity = 1.0  # the probability with which the last answer was drawn

    def start(self) -> None:
        """A new generation begins."""

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
