"""Loading a checkpoint: a hub name or a folder in, a `Model` or one clear line out."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from lede.decode.backends.compile import library
from lede.decode.checkpoint import check_request
from lede.decode.config import (
    BIN,
    DTYPES,
    SAFETENSORS,
    Config,
    folder_config,
    llama_config,
    read_json,
    weight_files,
    weight_shapes,
)
from lede.decode.errors import ModelError
from lede.decode.exits import Exits
from lede.decode.gguf import convert
from lede.decode.model import Model
from lede.decode.plain import check_rotary, plain_weights
from lede.decode.tokenizer import folder_tokenizer
from lede.ground import first_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PLAIN = (torch.float64, torch.float32, torch.bfloat16, torch.float16)  # dtypes of weights that are numbers as they are
DERIVED = "rotary_emb.inv_freq"  # in old checkpoints, and computed from the config, as `transformers` does
SMALL = ["*.json", "*.jinja", "*.model", "*.txt"]  # a checkpoint's files beside its weights

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
    given: object = path
    if not isinstance(given, str | os.PathLike):
        what = (
            f"not a {type(given).__name__}: a loaded model of transformers goes through decode.load.from_transformers"
        )
        raise ModelError(f"load_model takes a folder, a .gguf file or a name on the hub, and {what}")
    asked = str(dtype).removeprefix("torch.")
    folder = check_request(path, asked, device)
    where = choose_device(device)
    kind = choose_dtype(asked, where)
    try:
        if folder is None:
            folder = fetched(str(path), revision)
            name, config = Path(path).name, replace(folder_config(folder), revision=folder.name)
        else:
            folder = convert(folder) if folder.is_file() else folder
            name, config = folder.name, folder_config(folder)
        weights, tokenizer = read_weights(folder, config), folder_tokenizer(folder)
        generation = generation_config(folder, config)
        return Model(name, config, tokenizer, weights, kind, where, generation, True, exits, draft_vocabulary)
    except ModelError:
        raise
    except Exception as error:  # the libraries raise many kinds for a missing, private, torn or foreign checkpoint
        raise ModelError(f"cannot load the model {folder or path}: {first_line(error)}") from error


def read_weights(folder: Path, config: Config) -> dict[str, Tensor]:
    """The weights of a folder, as they are stored. Raises ModelError unless they are a Llama's, all and no others."""
    weights: dict[str, Tensor] = {}
    for file in weight_files(folder):
        weights |= load_file(file) if file.suffix == ".safetensors" else read_bin(file)
    head, embeddings = "lm_head.weight", "model.embed_tokens.weight"
    if embeddings.removeprefix("model.") in weights:  # saved without its head
        weights = {f"model.{name}": weight for name, weight in weights.items()}
    if config.tie_word_embeddings:  # where both are there, both are used, as `transformers` does
        for one, other in ((head, embeddings), (embeddings, head)):
            if other in weights:
                weights.setdefault(one, weights[other])
    weights = {name: weight for name, weight in weights.items() if not name.endswith(DERIVED)}
    wanted = weight_shapes(config)
    for name in [*wanted, *weights]:  # in this order, so that the first to be named tells most
        if name not in weights:
            wrong = f"{name} is missing"
        elif name not in wanted:
            wrong = f"{name} is in its files, and a Llama of its config has no such weight"
        elif tuple(weights[name].shape) != wanted[name]:
            wrong = f"{name} has the shape {tuple(weights[name].shape)}, by its config {wanted[name]}"
        elif weights[name].dtype not in PLAIN:
            kind = str(weights[name].dtype).removeprefix("torch.")
            wrong = f"{name} is of the type {kind}: quantised weights are not supported"
        else:
            continue
        raise ModelError(f"cannot load the model {folder}: {wrong}")
    return weights


def read_bin(file: Path) -> dict[str, Tensor]:
    """The weights in a file of torch's own format. Raises ModelError where it holds anything else."""
    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError:  # the format of before torch 1.6 cannot be mapped
        content = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(content, dict) or not all(isinstance(weight, Tensor) for weight in content.values()):
        raise ModelError(f"cannot load the model {file.parent}: {file.name} should hold weights by their names alone")
    return content


def fetched(name: str, revision: str | None) -> Path:
    """The folder in the hub's cache with a checkpoint of the hub, fetched if need be."""
    from huggingface_hub import snapshot_download

    folder = Path(snapshot_download(name, revision=revision, allow_patterns=SMALL))
    if not (folder / "config.json").exists():
        raise ModelError(f"there is no config.json in {name} on the hub: give the name of a Llama checkpoint")
    folder_config(folder)  # what is no Llama is not worth fetching
    for form in (SAFETENSORS, BIN):
        index = folder / f"{form}.index.json"
        files = [*set(read_json(index)["weight_map"].values())] if index.exists() else [form]
        # with one that is there, or the library says that there is none
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=["config.json", *files]))
        if all((folder / file).exists() for file in files):
            break
    return folder


def generation_config(folder: Path, config: Config) -> dict[str, Any]:
    """What generation_config.json asks for; in older checkpoints config.json does."""
    file = folder / "generation_config.json"
    if file.exists():
        return read_json(file)
    given = read_json(folder / "config.json")
    return {name: given[name] for name in LEGACY if name in given} | {"eos_token_id": config.eos_token_id}


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
