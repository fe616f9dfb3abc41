"""Prompt lookup that stops by itself: as long as the match is long, the copy goes on.

Source: no paper's; it is what a careful user of prompt lookup would write, and on text that repeats itself two numbers
go a long way. `transformers` has its neighbour for assistant models, a confidence threshold
(`assistant_confidence_threshold`); here the confidence is the length of the n-gram match.

Parameters: `match`, the shortest match at which it drafts on, `least`, drafts made in any case, and `most`; tuned on
training prompts by `bench.tune`.
"""

from lede.decode.rules.base import MAX_DRAFTS, Rule
from lede.decode.state import State


class AdaptiveLookup(Rule):
    """Layer 0; draft on while the text that was matched is at least `match` tokens long. State: none."""

    name = "adaptive-lookup"
    needs_state, needs_trace, needs_lookup = True, False, True
    layers: tuple[int, ...] = (0,)

    def __init__(self, match: int = 4, least: int = 2, most: int = MAX_DRAFTS):
        self.match, self.least, self.max_drafts = match, least, most

    def draft_on(self, state: State) -> bool:
        """Whether the copy is still of something long."""
        return state.draft_index < self.least or state.lookup_length >= self.match
