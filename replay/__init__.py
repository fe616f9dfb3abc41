"""The replay store: logged decisions of speculative decoding as plain Parquet files, safe to read at any moment.

Names are imported when they are first used, so that `import replay` costs nothing and writing needs no polars.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from replay.calibration import Calibration as Calibration
    from replay.calibration import load_calibration as load_calibration
    from replay.calibration import save_calibration as save_calibration
    from replay.compact import compact_dataset as compact_dataset
    from replay.costs import Costs as Costs
    from replay.errors import DatasetError as DatasetError
    from replay.inspect import inspect_dataset as inspect_dataset
    from replay.integrity import Finding as Finding
    from replay.integrity import verify as verify
    from replay.plot import plot_dataset as plot_dataset
    from replay.plot_costs import plot_calibration as plot_calibration
    from replay.reader import Columns as Columns
    from replay.reader import Dataset as Dataset
    from replay.reader import open_dataset as open_dataset
    from replay.reward import paper_reward as paper_reward
    from replay.reward import time_reward as time_reward
    from replay.schema import STATE as STATE
    from replay.writer import EpisodeWriter as EpisodeWriter
    from replay.writer import Run as Run
    from replay.writer import open_for_writing as open_for_writing
    from replay.writer import start_run as start_run

_HOME = {
    "Calibration": "calibration",
    "Columns": "reader",
    "Costs": "costs",
    "Dataset": "reader",
    "DatasetError": "errors",
    "EpisodeWriter": "writer",
    "Finding": "integrity",
    "Run": "writer",
    "STATE": "schema",
    "compact_dataset": "compact",
    "inspect_dataset": "inspect",
    "load_calibration": "calibration",
    "open_dataset": "reader",
    "open_for_writing": "writer",
    "paper_reward": "reward",
    "plot_calibration": "plot_costs",
    "plot_dataset": "plot",
    "save_calibration": "calibration",
    "start_run": "writer",
    "time_reward": "reward",
    "verify": "integrity",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'replay' has no attribute {name!r}")
    return getattr(import_module(f"replay.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
