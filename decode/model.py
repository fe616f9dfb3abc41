"""An early-exit Llama: its layers can be run a few at a time, over a key-value buffer whose roll-back is free.

Layers are counted 1…L (paper §3.1); `run(lo, hi, …)` runs layers lo+1…hi, so that `run(0, E, …)` followed by
`run(E, L, …)` is the whole model. Positions are given with every call: a row at position p attends to the positions up
to p, whatever lies behind them in the buffer, so drafts that were rejected are simply written over.

On a CPU only the products with weights run in the model's dtype; the residual stream, norms, attention and the buffer
stay in fp32, where they are several times as fast as in bf16 at one row, and more exact.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaConfig, PreTrainedTokenizerBase

from decode.linear import Linear, fixed_linear


@dataclass(frozen=True)
class Layer:
    """One decoder layer's weights, in the form in which they are used."""

    attention_norm: Tensor  # (hidden,)
    qkv: Linear  # hidden → (heads + 2 × key heads) × head size, query and key rows in rotation pairs
    output: Linear
    mlp_norm: Tensor
    gate_up: Linear  # hidden → 2 × feed forward
    down: Linear


class Cache:
    """Keys and values of every layer for up to `length` positions; what is in it is whatever was last written there."""

    def __init__(self, model: "Model", length: int):
        self.length = length
        shape = (model.layer_count, 2 * model.key_heads, length, model.head_size)
        buffer = torch.empty(shape, dtype=model.residual_dtype, device=model.device)
        self.layers = list(buffer.unbind(0))  # each (2 × key heads, length, head size): keys, then values


