"""Loading a model by what its user calls it: a name that lede knows, a folder, a file, or a name on the hub."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lede.decode.exits import Exits, load_exits
from lede.decode.load import load_model as load
from lede.paths import exits_folder, model_path

if TYPE_CHECKING:
    import torch

    from lede.decode.model import Model


def load_model(
    model: str | Path | None = None,
    dtype: "str | torch.dtype" = "auto",
    device: str = "auto",
    revision: str | None = None,
    exits: Exits | str | Path | None = None,
    draft_vocabulary: Sequence[int] | None = None,
) -> "Model":
    """The model that `lede generate --model` calls so: a folder, a GGUF file, a name on the hub, lede-tiny or smollm2.

    None is lede-tiny. `exits` is a folder of exit heads, or what `decode.exits.load_exits` gave, "none" for none,
    or None for the usual ones: in `exits/<model name>`, or in the package. dtype, device and draft_vocabulary: see
    `decode.load.load_model`; revision: of a name on the hub. Raises ModelError for whatever cannot be loaded.
    """
    name = None if model is None else str(model)
    if not isinstance(exits, Exits):
        folder = exits_folder(name, exits)
        exits = None if folder is None else load_exits(folder)
    return load(model_path(name), dtype, device, revision, exits, draft_vocabulary)
