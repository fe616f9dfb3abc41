"""Files of a dataset: where they are, how they become visible, and which of them count.

A *part* is what one flush of one writer publishes: `episodes/run=<id>/<part>.parquet`, perhaps one in `sweeps`, and
last the one in `transitions`, which commits it. A file's metadata lists the parts it holds: one as flushed, several
after compaction. An episodes or sweeps file counts when every part it holds is held by some transitions file. Files are
written in the dataset's `.staging` folder and renamed, so that any reader may scan the table folders at any time.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import re
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lede.replay.errors import DatasetError
from lede.replay.schema import ADDED, PARTS_KEY, TABLES, parquet_options
from lede.replay.storage import ObjectPath, create, readable

HEADER = "dataset.json"
VOCABULARY = "draft_vocabulary.json"  # the tokens that could be drafted, where not all could
STAGING = ".staging"
BRING_BACK = "restore it from a copy, or lede repair the dataset, then collect again"
SEAL = b"LEDE"  # and the CRC-32 of all other bytes, between the last page and the footer, where no reader looks
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


# --- reading ---------------------------------------------------------------------------------------------------------


def named(error: OSError, path: Path) -> OSError:
    """The same error about `path`."""
    if isinstance(path, ObjectPath):  # which says more than its number does
        return error
    return OSError(error.errno, os.strerror(error.errno or 0), str(path))


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what Arrow raises about an unreadable file into a `DatasetError` that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise DatasetError(
            f"{path} vanished while it was read (compaction?): open the dataset again", "vanished"
        ) from error
    except DatasetError:
        raise
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:  # a name that is not UTF-8, parts not a list
        if isinstance(error, OSError) and error.errno is not None:  # the file system's, not Arrow's
            raise named(error, path) from error
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DatasetError(
            f"{path} is not a readable Parquet file ({reason}): restore it from a copy, or lede repair "
            "the dataset, then collect again with the same arguments to replace what is lost",
            "torn",
        ) from error


def open_file(path: Path, table: str, whole: bool = True) -> pq.ParquetFile:
    """Open a file and check its columns. Raises `DatasetError` if it is torn, or not of this table.

    whole: whether its rows will be read, or only what its footer says.
    """
    with reading(path):
        file = pq.ParquetFile(readable(path, whole), page_checksum_verification=True)
        problem = schema_problem(file.schema_arrow, table)
    if problem:
        file.close()
        raise DatasetError(f"{path} {problem}: it was not written by this library, move it out of {table}/", "schema")
    return file


def check_seal(path: Path, table: str) -> None:
    """Raise `DatasetError` if any bit of a file is not as it was written: pages have checksums, but footers have none.

    What older versions or other software wrote has no seal, and passes.
    """
    with reading(path):
        data = memoryview(path.read_bytes())
    footer = max(len(data) - 8 - int.from_bytes(data[-8:-4], "little"), 8)
    seal = bytes(data[footer - 8 : footer])
    if seal.startswith(SEAL):
        broken = seal != SEAL + _crc(data[: footer - 8], data[footer:])
    else:
        with open_file(path, table) as file:
            groups = map(file.metadata.row_group, range(file.metadata.num_row_groups))
            pages = [group.column(i) for group in groups for i in range(group.num_columns)]
        ends = ((page.dictionary_page_offset or page.data_page_offset) + page.total_compressed_size for page in pages)
        broken = max(ends, default=0) == footer - 8  # the seal itself is damaged
    if broken:
        raise DatasetError(f"{path} is not, bit for bit, what was written: restore it, or collect again", "torn")


def _crc(*parts: bytes | memoryview) -> bytes:
    value = 0
    for part in parts:
        value = zlib.crc32(part, value)
    return value.to_bytes(4, "little")


def schema_problem(schema: pa.Schema, table: str) -> str | None:
    """What keeps a file with this schema from being read as part of a table; columns it has on top are welcome."""
    types = {field.name: field.type for field in schema}
    for field in TABLES[table]:
        if field.name not in types and field.name not in ADDED:
            return f"has no column {field.name}"
        if types.get(field.name, field.type) != field.type:
            return f"has {field.name} as {types[field.name]} instead of {field.type}"
    return None


def read_columns(path: Path, table: str, columns: Iterable[str]) -> pa.Table:
    """Read columns, verifying the checksum of every page. Raises `DatasetError` if the file is damaged."""
    schema = pa.schema([TABLES[table].field(name) for name in columns])
    with open_file(path, table) as file, reading(path):
        rows = file.read([name for name in schema.names if name in file.schema_arrow.names])
    for index, field in enumerate(schema):
        if field.name not in rows.column_names:  # a file of an older version
            rows = rows.add_column(index, field, pa.repeat(pa.scalar(ADDED[field.name], field.type), rows.num_rows))
    if any(column.null_count for column in rows.columns):
        raise DatasetError(f"{path} has nulls: it was not written by this library, move it out of {table}/", "values")
    return pa.Table.from_arrays(rows.columns, schema=schema)


def next_number(names: Iterable[str], prefix: str) -> int:
    """One more than the number behind `prefix` in any of the names."""
    numbers = [int(name.removeprefix(prefix)) for name in names if re.fullmatch(rf"{prefix}\d+", name)]
    return max(numbers, default=-1) + 1


def not_finite(rows: pa.Table) -> list[str]:
    """Columns that hold a NaN or an infinite number."""
    floats = [name for name in rows.column_names if pa.types.is_floating(rows[name].type)]
    return [name for name in floats if not np.isfinite(rows[name].to_numpy()).all()]


def parts_of(path: Path, table: str) -> frozenset[str]:
    """The parts a file holds; a file that does not say (rewritten by other software) is its own part."""
    with open_file(path, table, whole=False) as file, reading(path):
        listed = (file.schema_arrow.metadata or {}).get(PARTS_KEY)
        return frozenset(json.loads(listed)) if listed else frozenset([path.stem])


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


# --- writing ---------------------------------------------------------------------------------------------------------


def encode(rows: pa.Table, table: str, parts: Iterable[str]) -> bytes:
    """Parquet bytes of `rows`, one row group, saying which parts they are, sealed."""
    rows = rows.replace_schema_metadata({PARTS_KEY: json.dumps(sorted(parts)).encode()})
    buffer = io.BytesIO()
    pq.write_table(rows, buffer, **parquet_options(TABLES[table]))
    data = buffer.getvalue()
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    return data[:footer] + SEAL + _crc(data) + data[footer:]


def stage(path: Path, data: bytes) -> None:
    """Write a file and its data to the disk; if that fails, remove it and raise an `OSError` that names it."""
    try:
        make_folder(path.parent)
        with path.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        path.unlink(missing_ok=True)
        raise named(error, path) from error


def publish(staged: Path, path: Path) -> None:
    """Make a staged file visible under its name, durably. Raises an `OSError` that names `path`."""
    try:
        make_folder(path.parent)
        staged.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise named(error, path) from error


def write_json(path: Path, content: object) -> None:
    """Write a JSON file that appears whole or not at all, durably. Raises an `OSError` that names it."""
    data = (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
    if isinstance(path, ObjectPath):
        with suppress(FileExistsError):  # what was first stays, and who opens the dataset compares
            create(path, data)
        return
    staged = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        stage(staged, data)
        publish(staged, path)
    finally:
        staged.unlink(missing_ok=True)


def read_json(path: Path, *keys: str) -> dict[str, Any]:
    """The object in a JSON file. Raises `DatasetError` if it is damaged or lacks one of `keys`."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DatasetError(f"{path} is not JSON ({error}): restore it from a copy") from error
    if not isinstance(content, dict) or not content.keys() >= set(keys):
        raise DatasetError(f"{path} is not a JSON object with {', '.join(keys)}: restore it from a copy")
    return content


