"""Setting damaged files aside, so that what is left can be read and what is missing be collected again."""

from __future__ import annotations

import os
import re
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from lede.replay.errors import DatasetError
from lede.replay.folder import publish, sync_folder
from lede.replay.header import load_header
from lede.replay.integrity import Finding, verify
from lede.replay.parquet import check_seal, parts_of, read_columns
from lede.replay.parts import started_runs, table_files
from lede.replay.runs import Run, alone
from lede.replay.schema import TABLES
from lede.replay.storage import ObjectPath, place

ASIDE = ".damaged"  # a folder of the dataset that no scan sees

Parts = dict[Path, frozenset[str]]  # of each file of a run


@dataclass(frozen=True)
class Repair:
    """What `repair_dataset` did.

    moved: (where a file or folder was, where it is now). lost: {run: {episode: its prompt's id, "" if unknown}}, as far
    as what was moved can still be read: the next collection with the run's arguments collects them. left: what is
    still wrong.
    """

    moved: list[tuple[Path, Path]]
    lost: dict[str, dict[int, str]]
    left: list[Finding]


def repair_dataset(path: str | os.PathLike[str]) -> Repair:
    """Move whatever `verify` finds wrong into the dataset's folder `.damaged`; nothing is deleted.

    The files of the other tables that hold the same parts go with it, so that no decision is left without its episode.
    Interrupted, repair again. Raises `DatasetError` if there is no dataset or a run is being written, and `OSError`.
    """
    root = place(path)
    if isinstance(root, ObjectPath):
        raise DatasetError(f"{root} is in an object store, where nothing can be set aside: repair a local copy")
    layers = load_header(root)["model"]["layers"]
    moved: list[tuple[Path, Path]] = []
    lost: dict[str, dict[int, str]] = {}
    with ExitStack() as held:
        runs = started_runs(root)
        for run in runs:
            held.enter_context(alone(root, run, "repair"))
        while True:
            left = [finding for finding in verify(root) if not finding.harmless]
            if not (bad := {finding.path for finding in left if finding.path.exists()}):
                break
            parts = {run: _parts(root, run) for run in runs}
            for held_by in parts.values():
                bad |= _with_their_parts(bad & held_by.keys(), held_by)
            for file in sorted(bad, key=lambda file: (file.parent.parent.name != "transitions", file)):  # commits first
                for run in (run for run in runs if file in parts[run]):
                    known = lost.setdefault(run, {})
                    known.update(_episodes(file, known))
                moved.append((file, _set_aside(root, file)))
        for run, episodes in lost.items():
            for number in episodes.keys() & Run(root, run, layers).committed():  # stored twice
                del episodes[number]
    return Repair(moved, {run: dict(sorted(episodes.items())) for run, episodes in lost.items() if episodes}, left)


def _parts(root: Path, run: str) -> Parts:
    """What each file of a run holds; a merged file that cannot tell, what no other file of its table does."""
    parts: Parts = {}
    torn = []
    for table in TABLES:
        for path in table_files(root, table, run):
            try:
                check_seal(path, table)
                parts[path] = parts_of(path, table)
            except DatasetError:
                parts[path] = frozenset([path.stem] if re.match(r"part-\d", path.stem) else [])
                torn += [path] if path.stem.startswith("merged-") else []
    every = frozenset[str]().union(*parts.values())
    for path in torn:
        parts[path] = every.difference(*(parts[other] for other in parts if other.parent == path.parent))
    return parts


def _with_their_parts(bad: set[Path], parts: Parts) -> set[Path]:
    """Files that go together: bad ones, and those that hold a part which their tables then lack."""
    while True:
        kept = {(path.parent, part) for path in parts.keys() - bad for part in parts[path]}
        lost = {part for path in bad for part in parts[path] if (path.parent, part) not in kept}
        more = {path for path in parts.keys() - bad if parts[path] & lost}
        if not more:
            return bad
        bad = bad | more


def _episodes(path: Path, known: dict[int, str]) -> dict[int, str]:
    """The episodes in a file, and the ids of their prompts where it has them or they are known."""
    table = path.parent.parent.name
    try:
        rows = read_columns(path, table, ["episode", "prompt_id"] if table == "episodes" else ["episode"])
    except DatasetError:
        return {}
    numbers = rows["episode"].to_pylist()
    if table == "episodes":
        return dict(zip(numbers, rows["prompt_id"].to_pylist(), strict=True))
    return {number: known.get(number, "") for number in numbers}


def _set_aside(root: Path, path: Path) -> Path:
    """Move a file or folder to the same place below `ASIDE`, as NAME.1 or the next that is free; returns where it is.

    The number also hides it from `**/*.parquet`, which in some libraries goes into hidden folders.
    """
    place = root / ASIDE / path.relative_to(root)
    free = next(new for n in count(1) if not (new := place.with_name(f"{path.name}.{n}")).exists())
    publish(path, free)
    sync_folder(path.parent)
    return free
