"""Is everything in a dataset what it should be? Says what is wrong, file by file, and what to do about it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lede.process import DRAFT, EXIT
from lede.replay.errors import DatasetError
from lede.replay.folder import STAGING
from lede.replay.header import load_header, read_json
from lede.replay.parquet import check_seal, not_finite, parts_of, read_table
from lede.replay.parts import RUN_FOLDER, started_runs, superseded, table_files
from lede.replay.reward import derive
from lede.replay.runs import run_file, run_name
from lede.replay.schema import OF_SAMPLED, TABLES, is_sorted, last_rows
from lede.replay.split import SPLITS
from lede.replay.store import URL, File, Store, open_store

COUNTED = ("rounds", "drafted", "accepted")  # of an episode


@dataclass(frozen=True)
class Finding:
    """Something wrong with one file.

    kind: torn, schema, foreign, unsorted, duplicate, values, missing, incomplete; or orphan, leftover, which readers
    of the library ignore, and which resuming the run or compacting removes.
    """

    file: File
    kind: str
    message: str

    @property
    def path(self) -> Path | URL:
        """Where the file is."""
        return self.file.path

    @property
    def harmless(self) -> bool:
        return self.kind in ("orphan", "leftover")

    def facts(self) -> dict[str, Any]:
        """The same for JSON and tables."""
        return {"path": str(self.path), "kind": self.kind, "message": self.message, "harmless": self.harmless}


def verify(path: str | os.PathLike[str]) -> list[Finding]:
    """Read every byte of a dataset and return what is wrong with it, sorted by path; empty if nothing is.

    Raises `DatasetError` if there is no dataset, `OSError` if a file cannot be read.
    """
    store = open_store(path)
    layers = int(load_header(store)["model"]["layers"])
    findings = list(_strangers(store))
    for run in started_runs(store):
        findings += _check_run(store, run, layers)
    return sorted(findings, key=lambda finding: (finding.path, finding.kind))


def _strangers(store: Store) -> Iterator[Finding]:
    """Whatever is not a run's Parquet file where only those belong, and what dead processes left in staging."""
    for folder in (File(store, f"{table}/{entry}") for table in TABLES for entry in store.list(table)):
        if not RUN_FOLDER.fullmatch(folder.name.partition("/")[2]):
            yield Finding(folder, "foreign", f"not a run of this library, move it out of {folder.table}/")
            continue
        for name in store.list(folder.name):
            if not name.endswith(".parquet") or name.startswith("."):
                file = File(store, f"{folder.name}{name}")
                yield Finding(file, "foreign", "not a Parquet file of this library, move it away")
    for entry in store.list(STAGING):
        told = "of a writer at work or one that died; resuming or compacting removes it"
        yield Finding(File(store, f"{STAGING}/{entry}"), "leftover", told)


def _check_run(store: Store, run: str, layers: int) -> Iterator[Finding]:
    about = File(store, run_file(run))
    try:
        if run_name(read_json(about, "arguments")["arguments"]) != run:
            yield Finding(about, "values", "its arguments are not those that the run is named after: restore it")
    except FileNotFoundError:
        yield Finding(about, "missing", "the description of the run, copy it from where the rows are from")
    except DatasetError as error:
        yield Finding(about, "torn", str(error))
    committed: dict[str, File] = {}
    described: set[str] = set()
    counts: dict[int, tuple[int, ...]] = {}
    heat: dict[int, float] = {}  # of episodes, by their transitions
    owners: dict[str, dict[int, File]] = {table: {} for table in TABLES}
    for table in reversed(TABLES):  # transitions first: they say which parts of the others count
        owner, merged = owners[table], _merged(store, table, run)
        for file in table_files(store, table, run):
            if file in merged:
                yield Finding(file, "leftover", "merged into another; compacting again removes it")
                continue
            try:
                check_seal(file)
                rows, parts = read_table(file), parts_of(file)
            except DatasetError as error:
                yield Finding(file, error.kind, str(error).removeprefix(f"{file} "))
                continue
            if table == "transitions":
                for part in sorted(parts & committed.keys()):
                    yield Finding(file, "duplicate", f"holds {part} again, as {committed[part]} does: remove one")
                committed |= dict.fromkeys(parts, file)
                counts |= _counts(rows) if rows.num_rows else {}
                heat |= dict(zip(*(rows[name].to_pylist() for name in ("episode", "temperature")), strict=True))
            elif parts & committed.keys() and parts - committed.keys():
                yield Finding(file, "missing", "the transitions of some of its rows are gone: restore their file")
                continue
            elif not parts <= committed.keys():
                yield Finding(file, "orphan", "its transitions were never committed; ignored, resuming removes it")
                continue
            elif table == "episodes":
                described |= parts
                yield from _check_counts(file, rows, counts)
                yield from _check_settings(file, rows, heat)
            yield from _check_rows(rows, file, layers)
            episodes = rows["episode"].unique().to_pylist()
            if twice := [episode for episode in episodes if episode in owner]:
                yield Finding(file, "duplicate", f"has episode {twice[0]} again, as {owner[twice[0]]} does: remove one")
            owner |= dict.fromkeys(episodes, file)
    for part in sorted(committed.keys() - described):
        yield Finding(committed[part], "missing", f"no episodes file has {part}: copy it from where the rows are from")
    if described >= committed.keys():
        for episode in sorted(owners["transitions"].keys() - owners["episodes"].keys()):
            file = owners["transitions"][episode]
            yield Finding(file, "incomplete", f"episode {episode} is in no episodes file: collect it again")


