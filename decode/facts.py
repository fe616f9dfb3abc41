"""What identifies a model: what datasets and policies record, so that they are never used with another."""

import hashlib
import json
from typing import TYPE_CHECKING, Any

import torch

from lede.decode.config import Config

if TYPE_CHECKING:
    from lede.decode.model import Model

FIELDS = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "vocab_size", "rms_norm_eps", "tie_word_embeddings",
)  # fmt: skip
# Of `rope_parameters`, what a kind of rotary embedding is computed from; other keys come and go with library versions.
ROTARY = (
    "rope_type", "rope_theta", "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings",
    "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "short_factor", "long_factor", "truncate",
)  # fmt: skip


def config_hash(config: Config) -> str:
    """Names the sizes that decide a model's computation: equal for equal architectures, whatever wrote the file."""
    return _hash({field: getattr(config, field) for field in FIELDS})


def config_hash_v2(config: Config) -> str:
    """`config_hash`, with the head size and the rotary embedding that it leaves out.

    Beside it and not in its place: datasets and policies of older versions have the first only, and stay usable.
    """
    rotary = {name: config.rotary[name] for name in ROTARY if config.rotary.get(name) is not None}
    described = {field: getattr(config, field) for field in (*FIELDS, "head_dim")} | {
        # 10000 and 10000.0 are one number, which JSON writes in two ways
        "rotary": {k: float(v) if isinstance(v, int) and not isinstance(v, bool) else v for k, v in rotary.items()},
    }
    return _hash(described)


def _hash(described: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]


def model_facts(model: "Model") -> dict[str, Any]:
    """What datasets and policies record about the model that they are for."""
    return {
        "name": model.name, "revision": model.config.revision,
        "config_hash": config_hash(model.config), "config_hash_v2": config_hash_v2(model.config),
        "weights_hash": model.weights_hash, "layers": model.layer_count, "vocab": model.vocabulary,
    }  # fmt: skip


def weights_hash(weights: dict[str, torch.Tensor]) -> str:
    """Names a checkpoint's numbers by the head of every tensor, in bf16.

    It is the same whichever dtype they are held in, but for fp16, which cannot hold all of them: take it before.
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(weights[name].flatten()[:64].to(torch.bfloat16).float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
