"""Loading a model for a command: with something to look at while it takes its time."""

import gc
from typing import TYPE_CHECKING

from lede.paths import model_path
from lede.terminal import errors

if TYPE_CHECKING:
    from lede.decode.model import Model


def check_model(model: str | None, dtype: str = "auto", device: str = "auto") -> None:
    """Raise ModelError for what can be known to be wrong before torch is imported, which takes seconds."""
    from lede.decode.config import check_request

    check_request(model_path(model), dtype, device)


def load(model: str | None, dtype: str, device: str, threads: int = 0) -> "Model":
    """The model, on the device, with the number of CPU threads set."""
    check_model(model, dtype, device)
    with errors.status("loading torch and the model"):
        from lede.decode.load import load_model
        from lede.decode.threads import use_threads

        loaded = load_model(model_path(model), dtype, device)
        use_threads(loaded, threads)
    # What the imports left behind is millions of objects that live as long as the process. Without this the collector
    # walks all of them now and then, and a generation stalls for a tenth of a second.
    gc.freeze()
    return loaded
