"""Loading a model for a command: with something to look at while it takes its time."""

import gc
from typing import TYPE_CHECKING

from lede.paths import model_path
from lede.terminal import errors

if TYPE_CHECKING:
    from lede.decode.model import Model


def quiet_transformers() -> None:
    """The library's own bars and warnings are for its direct users: the commands say what their users need to know."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def load(model: str | None, dtype: str, device: str, threads: int = 0) -> "Model":
    """The model, on the device, with the number of CPU threads set."""
    with errors.status("loading torch and the model"):
        from lede.decode.load import load_model
        from lede.decode.threads import use_threads

        quiet_transformers()
        loaded = load_model(model_path(model), dtype, device)
        use_threads(loaded, threads)
    # What the imports left behind is millions of objects that live as long as the process. Without this the collector
    # walks all of them now and then, and a generation stalls for a tenth of a second.
    gc.collect()
    gc.freeze()
    return loaded
