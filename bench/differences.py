"""Where a method's text is not plain decoding's, and how close the call was.

A pass over several rows may round differently from a pass over one, and then a near tie can fall the other way. The
logit margin tells that from a fault: how much more the model, plainly run over the text that both share, gives the
plain decoder's token than the other's. In sampled text it is that of log p + noise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

import torch

from lede.bench.measure import Sample, prompt_seed
from lede.bench.names import BASELINE
from lede.decode.model import LONGEST_BLOCK, Model
from lede.decode.noise import gumbel
from lede.decode.sampling import Settings, processors, sampling_columns


@dataclass(frozen=True)
class Difference:
    """The first token at which a method parts from plain decoding on a prompt."""

    method: str
    prompt: str
    position: int  # in the output
    token: int | None  # the plain decoder's; None: its text ended
    other: int | None  # the method's
    margin: float | None  # see `margin_of`; None where one of the texts ended


def differences(
    model: Model, samples: Sequence[Sample], prompts: Mapping[str, list[int]], settings: Settings | None = None
) -> list[Difference]:
    """Every prompt on which a method's tokens are not the plain decoder's.

    prompts: token ids by prompt id. settings: the bench's; None: greedy.
    """
    settings = settings or Settings()
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
            own = replace(settings, seed=prompt_seed(settings.seed, prompt))
            margin = margin_of(model, prompt, [*plain[:at]], token, other, own)
        out.append(Difference(s.method, s.prompt_id, at, token, other, margin))
    return out


@torch.inference_mode()
def margin_of(model: Model, prompt: list[int], said: list[int], token: int, other: int, settings: Settings) -> float:
    """What `token` has more than `other` behind a prompt and what was said: logits, or log p + noise of sampled text.

    Of an `other` that the settings leave out: what it lacks of the least likely token that they keep.
    """
    text = [*prompt, *said]
    scores = logits = next_logits(model, text, len(prompt)).cpu()
    if sampling_columns(settings)["temperature"]:

        def processed(own: Settings) -> torch.Tensor:
            call: Any = processors(own, model, prompt, sampling=True)
            row: torch.Tensor = call(torch.tensor([text]), logits[None].clone())[0]
            return row

        scores = processed(settings)
        if scores[other] == -torch.inf:
            return float(scores[scores > -torch.inf].min() - processed(replace(settings, top_k=0, top_p=1.0))[other])
        scores = scores + gumbel(settings.seed or 0, len(text), torch.arange(len(scores)))
    return float(scores[token] - scores[other])


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
