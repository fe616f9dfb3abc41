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
from lede.replay.parquet import check_seal, not_finite, parts_of, read_columns
from lede.replay.parts import RUN_FOLDER, started_runs, superseded, table_files
from lede.replay.reward import derive
from lede.replay.runs import run_file, run_name
from lede.replay.schema import OF_SAMPLED, TABLES, is_sorted, last_rows
from lede.replay.split import SPLITS
from lede.replay.storage import ObjectPath, place

COUNTED = ("rounds", "drafted", "accepted")  # of an episode


@dataclass(frozen=True)
class Finding:
    """Something wrong with one file.

    kind: torn, schema, foreign, unsorted, duplicate, values, missing, incomplete; or orphan, leftover, which readers
    of the library ignore, and which resuming the run or compacting removes.
    """

    path: Path
    kind: str
    message: str

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
    root = place(path)
    layers = int(load_header(root)["model"]["layers"])
    findings = list(_strangers(root))
    for run in started_runs(root):
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
        if run_name(read_json(about, "arguments")["arguments"]) != run:
            yield Finding(about, "values", "its arguments are not those that the run is named after: restore it")
    except FileNotFoundError:
        yield Finding(about, "missing", "the description of the run, copy it from where the rows are from")
    except DatasetError as error:
        yield Finding(about, "torn", str(error))
    committed: dict[str, Path] = {}
    described: set[str] = set()
    counts: dict[int, tuple[int, ...]] = {}
    heat: dict[int, float] = {}  # of episodes, by their transitions
    owners: dict[str, dict[int, Path]] = {table: {} for table in TABLES}
    for table in reversed(TABLES):  # transitions first: they say which parts of the others count
        owner, merged = owners[table], _merged(root, table, run)
        for path in table_files(root, table, run):
            if path in merged:
                yield Finding(path, "leftover", "merged into another; compacting again removes it")
                continue
            try:
                check_seal(path, table)
                rows, parts = read_columns(path, table, TABLES[table].names), parts_of(path, table)
            except DatasetError as error:
                yield Finding(path, error.kind, str(error).removeprefix(f"{path} "))
                continue
            if table == "transitions":
                for part in sorted(parts & committed.keys()):
                    yield Finding(path, "duplicate", f"holds {part} again, as {committed[part]} does: remove one")
                committed |= dict.fromkeys(parts, path)
                counts |= _counts(rows) if rows.num_rows else {}
                heat |= dict(zip(*(rows[name].to_pylist() for name in ("episode", "temperature")), strict=True))
            elif parts & committed.keys() and parts - committed.keys():
                yield Finding(path, "missing", "the transitions of some of its rows are gone: restore their file")
                continue
            elif not parts <= committed.keys():
                yield Finding(path, "orphan", "its transitions were never committed; ignored, resuming removes it")
                continue
            elif table == "episodes":
                described |= parts
                yield from _check_counts(path, rows, counts)
                yield from _check_settings(path, rows, heat)
            yield from _check_rows(rows, table, path, layers)
            episodes = rows["episode"].unique().to_pylist()
            if twice := [episode for episode in episodes if episode in owner]:
                yield Finding(path, "duplicate", f"has episode {twice[0]} again, as {owner[twice[0]]} does: remove one")
            owner |= dict.fromkeys(episodes, path)
    for part in sorted(committed.keys() - described):
        yield Finding(committed[part], "missing", f"no episodes file has {part}: copy it from where the rows are from")
    if described >= committed.keys():
        for episode in sorted(owners["transitions"].keys() - owners["episodes"].keys()):
            path = owners["transitions"][episode]
            yield Finding(path, "incomplete", f"episode {episode} is in no episodes file: collect it again")


def _merged(root: Path, table: str, run: str) -> set[Path]:
    """Objects that a compaction which died has merged and not removed."""
    if not isinstance(root, ObjectPath):
        return set()
    try:
        return superseded({path: parts_of(path, table) for path in table_files(root, table, run)})
    except DatasetError:  # of a damaged one, which is told of anyway
        return set()


def _check_counts(path: Path, episodes: pa.Table, counts: Mapping[int, tuple[int, ...]]) -> Iterator[Finding]:
    """Whether episodes have the transitions that they tell of."""
    for episode, *told in zip(*(episodes[name].to_pylist() for name in ("episode", *COUNTED)), strict=True):
        found = counts.get(episode, (0, 0, 0))
        if found[0] > told[0] or found[1:] != (*told[1:],):  # a round without decisions has no row
            message = f"episode {episode} has {{}} by itself, {{}} by its transitions: collect it again"
            yield Finding(path, "incomplete", message.format(*map(_listed, (told, found))))


def _check_settings(path: Path, episodes: pa.Table, heat: Mapping[int, float]) -> Iterator[Finding]:
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
            yield Finding(path, "values", f"episode {episode} cannot have its {wrong[0]}: collect it again")


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
    if table != "episodes":
        greedy = rows["temperature"].to_numpy() == 0
        for name in (name for name in OF_SAMPLED if rows[name].to_numpy()[greedy].any()):
            yield Finding(path, "values", f"{name} is not 0 somewhere in greedy text: collect these episodes again")
    if table == "transitions" and rows.num_rows:
        arrays = {name: rows[name].to_numpy() for name in rows.column_names}
        probability, ends = arrays["propensity"], last_rows(arrays["episode"], arrays["round"])
        if not ((probability > 0) & (probability <= 1)).all():
            yield Finding(path, "values", "a propensity is not in (0, 1]: these rows cannot be used to score a policy")
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
            yield Finding(path, "values", f"{name} is not what the other columns give: collect these episodes again")
