"""The models that a training starts from, a new small Llama or a checkpoint, and what they write."""

from collections.abc import Callable, Collection
from typing import Any

import torch
from transformers import AutoConfig, DynamicCache, LlamaConfig, LlamaForCausalLM

from lede.adapt.config import AdaptConfig
from lede.adapt.errors import AdaptError

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def new_model(config: AdaptConfig, end_of_text: int) -> LlamaForCausalLM:
    """A freshly initialised Llama with tied embeddings, of the sizes in `config`."""
    torch.manual_seed(config.seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocabulary,
            hidden_size=config.hidden,
            intermediate_size=config.feed_forward,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            max_position_embeddings=config.context,
            tie_word_embeddings=True,
            bos_token_id=end_of_text,
            eos_token_id=end_of_text,
        )
    )
    model.generation_config.pad_token_id = end_of_text
    return model


def open_llama(model: str, context: int, dtype: torch.dtype) -> tuple[LlamaForCausalLM, torch.dtype]:
    """A checkpoint in `dtype`, and the type in which it is stored.

    Raises AdaptError where it cannot be opened, is no Llama that the training forward knows, or not of this context.
    """
    sizes = opened(AutoConfig, model)
    if sizes.model_type != "llama":
        raise AdaptError(f"{model} is of type {sizes.model_type}; only Llama models can be trained to exit early")
    for name, known in (("attention_bias", False), ("mlp_bias", False), ("hidden_act", "silu")):
        if getattr(sizes, name, known) != known:
            raise AdaptError(f"{model} has {name} = {getattr(sizes, name)}, which no released Llama has: not supported")
    if context > sizes.max_position_embeddings:
        raise AdaptError(f"context is {context}, but {model} knows {sizes.max_position_embeddings} positions")
    return opened(LlamaForCausalLM, model, dtype=dtype), sizes.dtype or torch.float32


def opened(kind: Any, model: str, **settings: Any) -> Any:
    """`kind.from_pretrained(model)`, with an error of one line."""
    try:
        return kind.from_pretrained(model, **settings)
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise AdaptError(f"cannot open the model {model}: {reason}") from None


def stop_tokens(model: LlamaForCausalLM) -> set[int]:
    """The tokens that end a text of this model's."""
    stop = model.generation_config.eos_token_id  # None, a token or several
    return {stop} if isinstance(stop, int) else set(stop or ())


@torch.inference_mode()
def write(
    model: LlamaForCausalLM,
    prompts: list[list[int]],
    longest: int,
    ends: Collection[int],
    on_token: Callable[[int], None] = lambda count: None,
) -> list[list[int]]:
    """What `model` says next to each prompt, greedily: at most `longest` tokens, the last the first that is in `ends`.

    `on_token` is called after each pass over the batch, with the number of texts that it lengthened.
    """
    width, device = max(map(len, prompts)), model.device
    tokens = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts], device=device)
    seen = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    cache, written, rows = DynamicCache(config=model.config), [list[int]() for _ in prompts], list(range(len(prompts)))
    for _ in range(longest):
        places = (seen.cumsum(-1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        given = {"attention_mask": seen, "position_ids": places, "past_key_values": cache}
        tokens = model(input_ids=tokens, logits_to_keep=1, **given).logits[:, -1].argmax(-1, keepdim=True)
        seen = torch.cat([seen, seen.new_ones(len(seen), 1)], 1)
        for row, token in zip(rows, tokens[:, 0].tolist(), strict=True):
            written[row].append(token)
        on_token(len(rows))
        going = [place for place, row in enumerate(rows) if written[row][-1] not in ends]
        if not going:
            break
        if len(going) < len(rows):  # those that have ended are not written on
            chosen = torch.tensor(going, device=device)
            cache.batch_select_indices(chosen)
            tokens, seen, rows = tokens[chosen], seen[chosen], [rows[place] for place in going]
    return written
