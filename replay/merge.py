"""Merging datasets into a new one, which appears whole or not at all."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Sequence

from lede.replay.errors import DatasetError
from lede.replay.header import HEADER, VOCABULARY, common_header
from lede.replay.integrity import verify
from lede.replay.parquet import count_rows, encode, parts_of, read_table
from lede.replay.parts import committed_episodes, committed_parts, live_files, next_number, run_ids
from lede.replay.runs import run_file
from lede.replay.schema import TABLES
from lede.replay.store import File, Store, open_store, present


def merge_datasets(paths: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> dict[str, int]:
    """Copy the committed rows of several datasets into a new one at `out`; returns {table: rows}.

    Raises `DatasetError` if `out` holds anything, the datasets are of other models or candidates, two have the same
    episode of a run, or one is damaged; and `OSError`.
    """
    stores = [open_store(path) for path in paths]
    with open_store(out).build() as work:
        common_header(stores)  # or hear why they do not fit
        for store in stores:
            if wrong := [finding for finding in verify(store.path) if not finding.harmless]:
                raise DatasetError(f"{store.path} is damaged in {len(wrong)} places: see lede verify and lede repair")
        homes: dict[str, list[Store]] = {}
        for store in stores:
            for run in run_ids(store):
                homes.setdefault(run, []).append(store)
        for run, holders in homes.items():
            _check_shares(run, holders)
        return _copy(homes, stores[0], work)


def _check_shares(run: str, stores: list[Store]) -> None:
    """Raise `DatasetError` if two datasets hold the same episode of a run; shards of it hold different ones."""
    home: dict[int, Store] = {}
    for store in stores if len(stores) > 1 else []:
        for number in sorted(committed_episodes(store, run)):
            if number in home:
                told = f"run {run} is in {home[number].path} and in {store.path}, and both have its episode {number}"
                raise DatasetError(f"{told}: take only the one that has more of it, or datasets that shards wrote")
            home[number] = store


def _copy(homes: dict[str, list[Store]], first: Store, work: Store) -> dict[str, int]:
    """Copy the runs, each from its datasets, and at last the header of the first; returns {table: rows}."""
    rows = dict.fromkeys(TABLES, 0)
    for run, stores in homes.items():
        work.create(run_file(run), stores[0].read(run_file(run)))
        taken: set[str] = set()  # names of parts
        there: defaultdict[str, set[str]] = defaultdict(set)  # the stems of files in a folder
        for store in stores:
            parts = committed_parts(store, run)  # once: a writer may commit more
            names: dict[str, str] = {}
            if taken & parts.keys():  # of another writer with the same number: they become those of one without
                free = 1 + max(
                    int(known[1]) for name in {"part-0-", *taken} if (known := re.match(r"part-(\d+)-", name))
                )
                names = {part: f"part-{free}-{i:05d}" for i, part in enumerate(sorted(parts))}
            taken |= {names.get(part, part) for part in parts}
            for table in TABLES:
                files = sorted(set(parts.values())) if table == "transitions" else live_files(store, table, run, parts)
                for file in files:
                    stems = there[file.folder]
                    stem = file.stem if file.stem not in stems else f"merged-{next_number(stems, 'merged-'):05d}"
                    stems.add(stem)
                    work.create(f"{file.folder}/{stem}.parquet", _renamed(file, names))
                    rows[table] += count_rows(file)
    drafted = {VOCABULARY: first.read(VOCABULARY)} if present(first, VOCABULARY) else {}
    work.create(HEADER, first.read(HEADER), before=drafted)
    return rows


def _renamed(file: File, names: dict[str, str]) -> bytes:
    """A file with other names of its parts, if they are given."""
    return encode(read_table(file), file.table, [names[part] for part in parts_of(file)]) if names else file.read()
