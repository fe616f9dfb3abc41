"""What a checkpoint's files say of a Llama before any weight is read.

`config.json` is read without `transformers`, whose configuration classes take longer to import than a small model takes
to write a page; names, defaults and old spellings are those of its `LlamaConfig`. Nor is torch imported here: what is
wrong with a request is said at once.
"""

import json
import operator
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from lede.decode.errors import ModelError

DTYPES = {"fp64": "float64", "fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
DTYPES |= {name: name for name in DTYPES.values()}
SAFETENSORS, BIN = "model.safetensors", "pytorch_model.bin"
# The kinds of rotary embedding, and what each is computed from.
ROTARY: dict[str, tuple[str, ...]] = {"default": ()} | dict.fromkeys(("linear", "dynamic", "yarn"), ("factor",))
ROTARY |= {"longrope": ("long_factor", "short_factor"), "llama3": ("factor", "low_freq_factor", "high_freq_factor")}
HAVE_ORIGINAL = ("yarn", "longrope", "llama3")  # kinds that depend on the length before scaling


@dataclass(frozen=True)
class Config:
    """The sizes of a Llama that is computed here exactly."""

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int = 32
    head_dim: int = 128
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = False
    rope_parameters: dict[str, Any] | None = None  # rope_type, rope_theta, and what the type has besides
    eos_token_id: int | list[int] | None = 2
    revision: str | None = None  # of the hub's repository, where it is from there

    @property
    def rotary(self) -> dict[str, Any]:
        """`rope_parameters`, complete."""
        return self.rope_parameters or {"rope_type": "default", "rope_theta": 10000.0}

    @property
    def context(self) -> int:
        """The longest text in tokens. `max_position_embeddings` of before the scaling counts factor times."""
        original = self.rotary.get("original_max_position_embeddings") or self.max_position_embeddings
        scaled = self.max_position_embeddings > original
        return self.max_position_embeddings if scaled else int(original * (self.rotary.get("factor") or 1))


def folder_config(folder: Path) -> Config:
    """The config of the checkpoint in a folder."""
    return llama_config(folder.name, read_json(folder / "config.json"))


def chat_template(folder: Path) -> Any:
    """A checkpoint's template of conversations, several by their names, or None."""
    file, settings = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if file.exists():
        return file.read_text("utf-8")
    given = read_json(settings).get("chat_template") if settings.exists() else None
    return {one["name"]: one["template"] for one in given} if isinstance(given, list) else given


def weight_files(folder: Path) -> list[Path]:
    """The files with a checkpoint's weights, all of one form. Raises ModelError where one is missing."""
    for form in (SAFETENSORS, BIN):
        if (folder / form).exists():
            return [folder / form]
        index = folder / f"{form}.index.json"
        if index.exists():
            files = sorted({folder / file for file in read_json(index).get("weight_map", {}).values()})
            for file in files:
                if not file.exists():
                    raise ModelError(f"cannot load the model {folder}: its index names {file.name}, which is missing")
            return files
    raise ModelError(f"cannot load the model {folder}: there is no {SAFETENSORS} in it")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a checkpoint's file; ModelError where it holds none."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else error
        raise ModelError(f"cannot load the model {path.parent}: {path.name}: {reason}") from error
    if not isinstance(content, dict):
        raise ModelError(f"cannot load the model {path.parent}: {path.name} should hold a JSON object")
    return content


def llama_config(name: str, given: dict[str, Any]) -> Config:
    """The content of the config.json of model `name`; ModelError unless it is a Llama's that is computed exactly."""
    kind = given.get("model_type")
    if kind != "llama":
        raise ModelError(f"{name} is a {kind!r} model: only Llama checkpoints (model_type 'llama') are supported")
    for flag in ("attention_bias", "mlp_bias", "quantization_config"):
        if given.get(flag):
            raise ModelError(f"{name} has {flag} set: such Llama checkpoints are not supported")
    if given.get("hidden_act", "silu") != "silu":
        raise ModelError(f"{name} uses the activation {given['hidden_act']!r}: only 'silu' is supported")
    values = {f.name: given[f.name] for f in fields(Config) if given.get(f.name) is not None}
    values["eos_token_id"] = given.get("eos_token_id", Config.eos_token_id)
    sizes = {f.name: values.get(f.name, f.default) for f in fields(Config) if f.type is int}
    heads = sizes["num_attention_heads"]
    if not all(isinstance(size, int) and size > 0 for size in sizes.values()):
        raise ModelError(f"the config of {name} has sizes that are no positive whole numbers")
    values.setdefault("num_key_value_heads", heads)
    values.setdefault("head_dim", sizes["hidden_size"] // heads)
    if heads % values["num_key_value_heads"] or values["head_dim"] % 2:
        raise ModelError(f"the config of {name} has attention heads that do not divide evenly")
    if sizes["num_hidden_layers"] < 2:
        raise ModelError(f"{name} has {sizes['num_hidden_layers']} layer: an early exit needs at least two")
    values["rope_parameters"] = _rope_parameters(name, given, values["head_dim"])
    return Config(**values)


def _rope_parameters(name: str, given: dict[str, Any], head_dim: int) -> dict[str, Any]:
    """The rotary embedding's parameters in the newest spelling, complete; ModelError for those that do not work."""
    rope = dict(given.get("rope_scaling") or given.get("rope_parameters") or {})
    theta = given.get("rope_theta")
    rope.setdefault("rope_theta", 10000.0 if theta is None else theta)
    kind = rope.setdefault("rope_type", rope.get("type", "default"))
    if kind not in ROTARY:
        raise ModelError(f"{name} has rotary embeddings of the kind {kind!r}: supported are {', '.join(ROTARY)}")
    if kind in HAVE_ORIGINAL:
        original, length = "original_max_position_embeddings", Config.max_position_embeddings
        rope[original] = _first(given.get(original), rope.get(original), given.get("max_position_embeddings"), length)
    if missing := [key for key in ROTARY[kind] if rope.get(key) is None]:
        raise ModelError(f"{name} has {kind!r} rotary embeddings without {' and '.join(missing)}")
    for key in ("rope_theta", "factor", "original_max_position_embeddings"):
        if (value := rope.get(key)) is not None and not (isinstance(value, int | float) and value > 0):
            raise ModelError(f"{name} has rotary embeddings with {key} {value!r}: it must be a number above 0")
    if kind == "longrope" and {len(rope["long_factor"]), len(rope["short_factor"])} != {head_dim // 2}:
        raise ModelError(f"{name} has 'longrope' factors for another head size: they should be {head_dim // 2}")
    share = _first(rope.get("partial_rotary_factor"), given.get("partial_rotary_factor"), 1)
    if kind != "default" and share != 1:  # with the default kind `transformers` rotates whole heads all the same
        raise ModelError(f"{name} has partial_rotary_factor {share} with {kind!r} rotary embeddings: not supported")
    return rope


def _first(*values: Any) -> Any:
    """The first that is given, if only 0."""
    return next(value for value in values if value is not None)


def token_ids(given: Any) -> frozenset[int]:
    """The tokens that an option such as eos_token_id names: None, one id or several. TypeError for what are no ids."""
    values = given.tolist() if hasattr(given, "tolist") else given
    values = () if values is None else values if isinstance(values, Iterable) else (values,)
    return frozenset(operator.index(value) for value in values)


def layer_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """{name in a decoder layer: shape} of its weights."""
    hidden, inner = config.hidden_size, config.intermediate_size
    queries, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(("input_layernorm", "post_attention_layernorm"), (hidden,))
    shapes |= {"self_attn.q_proj": (queries, hidden), "self_attn.o_proj": (hidden, queries)}
    shapes |= dict.fromkeys(("self_attn.k_proj", "self_attn.v_proj"), (keys, hidden))
    return shapes | {"mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner)}


def weight_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """{name in a checkpoint: shape} of every weight."""
    layers, each = range(config.num_hidden_layers), layer_shapes(config).items()
    shapes = {f"model.layers.{i}.{name}.weight": shape for i in layers for name, shape in each}
    ends = dict.fromkeys(("model.embed_tokens.weight", "lm_head.weight"), (config.vocab_size, config.hidden_size))
    return shapes | ends | {"model.norm.weight": (config.hidden_size,)}
