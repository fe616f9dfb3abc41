"""What identifies a model: what datasets and policies record, so that they are never used with another."""

import hashlib
import json
from typing import Any

import torch
from transformers import PretrainedConfig

from decode.model import Model


def config_hash(config: PretrainedConfig) -> str:
    """Names what decides a model's computation: equal for equal architectures, whatever wrote the file."""
    fields = (
        "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
        "vocab_size", "rms_norm_eps", "tie_word_embeddings",
    )  # fmt: skip
    described = {field: getattr(config, field) for field in fields}
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]


def model_facts(model: Model) -> dict[str, Any]:
    """What datasets and policies record about the model that they are for."""
    return {
        "name": model.name, "revision": getattr(model.config, "_commit_hash", None),
        "config_hash": config_hash(model.config), "weights_hash": model.weights_hash, "layers": model.layer_count,
        "vocab": model.vocabulary,
    }  # fmt: skip


def weights_hash(weights: dict[str, torch.Tensor]) -> str:
    """Names a checkpoint's numbers by the head of every tensor, in bf16: the same whichever dtype it is loaded in."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(weights[name].flatten()[:64].to(torch.bfloat16).float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
