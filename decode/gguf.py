"""GGUF files as checkpoints: a Llama's is converted once, into a folder of the user's cache that loads as any other."""

import json
import os
import re
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lede.decode.errors import ModelError
from lede.decode.gguf_file import PART, Content, part_files, read_content
from lede.ground import cache_folder, cache_name

QUANTISATION = re.compile(r"[.-](I?Q\d\w*|BF16|F16|F32)$", re.IGNORECASE)  # at the end of a file's name
RULES = 2  # of conversion: one more whenever a file gives another folder than before
CARD = "converted.json"  # in the folder: what it was made from, and by which rules


def is_gguf(path: Path) -> bool:
    """Whether a file of this name is one."""
    return path.suffix.lower() == ".gguf"


def gguf_name(file: Path) -> str:
    """The model in a file: SmolLM2-135M-Instruct, of SmolLM2-135M-Instruct.Q4_1.gguf."""
    return QUANTISATION.sub("", PART.sub("", file.stem))


def origin(file: Path) -> dict[str, Any]:
    """What a folder is made from: the file and the other parts of its model, as they are now."""
    parts = {str(part.resolve()): part.stat() for part in part_files(file) if part.is_file()}
    described = [[path, there.st_size, there.st_mtime_ns] for path, there in parts.items()]
    return {"rules": RULES, "files": described}


def converted(file: Path) -> Path:
    """The folder that a GGUF file is or will be converted into, named after the file as it is now."""
    if (cache := cache_folder()) is None:
        raise ModelError(f"{file} has to be converted, and there is no cache folder: name one with XDG_CACHE_HOME")
    return cache / cache_name("gguf", json.dumps(origin(file))) / gguf_name(file)


def is_converted(file: Path, folder: Path) -> bool:
    """Whether the folder is what the file is converted into, and says so."""
    try:
        return bool(json.loads((folder / CARD).read_text("utf-8")) == origin(file))
    except (OSError, ValueError):
        return False


def check_gguf(file: Path) -> Path:
    """The file, or its folder if it is converted. Raises ModelError for one that is no Llama's or cannot be read."""
    if is_converted(file, folder := converted(file)):
        return folder
    inspected(file)
    return file


def has_chat_template(file: Path) -> bool:
    """Whether a file that is not converted has one."""
    return any(key.startswith("tokenizer.chat_template") for key in read_content(file).keys)


def inspected(file: Path) -> tuple[Content, dict[str, Any], dict[str, Any], dict[str, Any] | None]:
    """What is in a Llama's file: all, its config.json, where its weights lie, its tokenizer if it has one.

    Raises ModelError for all that cannot be read, or not be honoured.
    """
    from lede.decode.gguf_llama import described
    from lede.decode.gguf_tokenizer import checked, known_keys

    content = read_content(file)
    kind = content.keys.get("general.architecture")
    if kind != "llama":
        raise ModelError(f"{file.name} is a {kind!r} model: only Llama's (architecture 'llama') are supported")
    if find_spec("gguf") is None:
        raise ModelError(f"reading {file.name} needs gguf: install with pip install 'lede[gguf]'")
    tokenizer = checked(file.name, content.keys)
    return content, *described(file, content, known_keys(content.keys)), tokenizer


def convert(file: Path) -> Path:
    """The folder with the file's weights in bf16 and its tokenizer: made now, whole or not at all, or before."""
    folder = converted(file)
    if is_converted(file, folder):
        return folder
    made_from = origin(file)
    content, config, places, tokenizer = inspected(file)
    import torch
    from safetensors.torch import save_file

    from lede.decode.gguf_llama import numbers, unpaired
    from lede.decode.gguf_tokenizer import end_tokens, write_tokenizer

    ends: dict[str, Any] = {"eos_token_id": None}
    if tokenizer is not None:
        stops = end_tokens(tokenizer)
        ends["eos_token_id"] = stops[0] if len(stops) == 1 else stops
        named = {"bos_token_id": "bos_token_id", "pad_token_id": "padding_token_id"}
        ends |= {ours: tokenizer[theirs] for ours, theirs in named.items() if theirs in tokenizer}
    weights = {}
    for name, entry in places.items():
        weight = torch.from_numpy(numbers(entry)).to(torch.bfloat16)
        rotated = name.endswith(("q_proj.weight", "k_proj.weight"))
        weights[name] = unpaired(weight, config["head_dim"]).contiguous() if rotated else weight

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        new = Path(scratch) / folder.name
        new.mkdir()
        save_file(weights, new / "model.safetensors", {"format": "pt"})
        if tokenizer is not None:
            try:
                write_tokenizer(new, tokenizer, content.keys)
            except Exception as error:  # the library's own, such as for a merge of tokens that there are not
                raise ModelError(f"{file.name} has a tokenizer that cannot be made: {error}") from error
        for name, described in (("config.json", config | ends), ("generation_config.json", ends), (CARD, made_from)):
            (new / name).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        for part in new.iterdir():  # all on disk before the name is
            with part.open("rb+") as opened:
                os.fsync(opened.fileno())
        if not is_converted(file, folder):
            shutil.rmtree(folder, ignore_errors=True)
        try:
            new.rename(folder)
        except OSError:
            if not is_converted(file, folder):  # no other process was first
                raise
    return folder
