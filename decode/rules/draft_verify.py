"""Draft & Verify's adaptive draft-exiting: drafting stops at a token that the draft model is not sure of.

Source: Draft & Verify (Zhang et al., arXiv 2309.08168), "Adaptive draft-exiting mechanism", and its public code. The
drafting stops behind a token whose probability is under γ. After each verification the acceptance rate, smoothed with
β1 = 0.5, is compared with a target of 0.9: below it γ rises by ε = 0.01, else it falls by ε, but stays where it is if
the drafts reached their limit; the new γ is mixed in with weight 1 - β2 = 0.1. The acceptance starts at 0, as there.

Deviations: the draft model is the first E layers, as in the LEDE paper's comparison (§4.1; there a searched set of
layers is skipped); at most 12 drafts (there 8 and more); and the token under γ is kept, as there, but for a round's
first: this loop drafts a second before the rule is asked. With `keeps_last=False` a token under γ is dropped instead,
which saves its row in the verification; the first is kept even so.

Parameters: `exit_layer`, the first γ (`threshold`), `target` and `keeps_last`, tuned on training prompts by
`bench.tune`; ε and the βs as published.
"""

import math
from typing import TYPE_CHECKING

from lede.decode.rules.base import MAX_DRAFTS, Rule
from lede.decode.state import State

if TYPE_CHECKING:
    from lede.decode.round import Round


class DraftVerify(Rule):
    """Draft on while the token's probability is at least γ, and adapt γ. State: γ and the acceptance rate."""

    name = "draft-verify"
    needs_state, needs_trace = True, False

    def __init__(
        self,
        exit_layer: int,
        threshold: float = 0.8,
        target: float = 0.9,
        *,
        step: float = 0.01,
        acceptance_decay: float = 0.5,
        threshold_decay: float = 0.9,
        max_drafts: int = MAX_DRAFTS,
        keeps_last: bool = True,
    ):
        self.layers, self.max_drafts, self.keeps_last = (exit_layer,), max_drafts, keeps_last
        self._first, self._target, self._step = threshold, target, step
        self._acceptance_decay, self._threshold_decay = acceptance_decay, threshold_decay
        self.start()

    def start(self) -> None:
        """Back to the first γ."""
        self.threshold, self.acceptance = self._first, 0.0
        self._log = math.log(max(self.threshold, 1e-30))

    def draft_on(self, state: State) -> bool:
        """Whether this token is likely enough."""
        return state.top1_logp >= self._log

    def finish(self, round_: "Round") -> None:
        """Adapt γ."""
        drafts = len(round_.drafts)
        if not drafts:
            return
        beta = self._acceptance_decay
        self.acceptance = beta * self.acceptance + (1 - beta) * round_.accepted / drafts
        if self.acceptance < self._target:
            wanted = self.threshold + self._step
        else:
            wanted = self.threshold if drafts == self.max_drafts else self.threshold - self._step
        self.threshold = self._threshold_decay * self.threshold + (1 - self._threshold_decay) * wanted
        self._log = math.log(max(self.threshold, 1e-30))
