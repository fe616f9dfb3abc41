"""A GGUF file's metadata and tensors as a Llama's: its config.json, and which tensor is which weight.

Nothing is passed over in silence: a key of the architecture or of the tokenizer that is not known here, and a tensor
that a Llama has not, is refused by its name. What the keys mean is what llama.cpp makes of them.
"""

import math
from pathlib import Path
from typing import Any

from lede.decode.config import Config, llama_config, weight_shapes
from lede.decode.errors import ModelError
from lede.decode.gguf_file import Content, Entry

FREQUENCIES = "rope_freqs.weight"  # what each frequency of the rotary embedding is divided by
# {key, less its "llama.": name in config.json} of the sizes.
SIZES = {"context_length": "max_position_embeddings", "embedding_length": "hidden_size"}
SIZES |= {"block_count": "num_hidden_layers", "feed_forward_length": "intermediate_size"}
SIZES |= {"attention.head_count": "num_attention_heads", "attention.layer_norm_rms_epsilon": "rms_norm_eps"}
# Other keys that are applied below, or change no number.
KNOWN = {"attention.head_count_kv", "attention.key_length", "attention.value_length", "vocab_size"}
KNOWN |= {f"rope.{name}" for name in ("dimension_count", "freq_base", "scale_linear", "scaling.type", "scaling.factor")}
KNOWN |= {"rope.scaling.original_context_length", "rope.scaling.finetuned"}
KNOWN |= {"rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow"}
# Keys that are honoured with this value alone.
ONLY: dict[str, Any] = {"general.type": "model", "general.quantization_version": 2, "llama.attention.causal": True}
ONLY |= dict.fromkeys(("llama.expert_count", "llama.expert_used_count", "llama.attention.sliding_window"), 0)
ONLY |= {"llama.use_parallel_residual": False, "llama.tensor_data_layout": "Meta AI original pth"}
ONLY |= {f"llama.rope.scaling.{name}": 1 for name in ("attn_factor", "yarn_attn_factor", "yarn_ext_factor")}
# {tensor: weight}, less the ".weight" behind both; in a layer, and outside.
IN_LAYER = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
IN_LAYER |= {f"attn_{name}": f"self_attn.{name}_proj" for name in "qkv"} | {"attn_output": "self_attn.o_proj"}
IN_LAYER |= {f"ffn_{name}": f"mlp.{name}_proj" for name in ("gate", "up", "down")}
OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def check_keys(name: str, keys: dict[str, Any], known: set[str]) -> None:
    """Raise ModelError for keys that could change tokens or logits and are not `known` or as ONLY has them."""
    for key, value in keys.items():
        if key in ONLY and value == ONLY[key]:
            continue
        if key in ONLY or (key.startswith(("llama.", "tokenizer.")) and key not in known):
            said = f"{key} = {value!r}" if len(repr(value)) < 100 else key
            raise ModelError(f"{name} has {said}, which lede does not know how to honour: take the model's safetensors")


def config_json(name: str, content: Content, factors: list[float] | None) -> dict[str, Any]:
    """The config.json of the Llama in a file `name`; `factors` are the numbers of FREQUENCIES. Raises ModelError."""
    given = {key.removeprefix("llama."): value for key, value in content.keys.items() if key.startswith("llama.")}
    if missing := [key for key in SIZES if key not in given]:
        raise ModelError(f"{name} does not say its llama.{missing[0]}: is it a Llama's GGUF file?")
    if several := [key for key, value in given.items() if isinstance(value, list)]:
        raise ModelError(f"{name} has another llama.{several[0]} in each layer: such models are not supported")
    sizes = {theirs: given[key] for key, theirs in SIZES.items()}
    heads = given["attention.head_count"]
    head_size = given.get("attention.key_length", given["embedding_length"] // max(heads, 1))
    for key in ("attention.value_length", "rope.dimension_count"):
        if given.get(key, head_size) != head_size:
            raise ModelError(f"{name} has llama.{key} {given[key]} with heads of {head_size}: not supported")
    embeddings = content.tensors.get("token_embd.weight")
    tokens = content.keys.get("tokenizer.ggml.tokens")
    rows = embeddings.shape[0] if embeddings is not None else 0
    return sizes | {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_key_value_heads": given.get("attention.head_count_kv", heads),
        "head_dim": head_size,
        "vocab_size": given.get("vocab_size", rows if tokens is None else len(tokens)),
        "tie_word_embeddings": "output.weight" not in content.tensors,  # as llama.cpp has it
        "rope_parameters": rotary(name, given, factors, head_size),
        "dtype": "bfloat16",
    }


def rotary(name: str, given: dict[str, Any], factors: list[float] | None, head_size: int) -> dict[str, Any]:
    """`rope_parameters` of config.json, from the keys less their "llama."."""
    theta, context = given.get("rope.freq_base", 10000.0), given["context_length"]
    plain = {"rope_type": "default", "rope_theta": theta}
    kind = given.get("rope.scaling.type", "linear")  # so it is where a factor stands alone
    factor = given.get("rope.scaling.factor", 0) or given.get("rope.scale_linear", 0) or 1
    original = given.get("rope.scaling.original_context_length")
    if kind == "linear":
        kind = "none" if factor == 1 else kind
    if kind not in ("none", "linear", "yarn"):
        raise ModelError(f"{name} has rotary embeddings of the kind {kind!r} (llama.rope.scaling.type): not supported")
    if factors is not None and max(factors) == min(factors) == 1:
        factors = None
    if factors is not None:
        if kind != "none":
            raise ModelError(f"{name} has {FREQUENCIES} and {kind!r} rotary embeddings: only one of them is supported")
        if len(factors) != head_size // 2:
            raise ModelError(f"{name} has {len(factors)} numbers in {FREQUENCIES}: they should be {head_size // 2}")
        for length in filter(None, (original, 8192)):
            llama3: dict[str, Any] = {"factor": round(max(factors), 3), "low_freq_factor": 1.0, "high_freq_factor": 4.0}
            llama3["original_max_position_embeddings"] = length
            computed = llama3_factors(theta, head_size, **llama3)
            if all(math.isclose(x, y, rel_tol=1e-5) for x, y in zip(computed, factors, strict=True)):
                return plain | {"rope_type": "llama3"} | llama3
        # the one kind whose factors are written out
        longrope = {"short_factor": factors, "long_factor": factors, "attention_factor": 1.0}
        return plain | {"rope_type": "longrope", "original_max_position_embeddings": context} | longrope
    if kind == "none":
        return plain
    scaled = plain | {"rope_type": kind, "factor": factor}
    if original is not None or kind == "yarn":
        scaled["original_max_position_embeddings"] = original or context
    betas = {f"beta_{name}": given.get(f"rope.scaling.yarn_beta_{name}") for name in ("fast", "slow")}
    return scaled | {beta: value for beta, value in betas.items() if value is not None and kind == "yarn"}


def llama3_factors(
    theta: float,
    head_size: int,
    factor: float,
    low_freq_factor: float,
    high_freq_factor: float,
    original_max_position_embeddings: int,
) -> list[float]:
    """What Llama 3.1 divides each frequency by: nothing where waves are short, `factor` where they are long."""
    factors = []
    for i in range(0, head_size, 2):
        turns = original_max_position_embeddings / (2 * math.pi * theta ** (i / head_size))
        share = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor)
        share = min(max(share, 0.0), 1.0)
        factors.append(1 / ((1 - share) / factor + share))
    return factors


