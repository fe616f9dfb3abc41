"""The forward pass on a CPU as two calls into compiled code (native.c): no dispatch between operations, weights packed
for a few rows at a time, and a row's result the same, bit for bit, whatever rows are beside it.
"""

import ctypes
from ctypes import POINTER, Structure, c_float, c_int32, c_int64, c_void_p
from dataclasses import dataclass
from math import exp
from typing import Any

import torch
from torch import Tensor

from lede.decode.backends.compile import library
from lede.decode.backends.eager import Linear, head_weight
from lede.decode.backends.rotary import Rotary
from lede.decode.config import Config
from lede.decode.state import Statistics, rounded
from lede.process import TOP_K

LANES = 16  # of a vector
BLOCK = 32  # outputs in a block of packed weights, positions in a block of the cache
INTEGERS = ("hidden", "feed_forward", "heads", "key_heads", "head_size", "bf16", "threads")  # of lede_run's Model
DTYPES = (torch.float32, torch.bfloat16)


class _Layer(Structure):
    _fields_ = [(name, c_void_p) for name in ("attention_norm", "mlp_norm", "qkv", "output", "gate_up", "down")]


class _Model(Structure):
    _fields_ = [(name, c_int32) for name in INTEGERS]
    _fields_ += [("eps", c_float), ("layers", POINTER(_Layer)), ("norm", c_void_p), ("head", c_void_p)]


