"""Merging the many small files of a run while others read.

Where the store can swap folders (`Store.swap`), a scan lists the old files or the new ones, never both. One that listed
old names and opens them afterwards fails, because merged files have new names, and can be repeated. Tables change one
after the other; readers go by the parts that a file's metadata lists (see `replay.parts`), which merging keeps. After a
crash, compact again. Where nobody can be kept away, writers need not stop.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from lede.replay.errors import DatasetError
from lede.replay.header import load_header
from lede.replay.parquet import encode, open_file, parts_of, read_table
from lede.replay.parts import (
    committed_parts,
    live_files,
    next_number,
    remove_leftovers,
    run_ids,
    superseded,
    table_files,
    table_folder,
)
from lede.replay.runs import alone
from lede.replay.schema import TABLES, is_sorted
from lede.replay.store import File, Store, open_store

MAX_ROWS = 2_000_000
ABANDONED = 86_400  # seconds after which nobody will commit a file that no commit names


def compact_dataset(path: str | os.PathLike[str], max_rows: int = MAX_ROWS) -> dict[str, tuple[int, int]]:
    """Merge the files of each run into files of up to `max_rows` rows; returns {table: (files before, files after)}.

    Raises `DatasetError` if a run is being written, a file is damaged or an episode is stored twice, or the file system
    cannot swap folders; and `OSError`. The dataset then holds what it held.
    """
    store = open_store(path)
    load_header(store)
    runs = run_ids(store)
    before = _counts(store, runs)
    for run in runs:
        with alone(store, run, "compact"):
            remove_leftovers(store, run)
            for table in TABLES:
                _compact_table(store, table, run, max_rows)
    after = _counts(store, runs)
    return {table: (before[table], after[table]) for table in TABLES}


def _counts(store: Store, runs: list[str]) -> dict[str, int]:
    return {table: sum(len(table_files(store, table, run)) for run in runs) for table in TABLES}


def _compact_table(store: Store, table: str, run: str, max_rows: int) -> None:
    """Replace the files of a run by merged ones with the same rows, parts and order."""
    live = live_files(store, table, run, committed_parts(store, run))
    files = {file: parts_of(file) for file in table_files(store, table, run)}
    merged = superseded(files)
    for file in files:  # of an earlier attempt, or a writer that died
        if file in merged or (file not in live and time.time() - store.stat(file.name)[1] > ABANDONED):
            store.delete(file.name)
    groups = list(_groups(live, max_rows))
    if len(groups) == len(live):
        return
    # Names that no file of the run had before: one that a reader has listed never changes its meaning.
    number = next_number((file.stem for file in files), "merged-")
    names = {f"merged-{number + i:05d}.parquet": [file.name for file in group] for i, group in enumerate(groups)}
    store.swap(table_folder(table, run), names, lambda group: _joined([File(store, name) for name in group]))


def _joined(group: Sequence[File]) -> bytes:
    """The file that holds what those of a group do."""
    table = group[0].table
    rows = pa.concat_tables([read_table(file) for file in group])
    rows = rows.take(np.argsort(rows["episode"].to_numpy(), kind="stable"))
    if not is_sorted(rows, table, strict=True):
        raise DatasetError(f"{group[0].store.path / group[0].folder} holds rows twice or unsorted: see lede verify")
    return encode(rows, table, frozenset[str]().union(*map(parts_of, group)))


def _groups(files: list[File], max_rows: int) -> Iterator[list[File]]:
    """Neighbouring files with up to `max_rows` rows together."""
    group, rows = list[File](), 0
    for file in files:
        with open_file(file, whole=False) as opened:
            count = opened.metadata.num_rows
            newer = [name for name in opened.schema_arrow.names if name not in TABLES[file.table].names]
        if newer:
            raise DatasetError(f"{file} has columns this version would lose ({', '.join(newer)}): update lede")
        if group and rows + count > max_rows:
            yield group
            group, rows = [], 0
        group.append(file)
        rows += count
    if group:
        yield group