def match_tensors(name: str, content: Content, config: Config) -> dict[str, Entry]:
    """{weight of a checkpoint: where it lies}. Raises ModelError for what is missing, unknown or of another shape."""
    tensors, found = dict(content.tensors), dict[str, Entry]()
    tensors.pop(FREQUENCIES, None)
    places = {f"{theirs}.weight": f"{ours}.weight" for ours, theirs in OUTSIDE.items()}
    for i in range(config.num_hidden_layers):
        places |= {f"model.layers.{i}.{theirs}.weight": f"blk.{i}.{ours}.weight" for ours, theirs in IN_LAYER.items()}
    for weight, shape in weight_shapes(config).items():
        if weight == "lm_head.weight" and config.tie_word_embeddings:
            continue
        place = places[weight]
        if (entry := tensors.pop(place, None)) is None:
            raise ModelError(f"{name} has no tensor {place}: give a file with all of a Llama's")
        if entry.shape != shape:
            raise ModelError(f"{name} has {place} of the shape {entry.shape}: by its metadata it should be {shape}")
        found[weight] = entry
    if tensors:
        raise ModelError(f"{name} has a tensor {min(tensors)}, which lede does not know how to use: not supported")
    return found


def check_tensors(content: Content) -> None:
    """Raise ModelError for numbers of an unknown type, and where a file ends before its tensors do."""
    from importlib.metadata import version

    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    known, sizes = set(map(int, GGMLQuantizationType)), dict[Path, int]()
    for name, entry in content.tensors.items():
        file = entry.file.name
        if entry.kind not in known:
            raise ModelError(
                f"{file} has {name} in the type {entry.kind}, which gguf {version('gguf')} does not know: update it "
                "(pip install -U gguf), or take a file in another type"
            )
        block, size = GGML_QUANT_SIZES[GGMLQuantizationType(entry.kind)]
        if entry.shape[-1] % block:
            raise ModelError(f"{file} has {name} in rows of {entry.shape[-1]}, which blocks of {block} do not fill")
        there = sizes.setdefault(entry.file, entry.file.stat().st_size)
        end = entry.start + math.prod(entry.shape) // block * size
        if end > there:
            raise ModelError(f"{file} is cut off: it has {there:,} bytes, and {name} ends at {end:,}")


def numbers(entry: Entry) -> Any:
    """A tensor's numbers as a numpy array of fp32, whatever they are kept as. Raises ModelError."""
    import numpy as np
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import dequantize

    kind = GGMLQuantizationType(entry.kind)
    block, size = GGML_QUANT_SIZES[kind]
    rows = *entry.shape[:-1], entry.shape[-1] // block * size
    stored: Any = np.memmap(entry.file, np.uint8, "r", entry.start, rows)
    try:
        return np.array(dequantize(stored, kind), np.float32)  # not the file's own bytes, which cannot be written
    except NotImplementedError:
        raise ModelError(f"{entry.file.name} has numbers of the type {kind.name}: such weights are not read") from None


def unpaired(weight: Any, head_size: int) -> Any:
    """Rows of a query or key projection (torch or numpy) with the halves of each head apart, as checkpoints have them.

    GGUF files have them in pairs.
    """
    return weight.reshape(-1, head_size // 2, 2, weight.shape[-1]).swapaxes(1, 2).reshape(weight.shape)


def described(file: Path, content: Content, known: set[str]) -> tuple[dict[str, Any], dict[str, Entry]]:
    """config.json of the Llama in a file, and where its weights lie. Raises ModelError for all that is not right."""
    check_keys(file.name, content.keys, known | {f"llama.{key}" for key in (*SIZES, *KNOWN)})
    check_tensors(content)
    frequencies = content.tensors.get(FREQUENCIES)
    config = config_json(file.name, content, None if frequencies is None else numbers(frequencies).ravel().tolist())
    return config, match_tensors(file.name, content, llama_config(file.name, config))
