"""From a prompt to a finished Generation, under any exit rule."""

import operator
import time
from collections.abc import Callable, Mapping
from typing import Any

from lede.decode.errors import ModelError
from lede.decode.loop import Decoding
from lede.decode.model import Model
from lede.decode.round import Generation, Round
from lede.decode.rules import Autoregressive, ExitRule
from lede.decode.sampling import Settings
from lede.decode.source import ModelSource


def generate(
    model: Model,
    prompt: Any,
    rule: ExitRule | None = None,
    settings: Settings | None = None,
    on_round: Callable[[Round], None] | None = None,
) -> Generation:
    """Decode one prompt (see `encode`). Without a rule every token goes through all layers.

    `on_round` sees each round as soon as it is committed: streaming. Raises ModelError for a request that cannot work.
    """
    ids = encode(model, prompt)
    began = time.perf_counter()
    source = ModelSource(model, settings or Settings())
    decoding = Decoding(source, ids, rule or Autoregressive())
    prefilled = time.perf_counter()
    rounds = []
    for round_ in decoding.rounds():
        rounds.append(round_)
        if on_round is not None:
            on_round(round_)
    ended = time.perf_counter()
    new = decoding.tokens[len(ids) :]
    text = str(model.tokenizer.decode(new, skip_special_tokens=True)) if model.tokenizer is not None else ""
    assert decoding.finish is not None
    spent = ended - began, prefilled - began
    return Generation(
        tuple(ids), tuple(new), text, decoding.finish, *spent, tuple(rounds), source.reused, source.choose.seed
    )


def encode(model: Model, prompt: Any) -> list[int]:
    """Token ids of a prompt, as people hold them.

    A conversation, [{role, content}, …], is written as the checkpoint's chat template says, up to where the answer
    begins; its special tokens are the template's alone. Text gets those that the model's tokenizer adds, but no second
    begin-of-text token where it starts with one. Ids are taken as they are: a list, array or tensor, with one dimension
    or one row, or what a tokenizer returns (a mapping with `input_ids`, whose `attention_mask` hides nothing). Raises
    ModelError.
    """
    if isinstance(prompt, str):
        if model.tokenizer is None:
            raise ModelError(f"the model {model.name} has no tokenizer: give token ids instead of text")
        ids, begin = list(model.tokenizer(prompt)["input_ids"]), model.tokenizer.bos_token_id
        return ids[1:] if begin is not None and ids[:2] == [begin, begin] else ids
    if isinstance(prompt, list | tuple) and prompt and isinstance(prompt[0], Mapping):
        from lede.decode.chat import chat_text  # jinja2, which only conversations need

        text = chat_text(model.name, model.tokenizer, prompt)
        return list(model.tokenizer(text, add_special_tokens=False)["input_ids"])
    mask: Any = []
    if isinstance(prompt, Mapping):
        prompt, mask = prompt.get("input_ids"), prompt.get("attention_mask", [])
    ids = one_row(prompt)
    if not all(one_row(mask)):
        raise ModelError("the prompt's attention_mask hides tokens: give them without padding")
    try:
        return [operator.index(token) for token in ids]
    except TypeError:
        raise ModelError("the prompt's token ids are not whole numbers: give text, or its input_ids") from None


def one_row(values: Any) -> list[Any]:
    """The items of a list, array or tensor of one dimension or one row."""
    given = values
    values = values.tolist() if hasattr(values, "tolist") else values
    if not isinstance(values, list | tuple):
        kind = type(given).__name__
        raise ModelError(f"a prompt is text, or token ids in a list, array or tensor, and not of the type {kind}")
    rows = [row.tolist() if hasattr(row, "tolist") else row for row in values]
    if not any(isinstance(row, list | tuple) for row in rows):
        return rows
    if len(rows) > 1:
        raise ModelError(f"the prompt has {len(rows)} rows, and one text is decoded at a time: give one after another")
    return one_row(rows[0])
