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
        return self.kind in ("orphan", "leftover")


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
    for entry in (entry for table in TABLES for entry in (root / table).glob("*")):
        if not entry.is_dir() or not RUN_FOLDER.fullmatch(entry.name):
            yield Finding(entry, "foreign", f"not a run of this library, move it out of {entry.parent.name}/")
            continue
        for file in entry.iterdir():
            if file.suffix != ".parquet" or file.name.startswith(".") or not file.is_file():
                yield Finding(file, "foreign", "not a Parquet file of this library, move it away")
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
        arrays = {name: rows[name].to_numpy() for name in rows.column_names}
        probability, ends = arrays["propensity"], last_rows(arrays["episode"], arrays["round"])
        if not ((probability > 0) & (probability <= 1)).all():
            yield Finding(path, "values", "a propensity is not in (0, 1]: these rows cannot be used to score a policy")
        wrong = [name for name, values in derive(arrays, layers).items() if not np.array_equal(arrays[name], values)]
        wrong += [] if np.array_equal(ends, arrays["terminal"] ^ arrays["truncated"]) else ["terminal or truncated"]
        for name in wrong:
            yield Finding(path, "values", f"{name} is not what the other columns give: collect these episodes again")
