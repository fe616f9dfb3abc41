"""Merging the many small files of a run while others read.

Merged files are built in the staging folder; then the run's old folder and the new one change places in one step of the
file system, so that a scan lists the old files or the new ones, never both. One that listed old names and opens them
afterwards fails, because merged files have new names, and can be repeated. Tables change one after the other; readers
go by the parts that a file's metadata lists (see `replay.parts`), which merging keeps. After a crash, compact again.

In an object store the merged object is added and then the others removed: this library's readers pass over those whose
parts another holds too, while a plain scan may see rows twice for a moment. Writers need not stop.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from lede.replay.errors import DatasetError
from lede.replay.folder import STAGING, stage, sync_folder
from lede.replay.header import load_header
from lede.replay.parquet import encode, open_file, parts_of, read_columns
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
from lede.replay.storage import ObjectPath, create, place

MAX_ROWS = 2_000_000
ABANDONED = 86_400  # seconds after which nobody will commit an object that no commit names


def compact_dataset(path: str | os.PathLike[str], max_rows: int = MAX_ROWS) -> dict[str, tuple[int, int]]:
    """Merge the files of each run into files of up to `max_rows` rows; returns {table: (files before, files after)}.

    Raises `DatasetError` if a run is being written, a file is damaged or an episode is stored twice, or the file system
    cannot swap folders; and `OSError`. The dataset then holds what it held.
    """
    root = place(path)
    load_header(root)
    runs = run_ids(root)
    before = _counts(root, runs)
    for run in runs:
        with alone(root, run, "compact"):
            remove_leftovers(root, run)
            for table in TABLES:
                (_compact_objects if isinstance(root, ObjectPath) else _compact_table)(root, table, run, max_rows)
    after = _counts(root, runs)
    return {table: (before[table], after[table]) for table in TABLES}


def _counts(root: Path, runs: list[str]) -> dict[str, int]:
    return {table: sum(len(table_files(root, table, run)) for run in runs) for table in TABLES}


def _compact_table(root: Path, table: str, run: str, max_rows: int) -> None:
    """Replace the files of a run by merged ones with the same rows, parts and order."""
    work = root / STAGING / f"compact-{run}"
    shutil.rmtree(work, ignore_errors=True)  # an earlier attempt: what it replaced, or did not get to put in place
    files = table_files(root, table, run)
    groups = list(_groups(files, table, max_rows))
    if len(groups) == len(files):
        return
    # A name that no file of the run had before: one that a reader has listed never changes its meaning.
    merged, number = work / table, next_number((path.stem for path in files), "merged-")
    try:
        for offset, group in enumerate(groups):
            stage(merged / f"merged-{number + offset:05d}.parquet", _joined(group, table))
        sync_folder(merged)
        _exchange(merged, table_folder(root, table, run))
        sync_folder(root / table)
        sync_folder(work)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _compact_objects(root: Path, table: str, run: str, max_rows: int) -> None:
    """The same for objects, which cannot change places: readers pass over those whose parts another has too."""
    live = live_files(root, table, run, committed_parts(root, run))
    files = {path: parts_of(path, table) for path in table_files(root, table, run)}
    merged = superseded(files)
    for path in files:
        if path in merged or (path not in live and time.time() - path.stat().st_mtime > ABANDONED):
            path.unlink()
    number = next_number((path.stem for path in files), "merged-")  # nor one that was only just removed
    for group in [group for group in _groups(live, table, max_rows) if len(group) > 1]:
        create(table_folder(root, table, run) / f"merged-{number:05d}.parquet", _joined(group, table))
        number += 1
        for path in group:
            path.unlink()


def _joined(group: list[Path], table: str) -> bytes:
    """The file that holds what those of a group do."""
    rows = pa.concat_tables([read_columns(path, table, TABLES[table].names) for path in group])
    rows = rows.take(np.argsort(rows["episode"].to_numpy(), kind="stable"))
    if not is_sorted(rows, table, strict=True):
        raise DatasetError(f"{group[0].parent} holds rows twice or unsorted: see the integrity report")
    return encode(rows, table, frozenset().union(*(parts_of(path, table) for path in group)))


def _groups(files: list[Path], table: str, max_rows: int) -> Iterator[list[Path]]:
    """Neighbouring files with up to `max_rows` rows together."""
    group, rows = list[Path](), 0
    for path in files:
        with open_file(path, table, whole=False) as file:
            count = file.metadata.num_rows
            newer = [name for name in file.schema_arrow.names if name not in TABLES[table].names]
        if newer:
            raise DatasetError(f"{path} has columns this version would lose ({', '.join(newer)}): update lede")
        if group and rows + count > max_rows:
            yield group
            group, rows = [], 0
        group.append(path)
        rows += count
    if group:
        yield group


def _exchange(one: Path, other: Path) -> None:
    """Let two folders on one file system change places, atomically."""
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        if sys.platform == "darwin":
            result = libc.renamex_np(os.fsencode(one), os.fsencode(other), 2)  # RENAME_SWAP
        else:
            here = ctypes.c_int(-100)  # AT_FDCWD
            result = libc.renameat2(here, os.fsencode(one), here, os.fsencode(other), 2)  # RENAME_EXCHANGE
        code = ctypes.get_errno() if result else 0
    except AttributeError:  # a C library without the call
        code = errno.ENOSYS
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EXDEV):
        raise DatasetError(
            f"the file system of {other} cannot swap folders in one step, and nothing was changed: "
            "copy the dataset to a local disk, compact it there, and copy it back"
        )
    if code:
        raise OSError(code, os.strerror(code), str(other))
