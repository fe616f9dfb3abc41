"""Rules with one exit layer that look at no token: fixed drafts, and drafts as long as the last rounds' success allows.

All parameters are tuned on training prompts by `bench.tune`.
"""

from typing import TYPE_CHECKING

from lede.decode.rules.base import ExitRule
from lede.process import MAX_DRAFTS

if TYPE_CHECKING:
    from lede.decode.round import Round


class LayerSkip(ExitRule):
    """LayerSkip's self-speculative decoding: a fixed exit layer and draft length.

    Source: LayerSkip (arXiv 2404.16710), §4.3; its public code calls them `exit_layer` and `num_speculations`. No
    deviation.
    """

    name = "layerskip"

    def __init__(self, exit_layer: int, draft_length: int):
        self.layers, self.max_drafts = (exit_layer,), draft_length


class PromptLookup(LayerSkip):
    """Drafts are what followed the text's last n-gram when it occurred before: layer 0 with a fixed draft length.

    Source: "prompt lookup decoding" (Saxena 2023), `prompt_lookup_num_tokens` of `transformers`' generate. Deviations:
    the longest n-gram of up to 8 tokens is matched (there `max_matching_ngram_size`, 2 by default), its last occurrence
    is taken, and each draft asks again with the drafts before it as part of the text, so that a copy goes on where the
    span that it copies from ends.
    """

    name = "prompt-lookup"

    def __init__(self, draft_length: int = 10):
        super().__init__(0, draft_length)


class LengthHeuristic(ExitRule):
    """A fixed exit layer; `up` drafts more after a round that was accepted whole, else `down` less. State: the length.

    Source: `num_assistant_tokens_schedule="heuristic"` of `transformers`' generate (there 2 more or 1 less, at least 1,
    starting at 20 in version 5 and 5 before; "transient" starts anew for each text, as here). Deviations: ±1, and at
    most `most` drafts; `up=2` gives the steps of the library.
    """

    name = "length-heuristic"

    def __init__(self, exit_layer: int, start: int = 5, *, up: int = 1, down: int = 1, most: int = MAX_DRAFTS):
        self.layers = (exit_layer,)
        self._first, self._up, self._down, self._most = start, up, down, most
        self.start()

    def start(self) -> None:
        self.max_drafts = self._first

    def finish(self, round_: "Round") -> None:
        if not round_.drafts:
            return
        if round_.accepted == len(round_.drafts):
            self.max_drafts = min(self.max_drafts + self._up, self._most)
        else:
            self.max_drafts = max(self.max_drafts - self._down, 1)
