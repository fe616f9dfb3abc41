"""Which files of a dataset count.

A *part* is what one flush of one writer publishes: `episodes/run=<id>/<part>.parquet`, perhaps one in `sweeps`, and
last the one in `transitions`, which commits it. A file's metadata lists the parts it holds: one as flushed, several
after compaction. An episodes or sweeps file counts when every part it holds is held by some transitions file. No file
is visible before it is whole, so any reader may scan the table folders at any time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lede.replay.errors import DatasetError
from lede.replay.folder import STAGING
from lede.replay.parquet import parts_of, read_columns
from lede.replay.schema import TABLES
from lede.replay.store import File, Store, files_in

BRING_BACK = "restore it from a copy, or lede repair the dataset, then collect again"
# A letter first: polars would take the value of `run=1234567` for a number. 28 bits: see `episode_numbers`.
RUN_FOLDER = re.compile(r"run=r[0-9a-f]{7}/")


def table_folder(table: str, run: str) -> str:
    """The name of the folder of a run's files in a table."""
    return f"{table}/run={run}"


def table_files(store: Store, table: str, run: str) -> list[File]:
    """Published files of a run in a table, sorted by name."""
    return files_in(store, table_folder(table, run), ".parquet")


def run_ids(store: Store) -> list[str]:
    """Ids of the runs that have committed something, sorted. Raises `DatasetError` about any other folder there."""
    folders = [name for name in store.list("transitions") if name.startswith("run=")]
    if strange := [name for name in folders if not RUN_FOLDER.fullmatch(name)]:
        where = store.path / f"transitions/{strange[0]}"
        raise DatasetError(f"{where} is not a run of this library: move it out of the dataset")
    return [folder[4:-1] for folder in folders]


def started_runs(store: Store) -> list[str]:
    """Ids of the runs that have a file in any table, sorted."""
    return sorted({name[4:-1] for table in TABLES for name in store.list(table) if RUN_FOLDER.fullmatch(name)})


def episode_numbers(run: str, episodes: NDArray[Any]) -> NDArray[np.int64]:
    """Numbers of a run's episodes that are unique over runs, and the same wherever and with whatever it is stored."""
    return np.int64(int(run[1:], 16) << 32) | episodes.astype(np.int64)


def described(number: int) -> str:
    """The episode with this number, for a message."""
    return f"episode {number & 0xFFFFFFFF} of run r{number >> 32:07x}"


def next_number(names: Iterable[str], prefix: str) -> int:
    """One more than the number behind `prefix` in any of the names."""
    numbers = [int(name.removeprefix(prefix)) for name in names if re.fullmatch(rf"{prefix}\d+", name)]
    return max(numbers, default=-1) + 1


def held_parts(store: Store, table: str, run: str) -> dict[File, frozenset[str]]:
    """Files of a run in a table, sorted by name, and the parts they hold, without those that are `superseded`.

    Lists again if one vanishes meanwhile.
    """
    for attempts_left in reversed(range(100)):
        try:
            files = {file: parts_of(file) for file in table_files(store, table, run)}
            merged = superseded(files)
            return {file: held for file, held in files.items() if file not in merged}
        except DatasetError as error:  # a resumed writer removes what died ones left, compaction changes names
            if error.kind != "vanished" or not attempts_left:
                raise
    raise AssertionError


def superseded(files: Mapping[File, frozenset[str]]) -> set[File]:
    """Of files and the parts they hold, those that compaction has merged into another, and not removed yet.

    Where it takes one step there are none: what is held twice there was copied, and a plain scan sees it twice.
    """
    merging = [held for file, held in files.items() if not file.store.locks]
    return {file for file, held in files.items() if any(held < other for other in merging)}


def committed_parts(store: Store, run: str) -> dict[str, File]:
    """Every committed part of a run and the transitions file that holds it. Raises `DatasetError` if two do."""
    parts: dict[str, File] = {}
    for file, held in held_parts(store, "transitions", run).items():
        for part in held:
            if part in parts:
                raise DatasetError(f"{parts[part]} and {file} hold the same rows ({part}): remove the smaller file")
            parts[part] = file
    return parts


def live_files(store: Store, table: str, run: str, parts: Iterable[str]) -> list[File]:
    """Files of a run that hold committed `parts` only, sorted by name."""
    files, committed = held_parts(store, table, run), frozenset(parts)
    if any(
        held & committed and held - committed for held in files.values()
    ):  # merged since, with parts committed since
        committed |= committed_parts(store, run).keys()
    return [file for file, held in files.items() if held <= committed]


def committed_episodes(store: Store, run: str) -> set[int]:
    """Numbers of a run's episodes that need not be collected again. Raises `DatasetError` if a file is damaged."""
    files = live_files(store, "episodes", run, committed_parts(store, run))
    return {number for file in files for number in read_columns(file, ["episode"])["episode"].to_pylist()}


def remove_leftovers(store: Store, run: str, prefix: str = "") -> None:
    """Remove what died writers of a run left: staged files, and files whose part was never committed.

    Only for whoever knows that no writer with a file name starting with `prefix` is at work; where there are no locks
    nobody does, and nothing is removed. Raises `DatasetError`, and removes no published file, if one of a table is gone
    whose rows another table has: they would be collected twice.
    """
    if not store.locks:
        return
    for name in store.list(STAGING):
        if name.startswith(f"{run}.{prefix}") or (name == f"compact-{run}/" and not prefix):
            store.delete(f"{STAGING}/{name}")
    parts, told_of, dead = committed_parts(store, run), set[str](), list[File]()
    for table in ("episodes", "sweeps"):
        for file, held in held_parts(store, table, run).items():
            if held.isdisjoint(parts):
                dead += [file] if file.stem.startswith(prefix) else []
            elif held - parts.keys():
                raise DatasetError(f"{file} has rows whose transitions file is gone: {BRING_BACK}")
            elif table == "episodes":
                told_of |= held
    for part in sorted(parts.keys() - told_of):
        raise DatasetError(f"{parts[part]} has rows whose episodes file is gone: {BRING_BACK}")
    for file in dead:
        store.delete(file.name)
