"""Loading a checkpoint: a hub name or a folder in, a `Model` or one clear line out."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import Tensor

from lede.decode.backends.compile import library
from lede.decode.config import (
    DTYPES,
    Config,
    check_request,
    folder_config,
    layer_shapes,
    llama_config,
    read_json,
    weight_files,
)
from lede.decode.errors import ModelError
from lede.decode.exits import Exits
from lede.decode.gguf import convert
from lede.decode.model import Model
from lede.decode.plain import check_rotary, plain_weights
from lede.decode.tokenizer import folder_tokenizer, library_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PLAIN = (torch.float64, torch.float32, torch.bfloat16, torch.float16)  # dtypes of weights that are numbers as they are
# What `transformers` reads a checkpoint in where that is not the dtype asked for: fp16 cannot hold all that a model is
# identified by.
LOADED_AS: dict[torch.dtype, torch.dtype | str] = {torch.float64: torch.float32, torch.float16: "auto"}

# Options of generation that config.json held before there was generation_config.json.
LEGACY = {"bad_words_ids", "begin_suppress_tokens", "diversity_penalty", "do_sample", "early_stopping", "max_length"}
LEGACY |= {"encoder_no_repeat_ngram_size", "exponential_decay_length_penalty", "forced_bos_token_id", "min_length"}
LEGACY |= {"forced_eos_token_id", "length_penalty", "no_repeat_ngram_size", "num_beam_groups", "num_beams", "top_p"}
LEGACY |= {"num_return_sequences", "remove_invalid_values", "repetition_penalty", "suppress_tokens", "temperature"}
LEGACY |= {"top_k", "typical_p"}


def load_model(
    path: str | Path,
    dtype: str | torch.dtype = "auto",
    device: str = "auto",
    revision: str | None = None,
    exits: Exits | None = None,
    draft_vocabulary: Sequence[int] | None = None,
) -> Model:
    """Load a Llama checkpoint (Llama 1/2/3.x, CodeLlama, LayerSkip's) from a folder, a GGUF file or the hub.

    `dtype` is float32, bfloat16, float16, float64 or auto: what decodes fastest here (`choose_dtype`). `device` is cpu,
    cuda, cuda:N or auto. `exits` and `draft_vocabulary` (ascending token ids) are what early layers draft with. Raises
    ModelError for whatever cannot be loaded, with what to do about it.
    """
    if not isinstance(path, str | os.PathLike):
        what = f"not a {type(path).__name__}: a loaded model of transformers goes through decode.load.from_transformers"
        raise ModelError(f"load_model takes a folder, a .gguf file or a name on the hub, and {what}")
    asked = str(dtype).removeprefix("torch.")
    folder = check_request(path, asked, device)
    where = choose_device(device)
    kind = choose_dtype(asked, where)
    drafting = exits, draft_vocabulary
    try:
        folder = convert(folder) if folder is not None and folder.is_file() else folder
        if folder is not None and (weights := read_weights(folder, config := folder_config(folder))):
            tokenizer, generation = folder_tokenizer(folder), generation_config(folder, config)
            return Model(folder.name, config, tokenizer, weights, kind, where, generation, True, *drafting)
        return from_library(str(folder or path), kind, where, revision, *drafting)
    except ModelError:
        raise
    except Exception as error:  # the libraries raise many kinds for a missing, private, torn or foreign checkpoint
        raise ModelError(f"cannot load the model {folder or path}: {first_line(error)}") from error


def read_weights(folder: Path, config: Config) -> dict[str, Tensor] | None:
    """The weights of a folder, as they are stored; None where `transformers` is needed to make sense of its files."""
    files, wanted, weights = weight_files(folder), weight_shapes(config), {}
    for file in sorted(set(files.values())):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118, it is no mapping
                if name in wanted:
                    weights[name] = opened.get_tensor(name)
    if config.tie_word_embeddings and "model.embed_tokens.weight" in weights:
        weights.setdefault("lm_head.weight", weights["model.embed_tokens.weight"])
    there = {name: tuple(weight.shape) for name, weight in weights.items() if weight.dtype in PLAIN}
    return weights if there == wanted else None


def weight_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """{name in a checkpoint: shape} of every weight."""
    layers, each = range(config.num_hidden_layers), layer_shapes(config).items()
    shapes = {f"model.layers.{i}.{name}.weight": shape for i in layers for name, shape in each}
    ends = dict.fromkeys(("model.embed_tokens.weight", "lm_head.weight"), (config.vocab_size, config.hidden_size))
    return shapes | ends | {"model.norm.weight": (config.hidden_size,)}


def generation_config(folder: Path, config: Config) -> dict[str, Any]:
    """What generation_config.json asks for; in older checkpoints config.json does."""
    file = folder / "generation_config.json"
    if file.exists():
        return read_json(file)
    given = read_json(folder / "config.json")
    return {name: given[name] for name in LEGACY if name in given} | {"eos_token_id": config.eos_token_id}


def from_library(name: str, dtype: torch.dtype, device: torch.device, revision: str | None, *drafting: Any) -> Model:
    """A checkpoint as `transformers` loads it: from the hub, or in another form than safetensors."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(name, revision=revision)
    llama_config(name, config.to_dict())
    loaded = AutoModelForCausalLM.from_pretrained(name, revision=revision, dtype=LOADED_AS.get(dtype, dtype))
    tokenizer = folder_tokenizer(Path(name)) if Path(name).is_dir() else library_tokenizer(name, revision)
    return from_transformers(loaded, dtype, device, tokenizer, Path(name).name, True, *drafting)


def from_transformers(
    model: "PreTrainedModel",
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    name: str = "llama",
    native: bool = True,
    exits: Exits | None = None,
    draft_vocabulary: Sequence[int] | None = None,
) -> Model:
    """A `Model` over the weights of a loaded `transformers` Llama. `native` False: torch operations only.

    Raises ModelError for one that is not plain (`decode.plain`).
    """
    theirs, given = model.config, getattr(model, "generation_config", None)
    config = replace(llama_config(name, theirs.to_dict()), revision=getattr(theirs, "_commit_hash", None))
    generation = {"eos_token_id": config.eos_token_id} if given is None else given.to_diff_dict()
    weights = {key: weight.detach() for key, weight in plain_weights(model, config).items()}
    check_rotary(model, config)
    for key, shape in weight_shapes(config).items():
        if (found := tuple(weights[key].shape)) != shape:
            raise ModelError(f"{key} of {name} has the shape {found}, where the model's config gives {shape}")
    with torch.no_grad():
        where, drafting = torch.device(device), (exits, draft_vocabulary)
        return Model(name, config, tokenizer, weights, dtype, where, generation, native, *drafting)


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
    where = torch.device(device)
    if where.type == "cuda" and (where.index or 0) >= torch.cuda.device_count():
        seen = f"{torch.cuda.device_count()} CUDA devices seen"
        raise ModelError(f"the device {device!r} is not there ({seen}): use --device cpu")
    return where


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """`auto`: bf16 on CUDA and where the native backend can be built (half the bytes, and lossless); else fp32."""
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" or library() is not None else torch.float32
    chosen: torch.dtype = getattr(torch, DTYPES[dtype])
    return chosen


def first_line(error: Exception) -> str:
    """The part of a library's message that fits on one line."""
    text = " ".join(str(error).split(os.linesep)[0].split())
    return text if len(text) < 300 else text[:297] + "…"
