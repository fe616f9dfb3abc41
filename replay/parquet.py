"""The Parquet codec: rows as sealed bytes of a file, and a file as rows, with everything checked that can be."""

from __future__ import annotations

import io
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lede.replay.errors import DatasetError
from lede.replay.schema import ADDED, PARTS_KEY, TABLES, parquet_options
from lede.replay.storage import ObjectPath, readable

SEAL = b"LEDE"  # and the CRC-32 of all other bytes, between the last page and the footer, where no reader looks


def encode(rows: pa.Table, table: str, parts: Iterable[str]) -> bytes:
    """Parquet bytes of `rows`, one row group, saying which parts they are, sealed."""
    rows = rows.replace_schema_metadata({PARTS_KEY: json.dumps(sorted(parts)).encode()})
    buffer = io.BytesIO()
    pq.write_table(rows, buffer, **parquet_options(TABLES[table]))
    data = buffer.getvalue()
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    return data[:footer] + SEAL + _crc(data) + data[footer:]


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


def not_finite(rows: pa.Table) -> list[str]:
    """Columns that hold a NaN or an infinite number."""
    floats = [name for name in rows.column_names if pa.types.is_floating(rows[name].type)]
    return [name for name in floats if not np.isfinite(rows[name].to_numpy()).all()]


def parts_of(path: Path, table: str) -> frozenset[str]:
    """The parts a file holds; a file that does not say (rewritten by other software) is its own part."""
    with open_file(path, table, whole=False) as file, reading(path):
        listed = (file.schema_arrow.metadata or {}).get(PARTS_KEY)
        return frozenset(json.loads(listed)) if listed else frozenset([path.stem])
