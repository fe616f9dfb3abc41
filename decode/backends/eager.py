"""The forward pass in torch operations: any device and dtype, and the reference that native.c is tested against.

On a CPU with half-precision weights only the products with weights run in that dtype; the residual stream, norms,
attention and the cache stay in fp32, where they are several times as fast at one row, and more exact. A row's last bits
may depend here on the rows beside it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lede.decode.backends.rotary import Rotary
from lede.decode.config import Config
from lede.decode.state import Statistics, statistics

Linear = Callable[[Tensor], Tensor]
MASKED_ROWS = 512  # the longest block that one call of `run` may be given; prompts are fed in such blocks


@dataclass(frozen=True)
class Layer:
    """One decoder layer's weights, in the form in which they are used."""

    attention_norm: Tensor  # (hidden,)
    qkv: Linear  # hidden → (heads + 2 × key heads) × head size, query and key rows in rotation pairs
    output: Linear
    mlp_norm: Tensor
    gate_up: Linear  # hidden → 2 × feed forward
    down: Linear


@dataclass(frozen=True)
class Cache:
    """One text's keys and values, and its rotations."""

    store: tuple[Tensor, ...]  # per layer (2 × key heads, length, head size): keys, then values
    rotation: Tensor  # (length, head size / 2) complex

    def take(self, other: "Cache", positions: int) -> None:
        """Copy the first `positions` of another text's keys and values; both have room for them."""
        for mine, theirs in zip(self.store, other.store, strict=True):
            mine[:, :positions] = theirs[:, :positions]


