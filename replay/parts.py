"""Which files of a dataset count.

A *part* is what one flush of one writer publishes: `episodes/run=<id>/<part>.parquet`, perhaps one in `sweeps`, and
last the one in `transitions`, which commits it. A file's metadata lists the parts it holds: one as flushed, several
after compaction. An episodes or sweeps file counts when every part it holds is held by some transitions file. Files are
written in the dataset's `.staging` folder and renamed, so that any reader may scan the table folders at any time.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lede.replay.errors import DatasetError
from lede.replay.folder import STAGING
from lede.replay.parquet import parts_of
from lede.replay.schema import TABLES
from lede.replay.storage import ObjectPath

BRING_BACK = "restore it from a copy, or lede repair the dataset, then collect again"
# A letter first: polars would take the value of `run=1234567` for a number. 28 bits: see `episode_numbers`.
RUN_FOLDER = re.compile(r"run=r[0-9a-f]{7}")


def table_folder(root: Path, table: str, run: str) -> Path:
    return root / table / f"run={run}"


def visible(folder: Path, pattern: str) -> list[Path]:
    """What is in a folder, sorted by name, without names that begin with a dot: macOS leaves a `._x` beside any x."""
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))


def table_files(root: Path, table: str, run: str) -> list[Path]:
    """Published files of a run in a table, sorted by name."""
    return visible(table_folder(root, table, run), "*.parquet")


def run_ids(root: Path) -> list[str]:
    """Ids of the runs that have committed something, sorted. Raises `DatasetError` about any other folder there."""
    folders = visible(root / "transitions", "run=*")
    for folder in folders:
        if not RUN_FOLDER.fullmatch(folder.name):
            raise DatasetError(f"{folder} is not a run of this library: move it out of the dataset")
    return [folder.name.removeprefix("run=") for folder in folders]


def started_runs(root: Path) -> list[str]:
    """Ids of the runs that have a file in any table, sorted."""
    folders = (folder.name for table in TABLES for folder in visible(root / table, "run=*"))
    return sorted({name.removeprefix("run=") for name in folders if RUN_FOLDER.fullmatch(name)})


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


def held_parts(root: Path, table: str, run: str) -> dict[Path, frozenset[str]]:
    """Files of a run in a table, sorted by name, and the parts they hold, without those that are `superseded`.

    Lists again if one vanishes meanwhile.
    """
    for attempts_left in reversed(range(100)):
        try:
            files = {path: parts_of(path, table) for path in table_files(root, table, run)}
            merged = superseded(files)
            return {path: held for path, held in files.items() if path not in merged}
        except DatasetError as error:  # a resumed writer removes what died ones left, compaction changes names
            if error.kind != "vanished" or not attempts_left:
                raise
    raise AssertionError


def superseded(files: Mapping[Path, frozenset[str]]) -> set[Path]:
    """Of files and the parts they hold, objects that compaction has merged into another, and not removed yet."""
    objects = [held for path, held in files.items() if isinstance(path, ObjectPath)]
    return {path for path, held in files.items() if any(held < other for other in objects)}


def committed_parts(root: Path, run: str) -> dict[str, Path]:
    """Every committed part of a run and the transitions file that holds it. Raises `DatasetError` if two do."""
    parts: dict[str, Path] = {}
    for path, held in held_parts(root, "transitions", run).items():
        for part in held:
            if part in parts:
                raise DatasetError(f"{parts[part]} and {path} hold the same rows ({part}): remove the smaller file")
            parts[part] = path
    return parts


def live_files(root: Path, table: str, run: str, parts: Iterable[str]) -> list[Path]:
    """Files of a run that hold committed `parts` only, sorted by name."""
    files, committed = held_parts(root, table, run), frozenset(parts)
    if any(
        held & committed and held - committed for held in files.values()
    ):  # merged since, with parts committed since
        committed |= committed_parts(root, run).keys()
    return [path for path, held in files.items() if held <= committed]


def remove_leftovers(root: Path, run: str, prefix: str = "") -> None:
    """Remove what died writers of a run left: staged files, and files whose part was never committed.

    Only for whoever knows that no writer with a file name starting with `prefix` is at work: nobody in object stores.
    Raises `DatasetError`, and removes no published file, if one of a table is gone whose rows another table has: they
    would be collected twice.
    """
    if isinstance(root, ObjectPath):
        return
    for path in (root / STAGING).glob(f"{run}.{prefix}*"):
        path.unlink(missing_ok=True)
    if not prefix:
        shutil.rmtree(root / STAGING / f"compact-{run}", ignore_errors=True)
    parts, described, dead = committed_parts(root, run), set[str](), list[Path]()
    for table in ("episodes", "sweeps"):
        for path, held in held_parts(root, table, run).items():
            if held.isdisjoint(parts):
                dead += [path] if path.name.startswith(prefix) else []
            elif held - parts.keys():
                raise DatasetError(f"{path} has rows whose transitions file is gone: {BRING_BACK}")
            elif table == "episodes":
                described |= held
    for part in sorted(parts.keys() - described):
        raise DatasetError(f"{parts[part]} has rows whose episodes file is gone: {BRING_BACK}")
    for path in dead:
        path.unlink()
