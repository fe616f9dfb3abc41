"""What a request names as its model: checked before torch is imported, so that what is wrong is said at once."""

import re
from pathlib import Path

from lede.decode.config import DTYPES, folder_config, weight_files
from lede.decode.errors import ModelError
from lede.decode.gguf import check_gguf, is_gguf


def check_request(path: str | Path, dtype: str, device: str) -> Path | None:
    """The checkpoint's folder, with all that can be checked of it at once; None for a name on the hub.

    A GGUF file's is the one that it was converted into, or the file itself. Raises ModelError for a folder or a file
    without a Llama, and for a dtype or device that there is not.
    """
    if dtype not in ("auto", *DTYPES):
        raise ModelError(f"unknown dtype {dtype!r}: give auto, {', '.join(sorted(set(DTYPES.values())))}")
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise ModelError(f"the device {device!r} is not supported: give cpu, cuda, cuda:0 … or auto")
    name, folder = str(path), Path(path).expanduser()
    if folder.is_file() and is_gguf(folder):
        folder = check_gguf(folder)
        if folder.is_file():
            return folder
    if not folder.is_dir():
        if name.startswith((".", "/", "~")) or name.count("/") > 1 or folder.exists() or is_gguf(folder):
            known = "a folder with config.json, a .gguf file, or a name on the hub"
            raise ModelError(f"there is no model folder {name}: give {known}")
        return None
    folder_config(folder)
    weight_files(folder)
    return folder
