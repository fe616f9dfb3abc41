"""What a rule sees before it decides: the state of paper §3.1.1, with what else is known there for free."""

import math
from collections import deque
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from lede.process import ACCEPT_DECAY, TOP_K, TRACE

SPLITTER = 2.0**42 + 1  # keeps 11 of a double's 53 bits

Double = TypeVar("Double", float, Tensor)


class State(NamedTuple):
    """One decision's view. Field names are the dataset's column names; columns from logits are 0 at layer 0."""

    layer: int
    draft_index: int  # which draft of the round this state's token would be: 1 in the walk
    phase: int
    token: int  # what this layer would draft; at layer 0 the token that followed the match
    conf_topk: float = 0.0  # -mean of log p over the 5 most likely tokens (C_k, paper §3.1.1)
    entropy: float = 0.0  # nats (H)
    conf_trace: float = 0.0  # -mean of log p_max over the last 20 committed tokens, p of the full model (C_trace)
    margin: float = 0.0  # p of the most likely token minus p of the second
    top1_logp: float = 0.0
    draft_logp: float = 0.0  # sum of log p over the round's earlier drafts
    accept_trace: float = 0.5  # decayed mean of how this generation's earlier drafts fared
    lookup_length: float = 0.0  # tokens of the n-gram match, 0 = none
    lookup_agreement: float = 0.0  # share of that n-gram's earlier occurrences followed by the same token
    lookup_match: float = 0.0  # 1 where this layer's token is the lookup's
    # Of sampled text, whose noise (`decode.noise`) is known before verification; 0 in greedy text
    token_logp: float = 0.0  # log q of this layer's token, q as processed; 0 at layer 0
    noise: float = 0.0  # that token's noise g, at layer 0 also
    noise_margin: float = 0.0  # log q + g of that token less the second highest; 0 at layer 0
    temperature: float = 0.0


def rounded(x: Double) -> Double:
    """Doubles to 11 significant bits, as many as half precision has.

    A state says no more than that, machines and data types differ in the rest, and noise cannot be compressed: a logged
    decision takes two thirds of the space.
    """
    big = x * SPLITTER  # Dekker's splitting
    return big - (big - x)


class Statistics(NamedTuple):
    """What one row of logits says. Numbers are `rounded`."""

    token: int
    conf_topk: float
    entropy: float
    margin: float
    top1_logp: float


def statistics(logits: Tensor) -> list[Statistics]:
    """One pass over logits (rows, vocabulary) of fp32 or fp64, one transfer to the host."""
    k = min(TOP_K, logits.shape[1])
    top, index = torch.topk(logits, k)
    p = torch.softmax(logits, -1)
    mean = torch.linalg.vecdot(p, logits).unsqueeze(1)
    rows = torch.cat((top, p.gather(1, index[:, :2]), mean, index[:, :1].to(logits.dtype)), 1).tolist()
    out = []
    for *best, p_first, p_second, expected, token in rows:
        # p_first is at least 1/vocabulary, so its logarithm gives the normaliser without a second pass
        top1_logp = math.log(p_first)
        lse = best[0] - top1_logp
        numbers = lse - sum(best) / k, lse - expected, p_first - p_second, top1_logp
        out.append(Statistics(int(token), *map(rounded, numbers)))
    return out


class ConfidenceTrace:
    """`conf_trace` over one generation: 0 before the first token, then over as many as there are, 20 at most."""

    def __init__(self) -> None:
        self._logp: deque[float] = deque(maxlen=TRACE)

    @property
    def value(self) -> float:
        """-mean of log p_max."""
        return rounded(-sum(self._logp) / len(self._logp)) if self._logp else 0.0

    def add(self, logp_max: list[float]) -> None:
        """The full model's log p_max at each position just committed."""
        self._logp.extend(logp_max)


class AcceptTrace:
    """`accept_trace` over one generation: 0.5 before the first draft."""

    def __init__(self) -> None:
        self._accepted, self._drafted = 0.5, 1.0

    @property
    def value(self) -> float:
        """Decayed mean of how drafts fared."""
        return rounded(self._accepted / self._drafted)

    def add(self, accepted: int, drafts: int) -> None:
        """`accepted` of a round's `drafts` were committed; those after the first mismatch count as rejected."""
        for i in range(drafts):
            self._accepted = ACCEPT_DECAY * self._accepted + (i < accepted)
            self._drafted = ACCEPT_DECAY * self._drafted + 1
