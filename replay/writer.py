"""Writing episodes into a run of a dataset, in parts that appear whole or not at all."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa

from lede.replay.errors import DatasetError
from lede.replay.folder import STAGING, hold, publish, stage
from lede.replay.objects import Commits
from lede.replay.parquet import encode
from lede.replay.parts import (
    committed_parts,
    next_number,
    remove_leftovers,
    table_files,
    table_folder,
)
from lede.replay.reward import derive
from lede.replay.runs import Run, run_lock
from lede.replay.schema import ADDED, EPISODES, SORT_KEYS, TABLES, is_sorted
from lede.replay.storage import ObjectPath

FIRST_FLUSH = 5.0  # seconds
DRAFTING = {"exits", "draft_vocabulary"}  # of a model: what its early layers draft with, if not its own head

Rows = Mapping[str, Sequence[Any] | np.ndarray]


@dataclass
class _Part:
    """What the next flush will publish."""

    number: int
    episodes: list[dict[str, pa.Table]] = field(default_factory=list)
    opened: float = 0.0  # when its first episode came, in seconds of the monotonic clock

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
        self._locks: list[int] = []
        try:
            self._lock(None, exclusive=False)  # waits for compaction
            self._lock(worker, exclusive=True)
            remove_leftovers(run.path, run.id, prefix=f"part-{worker}-")
            names = set(committed_parts(run.path, run.id))  # wherever a part's rows are now
            self._objects = Commits(run.path, run.id, worker, names) if isinstance(run.path, ObjectPath) else None
            if self._objects is None:
                names |= {path.stem for table in TABLES for path in table_files(run.path, table, run.id)}
            self._part = _Part(next_number((name.split(".")[0] for name in names), f"part-{worker}-"))
        except BaseException:
            self._unlock()
            raise

    def _lock(self, worker: int | None, *, exclusive: bool) -> None:
        if (lock := hold(run_lock(self.run.path, self.run.id, worker), exclusive=exclusive)) is None:
            raise DatasetError(
                f"{self.run.path}: writer {worker} of run {self.run.id} is at work, wait until its collector is done"
            )
        self._locks.append(lock)

    def _unlock(self) -> None:
        while self._locks:
            os.close(self._locks.pop())

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
        """Publish what is buffered, as one part; where that fails, as smaller ones, as much as the disk takes.

        Raises an `OSError` that names the file if something stays buffered: `flush` again.
        """
        count = len(self._part.episodes)
        while self._part.episodes:
            try:
                self._publish(count)
            except OSError:
                if count == 1 or self._objects is not None:  # an object store is never full
                    raise
                count //= 2

    def _publish(self, count: int) -> None:
        """Publish the first `count` buffered episodes as one part, or nothing of them."""
        name = f"part-{self.worker}-{self._part.number:05d}"
        root, run_id, episodes = self.run.path, self.run.id, self._part.episodes[:count]
        tables = [table for table in TABLES if any(table in episode for episode in episodes)]
        rows = {table: _joined(episodes, table) for table in tables}
        staged = {table: root / STAGING / f"{run_id}.{name}.{table}.tmp" for table in tables}
        paths = {table: table_folder(root, table, run_id) / f"{name}.parquet" for table in tables}
        try:
            if self._objects is not None:
                count = self._objects.publish(name, rows)
            else:
                for table in tables:
                    stage(staged[table], encode(rows[table], table, [name]))
                for table in tables:  # the transitions are last: they commit the part
                    publish(staged[table], paths[table])
        except DatasetError:  # somebody else's now
            self._part.episodes.clear()
            raise
        except BaseException:
            if self._objects is not None:
                raise
            # Undo from the commit backwards. The part keeps its number: another attempt can replace, but never add.
            for path in [*reversed(paths.values()), *staged.values()]:
                with suppress(OSError):
                    path.unlink(missing_ok=True)
            raise
        # One assignment: an interrupt comes before it, and the part is published again as it is, or after it.
        self._part = _Part(self._part.number + 1, self._part.episodes[count:], self._part.opened)

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
            self._unlock()
        if isinstance(failure, OSError):
            lost = len(self._part.episodes)
            saved = f"{lost} finished episodes could not be saved, all others are" if lost else "what is finished is"
            raise DatasetError(
                f"{failure.strerror}: {failure.filename}. {saved} in {self.run.path}: make room, and collect again "
                "with the same arguments"
            ) from failure


def _joined(episodes: Sequence[Mapping[str, pa.Table]], table: str) -> pa.Table:
    """The rows of episodes in a table, sorted by episode."""
    rows = pa.concat_tables([episode[table] for episode in episodes if table in episode])
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
