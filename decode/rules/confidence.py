"""Rules that compare a token's probability, or the length of a lookup's match, with a threshold.

All parameters but Draft & Verify's ε and βs, which are as published, are tuned on training prompts by `bench.tune`.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from lede.decode.rules.base import ExitRule
from lede.decode.state import State
from lede.process import LONG_DRAFTS, MAX_DRAFTS

if TYPE_CHECKING:
    from lede.decode.round import Round

BETA_1, BETA_2 = 0.5, 0.9  # Draft & Verify's smoothing of the acceptance rate and of the threshold


class AdaptiveLookup(ExitRule):
    """Prompt lookup that drafts on while the matched text is at least `match` tokens long; `least` drafts in any case.

    Source: none; `assistant_confidence_threshold` of `transformers` is its neighbour for assistant models, here the
    confidence is the length of the n-gram match.
    """

    name = "adaptive-lookup"
    needs_state, needs_trace, needs_lookup = True, False, True
    layers = (0,)

    def __init__(self, match: int = 4, least: int = 2, most: int = MAX_DRAFTS):
        self.match, self.least, self.max_drafts = match, least, most

    def draft_on(self, state: State) -> bool:
        return state.draft_index < self.least or state.lookup_length >= self.match


class Lite(ExitRule):
    """Exit at the first layer whose top probability is at least its own threshold; drafts of a fixed length.

    Source: LITE (Varshney et al., arXiv 2310.18581), dynamic confidence-based early exiting, which the LEDE paper
    (§4.1) takes as a drafter; its mean draft length there is 11.8 of at most 12 (Table 1): length is not what it
    decides. Deviations: there every token walks on its own and is final; here a round's first draft walks, the others
    leave at the same layer, and all are verified. Without `layer_count` the deepest candidate is the fallback, so that
    every round drafts; with it, a walk in which no layer is sure enough drafts nothing.
    """

    name = "lite"
    needs_state, needs_trace = True, False

    def __init__(self, thresholds: Mapping[int, float], draft_length: int = MAX_DRAFTS, layer_count: int | None = None):
        self.layers = tuple(sorted(thresholds)) + (() if layer_count is None else (layer_count,))
        self.max_drafts = draft_length
        self._logs = {layer: math.log(max(p, 1e-30)) for layer, p in thresholds.items()}

    def exit_here(self, state: State) -> bool:
        return state.top1_logp >= self._logs[state.layer]


class DraftVerify(ExitRule):
    """Draft on while the token's probability is at least γ, and adapt γ. State: γ and the acceptance rate.

    Source: Draft & Verify (Zhang et al., arXiv 2309.08168), "Adaptive draft-exiting mechanism", and its public code.
    After each verification the acceptance rate, which starts at 0 and is smoothed with β1, is compared with `target`:
    below it γ rises by ε = `step`, else it falls by ε, but stays where it is if the drafts reached their limit; the new
    γ is mixed in with weight 1 - β2. Deviations: the draft model is the first E layers, as in the LEDE paper's
    comparison (§4.1; there a searched set of layers is skipped); at most 12 drafts (there 8 and more); a round's first
    token is not judged. The token under γ is kept, as there; with `keeps_last=False` it is dropped, which saves its row
    in the verification.
    """

    name = "draft-verify"
    needs_state, needs_trace = True, False

    def __init__(
        self,
        exit_layer: int,
        threshold: float = 0.8,
        target: float = 0.9,
        *,
        step: float = 0.01,
        max_drafts: int = MAX_DRAFTS,
        keeps_last: bool = True,
    ):
        self.layers, self.max_drafts, self.keeps_last = (exit_layer,), max_drafts, keeps_last
        self._first, self._target, self._step = threshold, target, step
        self.start()

    def start(self) -> None:
        self._set_threshold(self._first)
        self.acceptance = 0.0

    def draft_on(self, state: State) -> bool:
        return state.top1_logp >= self._log

    def finish(self, round_: "Round") -> None:
        drafts = len(round_.drafts)
        if not drafts:
            return
        self.acceptance = BETA_1 * self.acceptance + (1 - BETA_1) * round_.accepted / drafts
        wanted = self.threshold
        if self.acceptance < self._target:
            wanted += self._step
        elif drafts < self.max_drafts:
            wanted -= self._step
        self._set_threshold(BETA_2 * self.threshold + (1 - BETA_2) * wanted)

    def _set_threshold(self, threshold: float) -> None:
        self.threshold, self._log = threshold, math.log(max(threshold, 1e-30))


class Kangaroo(DraftVerify):
    """Draft on while the token's probability is at least η. No state.

    Source: Kangaroo (Liu et al., NeurIPS 2024, arXiv 2404.18911): a fixed exit with a trained head, and double early
    exiting, which stops a draft of at most 6 tokens at a top probability of η = 0.6 or less. Deviations: the exit has
    a head of its own only where the model has one for that layer; η, the layer and the longest draft are tuned.
    """

    name = "kangaroo"

    def __init__(self, exit_layer: int, threshold: float = 0.6, *, max_drafts: int = 6, keeps_last: bool = True):
        super().__init__(exit_layer, threshold, max_drafts=max_drafts, keeps_last=keeps_last)

    def finish(self, round_: "Round") -> None:
        """Nothing adapts."""


class Cascade(ExitRule):
    """The lookup where its match is long enough, else an exit whose confidence says when to stop.

    A round copies if the match is at least `match` tokens long; it drafts `least` copies in any case, then goes on
    while the match is at least `goes_on`, up to `most`. Otherwise it drafts from `exit_layer`, on while the token's
    probability is at least `threshold`, up to `drafts`; with `layer_count` it drafts nothing where already the first
    token is less likely. No state.

    Source: the hybrids that engines offer. llama.cpp's server takes several kinds of speculation at once, n-grams
    (`ngram-simple`, of a fixed length) before a draft model, which stops below `--draft-p-min` even at its first token;
    SuffixDecoding (Oliaro et al., arXiv 2411.04975; in vLLM through ArcticInference) copies where the match scores
    above a threshold and asks a draft model elsewhere. Deviations: the draft model is the first E layers, or the exit
    head there; matches are the lookup's, one chain of the longest n-gram in this text alone; all numbers are tuned, the
    lookup's as `AdaptiveLookup`'s and the exit's as `Kangaroo`'s.
    """

    name = "cascade"
    needs_state, needs_trace = True, False

    def __init__(
        self,
        exit_layer: int,
        match: int = 4,
        goes_on: int = 2,
        least: int = 2,
        most: int = LONG_DRAFTS,
        threshold: float = 0.6,
        drafts: int = 6,
        *,
        keeps_last: bool = True,
        layer_count: int | None = None,
    ):
        self.layers = (0, exit_layer) + (() if layer_count is None else (layer_count,))
        self.max_drafts, self.keeps_last = max(most, drafts), keeps_last
        self.match, self.goes_on, self.least, self.most = match, goes_on, least, most
        self.drafts, self._log = drafts, math.log(max(threshold, 1e-30))

    def exit_here(self, state: State) -> bool:
        return state.lookup_length >= self.match if state.layer == 0 else state.top1_logp >= self._log

    def draft_on(self, state: State) -> bool:
        number = state.draft_index + self.keeps_last  # of the draft that the question is about
        if state.layer == 0:
            return number <= self.least or (number <= self.most and state.lookup_length >= self.goes_on)
        return number <= self.drafts and state.top1_logp >= self._log
