"""The Parquet codec: rows as sealed bytes of a file, and a file as rows, with everything checked that can be."""

from __future__ import annotations

import io
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lede.replay.errors import DatasetError
from lede.replay.schema import ADDED, PARTS_KEY, TABLES, parquet_options
from lede.replay.store import File

FOOTER = 1 << 16  # bytes: more than what a file of these tables says of itself
SEAL = b"LEDE"  # and the CRC-32 of all other bytes, between the last page and the footer, where no reader looks


def encode(rows: pa.Table, table: str, parts: Iterable[str]) -> bytes:
    """Parquet bytes of `rows`, one row group, saying which parts they are, sealed."""
    rows = rows.replace_schema_metadata({PARTS_KEY: json.dumps(sorted(parts)).encode()})
    buffer = io.BytesIO()
    pq.write_table(rows, buffer, **parquet_options(TABLES[table]))
    data = buffer.getvalue()
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    return data[:footer] + SEAL + _crc(data) + data[footer:]


@contextmanager
def reading(file: File) -> Iterator[None]:
    """Turn what Arrow raises about an unreadable file into a `DatasetError` that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise DatasetError(
            f"{file} vanished while it was read (compaction?): open the dataset again", "vanished"
        ) from error
    except DatasetError:
        raise
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:  # a name that is not UTF-8, parts not a list
        if isinstance(error, OSError) and error.filename is not None:  # the store's
            raise
        if isinstance(error, OSError) and error.errno is not None:  # the file system's, through Arrow
            raise OSError(error.errno, os.strerror(error.errno), str(file)) from error
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DatasetError(
            f"{file} is not a readable Parquet file ({reason}): restore it from a copy, or lede repair "
            "the dataset, then collect again with the same arguments to replace what is lost",
            "torn",
        ) from error


def open_file(file: File, whole: bool = True) -> pq.ParquetFile:
    """Open a file and check its columns. Raises `DatasetError` if it is torn, or not of this table.

    whole: whether its rows will be read, or only what its footer says.
    """
    with reading(file):
        source = file.store.source(file.name) if whole else _footer(file)
        opened = pq.ParquetFile(_readable(source), page_checksum_verification=True)
        problem = _schema_problem(opened.schema_arrow, file.table)
    if problem:
        opened.close()
        raise DatasetError(
            f"{file} {problem}: it was not written by this library, move it out of {file.table}/", "schema"
        )
    return opened


def _footer(file: File) -> bytes:
    """The end of a file, from its footer on."""
    data = file.store.read_tail(file.name, FOOTER)
    needed = int.from_bytes(data[-8:-4], "little") + 8
    return data if needed <= len(data) else file.store.read_tail(file.name, needed)


def _readable(source: Path | bytes) -> Any:
    """What Arrow opens. Python's bytes it would only free in a thread of its own, which waits for Python: a copy."""
    if isinstance(source, Path):
        return source
    own = pa.allocate_buffer(len(source))
    memoryview(own).cast("B")[:] = source
    return pa.BufferReader(own)


def check_seal(file: File) -> None:
    """Raise `DatasetError` if any bit of a file is not as it was written: pages have checksums, but footers have none.

    What older versions or other software wrote has no seal, and passes.
    """
    with reading(file):
        data = memoryview(file.read())
    footer = max(len(data) - 8 - int.from_bytes(data[-8:-4], "little"), 8)
    seal = bytes(data[footer - 8 : footer])
    if seal.startswith(SEAL):
        broken = seal != SEAL + _crc(data[: footer - 8], data[footer:])
    else:
        with open_file(file) as opened:
            groups = map(opened.metadata.row_group, range(opened.metadata.num_row_groups))
            pages = [group.column(i) for group in groups for i in range(group.num_columns)]
        ends = ((page.dictionary_page_offset or page.data_page_offset) + page.total_compressed_size for page in pages)
        broken = max(ends, default=0) == footer - 8  # the seal itself is damaged
    if broken:
        raise DatasetError(f"{file} is not, bit for bit, what was written: restore it, or collect again", "torn")


def _crc(*parts: bytes | memoryview) -> bytes:
    value = 0
    for part in parts:
        value = zlib.crc32(part, value)
    return value.to_bytes(4, "little")


def _schema_problem(schema: pa.Schema, table: str) -> str | None:
    """What keeps a file with this schema from being read as part of a table; columns it has on top are welcome."""
    types = {field.name: field.type for field in schema}
    for field in TABLES[table]:
        if field.name not in types and field.name not in ADDED:
            return f"has no column {field.name}"
        if types.get(field.name, field.type) != field.type:
            return f"has {field.name} as {types[field.name]} instead of {field.type}"
    return None


def read_columns(file: File, columns: Iterable[str]) -> pa.Table:
    """Read columns, verifying the checksum of every page. Raises `DatasetError` if the file is damaged."""
    schema = pa.schema([TABLES[file.table].field(name) for name in columns])
    with open_file(file) as opened, reading(file):
        rows = opened.read([name for name in schema.names if name in opened.schema_arrow.names])
    for index, field in enumerate(schema):
        if field.name not in rows.column_names:  # a file of an older version
            rows = rows.add_column(index, field, pa.repeat(pa.scalar(ADDED[field.name], field.type), rows.num_rows))
    if any(column.null_count for column in rows.columns):
        raise DatasetError(
            f"{file} has nulls: it was not written by this library, move it out of {file.table}/", "values"
        )
    return pa.Table.from_arrays(rows.columns, schema=schema)


def read_table(file: File) -> pa.Table:
    """All columns that this version knows; the rest is as in `read_columns`."""
    return read_columns(file, TABLES[file.table].names)


def count_rows(file: File) -> int:
    """How many rows a file has, by its footer. Raises as `open_file`."""
    with open_file(file, whole=False) as opened, reading(file):
        return int(opened.metadata.num_rows)


def parts_of(file: File) -> frozenset[str]:
    """The parts a file holds; a file that does not say (rewritten by other software) is its own part."""
    with open_file(file, whole=False) as opened, reading(file):
        listed = (opened.schema_arrow.metadata or {}).get(PARTS_KEY)
        return frozenset(json.loads(listed)) if listed else frozenset([file.stem])


def not_finite(rows: pa.Table) -> list[str]:
    """Columns that hold a NaN or an infinite number."""
    floats = [name for name in rows.column_names if pa.types.is_floating(rows[name].type)]
    return [name for name in floats if not np.isfinite(rows[name].to_numpy()).all()]
