"""Where a method's text is not plain decoding's, and how close the call was.

A pass over several rows may round differently from a pass over one, and then a near tie can fall the other way. The
logit margin tells that from a fault: how much more the model, plainly run over the text that both share, gives the
plain decoder's token than the other's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

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
    margin: float | None  # logit of `token` minus that of `other`; None where one of the texts ended


def differences(model: Model, samples: Sequence[Sample], prompts: Mapping[str, list[int]]) -> list[Difference]:
    """Every prompt on which a method's tokens are not the plain decoder's. `prompts`: token ids by prompt id."""
    texts = {s.prompt_id: s.token_ids for s in samples if s.method == BASELINE}
    out = []
    for s in samples:
        plain, mine, margin = texts.get(s.prompt_id), s.token_ids, None
        if plain is None or mine == plain:
            continue
        at = next(i for i, (a, b) in enumerate(zip_longest(plain, mine)) if a != b)
        token, other = (text[at] if at < len(text) else None for text in (plain, mine))
        if token is not None and other is not None:
            prompt = prompts[s.prompt_id]
            logits = next_logits(model, [*prompt, *plain[:at]], len(prompt))
            margin = float(logits[token] - logits[other])
        out.append(Difference(s.method, s.prompt_id, at, token, other, margin))
    return out


@torch.inference_mode()
def next_logits(model: Model, tokens: list[int], prompt: int = 0) -> torch.Tensor:
    """The full model's logits (vocabulary,) after `tokens`, the last of which is run alone as in plain decoding.

    `prompt`: how many of them were the prompt, see Backend.cache.
    """
    cache, last = model.cache(len(tokens), prompt), len(tokens) - 1
    for start in range(0, last, LONGEST_BLOCK):
        model.read(model.embed(tokens[start : min(start + LONGEST_BLOCK, last)]), start, cache)
    x = model.run(0, model.layer_count, model.embed(tokens[-1:]), last, cache)
    return model.head(x)[0].float()
