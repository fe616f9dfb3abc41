"""Writing a replay dataset: the folder, runs that can be resumed, and parts that appear whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa

from lede.replay.errors import DatasetError
from lede.replay.files import (
    HEADER,
    STAGING,
    VOCABULARY,
    committed_parts,
    encode,
    hold,
    live_files,
    next_number,
    publish,
    read_columns,
    read_json,
    remove_leftovers,
    run_lock,
    stage,
    table_files,
    table_folder,
    visible,
    write_json,
)
from lede.replay.objects import Commits
from lede.replay.reward import paper_reward
from lede.replay.schema import ADDED, EPISODES, FORMAT, SORT_KEYS, STATE, TABLES, ascending, last_rows
from lede.replay.storage import ObjectPath, place

FIRST_FLUSH = 5.0  # seconds
DRAFTING = {"exits", "draft_vocabulary"}  # of a model: what its early layers draft with, if not its own head

Rows = Mapping[str, Sequence[Any] | np.ndarray]


def open_for_writing(
    path: str | os.PathLike[str], header: Mapping[str, Any], draft_vocabulary: Sequence[int] | None = None
) -> None:
    """Create a dataset, or check that the one at `path` can take rows described by `header`.

    `header`: model {name, revision, config_hash, layers, vocab, …}, tokenizer_hash, layers (candidates), top_k, trace.
    draft_vocabulary: the token ids that `model.draft_vocabulary` names. What a dataset of an older version does not say
    of its model is not compared, but for what it drafted with. Raises `DatasetError` naming every field that differs,
    or if `path` holds something else; `OSError`.
    """
    root = place(path)
    wanted = json.loads(json.dumps({"format": FORMAT, **header}))  # tuples become lists, as they will be read
    if not (root / HEADER).exists():
        names = [entry.name for entry in root.iterdir()] if root.is_dir() else []
        # The second look: another shard may have made the dataset between the first and the listing.
        if any(not name.startswith(".") and name != VOCABULARY for name in names) and not (root / HEADER).exists():
            raise DatasetError(f"{root} is neither empty nor a dataset (it has no {HEADER}): choose another folder")
        if draft_vocabulary is not None:
            write_json(root / VOCABULARY, {"tokens": list(draft_vocabulary)})
        write_json(root / HEADER, wanted)
    found = load_header(root)
    if differences := header_differences(wanted, found):
        told = "; ".join(differences)
        same = " or the same --exits and --draft-vocab" * any(f"model.{name}" in told for name in DRAFTING)
        raise DatasetError(f"{root} holds other data: {told}. Choose another --out{same}")


def load_header(root: Path) -> dict[str, Any]:
    """Read `dataset.json`. Raises `DatasetError` if there is none or it is from a newer version."""
    if not root.is_dir():
        raise DatasetError(f"{root} does not exist: collect a dataset first (lede collect)")
    if not (root / HEADER).is_file():
        raise DatasetError(f"{root} is not a dataset, it has no {HEADER}")
    header = read_json(root / HEADER)
    made = header.get("format")
    if not isinstance(made, int) or not 1 <= made <= FORMAT:
        from importlib.metadata import version

        needed = f"lede {header['needs']} or later" if "needs" in header else "another version"
        told = f"has format {made}, this version ({version('lede')}) reads {FORMAT}: it needs {needed}, update lede"
        raise DatasetError(f"{root / HEADER} {told}")
    if "layers" not in header or not isinstance(header.get("model"), dict):
        raise DatasetError(f"{root / HEADER} lacks model or layers: restore it from a copy")
    return header


def header_differences(wanted: Mapping[str, Any], stored: Mapping[str, Any]) -> list[str]:
    """What keeps rows out of one dataset: every field that differs, but facts of the model that only one header has."""
    compared = wanted["model"].keys() & stored["model"].keys() | DRAFTING
    facts = ({key: value for key, value in header["model"].items() if key in compared} for header in (wanted, stored))
    return describe_differences({**wanted, "model": next(facts)}, {**stored, "model": next(facts)})


def describe_differences(wanted: Mapping[str, Any], stored: Mapping[str, Any], prefix: str = "") -> list[str]:
    """One `field is … there, … here` for every leaf in which two JSON objects differ."""
    lines = []
    for key in sorted(wanted.keys() | stored.keys()):
        ours, theirs = wanted.get(key), stored.get(key)
        if isinstance(ours, dict) and isinstance(theirs, dict):
            lines += describe_differences(ours, theirs, f"{prefix}{key}.")
        elif ours != theirs:
            lines.append(f"{prefix}{key} is {json.dumps(theirs)} there, {json.dumps(ours)} here")
    return lines


@dataclass(frozen=True)
class Run:
    """One set of arguments for which rows are collected into a dataset. Cheap to pickle and send to workers."""

    path: Path  # the dataset
    id: str
    layers: int  # L of the model

    def committed(self) -> set[int]:
        """Numbers of the episodes that need not be collected again. Raises `DatasetError` if a file is damaged."""
        parts = committed_parts(self.path, self.id)
        files = live_files(self.path, "episodes", self.id, parts)
        return {n for path in files for n in read_columns(path, "episodes", ["episode"])["episode"].to_pylist()}


def start_run(
    path: str | os.PathLike[str],
    arguments: Mapping[str, Any],
    facts: Mapping[str, Any] | Callable[[], Mapping[str, Any]],
    new_run: bool = False,
) -> Run:
    """Start the run with these arguments, or resume it if the dataset has it already.

    `arguments` is what decides the rows; `facts` (versions, device, behaviour, costs, …) is written beside it when the
    run is new; a function is called only then. Raises `DatasetError` if the dataset has runs, but none with these
    arguments, unless `new_run`.
    """
    root = place(path)
    header = load_header(root)
    wanted = json.loads(json.dumps(arguments))
    run_id = run_name(wanted)
    run = Run(root, run_id, header["model"]["layers"])
    description = run_file(root, run_id)
    with starting(root, run_id):  # shards that start at once wait for the first, and measure nothing themselves
        if description.exists():
            if (lock := hold(run_lock(root, run_id), exclusive=True)) is not None:  # no writer is at work
                try:
                    remove_leftovers(root, run_id)
                finally:
                    os.close(lock)
            return run
        if not new_run and (others := load_runs(root)):
            nearest = min((describe_differences(wanted, other["arguments"]) for other in others), key=len)
            raise DatasetError(
                f"{root} was collected with other arguments: {'; '.join(nearest)}. "
                "Pass --new-run to add a run to it, or another --out"
            )
        started = datetime.now(UTC).isoformat(timespec="seconds")
        told = facts() if callable(facts) else facts
        content = {"id": run_id, "arguments": wanted, "reward": "paper", **told, "started": started}
        write_json(description, content)
    return run


@contextmanager
def starting(root: Path, run_id: str) -> Iterator[None]:
    """Begin work on a run one after the other; waits."""
    lock = hold(root / "runs" / f"{run_id}.start.lock", exclusive=True, wait=True)
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


def run_name(arguments: Mapping[str, Any]) -> str:
    """The id of the run with these arguments, as JSON has them."""
    return "r" + hashlib.sha256(json.dumps(arguments, sort_keys=True).encode()).hexdigest()[:7]


def run_file(root: Path, run_id: str) -> Path:
    return root / "runs" / f"{run_id}.json"


def load_runs(*roots: Path) -> list[dict[str, Any]]:
    """What `runs/*.json` say, oldest run first."""
    runs = [read_json(path, "id", "arguments") for root in roots for path in visible(root / "runs", "*.json")]
    return sorted(runs, key=lambda run: (str(run.get("started")), str(run.get("id"))))


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


def derive(rows: Mapping[str, np.ndarray], layers: int) -> dict[str, np.ndarray]:
    """The columns in `schema.DERIVED`, from rows in order: the paper's reward, and the state of a round's next row."""
    missing = [name for name in ("episode", "round", "layer", "action", "accepted", *STATE) if name not in rows]
    if missing:
        raise ValueError(f"transitions lack {', '.join(missing)}")
    last = last_rows(rows["episode"], rows["round"])
    derived: dict[str, np.ndarray] = {"reward": paper_reward(rows["action"], rows["accepted"], rows["layer"], layers)}
    for name in STATE:
        derived[f"next_{name}"] = np.where(last, np.float32(0), np.roll(rows[name].astype(np.float32), -1))
    return derived


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


def is_sorted(rows: pa.Table, table: str, *, strict: bool) -> bool:
    """Whether rows are sorted by `SORT_KEYS`; `strict`: and no two have the same key."""
    return bool(ascending([rows[key].to_numpy() for key in SORT_KEYS[table]], strict=strict).all())