@dataclass(frozen=True)
class Cache:
    """One text's keys and values, and its rotations."""

    store: Tensor  # (layers, 2 × key heads, capacity, head size) fp32, laid out as lede_run says
    rotation: Tensor  # (capacity or more, cosine | sine of head size / 2) fp32

    def take(self, other: "Cache", positions: int) -> None:
        """Copy the first `positions` of another text's keys and values; both have room for them."""
        end, heads = -(-positions // BLOCK) * BLOCK, self.store.shape[1] // 2
        self.store[:, :heads, :end] = other.store[:, :heads, :end]  # keys: a block of positions after the other
        mine, theirs = (
            values.view(*values.shape[:2], -1, values.shape[2], BLOCK)
            for values in (self.store[:, heads:], other.store[:, heads:])
        )
        mine[..., :end, :] = theirs[..., :end, :]


def supports(config: Config, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether this model can run here: a CPU, a C compiler, fp32 or bf16, sizes in whole vectors."""
    sizes = (config.hidden_size, config.intermediate_size, config.head_dim)
    whole = all(size % BLOCK == 0 for size in sizes)
    return device.type == "cpu" and dtype in DTYPES and whole and library() is not None


class Native:
    """A `decode.model.Backend`. The cache is fp32, whatever the dtype of the weights."""

    def __init__(self, config: Config, weights: dict[str, Tensor], dtype: torch.dtype, blocks: int):
        loaded = library()
        assert loaded is not None
        layer_count = config.num_hidden_layers + blocks
        self._library = prototypes(loaded)
        self._shape = (layer_count, 2 * config.num_key_value_heads)
        self._head_size = head_size = config.head_dim
        self._rotary = Rotary(config)
        self._turns: tuple[Tensor, Tensor] | None = None
        self._kept: list[Tensor] = []  # what the structures point into
        self._bf16, self._dtype = dtype == torch.bfloat16, dtype
        layers = (_Layer * layer_count)()
        for i in range(layer_count):
            prefix = f"model.layers.{i}."
            q, k, v = (weights[f"{prefix}self_attn.{name}_proj.weight"] for name in ("q", "k", "v"))
            gate, up = (weights[f"{prefix}mlp.{name}_proj.weight"] for name in ("gate", "up"))
            layers[i] = _Layer(
                self._plain(weights[f"{prefix}input_layernorm.weight"]),
                self._plain(weights[f"{prefix}post_attention_layernorm.weight"]),
                self._packed(torch.cat((beside_partners(q, head_size), beside_partners(k, head_size), v))),
                self._packed(weights[f"{prefix}self_attn.o_proj.weight"]),
                self._packed(alternating(gate, up)),
                self._packed(weights[f"{prefix}mlp.down_proj.weight"]),
            )
        self._layers = layers
        self._embedding = weights["model.embed_tokens.weight"].to(dtype).float()
        sizes = config.hidden_size, config.intermediate_size, config.num_attention_heads, config.num_key_value_heads
        self._described = *sizes, head_size, int(self._bf16), 1, config.rms_norm_eps, layers
        self._models: list[_Model] = []  # the model as each of its heads reads it
        self.head_rows = self.rows(head_weight(weights))
        self.head = self.reader(weights["model.norm.weight"], self.head_rows)
        self._reference = ctypes.byref(self._models[0])
        self.use_threads(1)

    def use_threads(self, threads: int) -> None:
        """Share every call among so many threads; the results stay the same bits."""
        for model in self._models:
            model.threads = threads
        self._reserve(0)

    def cache(self, length: int, prompt: int = 0) -> Cache:
        capacity = -(-length // BLOCK) * BLOCK
        angles = self._rotary.table(capacity, prompt)
        if self._turns is None or self._turns[0] is not angles:
            self._turns = angles, torch.cat((angles.real, angles.imag), dim=1)
        # zeros, not whatever was in memory: positions behind a row's own weigh nothing, but nothing times NaN is NaN
        return Cache(torch.zeros(*self._shape, capacity, self._head_size), self._turns[1])

    def embed(self, tokens: list[int]) -> Tensor:
        if len(tokens) == 1:
            return self._embedding[tokens[0]].unsqueeze(0)
        return self._embedding[tokens]

    def run(self, lo: int, hi: int, x: Tensor, position: int, cache: Cache) -> Tensor:
        x = x.clone(memory_format=torch.contiguous_format)
        self._run(lo, hi, x, position, cache, reading=0)
        return x

    def read(self, lo: int, hi: int, x: Tensor, position: int, cache: Cache) -> None:
        self._run(lo, hi, x.clone(memory_format=torch.contiguous_format), position, cache, reading=1)

    def rows(self, weight: Tensor) -> tuple[int, int]:
        return self._packed(weight), weight.shape[0]

    def reader(self, norm: Tensor, rows: tuple[int, int]) -> Linear:
        packed, outputs = rows
        model = _Model(*self._described, self._plain(norm), packed)
        self._models.append(model)
        reference, row = ctypes.byref(model), -(-outputs // BLOCK) * BLOCK

        def read(x: Tensor) -> Tensor:
            logits = torch.empty(x.shape[0], row)
            arguments = x.contiguous().data_ptr(), x.shape[0], logits.data_ptr(), row, self._scratch.data_ptr()
            self._library.lede_head(reference, *arguments)
            return logits if row == outputs else logits[:, :outputs]

        return read

    def statistics(self, logits: Tensor) -> list[Statistics]:
        (rows, vocabulary), k = logits.shape, min(TOP_K, logits.shape[1])
        out = (ctypes.c_double * (5 * rows))()
        self._library.lede_statistics(logits.data_ptr(), rows, vocabulary, logits.stride(0), k, out)
        return [
            Statistics(
                int(out[i]), *map(rounded, (out[i + 3], out[i + 4], exp(out[i + 1]) - exp(out[i + 2]), out[i + 1]))
            )
            for i in range(0, 5 * rows, 5)
        ]

    def _run(self, lo: int, hi: int, x: Tensor, position: int, cache: Cache, reading: int) -> None:
        end = position + x.shape[0]
        if end > self._reserved:
            self._reserve(2 * end)
        kept = cache.store.data_ptr(), cache.store.shape[2], cache.rotation.data_ptr()
        rows = x.data_ptr(), x.shape[0], position
        self._library.lede_run(self._reference, lo, hi, *rows, *kept, reading, self._scratch.data_ptr())

    def _reserve(self, length: int) -> None:
        size = self._library.lede_scratch_size(self._reference, length)
        self._scratch, self._reserved = torch.empty(size, dtype=torch.uint8), length

    def _plain(self, tensor: Tensor) -> int:
        self._kept.append(tensor.to(self._dtype).float().contiguous())
        return self._kept[-1].data_ptr()

    def _packed(self, weight: Tensor) -> int:
        out, inputs = weight.shape
        packed = torch.empty(self._library.lede_packed_size(out, inputs, self._bf16), dtype=torch.uint8)
        plain = weight.to(self._dtype).float().contiguous()
        self._library.lede_pack(plain.data_ptr(), out, inputs, self._bf16, packed.data_ptr())
        self._kept.append(packed)
        return packed.data_ptr()


def beside_partners(weight: Tensor, head_size: int) -> Tensor:
    """Reorder the outputs of each head so that a block holds 16 coordinates and the 16 that they are rotated with."""
    heads = weight.view(-1, 2, head_size // BLOCK, LANES, weight.shape[1])
    return heads.transpose(1, 2).reshape(weight.shape)


def alternating(gate: Tensor, up: Tensor) -> Tensor:
    """Outputs of both, a block holding 16 of each."""
    return torch.stack((gate.view(-1, LANES, gate.shape[1]), up.view(-1, LANES, up.shape[1])), 1).flatten(0, 2)


def prototypes(loaded: ctypes.CDLL) -> Any:
    """Declare the arguments of the functions in native.c."""
    model, pair = POINTER(_Model), (c_int32, c_int32)
    declared: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "lede_packed_size": (c_int64, (c_int64, c_int64, c_int32)),
        "lede_pack": (None, (c_void_p, c_int64, c_int64, c_int32, c_void_p)),
        "lede_scratch_size": (c_int64, (model, c_int32)),
        "lede_run": (None, (model, *pair, c_void_p, *pair, c_void_p, c_int32, c_void_p, c_int32, c_void_p)),
        "lede_head": (None, (model, c_void_p, c_int32, c_void_p, c_int32, c_void_p)),
        "lede_statistics": (None, (c_void_p, c_int32, c_int32, c_int32, c_int32, c_void_p)),
    }
    for name, (result, arguments) in declared.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded
