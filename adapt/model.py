"""The models that a training starts from, a new small Llama or a checkpoint, and what they write."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM

from lede.adapt.config import AdaptConfig
from lede.adapt.errors import AdaptError
from lede.adapt.forward import block_weights, finish, head_size, project, rms_norm, rotations

TOGETHER = 2048  # tokens in one pass of `write`: what they are on the way stays in a processor's cache
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
    llama, found = opened(LlamaForCausalLM, model, dtype=dtype, output_loading_info=True)
    for words, kind in (
        ("lacks", "missing_keys"),
        ("has an unknown", "unexpected_keys"),
        ("cannot take", "mismatched_keys"),
    ):
        if found[kind]:
            raise AdaptError(f"cannot open the model {model}: it {words} {min(map(str, found[kind]))}")
    return llama, sizes.dtype or torch.float32


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
    keep: Sequence[int] = (),
    draw: torch.Generator | None = None,
) -> tuple[list[list[int]], list[dict[str, Tensor]]]:
    """What `model` says next to each prompt: at most `longest` tokens, the last the first that is in `ends`.

    Each token is the most likely one, or drawn from the model's distribution by `draw`. With layers to `keep`, also
    the states of every prompt with its answer as in `adapt.states`, each (length, hidden); the last token's, which
    nothing follows, are zero. `on_token` is called after each pass over the batch, with the number of texts that it
    lengthened.
    """
    config, device, norm, head = model.config, model.device, model.model.norm.weight, model.lm_head.weight
    size, keys, layers = head_size(model), config.num_key_value_heads, [block_weights(x) for x in model.model.layers]
    width, count = max(map(len, prompts)), len(prompts)
    start = torch.tensor([width - len(prompt) for prompt in prompts], device=device)  # of each text in its row
    tokens = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts], device=device)
    cache = head.new_zeros(len(layers), 2, count, keys, width + longest, size)
    kept = {f"layer.{layer}": head.new_zeros(count, width + longest, config.hidden_size) for layer in keep}
    kept |= {"last": head.new_zeros(count, width + longest, config.hidden_size)} if keep else {}
    rows, going, written = torch.arange(count), list(range(count)), [list[int]() for _ in prompts]
    stop = 0
    while going and stop < width + longest - 1:
        begin, stop = stop, stop + tokens.shape[1]
        places, there = torch.arange(begin, stop, device=device), torch.arange(stop, device=device)
        parts = []
        for some in torch.arange(len(rows)).split(max(1, TOGETHER // len(places))):
            first = start[some]
            cos, sin = rotations(model, norm, (places - first[:, None]).clamp(min=0))
            seen = (there <= places[:, None]) & ((there >= first[:, None, None]) | (there == places[:, None]))
            x = model.model.embed_tokens(tokens[some])
            lines = slice(int(some[0]), int(some[-1]) + 1)
            for number, (weights, held) in enumerate(zip(layers, cache[:, :, lines], strict=True), 1):
                query, key, value = project(x, cos, sin, weights, size, config.rms_norm_eps)
                held[0, :, :, begin:stop], held[1, :, :, begin:stop] = key, value
                # Queries that share keys go in as one: on a CPU the library's own grouping takes five times as long.
                query = query.unflatten(1, (keys, -1)).flatten(2, 3)
                mask = seen[:, None].repeat(1, 1, query.shape[2] // len(places), 1)
                y = F.scaled_dot_product_attention(query, held[0, :, :, :stop], held[1, :, :, :stop], attn_mask=mask)
                x = finish(x, y.unflatten(2, (-1, len(places))).flatten(1, 2), weights, config.rms_norm_eps)
                if number in keep:
                    kept[f"layer.{number}"][rows[some], begin:stop] = x
            x = rms_norm(x, norm, config.rms_norm_eps)
            if keep:
                kept["last"][rows[some], begin:stop] = x
            parts.append(F.linear(x[:, -1], head))
        scores = torch.cat(parts)
        if draw is None:
            tokens = scores.argmax(-1, keepdim=True)
        else:
            tokens = torch.multinomial(torch.softmax(scores.float(), -1), 1, generator=draw)
        live = set(going)
        for row, token in zip(rows.tolist(), tokens[:, 0].tolist(), strict=True):
            if row in live:
                written[row].append(token)
        on_token(len(going))
        going = [row for row in going if written[row][-1] not in ends]
        if len(going) < 0.8 * len(rows):  # those that have ended are not written on
            chosen = torch.isin(rows, torch.tensor(going, dtype=torch.long))
            rows, cache, start, tokens = rows[chosen], cache[:, :, chosen], start[chosen], tokens[chosen]
    spans = [(width - len(prompt), width + len(answer)) for prompt, answer in zip(prompts, written, strict=True)]
    return written, [{name: x[row, i:j].cpu() for name, x in kept.items()} for row, (i, j) in enumerate(spans)]
