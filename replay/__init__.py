"""The replay store: logged decisions of speculative decoding as plain Parquet files, safe to read at any moment.

Names are imported when they are first used, so that `import lede.replay` costs nothing and writing needs no polars.
"""

from importlib import import_module
from typing import Any

HOMES = {
    "DatasetError": "errors",
    "Dataset": "reader",
    "open_dataset": "reader",
    "open_for_writing": "header",
    "start_run": "runs",
    "EpisodeWriter": "writer",
    "Finding": "integrity",
    "verify": "integrity",
    "repair_dataset": "repair",
    "compact_dataset": "compact",
    "merge_datasets": "merge",
    "inspect_dataset": "inspect",
    "plot_dataset": "plot",
}
__all__ = list(HOMES)


def __getattr__(name: str) -> Any:
    if name in HOMES:
        return getattr(import_module(f"lede.replay.{HOMES[name]}"), name)
    raise AttributeError(f"module 'lede.replay' has no attribute {name!r}")
