"""Writing episodes into a run of a dataset, in parts that appear whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa

from lede.replay.errors import DatasetError
from lede.replay.parquet import encode
from lede.replay.parts import committed_parts, next_number, remove_leftovers, table_files, table_folder
from lede.replay.reward import derive
from lede.replay.runs import Run, locked, run_lock, sharing
from lede.replay.schema import ADDED, EPISODES, SORT_KEYS, TABLES, is_sorted
from lede.replay.store import present

FIRST_FLUSH = 5.0  # seconds
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what a smaller part may still fit into

Rows = Mapping[str, Sequence[Any] | np.ndarray]


@dataclass
class _Part:
    """What the next flush will publish."""

    number: int
    episodes: list[dict[str, pa.Table]] = field(default_factory=list)
    opened: float = 0.0  # when its first episode came, in seconds of the monotonic clock
    #: Commits that were tried: by a hash of the file, the part's name and how many episodes are in it.
    tried: dict[bytes, tuple[str, int]] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return sum(tables["transitions"].num_rows for tables in self.episodes)


class EpisodeWriter:
    """Buffers the episodes of one worker of a run, and publishes them as a part when there are enough.

    Files are named after run and worker, so any number of workers may write at the same time. `add` flushes when
    `flush_rows` decisions are buffered or the oldest has waited `flush_seconds` (at first less, so that a disk that
    cannot be written is known soon); leaving the context flushes the rest, and raises a `DatasetError` that says how
    much could not be written. Raises `DatasetError` if a writer with this number is at work on the run.
    """

    def __init__(self, run: Run, worker: int = 0, flush_rows: int = 100_000, flush_seconds: float = 60.0) -> None:
        self.run, self.worker = run, worker
        self.flush_rows, self.flush_seconds = flush_rows, flush_seconds
        self._wait = min(FIRST_FLUSH, flush_seconds)
        store, self._prefix = run.store, f"part-{worker}-"
        with ExitStack() as held:
            held.enter_context(sharing(store, run.id))
            told = f"writer {worker} of run {run.id} is at work, wait until its collector is done"
            held.enter_context(locked(store, run_lock(run.id, worker), told))
            remove_leftovers(store, run.id, self._prefix)
            # Files before parts: a rival's commit that comes between, or later, is one that this writer must look at.
            self._files = self._listed()
            names = [file.stem for table in TABLES for file in table_files(store, table, run.id)]
            parts = committed_parts(store, run.id)  # wherever a part's rows are now
            self._parts = self._own(parts)
            self._part = _Part(next_number([*names, *(part.split(".")[0] for part in parts)], self._prefix))
            self._locks = held.pop_all()

    def add(self, episode: Mapping[str, Any], transitions: Rows, sweep: Rows | None = None) -> None:
        """Buffer one episode; its rows are complete, in order, and without the columns in `schema.DERIVED`.

        Raises `ValueError` if a column is missing or unknown, a value does not fit its type, or rows are out of order;
        and what `flush` raises, with the episode buffered all the same.
        """
        rows: dict[str, Any] = {name: np.asarray(values) for name, values in transitions.items()}
        told = {name: ADDED[name] for name in EPISODES.names if name in ADDED} | {**episode}
        tables = {
            "episodes": _to_arrow({name: [value] for name, value in told.items()}, "episodes"),
            "transitions": _to_arrow({**rows, **derive(rows, self.run.layers)}, "transitions"),
        }
        if sweep is not None:
            tables["sweeps"] = _to_arrow(sweep, "sweeps")
        number = tables["episodes"]["episode"][0].as_py()
        for name, table in tables.items():
            _check_rows(table, name, number)
        part = self._part
        if not part.episodes:
            part.opened = time.monotonic()
        part.episodes.append(tables)
        if part.rows >= self.flush_rows or time.monotonic() - part.opened >= self._wait:
            self.flush()
            self._wait = min(2 * self._wait, self.flush_seconds)

    def flush(self) -> None:
        """Publish what is buffered, as one part; where the disk is full, as smaller ones, as much as it takes.

        Raises an `OSError` that names the file if something stays buffered: `flush` again.
        """
        count = len(self._part.episodes)
        while self._part.episodes:
            try:
                self._publish(count)
            except DatasetError:  # somebody else's now
                self._part.episodes.clear()
                raise
            except OSError as error:
                if count == 1 or error.errno not in FULL:
                    raise
                count //= 2

    def _publish(self, count: int) -> None:
        """Publish the first `count` buffered episodes as one part, or nothing of them.

        The transitions file commits it. It is created only if it is not there, so of two writers with one number the
        first wins; whoever wrote it had seen all commits before, so no episode is committed twice. Where nothing keeps
        a second writer away, the files of the other tables have names of their own, one for each attempt.
        """
        store, run_id, part = self.run.store, self.run.id, self._part
        number = f"{self._prefix}{part.number:05d}"
        name = number if store.locks else f"{number}.{secrets.token_hex(4)}"
        files: dict[str, bytes] = {}
        for table in TABLES:
            if held := [episode[table] for episode in part.episodes[:count] if table in episode]:
                files[f"{table_folder(table, run_id)}/{name}.parquet"] = encode(_joined(held), table, [name])
        _, data = files.popitem()  # the transitions
        commit = f"{table_folder('transitions', run_id)}/{number}.parquet"
        part.tried[_hash(data)] = name, count
        try:
            self._look_for_rivals()
            store.create(commit, data, before=files)
        except FileExistsError as error:
            # Perhaps an earlier attempt's: it succeeded, and only the answer was lost.
            there = _hash(store.read(commit)) if present(store, commit) else b""
            if there not in part.tried:
                raise DatasetError(
                    f"{store.path}: another writer {self.worker} of run {run_id} is at work, wait until its "
                    "collector is done"
                ) from error
            name, count = part.tried[there]
        self._parts.add(name)
        self._files.add(commit)
        # One assignment: an interrupt comes before it, and the part is published again as it is, or after it.
        self._part = _Part(part.number + 1, part.episodes[count:], part.opened)

    def _look_for_rivals(self) -> None:
        """Raise `FileExistsError` if somebody else has committed as this writer: where locks do not tell."""
        if (files := self._listed()) != self._files:  # a rival, or compaction, which keeps the parts
            if self._own(committed_parts(self.run.store, self.run.id)) != self._parts:
                raise FileExistsError
            self._files = files

    def _own(self, parts: Iterable[str]) -> set[str]:
        return {part for part in parts if part.startswith(self._prefix)}

    def _listed(self) -> set[str]:
        """The commits that may hold a part of this writer."""
        files = table_files(self.run.store, "transitions", self.run.id)
        return {file.name for file in files if file.stem.startswith((self._prefix, "merged-"))}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Whole episodes are good whatever happened, an interrupt included; but a failed flush must not hide a fault.
        failure = error
        try:
            self.flush()
        except OSError as another:
            failure = another if error is None or isinstance(error, KeyboardInterrupt) else error
        finally:
            self._locks.close()
        if isinstance(failure, OSError):
            lost = len(self._part.episodes)
            saved = f"{lost} finished episodes could not be saved, all others are" if lost else "what is finished is"
            told = f"{failure.strerror}: {failure.filename}. {saved} in {self.run.store.path}"
            raise DatasetError(f"{told}: make room, and collect again with the same arguments") from failure


def _hash(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _joined(tables: Sequence[pa.Table]) -> pa.Table:
    """All rows, sorted by episode."""
    rows = pa.concat_tables(tables)
    return rows.take(np.argsort(rows["episode"].to_numpy(), kind="stable"))


def _to_arrow(columns: Mapping[str, Any], table: str) -> pa.Table:
    schema = TABLES[table]
    if wrong := columns.keys() ^ set(schema.names):
        raise ValueError(f"{table}: missing or unknown columns {', '.join(sorted(wrong))}")
    arrays = []
    for column in schema:
        values = columns[column.name]
        try:
            if isinstance(values, np.ndarray):
                # Through the source's own type: a checked cast refuses what a conversion by numpy would wrap around.
                array = pa.array(values).cast(column.type, safe=not pa.types.is_floating(column.type))
            else:
                array = pa.array(values, column.type)
        except (pa.ArrowException, OverflowError, TypeError) as error:
            raise ValueError(f"{table}.{column.name} must be {column.type}: {error}") from error
        if array.null_count:
            raise ValueError(f"{table}.{column.name} has no value in {array.null_count} rows")
        arrays.append(array)
    return pa.Table.from_arrays(arrays, schema=schema)


def _check_rows(rows: pa.Table, table: str, episode: int) -> None:
    if any(number != episode for number in rows["episode"].unique().to_pylist()):
        raise ValueError(f"{table} of episode {episode} hold rows of other episodes")
    if not is_sorted(rows, table, strict=True):
        raise ValueError(f"{table} of episode {episode} are not sorted by {', '.join(SORT_KEYS[table])}")
