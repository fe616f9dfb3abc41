"""Rotary position factors, with the library's own frequencies (llama3, linear and other scalings included)."""

import torch
from torch import Tensor
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding


def rotation_angles(config: LlamaConfig) -> Tensor:
    """(context, head size / 2) complex64: position p turns the pair of coordinates (i, i + size/2) by entry [p, i]."""
    embedding = LlamaRotaryEmbedding(config)
    position = torch.arange(config.max_position_embeddings)[None]
    cos, sin = embedding(torch.zeros((), dtype=torch.float32), position)
    half = cos.shape[-1] // 2
    return torch.complex(cos[0, :, :half].contiguous(), sin[0, :, :half].contiguous())