class Model:
    """A Llama checkpoint ready to decode one sequence at a time; made by `decode.load.load_model`."""

    def __init__(
        self,
        name: str,
        config: LlamaConfig,
        tokenizer: PreTrainedTokenizerBase | None,
        weights: dict[str, Tensor],
        dtype: torch.dtype,
        device: torch.device,
        stop_tokens: frozenset[int] = frozenset(),
    ):
        self.name, self.config, self.tokenizer = name, config, tokenizer
        self.dtype, self.device, self.stop_tokens = dtype, device, stop_tokens
        half_on_cpu = device.type == "cpu" and dtype in (torch.bfloat16, torch.float16)
        self.residual_dtype = torch.float32 if half_on_cpu else dtype
        self.layer_count: int = config.num_hidden_layers
        self.vocabulary: int = config.vocab_size
        self.heads: int = config.num_attention_heads
        self.key_heads: int = config.num_key_value_heads
        self.head_size: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.context: int = config.max_position_embeddings
        self.eps: float = config.rms_norm_eps
        self._scale = self.head_size**-0.5
        self._groups = self.heads // self.key_heads
        self._feed_forward = config.intermediate_size
        self._embedding = weights["model.embed_tokens.weight"].to(device, dtype)
        self._layers = [self._layer(weights, i) for i in range(self.layer_count)]
        self._norm = weights["model.norm.weight"].to(device, self.residual_dtype)
        self._head = self._linear(weights.get("lm_head.weight", weights["model.embed_tokens.weight"]))
        self._rotation = rotation_table(config, self.heads, self.key_heads).to(device)
        if self.residual_dtype == torch.float64:
            self._rotation = self._rotation.to(torch.complex128)
        # future[i, j] is -inf where column j lies after row i: a slice of it masks any few rows at any position
        self._future = torch.full((MASKED_ROWS, MASKED_ROWS), float("-inf"), dtype=self.residual_dtype, device=device)
        self._future = self._future.triu(1)

    def cache(self, length: int) -> Cache:
        """A new, empty buffer for `length` positions."""
        return Cache(self, length)

    def embed(self, tokens: list[int]) -> Tensor:
        """(rows, hidden) of the residual dtype."""
        return self._embedding[tokens].to(self.residual_dtype)

    def run(self, lo: int, hi: int, x: Tensor, position: int, cache: Cache) -> Tensor:
        """Layers lo+1…hi over the rows x (rows, hidden) at `position`, `position`+1, …; their keys and values are kept.

        The buffer must hold what those layers made of every earlier position.
        """
        rows = x.shape[0]
        end = position + rows
        rotation = self._rotation[position:end]
        mask = self._mask(rows, end) if rows > 1 else None
        for layer, store in zip(self._layers[lo:hi], cache.layers[lo:hi], strict=True):
            x = self._attend(layer, x, rotation, store, position, end, mask)
            y = self._cast(F.rms_norm(x, x.shape[1:], layer.mlp_norm, self.eps))
            gate, up = layer.gate_up(y).split(self._feed_forward, 1)
            x = x + layer.down(F.silu(gate) * up)
        return x

    def head(self, x: Tensor) -> Tensor:
        """Logits (rows, vocabulary) in fp32 (fp64 for a fp64 model) of any layer's output x (rows, hidden)."""
        z = self._head(self._cast(F.rms_norm(x, x.shape[1:], self._norm, self.eps)))
        return z if z.dtype == torch.float64 else z.float()

    def _attend(
        self, layer: Layer, x: Tensor, rotation: Tensor, store: Tensor, position: int, end: int, mask: Tensor | None
    ) -> Tensor:
        rows = x.shape[0]
        y = layer.qkv(self._cast(F.rms_norm(x, x.shape[1:], layer.attention_norm, self.eps))).to(self.residual_dtype)
        pairs = torch.view_as_complex(y.view(rows, -1, self.head_size // 2, 2))
        # values are multiplied by 1, so that one product rotates queries and keys and leaves values as they are
        y = torch.view_as_real(pairs * rotation).view(rows, -1, self.head_size).transpose(0, 1)
        store[:, position:end] = y[self.heads :]
        query = y[: self.heads].reshape(self.key_heads, self._groups * rows, self.head_size)
        keys, values = store[: self.key_heads, :end], store[self.key_heads :, :end]
        scores = torch.bmm(query, keys.transpose(1, 2)).mul_(self._scale)
        if mask is not None:
            scores.view(self.key_heads, self._groups, rows, end).add_(mask)
        y = torch.bmm(torch.softmax(scores, -1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(x.dtype), values)
        y = y.view(self.heads, rows, self.head_size).transpose(0, 1).reshape(rows, -1)
        return x + layer.output(self._cast(y))

    def _mask(self, rows: int, end: int) -> Tensor:
        """(rows, end): 0 where a row may look, -inf where it may not."""
        mask = torch.zeros((rows, end), dtype=self.residual_dtype, device=self.device)
        mask[:, end - rows :] = self._future[:rows, :rows]
        return mask

    def _cast(self, x: Tensor) -> Tensor:
        return x if x.dtype == self.dtype else x.to(self.dtype)

    def _linear(self, weight: Tensor) -> Linear:
        return fixed_linear(weight.to(self.device, self.dtype))

    def _layer(self, weights: dict[str, Tensor], index: int) -> Layer:
        def weight(name: str) -> Tensor:
            return weights[f"model.layers.{index}.{name}.weight"]

        query, key = (
            paired(weight(f"self_attn.{name}_proj"), self.head_size) for name in ("q", "k")
        )
        return Layer(
            attention_norm=weight("input_layernorm").to(self.device, self.residual_dtype),
            qkv=self._linear(torch.cat((query, key, weight("self_attn.v_proj")))),
            output=self._linear(weight("self_attn.o_proj")),
            mlp_norm=weight("post_attention_layernorm").to(self.device, self.residual_dtype),
            gate_up=self._linear(torch.cat((weight("mlp.gate_proj"), weight("mlp.up_proj")))),
            down=self._linear(weight("mlp.down_proj")),
        )


MASKED_ROWS = 512  # the longest block that one call of `run` may be given; prompts are fed in such blocks


def paired(weight: Tensor, head_size: int) -> Tensor:
    """Reorder a query or key projection from Llama's half-split rotary layout to adjacent pairs.

    The library rotates coordinate i with i + size/2. Scores are sums over coordinates, so they do not change when both
    projections are permuted alike; adjacent pairs are one complex number each, and a rotation is one product.
    """
    return weight.view(-1, 2, head_size // 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def rotation_table(config: LlamaConfig, heads: int, key_heads: int) -> Tensor:
    """(context, heads + 2 × key heads, head size / 2) complex: the rotary factors of queries and keys, 1 for values.

    The frequencies (llama3, linear and other scalings included) are the library's own.
    """
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    embedding = LlamaRotaryEmbedding(config)
    position = torch.arange(config.max_position_embeddings)[None]
    cos, sin = embedding(torch.zeros((), dtype=torch.float32), position)
    half = cos.shape[-1] // 2
    turn = torch.complex(cos[0, :, None, :half], sin[0, :, None, :half])
    return torch.cat((turn.expand(-1, heads + key_heads, -1), torch.ones_like(turn).expand(-1, key_heads, -1)), 1)