class Eager:
    """A `decode.model.Backend`."""

    def __init__(
        self, config: Config, weights: dict[str, Tensor], dtype: torch.dtype, device: torch.device, blocks: int
    ):
        half_on_cpu = device.type == "cpu" and dtype in (torch.bfloat16, torch.float16)
        self.dtype, self.device, self.head_size = dtype, device, config.head_dim
        self.residual_dtype = torch.float32 if half_on_cpu else dtype
        self.heads: int = config.num_attention_heads
        self.key_heads: int = config.num_key_value_heads
        self.eps: float = config.rms_norm_eps
        self._scale = self.head_size**-0.5
        self._groups = self.heads // self.key_heads
        self._feed_forward = config.intermediate_size
        self._embedding = weights["model.embed_tokens.weight"].to(device, dtype)
        self._layers = [self._layer(weights, i) for i in range(config.num_hidden_layers + blocks)]
        self.head_rows = self.rows(head_weight(weights))
        self.head = self.reader(weights["model.norm.weight"], self.head_rows)
        self._rotary = Rotary(config)
        # -inf where column j lies after row i: a slice of it masks any few rows at any position
        future = torch.full((MASKED_ROWS, MASKED_ROWS), float("-inf"), dtype=self.residual_dtype, device=device)
        self._future = future.triu(1)

    def use_threads(self, threads: int) -> None:
        """Torch's own number of threads is used."""

    def cache(self, length: int, prompt: int = 0) -> Cache:
        shape = (len(self._layers), 2 * self.key_heads, length, self.head_size)
        rotation = self._rotary.table(length, prompt)[:length].to(self.device)
        if self.residual_dtype == torch.float64:
            rotation = rotation.to(torch.complex128)
        return Cache(torch.empty(shape, dtype=self.residual_dtype, device=self.device).unbind(0), rotation)

    def embed(self, tokens: list[int]) -> Tensor:
        if len(tokens) == 1:  # a view: on a GPU a list of indices is a copy that waits for all work before it
            return self._embedding[tokens[0]].unsqueeze(0).to(self.residual_dtype)
        index = torch.tensor(tokens).to(self.device, non_blocking=True)
        return self._embedding[index].to(self.residual_dtype)

    def run(self, lo: int, hi: int, x: Tensor, position: int, cache: Cache) -> Tensor:
        rows = x.shape[0]
        end = position + rows
        rotation = self._rotations(cache, position, end)
        mask = self._mask(rows, end) if rows > 1 else None
        for layer, store in zip(self._layers[lo:hi], cache.store[lo:hi], strict=True):
            x = self._attend(layer, x, rotation, store, position, end, mask)
            y = self._cast(F.rms_norm(x, x.shape[1:], layer.mlp_norm, self.eps))
            gate, up = layer.gate_up(y).split(self._feed_forward, 1)
            x = x + layer.down(F.silu(gate) * up)
        return x

    def read(self, lo: int, hi: int, x: Tensor, position: int, cache: Cache) -> None:
        x, end = self.run(lo, hi - 1, x, position, cache), position + x.shape[0]
        self._project(self._layers[hi - 1], x, self._rotations(cache, position, end), cache.store[hi - 1], position)

    def rows(self, weight: Tensor) -> Linear:
        return self._linear(weight)

    def reader(self, norm: Tensor, rows: Linear) -> Linear:
        norm = norm.to(self.device, self.residual_dtype)

        def read(x: Tensor) -> Tensor:
            z = rows(self._cast(F.rms_norm(x, x.shape[1:], norm, self.eps)))
            return z if z.dtype == torch.float64 else z.float()

        return read

    def statistics(self, logits: Tensor) -> list[Statistics]:
        return statistics(logits)

    def _rotations(self, cache: Cache, position: int, end: int) -> Tensor:
        """(rows, heads + 2 × key heads, head size / 2): queries and keys turn, values are multiplied by 1."""
        turn = cache.rotation[position:end, None]
        still = torch.ones_like(turn).expand(-1, self.key_heads, -1)
        return torch.cat((turn.expand(-1, self.heads + self.key_heads, -1), still), 1)

    def _project(self, layer: Layer, x: Tensor, rotation: Tensor, store: Tensor, position: int) -> Tensor:
        """Queries (heads, rows, head size); keys and values go into the cache."""
        rows = x.shape[0]
        y = layer.qkv(self._cast(F.rms_norm(x, x.shape[1:], layer.attention_norm, self.eps))).to(self.residual_dtype)
        pairs = torch.view_as_complex(y.view(rows, -1, self.head_size // 2, 2))
        # values are multiplied by 1, so that one product rotates queries and keys and leaves values as they are
        y = torch.view_as_real(pairs * rotation).view(rows, -1, self.head_size).transpose(0, 1)
        store[:, position : position + rows] = y[self.heads :]
        return y[: self.heads]

    def _attend(
        self, layer: Layer, x: Tensor, rotation: Tensor, store: Tensor, position: int, end: int, mask: Tensor | None
    ) -> Tensor:
        rows = x.shape[0]
        query = self._project(layer, x, rotation, store, position)
        query = query.reshape(self.key_heads, self._groups * rows, self.head_size)
        keys, values = store[: self.key_heads, :end], store[self.key_heads :, :end]
        scores = torch.bmm(query, keys.transpose(1, 2)).mul_(self._scale)
        if mask is not None:
            scores.view(self.key_heads, self._groups, rows, end).add_(mask)
        weights = torch.softmax(scores, -1, dtype=torch.promote_types(scores.dtype, torch.float32))
        y = torch.bmm(weights.to(x.dtype), values)
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

        query, key = (paired(weight(f"self_attn.{name}_proj"), self.head_size) for name in ("q", "k"))
        return Layer(
            attention_norm=weight("input_layernorm").to(self.device, self.residual_dtype),
            qkv=self._linear(torch.cat((query, key, weight("self_attn.v_proj")))),
            output=self._linear(weight("self_attn.o_proj")),
            mlp_norm=weight("post_attention_layernorm").to(self.device, self.residual_dtype),
            gate_up=self._linear(torch.cat((weight("mlp.gate_proj"), weight("mlp.up_proj")))),
            down=self._linear(weight("mlp.down_proj")),
        )


def head_weight(weights: dict[str, Tensor]) -> Tensor:
    """The model's head (vocabulary, hidden), which may be its embeddings."""
    return weights.get("lm_head.weight", weights["model.embed_tokens.weight"])


def packed_bf16_works() -> bool:
    """Whether this CPU and this build of torch multiply bf16 through oneDNN with prepacked weights."""
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def fixed_linear(weight: Tensor) -> Linear:
    """x ↦ x·weightᵀ for x of (rows, in) and weight of (out, in), both of weight's dtype.

    In bf16 on a CPU the weight is reordered once into oneDNN's own layout: with it a product of 5 rows costs about 1.1
    times that of one (fp32 without it: 1.5 to 4.8 times), and the result for a row does not depend on the rows beside
    it up to 512 inputs, so that plain and speculative decoding see the same logits.
    """
    if weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and packed_bf16_works():
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
        product = torch.ops.mkldnn._linear_pointwise.default
        return lambda x: product(x, packed, None, "none", [], "")
    weight = weight.contiguous()
    return lambda x: F.linear(x, weight)


def paired(weight: Tensor, head_size: int) -> Tensor:
    """Reorder a query or key projection from Llama's half-split rotary layout to adjacent pairs.

    The library rotates coordinate i with i + size/2. Scores are sums over coordinates, so they do not change when both
    projections are permuted alike; adjacent pairs are one complex number each, and a rotation is one product.
    """
    return weight.view(-1, 2, head_size // 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)
