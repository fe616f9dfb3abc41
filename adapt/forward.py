"""LayerSkip's training step (arXiv 2404.16710, §4.1): the blocks of a `transformers` Llama, run so that any layer can
be left out and every layer's output can be asked for its loss.

The arithmetic is in pure functions of tensors, which `torch.compile` turns into one kernel sequence each; they are
compiled once and called with every layer's own weights.
"""

import math
import os
import shutil
import sysconfig
from collections.abc import Callable, Set
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from lede.adapt.config import AdaptConfig

ROWS = 256  # queries to one step of `causal_attention`


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x: (..., hidden); the mean of squares is taken in fp32, as Llama does."""
    y = x.float()
    return (y * torch.rsqrt(y.square().mean(-1, keepdim=True) + eps)).to(x.dtype) * weight


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding in the half-split layout of `transformers`. x: (batch, heads, length, head size)."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


def causal_attention(query: Tensor, key: Tensor, value: Tensor, document: Tensor | None = None) -> Tensor:
    """Attention of every position to those up to its own; all (batch, heads, length, head size), keys with fewer heads.

    `document`, (batch, length), numbers the texts that a row holds: attention stays within each.

    Written out, ROWS queries at a time: compiled for a CPU, forward and backward take half the time of the library's
    fused attention at these sizes (8 × 3 heads × 512 × 64 in bf16: 16 against 41 ms), and later keys are not touched.
    """
    length, repeats = query.shape[2], query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    position = torch.arange(length, device=query.device)
    out = []
    for start in range(0, length, ROWS):
        stop = min(start + ROWS, length)
        scores = query[:, :, start:stop] @ key[:, :, :stop].transpose(-1, -2) * query.shape[-1] ** -0.5
        hidden = position[None, :stop] > position[start:stop, None]
        if document is not None:
            hidden = hidden | (document[:, None, None, :stop] != document[:, None, start:stop, None])
        share = torch.softmax(scores.float().masked_fill(hidden, float("-inf")), -1)
        out.append(share.to(value.dtype) @ value[:, :, :stop])
    return torch.cat(out, 2)


def project(
    x: Tensor, cos: Tensor, sin: Tensor, weights: tuple[Tensor, ...], head_size: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """A layer's queries, keys and values, each (batch, heads, length, head size). x: (batch, length, hidden)."""
    norm, q, k, v = weights[:4]
    y = rms_norm(x, norm, eps)
    query, key, value = (F.linear(y, w).unflatten(-1, (-1, head_size)).transpose(1, 2) for w in (q, k, v))
    cos, sin = cos.to(query.dtype), sin.to(query.dtype)
    return rotate(query, cos, sin), rotate(key, cos, sin), value


def finish(x: Tensor, y: Tensor, weights: tuple[Tensor, ...], eps: float) -> Tensor:
    """A layer's output from its input x and what its attention found, y (batch, heads, length, head size)."""
    o, norm, gate, up, down = weights[4:]
    x = x + F.linear(y.transpose(1, 2).flatten(-2), o)
    y = rms_norm(x, norm, eps)
    return x + F.linear(F.silu(F.linear(y, gate)) * F.linear(y, up), down)


def block(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    weights: tuple[Tensor, ...],
    head_size: int,
    eps: float,
    document: Tensor | None = None,
) -> Tensor:
    """One decoder layer. x: (batch, length, hidden); `weights` as `block_weights` lists them."""
    heads = project(x, cos, sin, weights, head_size, eps)
    return finish(x, causal_attention(*heads, document), weights, eps)


def block_weights(layer: LlamaDecoderLayer) -> tuple[Tensor, ...]:
    """The nine weights of a layer, in the order that `block` takes them."""
    attention, dense = layer.self_attn, layer.mlp
    projections = attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj
    mlp = dense.gate_proj, dense.up_proj, dense.down_proj
    return tuple(part.weight for part in (layer.input_layernorm, *projections, layer.post_attention_layernorm, *mlp))


def logits(x: Tensor, norm: Tensor, head: Tensor, eps: float) -> Tensor:
    """The shared final norm and head, applied to any layer's output. x: (rows, hidden) → (rows, vocab)."""
    return F.linear(rms_norm(x, norm, eps), head)


