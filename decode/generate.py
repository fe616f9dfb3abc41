"""From a prompt to a finished Generation, under any exit rule."""

import time
from collections.abc import Callable

from lede.decode.errors import ModelError
from lede.decode.loop import Decoding
from lede.decode.model import Model
from lede.decode.round import Generation, Round
from lede.decode.rules import Autoregressive, ExitRule
from lede.decode.sampling import Settings


def generate(
    model: Model,
    prompt: str | list[int],
    rule: ExitRule | None = None,
    settings: Settings | None = None,
    on_round: Callable[[Round], None] | None = None,
) -> Generation:
    """Decode one prompt (text, or token ids as they are). Without a rule every token goes through all layers.

    `on_round` sees each round as soon as it is committed: streaming. Raises ModelError for a request that cannot work.
    """
    ids = encode(model, prompt) if isinstance(prompt, str) else list(prompt)
    began = time.perf_counter()
    decoding = Decoding(model, ids, rule or Autoregressive(), settings or Settings())
    prefilled = time.perf_counter()
    rounds = []
    for round_ in decoding.rounds():
        rounds.append(round_)
        if on_round is not None:
            on_round(round_)
    ended = time.perf_counter()
    new = decoding.tokens[len(ids) :]
    text = model.tokenizer.decode(new, skip_special_tokens=True) if model.tokenizer is not None else ""
    assert decoding.finish is not None
    return Generation(
        tuple(ids), tuple(new), str(text), decoding.finish, ended - began, prefilled - began, tuple(rounds)
    )


def encode(model: Model, text: str) -> list[int]:
    """Token ids of a prompt, special tokens as the model's tokenizer adds them."""
    if model.tokenizer is None:
        raise ModelError(f"the model {model.name} has no tokenizer: give token ids instead of text")
    return list(model.tokenizer(text)["input_ids"])
