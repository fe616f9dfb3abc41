"""The length heuristic: one draft more after a round that was accepted whole, else one less.

Source: the additive rule of speculative decoding's early implementations, `num_assistant_tokens_schedule="heuristic"`
of `transformers`' generate (there 2 more or 1 less, at least 1, starting at 20 in version 5 and 5 before; "transient"
starts anew for each text, as here). Here ±1 from `start`, at least 1 and at most 12 drafts, at a fixed exit layer;
`up=2` gives the steps of the library.

Parameters: `exit_layer`, `start` and `most`, tuned on training prompts by `bench.tune`.
"""

from typing import TYPE_CHECKING

from lede.decode.rules.base import MAX_DRAFTS, Rule

if TYPE_CHECKING:
    from lede.decode.round import Round


class LengthHeuristic(Rule):
    """A fixed exit layer; the draft length follows how the last rounds went. State: the draft length."""

    name = "length-heuristic"

    def __init__(self, exit_layer: int, start: int = 5, *, up: int = 1, down: int = 1, most: int = MAX_DRAFTS):
        self.layers = (exit_layer,)
        self._first, self._up, self._down, self._most = start, up, down, most
        self.start()

    def start(self) -> None:
        """Back to the first length."""
        self.max_drafts = self._first

    def finish(self, round_: "Round") -> None:
        """Longer after success, else shorter."""
        if not round_.drafts:
            return
        if round_.accepted == len(round_.drafts):
            self.max_drafts = min(self.max_drafts + self._up, self._most)
        else:
            self.max_drafts = max(self.max_drafts - self._down, 1)
