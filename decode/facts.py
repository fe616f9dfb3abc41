"""What identifies a model: what datasets and policies record, so that they are never used with another."""

import json
from dataclasses import asdict
from typing import Any

from lede.decode.config import Config
from lede.decode.model import Model
from lede.ground import fingerprint

# Of a config, what `config_hash` leaves out.
LEFT_OUT = ("head_dim", "max_position_embeddings", "rope_parameters", "eos_token_id", "revision")
# Of `rope_parameters`, what a kind of rotary embedding is computed from; other keys come and go with library versions.
ROTARY = {"rope_type", "rope_theta", "factor", "low_freq_factor", "high_freq_factor", "short_factor", "long_factor"}
ROTARY |= {"original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"}
ROTARY |= {"truncate"}


def config_hash(config: Config) -> str:
    """Names the sizes that decide a model's computation: equal for equal architectures, whatever wrote the file."""
    return _hash(config)


def config_hash_v2(config: Config) -> str:
    """`config_hash`, with the head size and the rotary embedding that it leaves out."""
    rotary = {name: value for name, value in config.rotary.items() if name in ROTARY and value is not None}
    # 10000 and 10000.0 are one number, which JSON writes in two ways
    rotary = {k: float(v) if isinstance(v, int) and not isinstance(v, bool) else v for k, v in rotary.items()}
    return _hash(config, head_dim=config.head_dim, rotary=rotary)


def _hash(config: Config, **more: Any) -> str:
    described = {name: value for name, value in asdict(config).items() if name not in LEFT_OUT} | more
    return fingerprint(json.dumps(described, sort_keys=True))


def model_facts(model: Model) -> dict[str, Any]:
    """What datasets and policies record about the model that they are for."""
    config = model.config
    facts = {"name": model.name, "revision": config.revision, "layers": model.layer_count, "vocab": model.vocabulary}
    hashes = {"config_hash": config_hash(config), "config_hash_v2": config_hash_v2(config)}
    return facts | hashes | {"weights_hash": model.weights_hash} | drafting_facts(model)


def drafting_facts(model: Model) -> dict[str, Any]:
    """`exits`, the fingerprint of its exit heads, and `draft_vocabulary` {size, hash}; neither where there is none."""
    facts: dict[str, Any] = {} if model.exits is None else {"exits": model.exits.fingerprint}
    if (ids := model.draft_vocabulary) is not None:
        named = fingerprint(json.dumps(ids))
        facts["draft_vocabulary"] = {"size": len(ids), "hash": named}
    return facts
