"""GGUF files as checkpoints: a Llama's is converted once, into a folder of the user's cache that loads as any other."""

import os
import re
import struct
import tempfile
from importlib.util import find_spec
from pathlib import Path

from lede.decode.backends.compile import cache_folder, cache_name
from lede.decode.errors import ModelError

QUANTISATION = re.compile(r"[.-](I?Q\d\w*|BF16|F16|F32)$", re.IGNORECASE)  # at the end of a file's name
NEEDED = ("gguf", "accelerate")  # by `transformers`, to read such files


def gguf_name(file: Path) -> str:
    """The model in a file: SmolLM2-135M-Instruct, of SmolLM2-135M-Instruct.Q4_1.gguf."""
    return QUANTISATION.sub("", file.stem)


def converted(file: Path) -> Path:
    """The folder that a GGUF file is or will be converted into, named after the file as it is now."""
    there, cache = file.stat(), cache_folder()
    if cache is None:
        raise ModelError(f"{file} has to be converted, and there is no cache folder: name one with XDG_CACHE_HOME")
    return cache / cache_name("gguf", str(file.resolve()), there.st_size, there.st_mtime_ns) / gguf_name(file)


def check_gguf(file: Path) -> Path:
    """The file, or its folder if it is converted. Raises ModelError for one that is no Llama's or cannot be read."""
    if (folder := converted(file)).is_dir():
        return folder
    kind = architecture(file)
    if kind != "llama":
        raise ModelError(f"{file.name} is a {kind!r} model: only Llama's (architecture 'llama') are supported")
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise ModelError(f"reading {file.name} needs {' and '.join(missing)}: install with pip install 'lede[gguf]'")
    return file


def architecture(file: Path) -> str:
    """What a GGUF file says it holds, in the first of its key-value pairs."""
    try:
        with file.open("rb") as opened:
            magic, length = struct.unpack("<4s20xQ", opened.read(32))
            key = opened.read(length) if magic == b"GGUF" and length < 100 else b""
            (length,) = struct.unpack("<4xQ", opened.read(12))
            if key == b"general.architecture":
                return opened.read(min(length, 100)).decode()
    except (struct.error, UnicodeDecodeError):
        pass
    raise ModelError(f"{file} is not a GGUF file, or does not begin with its architecture as such files do")


def convert(file: Path) -> Path:
    """The folder with the file's weights in bf16 and its tokenizer: made now, whole or not at all, or before."""
    folder = converted(file)
    if folder.is_dir():
        return folder
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        new, source = Path(scratch) / folder.name, {"gguf_file": file.name}
        plain = {"dtype": torch.bfloat16, "quantization_config": GgufConfig(dequantize=True)}
        try:
            AutoTokenizer.from_pretrained(file.parent, **source).save_pretrained(new)
            model = AutoModelForCausalLM.from_pretrained(file.parent, **source, **plain)
        except Exception as error:  # a torn file fails in whatever is behind its end
            reason = " ".join(str(error).split())[:200]
            raise ModelError(f"cannot load the model {file}: is the file whole? ({reason})") from error
        model.save_pretrained(new)
        for part in new.iterdir():  # all on disk before the name is
            with part.open("rb+") as opened:
                os.fsync(opened.fileno())
        try:
            new.rename(folder)
        except OSError:
            if not folder.is_dir():  # no other process was first
                raise
    return folder
