"""DEL, the context-aware dynamic exit layer: exit layer and draft length from how every layer has agreed so far."""

import math
from typing import TYPE_CHECKING

from lede.decode.rules.base import ExitRule
from lede.decode.state import State
from lede.process import MAX_DRAFTS

if TYPE_CHECKING:
    from lede.decode.round import Round


class _Record:
    """How one layer's tokens fared: decayed counts and sums of probability, of mismatches [0] and of matches [1]."""

    def __init__(self) -> None:
        self._counts, self._sums = [0.0, 0.0], [0.0, 0.0]

    def see(self, decay: float, tokens: tuple[tuple[int, float], ...], targets: tuple[int, ...]) -> None:
        """A verification's tokens; `targets` are the full model's and may go on behind them."""
        for numbers in (self._counts, self._sums):
            numbers[:] = [decay * number for number in numbers]
        for (token, probability), target in zip(tokens, targets, strict=False):
            self._counts[token == target] += 1
            self._sums[token == target] += probability

    @property
    def acceptance(self) -> float:
        """α; 0 before anything was seen."""
        return self._counts[True] / (sum(self._counts) or 1)

    @property
    def threshold(self) -> float:
        """The middle of the two mean probabilities; 0 where there is none of either."""
        if not all(self._counts):
            return 0.0
        return sum(s / n for s, n in zip(self._sums, self._counts, strict=True)) / 2


class Del(ExitRule):
    """The exit layer and draft length with the most expected tokens per layer. State: a record for each layer.

    Source: DEL (Entezari Zarch et al., COLM 2025, arXiv 2504.05598). After each verification the token and its
    probability are taken at every eligible layer for the verified positions up to and including the first mismatch
    ("shadow tokens"). Each layer keeps counts and summed probabilities of its matches and of its mismatches, decayed
    per round, and so an acceptance rate α. The next round takes the exit layer E and length d with the most tokens per
    layer run, TPL(E, d) = (1 - α^(d+1)) / (1 - α) / ((L - E) + (d + 1)·E), and drafts until d tokens or until a token's
    probability falls under the middle of the layer's mean matched and mean mismatched probability. A text's first
    round drafts one token.

    Deviations: at most 12 drafts, as in the LEDE paper's comparison (§4.1); `max_drafts=18` is DEL's own. The token
    under the threshold is still verified (`keeps_last=False` drops it), and a round's first draft is not judged. Where
    a layer has no mismatch yet, or no match, no token stops the drafting. The first round's exit layer is a parameter.

    The shadow tokens take decoding time, as they would anywhere: fewer `layers` are cheaper to watch. `layers`,
    `decay`, `max_drafts` and `keeps_last` are tuned on training prompts by `bench.tune`.
    """

    name = "del"
    needs_state, needs_trace = True, False

    def __init__(
        self,
        layers: tuple[int, ...],
        layer_count: int,
        decay: float = 0.95,
        *,
        first: int | None = None,
        max_drafts: int = MAX_DRAFTS,
        keeps_last: bool = True,
    ):
        """Exits among `layers` (ascending, 1…`layer_count` - 1); `first` is a text's first, by default the middle."""
        self.shadow_layers, self.keeps_last = tuple(layers), keeps_last
        self._first = first if first is not None else layers[len(layers) // 2]
        self._layer_count, self._decay, self._most = layer_count, decay, max_drafts
        self.start()

    def start(self) -> None:
        self._records = {layer: _Record() for layer in self.shadow_layers}
        self.layers, self.max_drafts = (self._first,), 1
        self._log = -math.inf

    def draft_on(self, state: State) -> bool:
        return state.top1_logp >= self._log

    def finish(self, round_: "Round") -> None:
        for layer, tokens in round_.shadow.items():
            self._records[layer].see(self._decay, tokens, round_.targets)
        rates = {layer: record.acceptance for layer, record in self._records.items()}
        exit_layer, self.max_drafts = best_exit(rates, self._layer_count, self._most)
        self.layers = (exit_layer,)
        threshold = self._records[exit_layer].threshold
        self._log = math.log(threshold) if threshold > 0 else -math.inf


def best_exit(acceptance: dict[int, float], layer_count: int, most: int) -> tuple[int, int]:
    """The (E, d) with the highest TPL, d in 1…`most`, for each layer's acceptance rate; the first of equals."""
    best, chosen = -1.0, (0, 0)
    for layer, alpha in acceptance.items():
        tokens, power, before = 1.0, 1.0, 0.0  # tokens = 1 + α + … + α^d
        for drafts in range(1, most + 1):
            power *= alpha
            tokens += power
            rate = tokens / (layer_count - layer + (drafts + 1) * layer)
            if rate > best:
                best, chosen = rate, (layer, drafts)
            if rate <= before:  # α^d only falls while each draft costs the same: it gets no better
                break
            before = rate
    return chosen
