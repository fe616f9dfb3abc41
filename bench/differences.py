"""Where a method's text is not plain decoding's, and how close the call was.

A speculative decoder's pass over several rows may round differently from a pass over one, and then a near tie can fall
the other way. The logit margin tells that from a fault: how much more the model, plainly run over the text that both
share, gives the plain decoder's token than the other's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from lede.bench.measure import Sample
from lede.bench.names import BASELINE
from lede.decode.model import LONGEST_BLOCK, Model


@dataclass(frozen=True)
class Difference:
    """The first token at which a method parts from plain decoding on a prompt."""

    method: str
    prompt: str
    position: int  # in the output
    token: int | None  # the plain decoder's; None: its text ended
    other: int | None  # the method's
    margin: float | None = None  # logit of `token` minus that of `other`; None: not measured, or one of them has none


def differences(samples: Sequence[Sample]) -> list[Difference]:
    """Every prompt on which a method's tokens are not the plain decoder's."""
    reference = {s.prompt_id: s.token_ids for s in samples if s.method == BASELINE}
    found = []
    for s in samples:
        plain, mine = reference.get(s.prompt_id), s.token_ids
        if plain is None or mine == plain:
            continue
        shared = min(len(mine), len(plain))
        first = next((i for i in range(shared) if mine[i] != plain[i]), shared)
        token = plain[first] if first < len(plain) else None
        other = mine[first] if first < len(mine) else None
        found.append(Difference(s.method, s.prompt_id, first, token, other))
    return found


def measured(
    model: Model, found: Sequence[Difference], samples: Sequence[Sample], prompts: Mapping[str, list[int]]
) -> list[Difference]:
    """The same with their margins; `prompts`: token ids by prompt id."""
    plain = {s.prompt_id: s.token_ids for s in samples if s.method == BASELINE}
    out = []
    for d in found:
        margin = None
        if d.token is not None and d.other is not None:
            logits = next_logits(model, [*prompts[d.prompt], *plain[d.prompt][: d.position]])
            margin = float(logits[d.token] - logits[d.other])
        out.append(Difference(d.method, d.prompt, d.position, d.token, d.other, margin))
    return out


@torch.inference_mode()
def next_logits(model: Model, tokens: list[int]) -> torch.Tensor:
    """The full model's logits (vocabulary,) after `tokens`, the last of which is run alone as in plain decoding."""
    cache = model.cache(len(tokens))
    for start in range(0, len(tokens) - 1, LONGEST_BLOCK):
        x = model.embed(tokens[start : min(start + LONGEST_BLOCK, len(tokens) - 1)])
        model.run(0, model.layer_count, x, start, cache)
    x = model.run(0, model.layer_count, model.embed(tokens[-1:]), len(tokens) - 1, cache)
    return model.head(x)[0].float()