def exit_loss(
    x: Tensor, targets: Tensor, norm: Tensor, head: Tensor, eps: float, teacher: Tensor | None = None, share: float = 0
) -> Tensor:
    """Cross-entropy, nats per token, of one layer's output. x: (rows, hidden), targets: (rows,).

    With a `teacher` (rows, hidden), the last layer's output, `share` of KL(last layer ‖ this layer) and the rest of
    cross-entropy; no gradient flows into the teacher.
    """
    student = F.log_softmax(logits(x, norm, head, eps).float(), -1)
    loss = F.nll_loss(student, targets)
    if teacher is None:
        return loss
    with torch.no_grad():
        reference = F.log_softmax(logits(teacher, norm, head, eps).float(), -1)
    return share * F.kl_div(student, reference, reduction="batchmean", log_target=True) + (1 - share) * loss


def rotations(model: LlamaForCausalLM, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines of `positions` (rows, length), in x's dtype: each (rows, 1, length, head size)."""
    cos, sin = model.model.rotary_emb(x, positions)
    return cos[:, None], sin[:, None]


def head_size(model: LlamaForCausalLM) -> int:
    """Numbers in a query, key or value of one attention head."""
    config = model.config
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def compile_all(compiled: bool | None, *functions: Callable) -> list[Callable]:
    """The functions, through `torch.compile` if so wanted; None: where it has Triton, or a C++ compiler and headers."""
    if compiled is None:
        compiler = shutil.which(os.environ.get("CXX", "g++")) is not None
        compiled = torch.cuda.is_available() or (compiler and Path(sysconfig.get_path("include"), "Python.h").exists())
    return [torch.compile(function) if compiled else function for function in functions]


class Forward:
    """The functions above, compiled where the machine can, bound to one model's sizes."""

    def __init__(self, model: LlamaForCausalLM, compiled: bool | None):
        config = model.config
        self.model, self.layers, self.eps = model, config.num_hidden_layers, config.rms_norm_eps
        self.head_size = head_size(model)
        self._block, self._loss = compile_all(compiled, block, exit_loss)

    def hidden_states(self, tokens: Tensor, skipped: Set[int] = frozenset()) -> list[Tensor]:
        """Outputs of layers 1…L, each (batch, length, hidden); a layer in `skipped` passes its input on."""
        inner = self.model.model
        x = inner.embed_tokens(tokens)
        cos, sin = rotations(self.model, x, torch.arange(tokens.shape[1], device=x.device)[None])
        states = []
        for number, layer in enumerate(inner.layers, 1):
            if number not in skipped:
                x = self._block(x, cos, sin, block_weights(layer), self.head_size, self.eps)
            states.append(x)
        return states

    def loss(self, state: Tensor, targets: Tensor, teacher: Tensor | None = None, share: float = 0) -> Tensor:
        """See `exit_loss`. state, teacher: (batch, length, hidden), targets: (batch, length)."""
        last = None if teacher is None else teacher.detach().flatten(0, 1)
        return self._loss(state.flatten(0, 1), targets.flatten(), *self.head, last, share)

    @property
    def head(self) -> tuple[Tensor, Tensor, float]:
        """The shared final norm, the head, and the norm's epsilon."""
        return self.model.model.norm.weight, self.model.lm_head.weight, self.eps


def dropout_rate(layer: int, layers: int, highest: float) -> float:
    """Probability that a step leaves `layer` (1…layers) out: exponential from 0 at the first to `highest`."""
    return highest * math.expm1(math.log(2) * (layer - 1) / max(layers - 1, 1))


def exit_bands(layers: int) -> list[range]:
    """Three ranges of exit layers that share 1…layers-1 out; a step teaches one layer of each that is not empty.

    Under 8 layers the first is empty, under 4 the second too.
    """
    quarter, half = max(layers // 4, 1), max(layers // 2, 1)
    return [range(1, quarter), range(quarter, half), range(half, layers)]


def step_loss(
    forward: Forward, windows: Tensor, config: AdaptConfig, progress: float, draw: torch.Generator
) -> tuple[Tensor, float]:
    """Loss of one step and, of it, the last layer's cross-entropy in nats per token.

    windows: (batch, context + 1) token ids. `draw` decides the layers left out and the exits taught.
    """
    layers, targets = forward.layers, windows[:, 1:]
    chances = enumerate(torch.rand(layers, generator=draw).tolist(), 1)
    skipped = {n for n, chance in chances if chance < dropout_rate(n, layers, config.layer_dropout)}
    states = forward.hidden_states(windows[:, :-1], skipped)
    total = last = forward.loss(states[-1], targets)
    teacher = None if progress < config.distil_from else states[-1]
    for band, weight in zip(exit_bands(layers), config.exit_weights, strict=True):
        if band:
            layer = band[int(torch.randint(len(band), (), generator=draw))]
            total = total + weight * forward.loss(states[layer - 1], targets, teacher, config.distil_share)
    return total, last.item()
