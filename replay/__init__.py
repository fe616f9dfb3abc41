"""The replay store: logged decisions of speculative decoding as plain Parquet files, safe to read at any moment.

Names are imported when they are first used, so that `import lede.replay` costs nothing and writing needs no polars.
"""

from importlib import import_module
from typing import Any

HOMES = {"DatasetError": "errors", "Dataset": "reader", "open_dataset": "reader", "open_for_writing": "header"}
HOMES |= {"start_run": "runs", "EpisodeWriter": "writer", "Finding": "integrity", "verify": "integrity"}
HOMES |= {f"{name}_dataset": name for name in ("repair", "compact", "inspect", "plot")} | {"merge_datasets": "merge"}
__all__ = list(HOMES)


def __getattr__(name: str) -> Any:
    if name in HOMES:
        return getattr(import_module(f"lede.replay.{HOMES[name]}"), name)
    raise AttributeError(f"module 'lede.replay' has no attribute {name!r}")