def _merged(store: Store, table: str, run: str) -> set[File]:
    """Files that a compaction which died has merged and not removed."""
    try:
        return superseded({file: parts_of(file) for file in table_files(store, table, run)})
    except DatasetError:  # of a damaged one, which is told of anyway
        return set()


def _check_counts(file: File, episodes: pa.Table, counts: Mapping[int, tuple[int, ...]]) -> Iterator[Finding]:
    """Whether episodes have the transitions that they tell of."""
    for episode, *told in zip(*(episodes[name].to_pylist() for name in ("episode", *COUNTED)), strict=True):
        found = counts.get(episode, (0, 0, 0))
        if found[0] > told[0] or found[1:] != (*told[1:],):  # a round without decisions has no row
            message = f"episode {episode} has {{}} by itself, {{}} by its transitions: collect it again"
            yield Finding(file, "incomplete", message.format(*map(_listed, (told, found))))


def _check_settings(file: File, episodes: pa.Table, heat: Mapping[int, float]) -> Iterator[Finding]:
    """Whether episodes were chosen as settings can ask for, and as their transitions say."""
    names = ("episode", "temperature", "top_p", "options")
    for episode, temperature, top_p, options in zip(*(episodes[name].to_pylist() for name in names), strict=True):
        apart = abs(heat.get(episode, temperature) - temperature)
        checks = {
            "temperature": temperature >= 0,
            "top_p": 0 < top_p <= 1,
            "options": _is_options(options),
            "temperature, which is not that of its transitions": apart <= temperature * 2**-10,  # rounded there
        }
        if wrong := [what for what, fine in checks.items() if not fine]:
            yield Finding(file, "values", f"episode {episode} cannot have its {wrong[0]}: collect it again")


def _is_options(text: str) -> bool:
    """Whether this is a JSON object, or nothing."""
    with suppress(ValueError):
        return not text or isinstance(json.loads(text), dict)
    return False


def _listed(counts: Iterable[int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in zip(COUNTED, counts, strict=True))


def _counts(rows: pa.Table) -> dict[int, tuple[int, ...]]:
    """By episode, what its transitions tell of COUNTED; rounds at least."""
    names = ("episode", "round", "phase", "action", "accepted")
    episode, round_, phase, action, accepted = (rows[name].to_numpy() for name in names)
    episodes, start = np.unique(episode, return_index=True)
    drafted = (phase == DRAFT) | (action == EXIT)
    sums = (np.add.reduceat(mask.astype(int), start).tolist() for mask in (drafted, drafted & accepted))
    rounds = (np.maximum.reduceat(round_, start).astype(int) + 1).tolist()
    return dict(zip(episodes.tolist(), zip(rounds, *sums, strict=True), strict=True))


def _check_rows(rows: pa.Table, file: File, layers: int) -> Iterator[Finding]:
    table = file.table
    if not is_sorted(rows, table, strict=False):
        yield Finding(file, "unsorted", "rows are out of order: it was rewritten by other software, restore it")
        return
    if not is_sorted(rows, table, strict=True):
        yield Finding(file, "duplicate", "has a row twice: it was rewritten by other software, restore it")
    for name in not_finite(rows):
        yield Finding(file, "values", f"{name} is NaN or infinite somewhere: collect these episodes again")
    if table == "episodes" and (strange := set(rows["split"].unique().to_pylist()) - {"", *SPLITS}):
        yield Finding(file, "values", f"{min(strange)!r} is no split: it was rewritten by other software, restore it")
    if table != "episodes":
        greedy = rows["temperature"].to_numpy() == 0
        for name in (name for name in OF_SAMPLED if rows[name].to_numpy()[greedy].any()):
            yield Finding(file, "values", f"{name} is not 0 somewhere in greedy text: collect these episodes again")
    if table == "transitions" and rows.num_rows:
        arrays = {name: rows[name].to_numpy() for name in rows.column_names}
        probability, ends = arrays["propensity"], last_rows(arrays["episode"], arrays["round"])
        if not ((probability > 0) & (probability <= 1)).all():
            yield Finding(file, "values", "a propensity is not in (0, 1]: these rows cannot be used to score a policy")
        position, index, place = arrays["position"], arrays["draft_index"], np.arange(len(ends))
        start = np.maximum.accumulate(np.where(np.roll(ends, 1), place, 0))  # of the row's round
        given = derive(arrays, layers) | {
            "step": place - start,
            "chain": index - 1,
            "position": position[start] + index - 1,
        }
        wrong = [name for name, values in given.items() if not np.array_equal(arrays[name], values)]
        wrong += [] if np.array_equal(ends, arrays["terminal"] ^ arrays["truncated"]) else ["terminal or truncated"]
        for name in wrong:
            yield Finding(file, "values", f"{name} is not what the other columns give: collect these episodes again")
