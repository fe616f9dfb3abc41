"""Is everything in a dataset what it should be? Says what is wrong, file by file, and what to do about it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from lede.replay.errors import DatasetError
from lede.replay.files import RUN_FOLDER, STAGING, not_finite, parts_of, read_columns, read_json, table_files, visible
from lede.replay.schema import TABLES, last_rows
from lede.replay.split import SPLITS
from lede.replay.writer import derive, is_sorted, load_header, run_file

HARMLESS = ("orphan", "leftover")


@dataclass(frozen=True)
class Finding:
    """Something wrong with one file.

    kind: torn, schema, foreign, unsorted, duplicate, values, missing; or orphan, leftover, which readers
    of the library ignore, and which resuming the run or compacting removes.
    """

    path: Path
    kind: str
    message: str

    @property
    def harmless(self) -> bool:
        return self.kind in HARMLESS

    def __str__(self) -> str:
        return f"{self.path}: {self.kind}: {self.message}"


def verify(path: str | os.PathLike[str]) -> list[Finding]:
    """Read every byte of a dataset and return what is wrong with it, sorted by path; empty if nothing is.

    Raises `DatasetError` if there is no dataset, `OSError` if a file cannot be read.
    """
    root = Path(path)
    layers = int(load_header(root)["model"]["layers"])
    findings = list(_strangers(root))
    runs = sorted({folder.name.removeprefix("run=") for table in TABLES for folder in visible(root / table, "run=*")})
    for run in runs:
        findings += _check_run(root, run, layers)
    return sorted(findings, key=lambda finding: (finding.path, finding.kind))


def _strangers(root: Path) -> Iterator[Finding]:
    """Whatever is not a run's Parquet file where only those belong, and what dead processes left in staging."""
    for table in TABLES:
        for folder in (root / table).glob("*"):
            if not folder.is_dir() or not RUN_FOLDER.fullmatch(folder.name):
                yield Finding(folder, "foreign", f"not a run of this library, move it out of {table}/")
                continue
            for entry in folder.iterdir():
                if entry.suffix != ".parquet" or entry.name.startswith(".") or not entry.is_file():
                    yield Finding(entry, "foreign", "not a Parquet file of this library, move it away")
    for entry in (root / STAGING).glob("*"):
        yield Finding(entry, "leftover", "of a writer at work or one that died; resuming or compacting removes it")


def _check_run(root: Path, run: str, layers: int) -> Iterator[Finding]:
    about = run_file(root, run)
    try:
        read_json(about)
    except FileNotFoundError:
        yield Finding(about, "missing", "the description of the run, copy it from where the rows are from")
    except DatasetError as error:
        yield Finding(about, "torn", str(error))
    committed: dict[str, Path] = {}
    described: set[str] = set()
    for table in reversed(TABLES):  # transitions first: they say which parts of the others count
        owner: dict[int, Path] = {}
        for path in table_files(root, table, run):
            try:
                rows, parts = read_columns(path, table, TABLES[table].names), parts_of(path, table)
            except DatasetError as error:
                yield Finding(path, error.kind, str(error).removeprefix(f"{path} "))
                continue
            if table == "transitions":
                for part in sorted(parts & committed.keys()):
                    yield Finding(path, "duplicate", f"holds {part} again, as {committed[part]} does: remove one")
                committed |= dict.fromkeys(parts, path)
            elif not parts <= committed.keys():
                yield Finding(path, "orphan", "its transitions were never committed; ignored, resuming removes it")
                continue
            elif table == "episodes":
                described |= parts
            yield from _check_rows(rows, table, path, layers)
            episodes = rows["episode"].unique().to_pylist()
            if twice := [episode for episode in episodes if episode in owner]:
                yield Finding(path, "duplicate", f"has episode {twice[0]} again, as {owner[twice[0]]} does: remove one")
            owner |= dict.fromkeys(episodes, path)
    for part in sorted(committed.keys() - described):
        yield Finding(committed[part], "missing", f"no episodes file has {part}: copy it from where the rows are from")


def _check_rows(rows: pa.Table, table: str, path: Path, layers: int) -> Iterator[Finding]:
    if not is_sorted(rows, table, strict=False):
        yield Finding(path, "unsorted", "rows are out of order: it was rewritten by other software, restore it")
        return
    if not is_sorted(rows, table, strict=True):
        yield Finding(path, "duplicate", "has a row twice: it was rewritten by other software, restore it")
    for name in not_finite(rows):
        yield Finding(path, "values", f"{name} is NaN or infinite somewhere: collect these episodes again")
    if table == "episodes" and (strange := set(rows["split"].unique().to_pylist()) - {"", *SPLITS}):
        yield Finding(path, "values", f"{min(strange)!r} is no split: it was rewritten by other software, restore it")
    if table == "transitions" and rows.num_rows:
        yield from _check_transitions({name: rows[name].to_numpy() for name in rows.column_names}, path, layers)


def _check_transitions(rows: dict[str, np.ndarray], path: Path, layers: int) -> Iterator[Finding]:
    """Values that follow from others."""
    probability = rows["propensity"]
    if not ((probability > 0) & (probability <= 1)).all():
        yield Finding(path, "values", "a propensity is not in (0, 1]: these rows cannot be used to score a policy")
    if not np.array_equal(last_rows(rows["episode"], rows["round"]), rows["terminal"] ^ rows["truncated"]):
        yield Finding(path, "values", "terminal and truncated do not mark the last rows of rounds")
    for name, values in derive(rows, layers).items():
        if not np.array_equal(rows[name], values):
            yield Finding(path, "values", f"{name} is not what the other columns give: collect these episodes again")
