"""Datasets in object stores: s3://bucket/name and the like, as paths with the methods that the store uses.

An object appears whole or not at all, so nothing is staged and nothing renamed; and nobody can lock anything. What is
written once is created, which fails if it is there: of two that write one name, the first wins.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from lede.replay.errors import DatasetError

SCHEMES = ("s3:", "gs:", "az:", "abfss:")
RETRY: Any = {"max_retries": 5, "retry_timeout": timedelta(seconds=30)}
FOOTER = 1 << 16  # bytes: more than what a file of these tables says of itself


def place(path: str | os.PathLike[str]) -> Path:
    """The path of a dataset: a folder, or an `ObjectPath` where it is a URL. Raises `DatasetError` if it is neither."""
    text = os.fspath(path)
    scheme, _, rest = text.partition("/")
    if scheme == "file:":
        return Path("/" + rest.lstrip("/"))
    if scheme in SCHEMES:
        if not rest.strip("/"):
            raise DatasetError(f"{text} names no bucket: give {scheme}//BUCKET/NAME")
        return ObjectPath(text)
    if rest.startswith("/") and scheme.endswith(":"):
        raise DatasetError(f"{text}: datasets are folders, or begin with {', '.join(f'{s}//' for s in SCHEMES)}")
    return Path(path)


@cache
def _store(bucket: str) -> Any:
    from obstore.store import from_url

    with said(bucket):
        # keys, region and address: the environment's
        return from_url(bucket, client_options={"allow_http": True}, retry_config=RETRY)


@contextmanager
def said(name: object) -> Iterator[None]:
    """Turn what the driver raises into an `OSError` that names the object."""
    from obstore.exceptions import AlreadyExistsError, BaseError

    try:
        yield
    except AlreadyExistsError as error:
        raise FileExistsError(errno.EEXIST, "is there already", str(name)) from error
    except FileNotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(name)) from error
    except BaseError as error:
        raise OSError(errno.EIO, str(error).strip().splitlines()[0], str(name)) from error


class ObjectPath(type(Path())):  # type: ignore[misc]
    """An object, or all objects whose names begin with its own and /."""

    def __str__(self) -> str:
        return super().__str__().replace(":/", "://", 1)

    def __fspath__(self) -> str:
        return str(self)

    @property
    def _at(self) -> tuple[Any, str]:
        scheme, bucket, *key = self.parts
        return _store(f"{scheme}//{bucket}"), "/".join(key)

    def resolve(self, strict: bool = False) -> ObjectPath:
        return self

    def is_file(self) -> bool:
        try:
            return bool(self.stat())
        except FileNotFoundError:
            return False

    def is_dir(self) -> bool:
        return next(self.iterdir(), None) is not None

    def exists(self) -> bool:
        return self.is_file() or self.is_dir()

    def stat(self, **_: Any) -> os.stat_result:
        import obstore

        store, key = self._at
        with said(self):
            facts = obstore.head(store, key)
        return os.stat_result((0,) * 6 + (facts["size"], 0, facts["last_modified"].timestamp(), 0))

    def iterdir(self) -> Iterator[ObjectPath]:
        import obstore

        store, key = self._at
        with said(self):
            found = obstore.list_with_delimiter(store, f"{key}/" if key else None)
        names = [item["path"] for item in found["objects"]] + list(found["common_prefixes"])
        return (self / name.rsplit("/", 1)[-1] for name in sorted(names))

    def glob(self, pattern: str, **_: Any) -> Iterator[ObjectPath]:
        return (path for path in self.iterdir() if fnmatch(path.name, pattern))

    def read_bytes(self) -> bytes:
        import obstore

        store, key = self._at
        with said(self):
            return bytes(obstore.get(store, key).bytes())

    def read_end(self) -> bytes:
        """The last `FOOTER` bytes, or all if there are fewer."""
        import obstore

        store, key = self._at
        with said(self):
            return bytes(obstore.get(store, key, options={"range": {"suffix": FOOTER}}).bytes())

    def read_text(self, encoding: str | None = None, errors: str | None = None, **_: Any) -> str:
        return self.read_bytes().decode(encoding or "utf-8")

    def unlink(self, missing_ok: bool = False) -> None:
        import obstore

        store, key = self._at
        with said(self):
            obstore.delete(store, key)

    def mkdir(self, *_: Any, **__: Any) -> None:
        raise OSError(errno.ENOTSUP, "only datasets can be in an object store", str(self))


def create(path: Path, data: bytes) -> None:
    """Write an object that is not there yet. Raises `FileExistsError` if one is, and `OSError`."""
    import obstore

    assert isinstance(path, ObjectPath)
    store, key = path._at
    with said(path):
        obstore.put(store, key, data, mode="create", use_multipart=False)


def readable(path: Path, whole: bool = True) -> Any:
    """What Arrow opens a Parquet file by; of an object not `whole`, its end, which says what is in it."""
    if not isinstance(path, ObjectPath):
        return path
    data = path.read_end() if not whole else b""
    if int.from_bytes(data[-8:-4], "little") + 8 > len(data):
        data = path.read_bytes()
    return pa.BufferReader(data)
