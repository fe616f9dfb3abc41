"""Setting damaged files aside, so that what is left can be read and what is missing be collected again."""

from __future__ import annotations

import os
import re
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from lede.replay.errors import DatasetError
from lede.replay.header import load_header
from lede.replay.integrity import Finding, verify
from lede.replay.parquet import check_seal, parts_of, read_columns
from lede.replay.parts import committed_episodes, started_runs, table_files
from lede.replay.runs import alone
from lede.replay.schema import TABLES
from lede.replay.store import URL, File, Store, open_store, present

ASIDE = ".damaged"  # a folder of the dataset that no scan sees

Parts = dict[File, frozenset[str]]  # of each file of a run


@dataclass(frozen=True)
class Repair:
    """What `repair_dataset` did.

    moved: (where a file or folder was, where it is now). lost: {run: {episode: its prompt's id, "" if unknown}}, as far
    as what was moved can still be read: the next collection with the run's arguments collects them. left: what is
    still wrong.
    """

    moved: list[tuple[Path | URL, Path | URL]]
    lost: dict[str, dict[int, str]]
    left: list[Finding]


def repair_dataset(path: str | os.PathLike[str]) -> Repair:
    """Move whatever `verify` finds wrong into the dataset's folder `.damaged`; nothing is deleted.

    The files of the other tables that hold the same parts go with it, so that no decision is left without its episode.
    Interrupted, repair again. Raises `DatasetError` if there is no dataset or a run is being written, and `OSError`. An
    object store does not tell who is writing: repair there when collectors and compactions are done.
    """
    store = open_store(path)
    load_header(store)
    moved: list[tuple[Path | URL, Path | URL]] = []
    lost: dict[str, dict[int, str]] = {}
    with ExitStack() as held:
        runs = started_runs(store)
        for run in runs:
            held.enter_context(alone(store, run, "repair"))
        while True:
            left = [finding for finding in verify(store.path) if not finding.harmless]
            if not (bad := {finding.file for finding in left if present(store, finding.file.name)}):
                break
            parts = {run: _parts(store, run) for run in runs}
            for held_by in parts.values():
                bad |= _with_their_parts(bad & held_by.keys(), held_by)
            for file in sorted(bad, key=lambda file: (file.table != "transitions", file.name)):  # commits first
                for run in (run for run in runs if file in parts[run]):
                    known = lost.setdefault(run, {})
                    known.update(_episodes(file, known))
                moved.append((file.path, _set_aside(file)))
        for run, episodes in lost.items():
            for number in episodes.keys() & committed_episodes(store, run):  # stored twice
                del episodes[number]
    return Repair(moved, {run: dict(sorted(episodes.items())) for run, episodes in lost.items() if episodes}, left)


def _parts(store: Store, run: str) -> Parts:
    """What each file of a run holds; of one that cannot tell, what its name says.

    A merged one holds what no other file of its table does.
    """
    parts: Parts = {}
    torn = []
    for table in TABLES:
        for file in table_files(store, table, run):
            try:
                check_seal(file)
                parts[file] = parts_of(file)
            except DatasetError:
                parts[file] = frozenset([file.stem] if re.match(r"part-\d", file.stem) else [])
                torn.append(file)
    every = frozenset[str]().union(*parts.values())
    for file in torn:
        if file.stem.startswith("merged-"):
            parts[file] = every.difference(*(parts[other] for other in parts if other.folder == file.folder))
        else:  # where there are no locks, the name of a commit is only the beginning of its part's
            parts[file] |= {part for part in every if part.startswith(f"{file.stem}.")}
    return parts


def _with_their_parts(bad: set[File], parts: Parts) -> set[File]:
    """Files that go together: bad ones, and those that hold a part which their tables then lack."""
    while True:
        kept = {(file.folder, part) for file in parts.keys() - bad for part in parts[file]}
        lost = {part for file in bad for part in parts[file] if (file.folder, part) not in kept}
        more = {file for file in parts.keys() - bad if parts[file] & lost}
        if not more:
            return bad
        bad = bad | more


def _episodes(file: File, known: dict[int, str]) -> dict[int, str]:
    """The episodes in a file, and the ids of their prompts where it has them or they are known."""
    try:
        rows = read_columns(file, ["episode", "prompt_id"] if file.table == "episodes" else ["episode"])
    except DatasetError:
        return {}
    numbers = rows["episode"].to_pylist()
    if file.table == "episodes":
        return dict(zip(numbers, rows["prompt_id"].to_pylist(), strict=True))
    return {number: known.get(number, "") for number in numbers}


def _set_aside(file: File) -> Path | URL:
    """Move a file or folder to the same place below `ASIDE`, as NAME.1 or the next that is free; returns where it is.

    The number also hides it from `**/*.parquet`, which in some libraries goes into hidden folders.
    """
    name = file.name.rstrip("/")
    free = next(new for n in count(1) if not present(file.store, new := f"{ASIDE}/{name}.{n}"))
    file.store.move(file.name, free)
    return file.store.path / free
