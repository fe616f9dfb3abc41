"""Merging datasets into a new one, which appears whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from lede.replay.errors import DatasetError
from lede.replay.files import (
    HEADER,
    VOCABULARY,
    committed_parts,
    hold,
    live_files,
    publish,
    run_ids,
    run_lock,
    stage,
    sync_folder,
    table_folder,
)
from lede.replay.integrity import verify
from lede.replay.reader import open_dataset
from lede.replay.schema import TABLES
from lede.replay.writer import run_file


def merge_datasets(paths: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> dict[str, int]:
    """Copy the committed rows of several datasets into a new one at `out`; returns {table: rows}.

    It is built beside `out`, in a hidden folder that the next attempt clears. Raises `DatasetError` if `out` holds
    anything, the datasets are of other models or candidates, two have the same run, or one is damaged; and `OSError`.
    """
    roots, target = [Path(path) for path in paths], Path(os.path.abspath(out))
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DatasetError(f"{out} is there already: merge into a new folder")
    open_dataset(*roots)  # or hear why they do not fit
    for root in roots:
        if wrong := [finding for finding in verify(root) if not finding.harmless]:
            raise DatasetError(f"{root} is damaged in {len(wrong)} places: see lede verify and lede repair")
    work = target.with_name(f".{target.name}.merging")
    if (lock := hold(run_lock(work, "merge"), exclusive=True)) is None:
        raise DatasetError(f"another merge into {out} is at work")
    try:
        for table in TABLES:  # of an attempt that was killed
            shutil.rmtree(work / table, ignore_errors=True)
        for path in work.rglob("*.json"):
            path.unlink()
        rows = _copy({run: root for root in roots for run in run_ids(root)}, roots[0], work)
        publish(work, target)
        return rows
    finally:
        shutil.rmtree(work, ignore_errors=True)
        os.close(lock)


def _copy(home: dict[str, Path], first: Path, work: Path) -> dict[str, int]:
    """Copy the runs, each from its dataset, and the header of the first; returns {table: rows}."""
    rows = dict.fromkeys(TABLES, 0)
    for run, root in home.items():
        stage(run_file(work, run), run_file(root, run).read_bytes())
        parts = committed_parts(root, run)  # once: a writer may commit more
        for table in TABLES:
            files = sorted(set(parts.values())) if table == "transitions" else live_files(root, table, run, parts)
            for path in files:
                stage(table_folder(work, table, run) / path.name, path.read_bytes())
                rows[table] += pq.read_metadata(path).num_rows
            if files:
                sync_folder(table_folder(work, table, run))
    for name in (HEADER, VOCABULARY):
        if (first / name).exists():
            stage(work / name, (first / name).read_bytes())
    sync_folder(work / "runs")
    sync_folder(work)
    return rows
