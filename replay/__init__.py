"""The replay store: logged decisions of speculative decoding as plain Parquet files, safe to read at any moment.

Names are imported when they are first used, so that `import lede.replay` costs nothing and writing needs no polars.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lede.replay.compact import compact_dataset
    from lede.replay.errors import DatasetError
    from lede.replay.inspect import inspect_dataset
    from lede.replay.integrity import Finding, verify
    from lede.replay.plot import plot_dataset
    from lede.replay.reader import Dataset, open_dataset
    from lede.replay.writer import EpisodeWriter, open_for_writing, start_run

__all__ = ["Dataset", "DatasetError", "EpisodeWriter", "Finding", "compact_dataset", "inspect_dataset", "open_dataset"]
__all__ += ["open_for_writing", "plot_dataset", "start_run", "verify"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in ("errors", "writer", "reader", "integrity", "inspect", "compact", "plot"):
            if hasattr(home := import_module(f"lede.replay.{module}"), name):
                return getattr(home, name)
    raise AttributeError(f"module 'lede.replay' has no attribute {name!r}")
