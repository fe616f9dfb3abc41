"""A model's own greedy writing, many texts at a time: what exit heads will draft, and so learn from best."""

from collections.abc import Callable, Collection

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaForCausalLM

from lede.adapt.forward import block, block_weights, head_size, logits, rotations

ENDED_EVERY = 16  # tokens after which the rows that have ended are dropped
NOT_SEEN = -1e9  # added to a score; not -inf, for a padded row sees nothing at all


def stop_tokens(model: LlamaForCausalLM) -> set[int]:
    """The tokens that end a text of this model's."""
    stop = model.generation_config.eos_token_id  # None, a token or several
    return {stop} if isinstance(stop, int) else set(stop or ())


class _Batch:
    """Keys and values of rows that end in the same column; a row begins with as many columns of padding as it lacks."""

    def __init__(self, model: LlamaForCausalLM, padding: Tensor, columns: int):
        config, weight = model.config, model.lm_head.weight
        shape = len(padding), config.num_key_value_heads, columns, head_size(model)
        self.model, self.padding, self.filled = model, padding, 0
        self.kept = [weight.new_empty(2, *shape) for _ in range(config.num_hidden_layers)]

    def keep(self, rows: Tensor) -> None:
        self.padding, self.kept = self.padding[rows], [kept[:, rows] for kept in self.kept]

    def logits(self, tokens: Tensor) -> Tensor:
        """Of the token after `tokens` (rows, length), the next ones of each row: (rows, vocabulary)."""
        model, start = self.model, self.filled
        self.filled += tokens.shape[1]
        column = torch.arange(self.filled, device=tokens.device)
        x = model.model.embed_tokens(tokens)
        cos, sin = rotations(model, x, (column[start:] - self.padding[:, None]).clamp(min=0))
        seen = (column >= self.padding[:, None])[:, None] & (column <= column[start:, None])
        mask = torch.zeros(seen.shape, dtype=x.dtype, device=x.device).masked_fill(~seen, NOT_SEEN)
        for layer, kept in zip(model.model.layers, self.kept, strict=True):
            weights, eps = block_weights(layer), model.config.rms_norm_eps
            x = block(x, cos, sin, weights, head_size(model), eps, _attention, kept, start, mask)
        return logits(x[:, -1], model.model.norm.weight, model.lm_head.weight, eps)


def _attention(query: Tensor, key: Tensor, value: Tensor, kept: Tensor, start: int, mask: Tensor) -> Tensor:
    """Attention to all that is kept (2, rows, key heads, columns, head size), the new keys and values included."""
    stop, repeats = start + key.shape[2], query.shape[1] // key.shape[1]
    kept[0, :, :, start:stop], kept[1, :, :, start:stop] = key, value
    keys, values = kept[:, :, :, :stop]
    # Queries that share a key head stand in one row of queries, so that keys need not be repeated.
    query, mask = query.unflatten(1, (-1, repeats)).flatten(2, 3), mask.repeat(1, repeats, 1)[:, None]
    y = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
    return y.unflatten(2, (repeats, -1)).flatten(1, 2)


@torch.inference_mode()
def write(
    model: LlamaForCausalLM,
    prompts: list[list[int]],
    longest: int,
    ends: Collection[int],
    on_token: Callable[[int], None] = lambda count: None,
) -> list[list[int]]:
    """What `model` says next to each prompt: at most `longest` tokens, the last of them the first that is in `ends`.

    `on_token` is called after each pass over the batch, with the number of texts that it lengthened.
    """
    width = max(map(len, prompts))
    device = model.lm_head.weight.device
    tokens = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts], device=device)
    batch = _Batch(model, torch.tensor([width - len(prompt) for prompt in prompts], device=device), width + longest)
    written: list[list[int]] = [[] for _ in prompts]
    numbers, ended = list(range(len(prompts))), [False] * len(prompts)
    for count in range(1, longest + 1):
        tokens = batch.logits(tokens).argmax(-1, keepdim=True)
        lengthened = 0
        for row, token in enumerate(tokens[:, 0].tolist()):
            if not ended[row]:
                written[numbers[row]].append(token)
                ended[row] = token in ends
                lengthened += 1
        on_token(lengthened)
        if all(ended):
            break
        if count % ENDED_EVERY == 0 and any(ended):
            going = [row for row, over in enumerate(ended) if not over]
            rows = torch.tensor(going, device=device)
            batch.keep(rows)
            tokens, numbers, ended = tokens[rows], [numbers[row] for row in going], [False] * len(going)
    return written
