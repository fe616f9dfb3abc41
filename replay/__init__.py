"""The replay store: logged decisions of speculative decoding as plain Parquet files, safe to read at any moment.

Names are imported when they are first used, so that `import lede.replay` costs nothing and writing needs no polars.
"""

from importlib import import_module
from typing import Any

__all__ = ["Dataset", "DatasetError", "EpisodeWriter", "Finding", "compact_dataset", "inspect_dataset", "open_dataset"]
__all__ += ["merge_datasets", "open_for_writing", "plot_dataset", "repair_dataset", "start_run", "verify"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in ("errors", "writer", "reader", "integrity", "inspect", "compact", "repair", "merge", "plot"):
            if hasattr(home := import_module(f"lede.replay.{module}"), name):
                return getattr(home, name)
    raise AttributeError(f"module 'lede.replay' has no attribute {name!r}")
