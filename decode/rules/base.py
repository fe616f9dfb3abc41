"""What the speculation loop asks of an exit rule.

A round walks the rule's candidate layers for its first draft and asks `exit_here` at each but the last, where the exit
is forced; then, after each further draft, it asks `draft_on` (paper §3.3). A rule's state is per generation: `start`
resets all of it.
"""

from typing import TYPE_CHECKING, Protocol

from lede.decode.state import State

if TYPE_CHECKING:
    from lede.decode.round import Round

MAX_DRAFTS = 12  # per round, for rules that stop by themselves (paper §4.1)
LONG_DRAFTS = 31  # where more pays: a text that repeats itself goes on for long (docs/notes/policies.md)


class ExitRule(Protocol):
    """What the speculation loop asks. `layers` and `max_drafts` are read anew at each round's start."""

    name: str
    # Candidates, ascending; 0 is prompt lookup; the number of layers, as the last, is the bypass: a walk that
    # gets there drafts nothing and goes on to the full model; empty: never draft.
    layers: tuple[int, ...]
    max_drafts: int
    needs_state: bool  # whether its decisions look at more than layer and draft index
    needs_trace: bool  # whether they look at conf_trace, which takes a pass over the verification's logits
    needs_lookup: bool  # whether they look at the lookup columns
    keeps_last: bool  # whether the token at which the rule says stop is drafted (as in the paper) or dropped
    shadow_layers: tuple[int, ...]  # layers whose tokens at the verified positions `finish` wants in `Round.shadow`
    propensity: float  # the probability with which the last answer was drawn

    def start(self) -> None:
        """A new generation begins."""

    def exit_here(self, state: State) -> bool:
        """In the walk: draft from this layer (True), or go on to the next candidate."""

    def draft_on(self, state: State) -> bool:
        """In the draft phase: draft another (True), or stop and verify.

        With `keeps_last` the state's own token is drafted either way, and the question is about the one after it;
        without, the question is about the state's own token.
        """

    def finish(self, round_: "Round") -> None:
        """A round was verified."""


class Rule:
    """Defaults that most rules share."""

    name = "rule"
    layers: tuple[int, ...] = ()
    max_drafts = MAX_DRAFTS
    needs_state = False
    needs_trace = True
    needs_lookup = False
    keeps_last = True
    shadow_layers: tuple[int, ...] = ()
    propensity = 1.0

    def start(self) -> None:
        """Nothing to reset."""

    def exit_here(self, state: State) -> bool:
        """Exit at the first candidate."""
        return True

    def draft_on(self, state: State) -> bool:
        """Draft up to the limit."""
        return True

    def finish(self, round_: "Round") -> None:
        """Nothing to learn."""


class Autoregressive(Rule):
    """No drafts: every token through all layers."""

    name = "autoregressive"
    max_drafts = 0
