"""The replay store: logged decisions of speculative decoding as plain Parquet files, safe to read at any moment.

Names are imported when they are first used, so that `import lede.replay` costs nothing and writing needs no polars.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lede.replay.compact import compact_dataset as compact_dataset
    from lede.replay.errors import DatasetError as DatasetError
    from lede.replay.inspect import inspect_dataset as inspect_dataset
    from lede.replay.integrity import Finding as Finding
    from lede.replay.integrity import verify as verify
    from lede.replay.plot import plot_dataset as plot_dataset
    from lede.replay.reader import Dataset as Dataset
    from lede.replay.reader import open_dataset as open_dataset
    from lede.replay.writer import EpisodeWriter as EpisodeWriter
    from lede.replay.writer import open_for_writing as open_for_writing
    from lede.replay.writer import start_run as start_run

_HOME = {
    "Dataset": "reader",
    "DatasetError": "errors",
    "EpisodeWriter": "writer",
    "Finding": "integrity",
    "compact_dataset": "compact",
    "inspect_dataset": "inspect",
    "open_dataset": "reader",
    "open_for_writing": "writer",
    "plot_dataset": "plot",
    "start_run": "writer",
    "verify": "integrity",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'lede.replay' has no attribute {name!r}")
    return getattr(import_module(f"lede.replay.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
