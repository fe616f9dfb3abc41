"""Loading a checkpoint: a hub name or a folder in, a `Model` or one clear line out."""

import os
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from lede.decode.backends.compile import library
from lede.decode.errors import ModelError
from lede.decode.facts import weights_hash
from lede.decode.model import Model

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SHORT = {"fp64": "float64", "fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
# What a checkpoint is read in where that is not the dtype asked for: fp16 cannot hold all that it is identified by.
LOADED_AS: dict[torch.dtype, torch.dtype | str] = {torch.float64: torch.float32, torch.float16: "auto"}


def load_model(
    path: str | Path, dtype: str | torch.dtype = "auto", device: str = "auto", revision: str | None = None
) -> Model:
    """Load a Llama checkpoint (Llama 1/2/3.x, CodeLlama, LayerSkip's) from a folder or the hub.

    `dtype` is float32, bfloat16, float16, float64 or auto: what decodes fastest here (`choose_dtype`). `device` is cpu,
    cuda, cuda:N or auto. Raises ModelError for whatever cannot be loaded, with what to do about it.
    """
    where = choose_device(device)
    kind = choose_dtype(dtype, where)
    name = str(path)
    if (name.startswith((".", "/", "~")) or name.count("/") > 1) and not Path(name).expanduser().is_dir():
        raise ModelError(f"there is no model folder {name}: give a folder with config.json, or a name on the hub")
    name = str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name
    try:
        config = AutoConfig.from_pretrained(name, revision=revision)
        check_architecture(name, config)
        model = AutoModelForCausalLM.from_pretrained(name, revision=revision, dtype=LOADED_AS.get(kind, kind))
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision) if has_tokenizer(name) else None
    except ModelError:
        raise
    except Exception as error:  # the library raises many kinds for a missing, private, torn or foreign checkpoint
        raise ModelError(f"cannot load the model {name}: {first_line(error)}") from error
    return from_transformers(model, kind, where, tokenizer, name=Path(name).name or name)


def from_transformers(
    model: PreTrainedModel,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    tokenizer: PreTrainedTokenizerBase | None = None,
    name: str = "llama",
    native: bool = True,
) -> Model:
    """A `Model` over the weights of a loaded `transformers` Llama. `native` False: torch operations only."""
    config = check_architecture(name, model.config)
    given = model.generation_config
    generation = {"eos_token_id": config.eos_token_id} if given is None else given.to_diff_dict()
    stop = generation.get("eos_token_id")
    stops = frozenset([stop] if isinstance(stop, int) else stop or ())
    with torch.no_grad():
        weights = {key: value.detach() for key, value in model.state_dict().items()}
        return Model(
            name,
            config,
            tokenizer,
            weights,
            dtype,
            torch.device(device),
            stops,
            weights_hash(weights),
            native,
            generation,
        )


def check_architecture(name: str, config: PretrainedConfig) -> LlamaConfig:
    """`config` itself; ModelError unless it is a Llama's that `Model` computes exactly."""
    if not isinstance(config, LlamaConfig) or config.model_type != "llama":
        raise ModelError(
            f"{name} is a {config.model_type!r} model: only Llama checkpoints (model_type 'llama') are supported"
        )
    for flag in ("attention_bias", "mlp_bias"):
        if getattr(config, flag, False):
            raise ModelError(f"{name} has {flag} set: Llama checkpoints with biases are not supported")
    if config.hidden_act != "silu":
        raise ModelError(f"{name} uses the activation {config.hidden_act!r}: only 'silu' is supported")
    if config.num_hidden_layers < 2:
        raise ModelError(f"{name} has {config.num_hidden_layers} layer: an early exit needs at least two")
    return config


def check_layers(layers: tuple[int, ...], layer_count: int) -> tuple[int, ...]:
    """The candidate layers in ascending order; ModelError where one is outside 0…L-1 (0 is prompt lookup)."""
    wrong = [layer for layer in layers if not 0 <= layer < layer_count]
    if wrong or not layers or (max(layers) == 0 and len(set(layers)) > 1):
        raise ModelError(
            f"candidate layers {', '.join(map(str, wrong or layers)) or '(none)'}: give layers from 1 to "
            f"{layer_count - 1} of this model's {layer_count} (and 0 for prompt lookup), such as --candidates 4,5,6,8"
        )
    return tuple(sorted(set(layers)))


def choose_device(device: str) -> torch.device:
    """`auto` is CUDA where there is one. Raises ModelError for a device that is not there."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        where = torch.device(device)
    except RuntimeError as error:
        raise ModelError(f"there is no device {device!r}: give cpu, cuda, cuda:0 … or auto") from error
    if where.type not in ("cpu", "cuda"):
        raise ModelError(f"the device {device!r} is not supported: give cpu, cuda or auto")
    if where.type == "cuda" and (where.index or 0) >= torch.cuda.device_count():
        raise ModelError(
            f"the device {device!r} is not there ({torch.cuda.device_count()} CUDA devices seen): use --device cpu"
        )
    return where


def choose_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """`auto`: bf16 on CUDA and where the native backend can be built (half the bytes, and lossless); else fp32."""
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" or library() is not None else torch.float32
    name = SHORT.get(dtype, dtype)
    if name not in DTYPES:
        raise ModelError(f"unknown dtype {dtype!r}: give auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def has_tokenizer(name: str) -> bool:
    """Whether a folder holds a tokenizer; a hub name is taken to."""
    folder = Path(name)
    return not folder.is_dir() or any((folder / f).exists() for f in ("tokenizer.json", "tokenizer.model"))


def first_line(error: Exception) -> str:
    """The part of a library's message that fits on one line."""
    text = " ".join(str(error).split(os.linesep)[0].split())
    return text if len(text) < 300 else text[:297] + "…"
