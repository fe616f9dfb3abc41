"""The replay store: logged decisions of speculative decoding as plain Parquet files, safe to read at any moment.

polars and matplotlib are imported when they are first used: collecting needs neither.
"""

from lede.replay.compact import compact_dataset
from lede.replay.errors import DatasetError
from lede.replay.inspect import inspect_dataset
from lede.replay.integrity import Finding, verify
from lede.replay.plot import plot_dataset
from lede.replay.reader import Dataset, open_dataset
from lede.replay.writer import EpisodeWriter, open_for_writing, start_run

__all__ = ["Dataset", "DatasetError", "EpisodeWriter", "Finding", "compact_dataset", "inspect_dataset", "open_dataset"]
__all__ += ["open_for_writing", "plot_dataset", "start_run", "verify"]
