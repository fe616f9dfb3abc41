"""LITE's dynamic confidence-based early exiting as a drafter: a threshold per layer, drafts of a fixed length.

Source: LITE (Varshney et al., arXiv 2310.18581): the layers that were tuned to be exits are tried from the shallowest
on, and a token leaves at the first whose top probability reaches that layer's own threshold, the last layer being the
fallback. The LEDE paper (§4.1) takes it as a drafter, and its mean draft length there is 11.8 of at most 12 (Table 1):
length is not what it decides.

Deviations: there every token walks on its own and is final; here the first token of a round walks, the round's other
drafts leave at the same layer, and all are verified. Without `layer_count` the deepest candidate is the fallback, so
that every round drafts; with it, a walk in which no layer is sure enough goes to the full model and drafts nothing.

Parameters: `thresholds` and `draft_length`, tuned on training prompts by `bench.tune`.
"""

import math
from collections.abc import Mapping

from lede.decode.rules.base import MAX_DRAFTS, Rule
from lede.decode.state import State


class Lite(Rule):
    """Exit at the first layer whose top probability is at least its threshold. State: none."""

    name = "lite"
    needs_state, needs_trace = True, False

    def __init__(self, thresholds: Mapping[int, float], draft_length: int = MAX_DRAFTS, layer_count: int | None = None):
        self.layers = tuple(sorted(thresholds)) + (() if layer_count is None else (layer_count,))
        self.max_drafts = draft_length
        self._logs = {layer: math.log(max(p, 1e-30)) for layer, p in thresholds.items()}

    def exit_here(self, state: State) -> bool:
        """Whether this layer is sure enough."""
        return state.top1_logp >= self._logs[state.layer]
