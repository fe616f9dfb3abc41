"""Merging datasets into a new one, which appears whole or not at all."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from lede.replay.errors import DatasetError
from lede.replay.folder import hold, publish, stage, sync_folder
from lede.replay.header import HEADER, VOCABULARY, common_header
from lede.replay.integrity import verify
from lede.replay.parquet import encode, parts_of, read_columns
from lede.replay.parts import committed_parts, live_files, next_number, run_ids, table_folder
from lede.replay.runs import Run, run_file, run_lock
from lede.replay.schema import TABLES
from lede.replay.storage import ObjectPath, place, readable


def merge_datasets(paths: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> dict[str, int]:
    """Copy the committed rows of several datasets into a new one at `out`; returns {table: rows}.

    It is built beside `out`, in a hidden folder that the next attempt clears. Raises `DatasetError` if `out` holds
    anything, the datasets are of other models or candidates, two have the same episode of a run, or one is damaged; and
    `OSError`.
    """
    if isinstance(place(out), ObjectPath):
        raise DatasetError(f"{out} is in an object store: merge into a folder, and copy that")
    roots, target = [place(path) for path in paths], Path(os.path.abspath(out))
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DatasetError(f"{out} is there already: merge into a new folder")
    common_header(roots)  # or hear why they do not fit
    for root in roots:
        if wrong := [finding for finding in verify(root) if not finding.harmless]:
            raise DatasetError(f"{root} is damaged in {len(wrong)} places: see lede verify and lede repair")
    homes: dict[str, list[Path]] = {}
    for root in roots:
        for run in run_ids(root):
            homes.setdefault(run, []).append(root)
    for run, holders in homes.items():
        _check_shares(run, holders)
    work = target.with_name(f".{target.name}.merging")
    if (lock := hold(run_lock(work, "merge"), exclusive=True)) is None:
        raise DatasetError(f"another merge into {out} is at work")
    try:
        for table in TABLES:  # of an attempt that was killed
            shutil.rmtree(work / table, ignore_errors=True)
        for path in work.rglob("*.json"):
            path.unlink()
        rows = _copy(homes, roots[0], work)
        publish(work, target)
        return rows
    finally:
        shutil.rmtree(work, ignore_errors=True)
        os.close(lock)


def _check_shares(run: str, roots: list[Path]) -> None:
    """Raise `DatasetError` if two datasets hold the same episode of a run; shards of it hold different ones."""
    home: dict[int, Path] = {}
    for root in roots if len(roots) > 1 else []:
        for number in sorted(Run(root, run, 0).committed()):
            if number in home:
                told = f"run {run} is in {home[number]} and in {root}, and both have its episode {number}"
                raise DatasetError(f"{told}: take only the one that has more of it, or datasets that shards wrote")
            home[number] = root


def _copy(homes: dict[str, list[Path]], first: Path, work: Path) -> dict[str, int]:
    """Copy the runs, each from its datasets, and the header of the first; returns {table: rows}."""
    rows = dict.fromkeys(TABLES, 0)
    for run, roots in homes.items():
        stage(run_file(work, run), run_file(roots[0], run).read_bytes())
        taken: set[str] = set()  # names of parts
        for root in roots:
            parts = committed_parts(root, run)  # once: a writer may commit more
            names: dict[str, str] = {}
            if taken & parts.keys():  # of another writer with the same number: they become those of one without
                free = 1 + max(
                    int(known[1]) for name in {"part-0-", *taken} if (known := re.match(r"part-(\d+)-", name))
                )
                names = {part: f"part-{free}-{i:05d}" for i, part in enumerate(sorted(parts))}
            taken |= {names.get(part, part) for part in parts}
            for table in TABLES:
                files = sorted(set(parts.values())) if table == "transitions" else live_files(root, table, run, parts)
                for path in files:
                    _copy_file(path, table_folder(work, table, run), table, names)
                    rows[table] += pq.read_metadata(readable(path, whole=False)).num_rows
                if files:
                    sync_folder(table_folder(work, table, run))
    for name in (HEADER, VOCABULARY):
        if (first / name).exists():
            stage(work / name, (first / name).read_bytes())
    sync_folder(work / "runs")
    sync_folder(work)
    return rows


def _copy_file(path: Path, folder: Path, table: str, names: dict[str, str]) -> None:
    """Copy a file into a folder, under another name if that is taken, with other names of its parts if given."""
    target = folder / path.name
    if target.exists():
        target = folder / f"merged-{next_number((file.stem for file in folder.iterdir()), 'merged-'):05d}.parquet"
    if names:
        parts = [names[part] for part in parts_of(path, table)]
        stage(target, encode(read_columns(path, table, TABLES[table].names), table, parts))
    else:
        stage(target, path.read_bytes())