def make_folder(folder: Path) -> None:
    """Create a folder and those above it, durably."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def run_lock(root: Path, run: str, worker: int | None = None) -> Path:
    """The lock file of a run, which its writers share, or of one writer of it."""
    return root / "runs" / (f"{run}.lock" if worker is None else f"{run}.{worker}.lock")


def hold(path: Path, *, exclusive: bool, wait: bool = False) -> int | None:
    """Lock a file until the returned descriptor is closed or the process dies.

    Exclusively, or None if somebody else holds it (unless told to `wait`); shared after waiting for whoever holds it
    exclusively. Locks refuse two writers with one number and compaction under a writer; where the file system has none,
    nothing is refused.
    """
    if isinstance(path, ObjectPath):  # no locks there: commits refuse each other, see `writer`
        return os.open(os.devnull, os.O_RDONLY)
    make_folder(path.parent)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(
            handle, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | (fcntl.LOCK_NB if exclusive and not wait else 0)
        )
    except BlockingIOError:
        os.close(handle)
        return None
    except OSError:  # no locks here
        pass
    return handle


@contextmanager
def alone(root: Path, run: str, verb: str) -> Iterator[None]:
    """Keep writers of a run away. Raises `DatasetError` if one is at work: `verb` later."""
    if (lock := hold(run_lock(root, run), exclusive=True)) is None:
        raise DatasetError(f"{root}: run {run} is being written, {verb} when its collector is done")
    try:
        yield
    finally:
        os.close(lock)


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
