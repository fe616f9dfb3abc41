"""Datasets in object stores: s3://bucket/name and the like, as paths with the methods that the store uses.

An object appears whole or not at all, so nothing is staged and nothing renamed; and nobody can lock anything. What is
written once is created, which fails if it is there: of two that write one name, the first wins.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from lede.replay.access import PREFIXES, settings
from lede.replay.errors import DatasetError

SCHEMES = tuple(PREFIXES)
RETRY: Any = {"max_retries": 5, "retry_timeout": timedelta(seconds=30)}
# Of the first request, which shows whether there is a store and a key to it: an answer within 10 s, whatever it is.
FIRST_RETRY: Any = {"max_retries": 1, "retry_timeout": timedelta(seconds=4)}
FIRST_TIMEOUTS: Any = {"timeout": timedelta(seconds=4), "connect_timeout": timedelta(seconds=3)}
# Addresses under which a cloud's machines get their keys: asked where there is nothing else.
KEYLESS = re.compile(r"169\.254\.169\.254|metadata\.google\.internal|/latest/api/token|/metadata/identity")
FOOTER = 1 << 16  # bytes: more than what a file of these tables says of itself


def place(path: str | os.PathLike[str]) -> Path:
    """The path of a dataset: a folder, or an `ObjectPath` where it is a URL. Raises `DatasetError` if it is neither."""
    text = os.fspath(path)
    scheme, _, rest = text.partition("/")
    if scheme == "file:":
        return Path("/" + rest.lstrip("/"))
    if scheme in SCHEMES:
        bucket, *names = rest.lstrip("/").split("/")
        if not bucket or rest.startswith("//"):
            raise DatasetError(f"{text} names no bucket: give {scheme}//BUCKET/NAME")
        if not re.fullmatch(r"[\w.-]+(@[\w.-]+)?" if scheme == "abfss:" else r"[\w.-]+", bucket) or ".." in bucket:
            raise DatasetError(f"{text}: {bucket} is no name of a bucket: give {scheme}//BUCKET/NAME")
        if wrong := [name for name in names if name in (".", "..") or not name.isprintable()]:
            raise DatasetError(f"{text}: {wrong[0]!r} cannot be in an object's name, give the name itself")
        return ObjectPath(text)
    if rest.startswith("/") and scheme.endswith(":"):
        raise DatasetError(f"{text}: datasets are folders, or begin with {', '.join(f'{s}//' for s in SCHEMES)}")
    return Path(path)


@cache
def _store(bucket: str) -> Any:
    """The driver of a bucket, which has answered once. Raises `OSError` with its reason, and what `settings` raises."""
    import obstore
    from obstore.exceptions import BaseError, GenericError
    from obstore.store import from_url

    found: Any = settings(bucket.partition("/")[0])
    plain: Any = {"allow_http": True}
    with said(bucket):
        first = from_url(bucket, config=found, client_options=plain | FIRST_TIMEOUTS, retry_config=FIRST_RETRY)
        try:
            obstore.head(first, "dataset.json")
        except GenericError:  # no answer, or no key
            raise
        except (BaseError, FileNotFoundError):  # an answer; what is wrong is for the request that needs more to say
            pass
        return from_url(bucket, config=found, client_options=plain, retry_config=RETRY)


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
    except (BaseError, ValueError) as error:
        raise OSError(errno.EIO, reason(str(error)), str(name)) from error
    except BaseException as error:
        if type(error).__module__ != "pyo3_runtime":
            raise
        # a panic, of which the driver has told on stderr
        raise OSError(errno.EIO, f"the driver of object stores broke off: {error}", str(name)) from error


def reason(told: str) -> str:
    """What the driver and the store say in one line: without the driver's structs, the store's answer without tags."""
    line, _, structs = told.strip().partition("\n\nDebug source:")
    line, _, answer = line.partition("<")
    tags = (re.search(f"<{key}>(.*?)</{key}>", answer, re.DOTALL) for key in ("Code", "Message"))
    words = [found[1] for found in tags if found]
    line = " ".join(f"{line} {': '.join(words)}".split()).strip(" :")
    if cause := re.findall(
        r'(?:message|error): "(.+?)",?\n|^\s+"(.+ error)",?$|source: (TimedOut)', structs, re.MULTILINE
    ):
        line += f" ({', '.join(dict.fromkeys(''.join(one) for one in cause))})"
    if KEYLESS.search(line):
        line = f"no keys to the store in the environment or a profile, and this machine gives none: {line}"
    return line


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
    own = pa.allocate_buffer(
        len(data)
    )  # Python's bytes could only be freed by a thread of Arrow's that waits for Python
    memoryview(own).cast("B")[:] = data
    return pa.BufferReader(own)


def scan_options(path: Path) -> dict[str, str]:
    """What polars reaches the store of an object with."""
    return {"allow_http": "true", **settings(path.parts[0])}
